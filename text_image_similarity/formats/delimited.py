"""CSV and TSV: every field keeps its exact text."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TextIO

import pyarrow as pa

from ..errors import TableError
from .columns import list_columns
from .rows import TextRows, text_schema
from .storage import one_digest
from .text import in_parts, open_text, undecodable

DELIMITERS = {"csv": ",", "tsv": "\t"}
_FIELD_CHARACTERS = 256 * 1024 * 1024  # where a quote is left open, the rest of the file is one field


@dataclass(slots=True)
class DelimitedTable:
    """A table of texts, in one file or several with the same header.

    Args:
        files: Where it is.
        delimiter: What stands between two fields.
        dropped: Columns that are passed over.
    """

    files: list[str]
    delimiter: str
    dropped: frozenset[str] = frozenset()
    columns: list[str] = field(init=False)
    row_count: int = field(init=False, default=0)
    digest: str = field(init=False, default="")
    _header: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self._header = self._first(self.files[0])
        self.columns = [name for name in self._header if name not in self.dropped]
        for other in self.files[1:]:
            if (found := self._first(other)) != self._header:
                raise TableError(
                    f"{other} has the columns {list_columns(found)}, but {self.files[0]} has {list_columns(self._header)}"
                )

    @property
    def schema(self) -> pa.Schema:
        return text_schema(self.columns)

    def scan(self) -> None:
        """Read the whole table: count its rows, check their shape, hash the files.

        Raises:
            TableError: It is damaged; the message names the row and the column.
        """
        digests = []
        for place in self.files:
            with open_text(place) as (file, raw):
                self.row_count += sum(1 for _ in self._data(place, file))
                digests.append(raw.finish())
        self.digest = one_digest(digests)

    def read(self, start: int, most: int) -> Iterator[TextRows]:
        """Yield the rows from number `start` (from 0) on, `most` at a time, or fewer that are very long."""
        keep = [place for place, name in enumerate(self._header) if name not in self.dropped]
        whole = len(keep) == len(self._header)
        for part in in_parts(self._all(), start, most, lambda row: sum(map(len, row))):
            yield TextRows(self.columns, part if whole else [[row[i] for i in keep] for row in part])

    def _all(self) -> Iterator[list[str]]:
        for place in self.files:
            with open_text(place) as (file, _):
                yield from self._data(place, file)

    def _first(self, place: str) -> list[str]:
        with open_text(place) as (file, _):
            for _, header in self._rows(place, file):
                return header
        raise TableError(f"{place} is empty; it needs a header line with the two columns")

    def _data(self, place: str, file: TextIO) -> Iterator[list[str]]:
        """Yield the rows below the header; every one has as many fields as the header."""
        width = len(self._header)
        rows = self._rows(place, file)
        next(rows, None)
        for number, (lines, row) in enumerate(rows, 1):
            if len(row) != width:
                where = (
                    f"has no column {self._header[len(row)]!r}"
                    if len(row) < width
                    else f"goes on with {row[width][:40]!r}"
                )
                raise TableError(
                    f"row {number} of {place} ({lines}) has {len(row)} fields, the header has {width}: it {where}; quote fields that "
                    f"hold {'commas' if self.delimiter == ',' else 'tabs'}, or fix the row"
                )
            yield row

    def _rows(self, place: str, file: TextIO) -> Iterator[tuple[str, list[str]]]:
        """Yield (lines, fields) of every row, the header first; blank lines do not count."""
        csv.field_size_limit(_FIELD_CHARACTERS)  # process-wide in the csv module; the default refuses long data: URLs
        reader = csv.reader(file, delimiter=self.delimiter, strict=True)
        number = 0
        first = 1
        try:
            for row in reader:
                if row:
                    yield _lines(first, reader.line_num), row
                    number += 1
                first = reader.line_num + 1
        except UnicodeDecodeError as exc:
            raise TableError(
                f"{self._undecodable(place)} is not {exc.encoding.upper()}; convert it, e.g. with iconv"
            ) from exc
        except csv.Error as exc:
            where = f"row {number}" if number else "the header"
            hint = "; is a quote left open?" if reader.line_num > first else ""
            raise TableError(
                f"{where} of {place} ({_lines(first, reader.line_num)}) is not valid: {exc}{hint}"
            ) from exc

    def _undecodable(self, place: str) -> str:
        """Name the first field that holds bytes of another encoding."""
        with suppress(csv.Error, UnicodeDecodeError), open_text(place, errors="surrogateescape") as (file, _):
            header: Sequence[str] = []
            for number, row in enumerate(filter(None, csv.reader(file, delimiter=self.delimiter, strict=True))):
                header = header or row
                for i, value in enumerate(row):
                    if undecodable(value):
                        column = repr(header[i]) if number and i < len(header) else str(i + 1)
                        return f"column {column} in {f'row {number}' if number else 'the header'} of {place}"
        return place


def _lines(first: int, last: int) -> str:
    return f"on lines {first} to {last}" if last > first else f"on line {first}"
