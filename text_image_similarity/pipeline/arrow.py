"""Arrow batches in, the same batches with their scores out: what a task of Spark or Ray Data does with its rows."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from os import PathLike
from pathlib import Path

import pyarrow as pa  # type: ignore[import-untyped]

from ..config import Config
from ..encoders import Encoder
from ..formats import SCORE_FIELDS, score_arrays
from ..records import Record, ScoreResult
from .score import record, score_pairs


def score_batches(
    batches: Iterable[pa.RecordBatch], config: Config, columns: tuple[str, str], *, encoder: Encoder | None = None
) -> Generator[pa.RecordBatch]:
    """Score the rows of Arrow batches, as one stream: downloads and encoding do not wait where a batch ends.

    Args:
        batches: Rows, in batches of any size; a batch is held until its last row is scored.
        config: The settings of the run.
        columns: Their columns of references and of captions.
        encoder: A loaded encoder to use and share; None loads the one that `config` names.

    Returns:
        Each batch with two more columns, `similarity` (null for a failed row) and `error`, in order.

    Raises:
        ConfigError, ModelError: At once, before a batch is read.
    """
    waiting: deque[pa.RecordBatch] = deque()

    def records() -> Iterator[Record]:
        for batch in batches:
            waiting.append(batch)
            yield from map(record, *(batch.column(name).to_pylist() for name in columns))

    results = score_pairs(records(), config, encoder=encoder)

    def scored() -> Generator[pa.RecordBatch]:
        done: list[ScoreResult] = []
        with closing(results):
            for result in results:
                done.append(result)
                while waiting and len(done) >= waiting[0].num_rows:  # also past batches without rows
                    batch = waiting.popleft()
                    yield _extended(batch, done[: batch.num_rows])
                    done = done[batch.num_rows :]
        yield from (_extended(batch, []) for batch in waiting)

    return scored()


def portable(config: Config) -> Config:
    """Return settings that mean the same in a process with another working folder: their paths are absolute."""

    def absolute(path: str | PathLike[str] | None) -> Path | None:
        return None if path is None else Path(path).expanduser().absolute()

    folder = absolute(config.model)
    return replace(
        config,
        model=str(folder) if folder and folder.is_dir() and str(config.model) != "mini" else config.model,
        base_dir=Path(config.base_dir or "").absolute(),
        model_cache=absolute(config.model_cache),
        embedding_cache=absolute(config.embedding_cache),
    )


def _extended(batch: pa.RecordBatch, results: list[ScoreResult]) -> pa.RecordBatch:
    schema = pa.schema([*batch.schema, *SCORE_FIELDS], batch.schema.metadata)
    return pa.RecordBatch.from_arrays([*batch.columns, *score_arrays(results)], schema=schema)
