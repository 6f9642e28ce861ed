"""Score whole tables: a CSV in, the same CSV with `similarity` and `error` columns out.

The table is read twice: once to check its shape and count its rows before anything expensive starts, then row by row
while it is scored. The output is written beside its place and moved there at the end, so it is absent or complete.
"""

from __future__ import annotations

import csv
import json
import logging
import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from itertools import islice, tee
from os import PathLike
from pathlib import Path
from typing import TextIO

import httpx

from .config import Config
from .encoders import Encoder, load_encoder
from .errors import ModelUnavailableError, TableError, UsageError
from .pipeline import RunStats, score_pairs
from .records import Record, ScoreResult

logger = logging.getLogger("text_image_similarity")

OUT_COLUMNS = ("similarity", "error")
# (rows done, rows failed, rows in all), before the first row and after every row
Progress = Callable[[int, int, int], None]


@dataclass(frozen=True, slots=True)
class Summary:
    """What a run did, as `<out>.summary.json` holds it.

    Args:
        failures: Rows without a score, by error code.
        seconds: Per stage, summed over threads; `total` is the wall clock from the first row on.
        warnings: What the reader of the scores should know.
    """

    input: str
    output: str
    model: str
    revision: str | None
    device: str
    precision: str
    score: str
    preprocess: str
    rows: int
    scored: int
    failures: dict[str, int]
    seconds: dict[str, float]
    pairs_per_second: float
    versions: dict[str, str]
    warnings: list[str] = field(default_factory=list)


def score_csv(  # noqa: PLR0913 - paths, columns and what a caller may inject; settings are in Config
    in_path: str | PathLike[str],
    out_path: str | PathLike[str],
    config: Config,
    col_url: str = "url",
    col_text: str = "caption",
    *,
    encoder: Encoder | None = None,
    fallback: str | None = None,
    transport: httpx.BaseTransport | None = None,
    progress: Progress | None = None,
) -> Summary:
    """Score every row of a CSV and write it with two more columns, `similarity` and `error`.

    Args:
        in_path: A CSV file with a header, in UTF-8 with or without a byte-order mark.
        out_path: Where the scored CSV goes; `<out_path>.summary.json` is written beside it.
        config: The settings of the run. Relative image paths start from the table's folder unless `base_dir` is set.
        col_url: The column of image references.
        col_text: The column of captions.
        encoder: A loaded encoder to use; None loads the one that `config` names.
        fallback: The model to take, with a warning in the log and in the summary, if the one that `config` names is
            out of reach; None raises then.
        transport: Where http requests go, for tests; None is the network.
        progress: Called before the first row and after every row with rows done, rows failed and rows in all.

    Returns:
        The summary that was also written as JSON.

    Raises:
        UsageError: A column is missing, twice there, or would be overwritten; the input does not exist.
        TableError: The input is not a readable CSV, or the output cannot be written.
        ConfigError, ModelError: Before the first row.
    """
    source, target = Path(in_path), Path(out_path)
    if source.exists() and target.exists() and source.samefile(target):
        raise UsageError(f"{target} is the input too; name another output")
    total, columns = _check(source, col_url, col_text)
    if config.base_dir is None:
        config = replace(config, base_dir=source.parent)
    with _written_whole(target) as out:
        encoder, warnings = (encoder, []) if encoder else _load(config, fallback)
        stats = RunStats()
        if progress is not None:
            progress(0, 0, total)
        began = time.perf_counter()
        rows, ours = tee(_data_rows(source))
        records = (Record(row[columns[0]], row[columns[1]]) for row in ours)
        write = _row_writer(out)
        write([*_header(source), *OUT_COLUMNS])
        with closing(score_pairs(records, config, encoder=encoder, transport=transport, stats=stats)) as results:
            for row, result in zip(rows, results, strict=True):
                write([*row, *_cells(result)])
                if stats.rows % config.chunk_size == 0:
                    out.flush()
                if progress is not None:
                    progress(stats.rows, stats.rows - stats.scored, total)
        seconds = time.perf_counter() - began
        summary = Summary(
            input=str(source),
            output=str(target),
            model=encoder.model,
            revision=encoder.revision,
            device=encoder.device,
            precision=encoder.precision,
            score=config.score,
            preprocess="exact",
            rows=stats.rows,
            scored=stats.scored,
            failures=dict(sorted(stats.failures.items())),
            seconds={stage: round(s, 3) for stage, s in [*sorted(stats.seconds.items()), ("total", seconds)]},
            pairs_per_second=round(stats.rows / seconds, 2),
            versions=_versions(),
            warnings=warnings,
        )
        with _written_whole(target.with_name(target.name + ".summary.json")) as file:
            json.dump(asdict(summary), file, indent=2)
            file.write("\n")
    return summary


def _load(config: Config, fallback: str | None) -> tuple[Encoder, list[str]]:
    try:
        return load_encoder(config), []
    except ModelUnavailableError as error:
        if fallback is None:
            raise
        warning = f"{config.model} is out of reach, so {fallback} scored instead: its scores are not comparable"
        logger.warning("%s\n%s", warning, error)
        return load_encoder(replace(config, model=fallback, revision=None)), [warning]


def _row_writer(out: TextIO) -> Callable[[list[str]], object]:
    plain = csv.writer(out, lineterminator="\n")
    quoted = csv.writer(out, lineterminator="\n", quoting=csv.QUOTE_ALL)
    # Before Python 3.13 the csv module leaves a lone carriage return unquoted and reads it back as the end of a row.
    return lambda row: (quoted if any("\r" in field for field in row) else plain).writerow(row)


def _cells(result: ScoreResult) -> tuple[str, str]:
    return ("", result.error) if result.error is not None else (repr(result.similarity), "")


def _check(path: Path, col_url: str, col_text: str) -> tuple[int, tuple[int, int]]:
    """Check the shape of a whole table; return its number of rows and where the two columns stand."""
    header = _header(path)
    places = []
    for name in (col_url, col_text):
        if header.count(name) != 1:
            found = "is there more than once" if name in header else "is missing"
            raise UsageError(f"column {name!r} {found} in {path}; it has the columns: {', '.join(header)}")
        places.append(header.index(name))
    for name in OUT_COLUMNS:
        if name in header:
            raise UsageError(f"{path} has a column {name!r} already, which would be written twice; rename or drop it")
    return sum(1 for _ in _data_rows(path)), (places[0], places[1])


def _header(path: Path) -> list[str]:
    for _, row in _rows(path):
        return row
    raise TableError(f"{path} is empty; it needs a header line with the two columns")


def _data_rows(path: Path) -> Iterator[list[str]]:
    """Yield the rows below the header; every one has as many fields as the header."""
    width = len(_header(path))
    for number, (line, row) in enumerate(islice(_rows(path), 1, None), 1):
        if len(row) != width:
            raise TableError(
                f"row {number} of {path} (ending on line {line}) has {len(row)} fields, the header has {width}; "
                "quote fields that hold commas, or mend the row"
            )
        yield row


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield (line number, fields) of a CSV, its header first; blank lines are no rows."""
    csv.field_size_limit(2**31 - 1)  # process-wide in the csv module; the default refuses data: URLs of 128 KiB
    line = 0
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            for row in reader:
                line = reader.line_num
                if row:
                    yield line, row
    except FileNotFoundError as exc:
        raise UsageError(f"{path} does not exist") from exc
    except UnicodeDecodeError as exc:
        raise TableError(f"{path} is not UTF-8 near line {line + 1} ({exc}); convert it, e.g. with iconv") from exc
    except csv.Error as exc:
        raise TableError(f"{path} is not valid CSV near line {line + 1}: {exc}") from exc
    except OSError as exc:
        raise TableError(f"{path} cannot be read: {exc.strerror}") from exc


@contextmanager
def _written_whole(path: Path) -> Iterator[TextIO]:
    """Open a text file that appears under its name complete, or not at all.

    Raises:
        TableError: It cannot be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        if path.is_dir():
            raise TableError(f"{path} is a folder; name a file")
        with partial.open("w", encoding="utf-8", newline="") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as exc:
        raise TableError(f"{path} cannot be written: {exc.strerror}") from exc
    finally:
        partial.unlink(missing_ok=True)


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in ("text-image-similarity", "torch", "transformers", "pillow", "httpx", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found
