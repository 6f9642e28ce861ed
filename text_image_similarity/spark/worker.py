"""The code of Spark's Python workers, which load a model once and score the rows of their tasks.

The output of a task depends only on its input, so Spark may run it again, or twice at once.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from functools import lru_cache
from itertools import chain
from pathlib import Path
from threading import Lock
from typing import Any

import pandas as pd
import pyarrow as pa
from pyspark import TaskContext

from .. import errors
from ..config import Config
from ..encoders import Encoder, load_encoder
from ..errors import ConfigError, ModelError, UsageError
from ..fetch import check_files
from ..formats import SCORE_FIELDS, score_arrays
from ..pipeline import RunStats, Scorer
from ..pipeline.arrow import score_batches
from ..records import Record

_ARGUMENTS = ("url", "caption")
_one_loads = Lock()


def score_task(batches: Iterator[pa.RecordBatch], config: Config, columns: tuple[str, str]) -> Iterator[pa.RecordBatch]:
    """Yield a partition's batches with their scores; for a partition without rows, the model is not loaded."""
    for first in batches:
        config = placed(config)
        with Scorer(config, encoder=encoder_for(config)) as scorer:
            yield from score_batches(chain([first], batches), scorer, columns)


def series_scorer(
    config: Config,
) -> Callable[[Iterator[tuple[pd.Series[str], pd.Series[str]]]], Iterator[pd.DataFrame]]:
    """Return the function that a pandas UDF runs."""

    def similarity(batches: Iterator[tuple[pd.Series, pd.Series]]) -> Iterator[pd.DataFrame]:
        arrow = (pa.RecordBatch.from_arrays([_images(url), _texts(text)], _ARGUMENTS) for url, text in batches)
        for batch in score_task(arrow, config, _ARGUMENTS):
            yield batch.select([field.name for field in SCORE_FIELDS]).to_pandas()

    return similarity


def load_task(batches: Iterator[pa.RecordBatch], config: Config) -> Iterator[pa.RecordBatch]:
    """Load the model, and yield one row of JSON with its description, or the reason why it cannot be used."""
    for _ in batches:
        found: dict[str, Any]
        try:
            check_files(config)
            found = {"info": asdict(encoder_for(placed(config)).info)}
        except (ConfigError, ModelError) as exc:
            kind = next(k for k in type(exc).__mro__ if vars(errors).get(k.__name__) is k)  # known to the driver
            found = {"kind": kind.__name__, "message": str(exc)}
        yield pa.RecordBatch.from_pydict({"found": [json.dumps(found)]})


def score_records(batches: Iterator[pa.RecordBatch], config: Config) -> Iterator[pa.RecordBatch]:
    """Yield the results of rows from `packed`, with their numbers."""
    config = placed(config)
    with Scorer(config, encoder=encoder_for(config)) as scorer:
        for batch in batches:
            stats = RunStats()
            results = list(scorer.score_pairs(map(_unpacked, batch.to_pylist()), stats=stats))
            cut = pa.array(
                [stats.captions_cut, *[0] * (len(results) - 1)][: len(results)], pa.int32()
            )  # for the whole batch
            columns = [batch.column("row"), *score_arrays(results), cut]
            yield pa.RecordBatch.from_arrays(columns, ["row", *(field.name for field in SCORE_FIELDS), "captions_cut"])


def packed(rows: Sequence[tuple[str | bytes, str, tuple[str, ...]]]) -> pa.Table:
    """Return rows as a table of bytes: `image` or `url`, `caption`, `references`, and the number `row`.

    Texts are stored as bytes because those from JSON may contain lone surrogates, which Arrow strings cannot hold.
    """
    images, captions, references = zip(*rows, strict=True) if rows else ((), (), ())
    return pa.table(
        {
            "row": pa.array(range(len(rows)), pa.int32()),
            "image": pa.array([each if isinstance(each, bytes) else None for each in images], pa.binary()),
            "url": pa.array([None if isinstance(each, bytes) else _bytes_of(each) for each in images], pa.binary()),
            "caption": pa.array(map(_bytes_of, captions), pa.binary()),
            "references": pa.array([_bytes_of(json.dumps(each)) for each in references], pa.binary()),
        }
    )


def _unpacked(row: dict[str, Any]) -> Record:
    image = row["image"] if row["url"] is None else _text_of(row["url"])
    return Record(image, _text_of(row["caption"]), tuple(json.loads(row["references"])))


def _text_of(value: bytes) -> str:
    return value.decode("utf-8", "surrogatepass")


def _bytes_of(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def placed(config: Config) -> Config:
    """Return the settings with the GPU that Spark assigned to this task, if they leave the device open."""
    task = TaskContext.get()
    gpus = task.resources().get("gpu") if task is not None and config.device == "auto" else None
    if gpus is None or not gpus.addresses:
        return config
    return replace(config, device=f"cuda:{_index(gpus.addresses[0])}")


def _index(address: str) -> int:
    """Return the number under which this process sees a GPU.

    Raises:
        ConfigError: This process cannot see that GPU.
    """
    visible = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")]
    if address in visible:
        return visible.index(address)
    if not address.isdecimal():
        raise ConfigError(
            f"Spark assigned this task the GPU {address!r}, which is not a number; fix the discovery script"
        )
    return int(address)


def encoder_for(config: Config) -> Encoder:
    """Return the encoder for the settings, loaded once per process, and again if its folder has been written since."""
    stamps = []
    for path in Path(config.model).glob("*"):
        with suppress(OSError):  # a broken link, or a file that has been removed since
            at = path.stat()
            stamps.append((path.name, at.st_size, at.st_mtime_ns))
    with _one_loads:
        return _encoder(config, tuple(sorted(stamps)))


@lru_cache(maxsize=2)
def _encoder(config: Config, _: tuple[tuple[str, int, int], ...]) -> Encoder:
    return load_encoder(config)


def _images(values: pd.Series[Any] | pd.DataFrame) -> pa.Array:
    """Return a UDF's first argument in Arrow: texts, bytes, or mappings for structs, which pandas gets as a frame."""
    if isinstance(values, pd.DataFrame):
        return pa.array([{str(k): _present(v) for k, v in row.items()} for row in values.to_dict("records")])
    if any(isinstance(value, (bytes, bytearray)) for value in values):
        return pa.array(map(_present, values), pa.binary())
    return _texts(values)


def _present(value: Any) -> Any:
    return None if pd.api.types.is_scalar(value) and pd.isna(value) else value


def _texts(values: pd.Series[Any]) -> pa.Array:
    """Return a UDF's argument in Arrow, with missing values as nulls.

    Raises:
        UsageError: The values are not texts; whole numbers cannot be accepted, because pandas may have turned them into
            floats.
    """

    def text(value: Any) -> str | None:
        if isinstance(value, str):
            return value
        if pd.api.types.is_scalar(value) and pd.isna(value):
            return None
        raise UsageError(
            "similarity(url, caption) takes strings (url may also be binary, or a struct of bytes and path), "
            f"not {value!r}; use CAST(... AS STRING)"
        )

    return pa.array(map(text, values), pa.string())
