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
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from itertools import islice, tee
from os import PathLike
from pathlib import Path
from typing import Any

import httpx

from .config import Config
from .encoders import Encoder, describe, load_encoder
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
    model: str | None
    revision: str | None
    device: str | None
    precision: str | None
    engine: str | None
    score: str
    preprocess: str | None
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
    note_path = target.with_name(target.name + ".summary.json") if target.name else target
    _check_paths(source, target, note_path)
    total, columns = _check(source, col_url, col_text)
    if config.base_dir is None:
        config = replace(config, base_dir=source.parent)
    with _written_whole(target, note_path) as (out, note):
        encoder, warnings = (encoder, []) if encoder is not None else _load(config, fallback)
        stats = RunStats()
        began = time.perf_counter()
        rows, ours = tee(_data_rows(source))
        records = (Record(row[columns[0]], row[columns[1]]) for row in ours)
        results = score_pairs(records, config, encoder=encoder, transport=transport, stats=stats)
        out.write_row([*_header(source), *OUT_COLUMNS])
        if progress is not None:
            progress(0, 0, total)
        with closing(results):
            for row, result in zip(rows, results, strict=True):
                out.write_row([*row, *_cells(result)])
                if stats.rows % config.chunk_size == 0:
                    out.flush()
                if progress is not None:
                    progress(stats.rows, stats.rows - stats.scored, total)
        seconds = time.perf_counter() - began
        summary = Summary(
            input=str(source),
            output=str(target),
            **describe(encoder),
            **_outcome(stats, seconds),
            score=config.score,
            versions=_versions(),
            warnings=warnings,
        )
        note.write(json.dumps(asdict(summary), indent=2) + "\n")
    return summary


def _outcome(stats: RunStats, seconds: float) -> dict[str, Any]:
    return {
        "rows": stats.rows,
        "scored": stats.scored,
        "failures": dict(sorted(stats.failures.items())),
        "seconds": {stage: round(s, 3) for stage, s in [*sorted(stats.seconds.items()), ("total", seconds)]},
        "pairs_per_second": round(stats.rows / seconds, 2),
    }


def _load(config: Config, fallback: str | None) -> tuple[Encoder, list[str]]:
    try:
        return load_encoder(config), []
    except ModelUnavailableError as error:
        if fallback is None:
            raise
        warning = f"{config.model} is out of reach, so {fallback} scored instead: its scores are not comparable"
        logger.warning("%s\n%s", warning, error)
        return load_encoder(replace(config, model=fallback, revision=None)), [warning]


def _cells(result: ScoreResult) -> tuple[str, str]:
    return ("", result.error) if result.error is not None else (repr(result.similarity), "")


def _check_paths(source: Path, *targets: Path) -> None:
    """Refuse paths that cannot work, or whose replacement would destroy something, before anything starts."""
    try:
        if not source.is_file():
            why = "is not a regular file, which is needed to read it twice" if source.exists() else "does not exist"
            raise UsageError(f"{source} {why}")
        for target in targets:
            if not target.name or target.is_dir():
                raise UsageError(f"{target} is a folder; name a file")
            if target.exists() and not target.is_file():
                raise UsageError(f"{target} is not a regular file; name one that can be replaced")
            if target.exists() and source.samefile(target):
                raise UsageError(f"{target} is the input too and would be overwritten; name another output")
            target.resolve()
    except (OSError, RuntimeError, ValueError) as exc:
        paths = ", ".join(str(path)[:200] for path in (source, targets[0]))
        raise UsageError(f"the paths {paths} cannot be used: {exc}") from exc


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
    except UnicodeDecodeError as exc:
        raise TableError(f"{path} is not UTF-8 near line {line + 1} ({exc}); convert it, e.g. with iconv") from exc
    except csv.Error as exc:
        raise TableError(f"{path} is not valid CSV near line {line + 1}: {exc}") from exc
    except OSError as exc:
        raise TableError(f"{path} cannot be read: {exc.strerror}") from exc


class _Output:
    """A text file under a passing name, beside the one it will replace."""

    def __init__(self, path: Path) -> None:
        self._path = path.resolve()  # a link stays, what it leads to is replaced
        self._partial = self._path.with_name(f".text-image-similarity-{os.getpid()}-{secrets.token_hex(4)}.partial")
        with self._explained():
            self._file = self._partial.open("x", encoding="utf-8", newline="")
        self._plain = csv.writer(self._file, lineterminator="\n")
        self._quoted = csv.writer(self._file, lineterminator="\n", quoting=csv.QUOTE_ALL)

    def write(self, text: str) -> None:
        with self._explained():
            self._file.write(text)

    def write_row(self, row: list[str]) -> None:
        # Before Python 3.13 the csv module leaves a lone carriage return unquoted and reads it back as the end of a row.
        writer = self._quoted if any("\r" in field for field in row) else self._plain
        with self._explained():
            writer.writerow(row)

    def flush(self) -> None:
        with self._explained():
            self._file.flush()

    def finish(self) -> None:
        """Put the file in its place, complete."""
        with self._explained():
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._partial.replace(self._path)

    def discard(self) -> None:
        """Remove what was not finished."""
        with suppress(OSError):  # closing may try again to write what did not fit
            self._file.close()
        self._partial.unlink(missing_ok=True)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as exc:
            raise TableError(f"{self._path} cannot be written: {exc.strerror or exc}") from exc


@contextmanager
def _written_whole(*paths: Path) -> Iterator[tuple[_Output, ...]]:
    """Open outputs that appear under their names complete and in order, or not at all.

    Raises:
        TableError: One cannot be written.
    """
    outputs: list[_Output] = []
    try:
        for path in paths:
            outputs.append(_Output(path))
        yield tuple(outputs)
        for output in outputs:
            output.finish()
    finally:
        for output in outputs:
            output.discard()


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in ("text-image-similarity", "torch", "transformers", "onnxruntime", "pillow", "httpx", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found
