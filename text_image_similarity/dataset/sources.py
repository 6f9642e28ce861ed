"""Tables of rows: CSV files, Parquet files, folders of Parquet files named after splits, sets on the hub.

A row is a mapping from column to value. Nothing here knows what a picture or a caption is.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from os import PathLike
from pathlib import Path

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from ..errors import TableError, UsageError

Row = Mapping[str, object]

# In this order a photo that is in several is kept by the last one: what is tested must not have been trained on.
SPLITS = ("train", "validation", "test")
_OTHER_NAMES = {"val": "validation", "valid": "validation", "dev": "validation"}
_FILE_OF_SPLIT = re.compile(r"([A-Za-z]+)(?:-\d+-of-\d+)?\.parquet")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_BATCH = 256  # rows of a Parquet file in memory at once


@dataclass(frozen=True, slots=True)
class Table:
    """Rows that can be read several times.

    Args:
        name: What it is called in messages.
        columns: The names of its columns.
        rows: Starts a new pass over the rows.
        folder: Where relative references of its rows start from; None if it lies in no folder.
    """

    name: str
    columns: tuple[str, ...]
    rows: Callable[[], Iterator[Row]]
    folder: Path | None = None

    def require(self, *names: str) -> None:
        """Make sure that columns are there.

        Raises:
            UsageError: One is missing; the message names those that are there.
        """
        for name in names:
            if name not in self.columns:
                raise UsageError(
                    f"column {name!r} is missing in {self.name}; it has the columns: {', '.join(self.columns)}"
                )


def split_name(name: str) -> str:
    """Return the name of a split as it is used here: `val`, `valid` and `dev` are `validation`."""
    return _OTHER_NAMES.get(name, name)


def open_tables(source: str | PathLike[str]) -> dict[str, Table]:
    """Open a source: one table for each split, or a single one named "" where the source has no splits.

    Raises:
        UsageError: There is nothing of the kind.
        TableError: It cannot be read.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        return _folder(path)
    if path.exists():
        return {"": open_table(path)}
    if isinstance(source, str) and _HUB_ID.fullmatch(source) and path.suffix.lower() not in (".csv", ".parquet"):
        from .hub import hub_tables

        return hub_tables(source)
    raise UsageError(f"{source} does not exist; give a CSV or Parquet file, a folder of Parquet files, or a hub id")


def open_table(path: str | PathLike[str]) -> Table:
    """Open one CSV or Parquet file.

    Raises:
        UsageError: It does not exist, or is neither.
        TableError: It cannot be read.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise UsageError(f"{path} {'is not a file' if path.exists() else 'does not exist'}")
    match path.suffix.lower():
        case ".csv":
            return _csv(path)
        case ".parquet":
            return _parquet([path])
        case _:
            raise UsageError(f"{path} is neither a .csv nor a .parquet file; convert it to one of them")


def _folder(folder: Path) -> dict[str, Table]:
    files: dict[str, list[Path]] = {}
    for place in (folder, folder / "data"):  # the hub keeps the files of a set in data/
        for path in sorted(place.glob("*.parquet")):
            if match := _FILE_OF_SPLIT.fullmatch(path.name):
                files.setdefault(split_name(match.group(1)), []).append(path)
        if files:
            break
    found = {name: _parquet(files[name]) for name in SPLITS if name in files}
    if not found:
        raise UsageError(
            f"{folder} holds no train.parquet, validation.parquet or test.parquet; name one file, or rename them"
        )
    return found


def _parquet(paths: Sequence[Path]) -> Table:
    """Open Parquet files that are pieces of one table."""
    columns: tuple[str, ...] = ()
    for path in paths:
        try:
            names = tuple(pq.read_schema(path).names)
        except (pa.ArrowException, OSError) as exc:
            raise TableError(f"{path} is no readable Parquet file: {exc}") from exc
        if columns and set(names) != set(columns):
            raise TableError(f"{path} has other columns than {paths[0]}; they must be pieces of one table")
        columns = columns or names

    def rows_of(path: Path) -> Iterator[Row]:
        try:
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(batch_size=_BATCH):
                    yield from batch.to_pylist()
        except (pa.ArrowException, OSError) as exc:
            raise TableError(f"{path} cannot be read: {exc}") from exc

    return Table(str(paths[0]), columns, lambda: chain.from_iterable(map(rows_of, paths)), paths[0].parent)


def _csv(path: Path) -> Table:
    header = next(_lines(path), None)
    if header is None:
        raise TableError(f"{path} is empty; it needs a header line")
    for name in header:
        if header.count(name) > 1:
            raise UsageError(f"column {name!r} is there more than once in {path}; rename or drop one")

    def rows() -> Iterator[Row]:
        lines = _lines(path)
        next(lines, None)
        for number, fields in enumerate(lines, 1):
            if len(fields) != len(header):
                raise TableError(
                    f"row {number} of {path} has {len(fields)} fields, the header has {len(header)}; "
                    "quote fields that hold commas, or mend the row"
                )
            yield dict(zip(header, fields, strict=True))

    return Table(str(path), tuple(header), rows, path.parent)


def _lines(path: Path) -> Iterator[list[str]]:
    csv.field_size_limit(2**31 - 1)  # process-wide in the csv module; the default refuses data: URLs of 128 KiB
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield from filter(None, csv.reader(file, strict=True))
    except UnicodeDecodeError as exc:
        raise TableError(f"{path} is not UTF-8 ({exc}); convert it, e.g. with iconv") from exc
    except csv.Error as exc:
        raise TableError(f"{path} is not valid CSV: {exc}") from exc
    except OSError as exc:
        raise TableError(f"{path} cannot be read: {exc.strerror}") from exc
