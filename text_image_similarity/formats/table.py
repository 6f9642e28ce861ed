"""Tables to read, in any format and at any place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from ..config import Dialect, Limits
from ..errors import UsageError
from ..records import EncodedImage, text_in
from .arrow_types import holds_texts, may_hold_images
from .delimited import DELIMITERS, DelimitedTable
from .json_lines import JsonTable
from .names import ending_of, format_of
from .parquet import ParquetTable
from .rows import Rows
from .shards import SampleTable
from .storage import expand, is_url, local_path

_LOOKED_AT = 64  # number of first rows by which a column is identified
_AT_ONCE = 256  # rows that `read_rows` has in memory at a time
_MAX_BYTES = Limits().max_bytes


class Table(Protocol):
    """A table that can be read repeatedly; `files` are the places that it is read from."""

    files: list[str]

    @property
    def images(self) -> str | None:
        """The column of images, if the format determines it; it is never written, and need not be in `columns`."""

    @property
    def captions(self) -> str | None:
        """The column of captions, if the format determines it, or None."""

    @property
    def columns(self) -> Sequence[str]:
        """The names of its columns; for JSON Lines, shards and folders of images, known after `scan`."""

    @property
    def row_count(self) -> int:
        """The number of rows, known after `scan`."""

    @property
    def digest(self) -> str:
        """Digest of the content of its files, known after `scan`."""

    @property
    def schema(self) -> pa.Schema:
        """The Arrow types of its columns, known after `scan`."""

    def scan(self) -> None:
        """Check the table as far as its format allows, count its rows, and hash its files.

        Raises:
            TableError: The table is damaged; the message names the row and the column.
        """

    def read(self, start: int, most: int) -> Iterator[Rows]:
        """Yield rows from index `start` on, counted from 0, `most` at a time, or fewer if they are very large.

        The batches depend only on the table, `start` and `most`.
        """


def open_table(
    place: str,
    *,
    dialect: Dialect | None = None,
    dropped: frozenset[str] = frozenset(),
    max_bytes: int = _MAX_BYTES,
) -> Table:
    """Open a file, a folder or a pattern as a table.

    Args:
        place: A path or an fsspec URL.
        dialect: Dialect of CSV and TSV files; None means the one for their suffix.
        dropped: Columns to skip.
        max_bytes: Largest image to read from a tar shard, in bytes.

    Raises:
        UsageError: There is no table, its files have different formats, or `dialect` is for another format.
        TableError: The table cannot be read.
    """
    return open_files(expand(place), place, dialect=dialect, dropped=dropped, max_bytes=max_bytes)


def open_files(
    files: list[str],
    place: str,
    *,
    dialect: Dialect | None = None,
    dropped: frozenset[str] = frozenset(),
    max_bytes: int = _MAX_BYTES,
) -> Table:
    """Open files as parts of one table.

    Args:
        files: Paths or fsspec URLs, at least one.
        place: Name of the table in messages.
        dialect: As for `open_table`.
        dropped: Columns to skip.
        max_bytes: As for `open_table`.

    Raises:
        UsageError: The files have different formats, or `dialect` is for another format.
        TableError: The files cannot be read, or do not belong together.
    """
    if len(files) == 1 and not is_url(files[0]) and local_path(files[0]).is_dir():  # a folder of images
        return SampleTable(files, dropped, max_bytes)
    others = [file for file in files if not ending_of(file)]
    if others and (len(files) > 1 or (is_url(place) or str(local_path(place)) != files[0])):
        tables = ", ".join(file for file in files if ending_of(file))
        meant = f"name the table itself: {tables}" if tables else "it contains no table"
        raise UsageError(f"{place} contains files that are not tables, such as {Path(others[0]).name}; {meant}")
    kinds = {format_of(file).kind for file in files}
    if len(kinds) > 1:
        raise UsageError(
            f"{place} contains files of several formats ({', '.join(sorted(kinds))}); name the files of one format with a pattern"
        )
    kind = kinds.pop()
    if kind in DELIMITERS:
        return DelimitedTable(files, dialect or Dialect(), dropped)
    if dialect not in (None, Dialect()):
        raise UsageError(f"{place}: --delimiter, --quoting and --encoding (Dialect) are for CSV and TSV only")
    if kind == "tar":
        return SampleTable(files, dropped, max_bytes)
    return JsonTable(files, dropped) if kind == "jsonl" else ParquetTable(files, dropped)


def columns_of(table: Table) -> Sequence[str]:
    """Return the names of a table's columns, reading JSON Lines, shards and folders of images to their end.

    Raises:
        TableError: The columns cannot be read.
    """
    if not table.columns:
        table.scan()
    return table.columns


def check_images(table: Table, name: str, place: str) -> None:
    """Make sure that a column of bytes does not contain references stored as bytes instead of text.

    Args:
        table: The table; its first rows are read.
        name: Name of the column of images.
        place: Name of the table in messages.

    Raises:
        UsageError: All bytes in the first rows are text.
    """
    if name == table.images or not may_hold_images(table.schema.field(name).type):
        return
    rows = next(table.read(0, _LOOKED_AT), None)
    texts = [text_in(bytes(value)) for value in rows.column(name) if isinstance(value, EncodedImage)] if rows else []
    if texts and all(texts):
        raise UsageError(
            f"column {name!r} of {place} contains text stored as bytes, such as {texts[0]!r}, not images "
            f"({table.schema.field(name).type}); if these are paths or URLs, cast them to strings (in pandas, with .str.decode('utf-8'))"
        )


def cells_of(table: Table, names: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    """Yield the values of each row in some columns, reading all files as one table.

    Raises:
        TableError: The table is damaged.
    """
    for part in table.read(0, _AT_ONCE):
        yield from zip(*map(part.column, names), strict=True)


def list_columns_of(table: Table) -> set[str]:
    """Return the columns of a scanned table whose cells are lists of texts, or of values that may be texts."""
    if isinstance(table, JsonTable):
        return set(table.lists)
    return {field.name for field in table.schema if holds_texts(field.type)}


def read_rows(table: Table, names: Sequence[str]) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Yield the location of each row, such as "row 3 of pairs.csv", and its values in some columns.

    Args:
        table: Table, which is read from its beginning, a few rows at a time.
        names: One or more of the table's columns.

    Raises:
        TableError: The table is damaged.
    """
    for file in table.files:
        dialect = table.dialect if isinstance(table, DelimitedTable) else None
        one = table if len(table.files) == 1 else open_files([file], file, dialect=dialect)
        parts = one.read(0, _AT_ONCE)
        rows = (row for part in parts for row in zip(*map(part.column, names), strict=True))
        for number, row in enumerate(rows, 1):
            yield f"row {number} of {file}", row
