"""CSV and TSV: every field keeps its exact text."""

from __future__ import annotations

import csv
import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, ClassVar

import pyarrow as pa

from ..config import Dialect
from ..errors import TableError
from .columns import check_count, delimiter_hint, list_columns
from .hashing import Hashed, one_digest
from .names import TableKind, format_of
from .rows import TextRows, size_of_fields, text_schema
from .text import Lines, in_parts, open_text, undecodable

logger = logging.getLogger("text_image_similarity")

DELIMITERS: dict[TableKind, str] = {"csv": ",", "tsv": "\t"}
# If a quote is left open, the rest of the file is one field. This limit on a field is lower than the limit on a row, so
# that the message names the row.
_FIELD_CHARACTERS = 60 * 1024 * 1024
_QUOTING: dict[str, dict[str, Any]] = {  # the csv module's names
    "minimal": {},
    "backslash": {},  # for lines from `_without_backslashes`
    "none": {"quoting": csv.QUOTE_NONE},
}
_LINE = re.compile(r"[^\r\n]+")
_TOKEN = re.compile(r'(?:\\\\)+|(?:\\")+|"+|[^"\\]+|\\')
_PIECE = 65_536  # characters of a line whose tokens are in memory at a time
_NAMES = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "pipes"}
_AMBIGUOUS = (
    "if it is part of the text, as in most files with tabs, add --quoting none; if fields are quoted as in CSV, add --quoting minimal "
    "(Config(dialect=Dialect(quoting=...)))"
)
_BACKSLASH = "if quotation marks are escaped with backslashes, add --quoting backslash (Dialect(quoting='backslash'))"


def dialect_of(place: str, dialect: Dialect) -> Dialect:
    """Return the dialect of a CSV or TSV file, with the default delimiter of its suffix."""
    return replace(dialect, delimiter=dialect.delimiter or DELIMITERS[format_of(place).kind])


def is_ambiguous(values: Sequence[str], kind: TableKind) -> bool:
    """Tell whether a row that this package writes can be read only with the quoting `minimal`, not with `auto`."""
    if kind == "tsv":
        return any(value[:1] == '"' or any(sign in value for sign in "\t\n\r") for value in values)
    several = any("\n" in value or "\r" in value for value in values)
    return several and any('\\"' in value for value in values)


@dataclass(slots=True)
class DelimitedTable:
    """A table of text fields, in one or several files with the same columns.

    Args:
        files: Places of the table's files.
        dialect: Dialect of the files.
        dropped: Columns to skip.
    """

    files: list[str]
    dialect: Dialect = field(default_factory=Dialect)
    dropped: frozenset[str] = frozenset()
    columns: list[str] = field(init=False)
    row_count: int = field(init=False, default=0)
    digest: str = field(init=False, default="")
    _header: list[str] = field(init=False)
    _orders: dict[str, list[int]] = field(init=False, default_factory=dict)  # by file: places of the header's columns
    _quoting: str = field(init=False)
    _warned: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        self.dialect = dialect_of(self.files[0], self.dialect)
        unquoted = "none" if self.dialect.delimiter == "\t" else "minimal"
        self._quoting = unquoted if self.dialect.quoting == "auto" else self.dialect.quoting
        self._header = self._first(self.files[0])
        self.columns = [name for name in self._header if name not in self.dropped]
        for other in self.files[1:]:
            found = self._first(other)
            if sorted(found) == sorted(self._header) and len(set(found)) == len(found):
                self._orders[other] = [found.index(name) for name in self._header]
            elif found != self._header:
                raise TableError(
                    f"{other} has the columns {list_columns(found)}, but {self.files[0]} has {list_columns(self._header)}"
                )

    images: ClassVar[str | None] = None
    captions: ClassVar[str | None] = None

    @property
    def schema(self) -> pa.Schema:
        return text_schema(self.columns)

    def scan(self) -> None:
        """Read the whole table: count its rows, check the number of fields, hash the files.

        Raises:
            TableError: The table is damaged; the message names the row and the column.
        """
        digests = []
        for place in self.files:
            with self._open(place) as (file, raw):
                self.row_count += sum(1 for _ in self._data(place, file))
                digests.append(raw.finish())
        self.digest = one_digest(digests)

    def read(self, start: int, most: int) -> Iterator[TextRows]:
        """Yield rows from index `start` on, counted from 0, `most` at a time, or fewer if they are very long."""
        keep = [place for place, name in enumerate(self._header) if name not in self.dropped]
        whole = len(keep) == len(self._header)
        for part in in_parts(self._all(), start, most, size_of_fields):
            yield TextRows(self.columns, part if whole else [[row[i] for i in keep] for row in part])

    def _all(self) -> Iterator[list[str]]:
        for place in self.files:
            order = self._orders.get(place)
            with self._open(place) as (file, _):
                rows = self._data(place, file)
                yield from rows if order is None else ([row[i] for i in order] for row in rows)

    def _open(self, place: str, errors: str = "strict") -> AbstractContextManager[tuple[Lines, Hashed]]:
        return open_text(place, encoding=self.dialect.encoding, errors=errors)

    def _first(self, place: str) -> list[str]:
        with self._open(place) as (file, _):
            for header in self._rows(place, file):
                check_count(len(header), place)
                return header
        raise TableError(f"{place} is empty; it needs a header line with the names of its columns")

    def _data(self, place: str, file: Lines) -> Iterator[list[str]]:
        """Yield the rows below the header, each with as many fields as the header."""
        return islice(self._rows(place, file), 1, None)

    def _check_row(self, where: tuple[str, int, int, int], row: list[str], width: int) -> None:
        """Refuse a row that is ambiguous without a known quoting, or does not have as many fields as the header."""
        place, number, first, last = where
        named = f"{f'row {number}' if number else 'the header'} of {place} ({_lines(first, last)})"
        if self.dialect.quoting == "auto" and (last > first or self._quoting == "none"):
            self._check_quotes(named, row)
        if len(row) != width:
            reason = (
                f"has no column {self._header[len(row)]!r}"
                if len(row) < width
                else f"continues with {row[width][:40]!r}"
            )
            raise TableError(
                f"{named} has {len(row)} fields, but the header has {width}: it {reason}; {self._cure(row)}"
            )

    def _cure(self, row: list[str]) -> str:
        """Return advice for a row with a wrong number of fields."""
        if self._quoting == "none":
            return "without quoting, a field cannot contain a delimiter or a line end; if fields are quoted, add --quoting minimal"
        if self._quoting == "minimal" and any('\\"' in value or value.endswith("\\") for value in row):
            return _BACKSLASH
        return f"quote fields that contain {_NAMES.get(self.dialect.delimiter or '', 'the delimiter')}, or fix the row"

    def _rows(self, place: str, file: Lines) -> Iterator[list[str]]:
        """Yield the fields of every row, the header first, skipping blank lines."""
        reader = self._reader(file)
        number, first, width = 0, 1, 0
        has_quotes = self.dialect.quoting == "auto" and self._quoting == "none"  # whether any row may have quotes
        try:
            for row in reader:
                file.spent = 0
                last = reader.line_num
                if row:
                    width = width or len(row)
                    if len(row) != width or last > first or has_quotes:
                        self._check_row((place, number, first, last), row, width)
                    yield row
                    number += 1
                else:
                    file.skip_blank(number)
                first = last + 1
        except UnicodeError as exc:
            encoding = self.dialect.encoding or str(getattr(exc, "encoding", "utf-16"))
            raise TableError(
                f"{self._undecodable(place)} is not {encoding.upper()}; name its encoding, e.g. --encoding cp1252 or utf-16-le "
                "(Config(dialect=Dialect(encoding=...)))"
            ) from exc
        except csv.Error as exc:
            where = f"row {number}" if number else "the header"
            raise TableError(
                f"{where} of {place} ({_lines(first, reader.line_num)}) is not valid: {exc}{self._hint(place, first, reader.line_num, str(exc))}"
            ) from exc

    def _check_quotes(self, where: str, row: list[str]) -> None:
        """Refuse a row that is ambiguous without a known quoting, or warn if the other reading is unlikely."""
        if self._quoting == "none":
            if any(value[:1] == '"' for value in row):
                raise TableError(f"{where} has a field that begins with a quotation mark; {_AMBIGUOUS}")
        elif any('\\"' in value for value in row):
            raise TableError(
                f"{where} has a backslash before a quotation mark; {_BACKSLASH}; otherwise, add --quoting minimal"
            )
        elif not self._warned and self._are_rows(row):
            self._warned = True
            logger.warning(
                "%s is read as one row; if the quotation marks are part of the text, add --quoting none "
                "(Dialect(quoting='none')) to read each line as a row; otherwise, add --quoting minimal",
                where,
            )

    def _are_rows(self, row: list[str]) -> bool:
        """Tell whether each line of a row has as many delimiters as the row itself; lines are read one by one."""
        delimiter = self.dialect.delimiter or ""
        lines = (found[0] for found in _LINE.finditer(delimiter.join(row)))
        return all(line.count(delimiter) == len(row) - 1 for line in lines if line.strip())

    def _reader(self, file: Lines) -> Any:
        csv.field_size_limit(_FIELD_CHARACTERS)  # global in the csv module; the default refuses long data: URLs
        assert self.dialect.delimiter is not None
        file.delimiter = self.dialect.delimiter
        lines: Iterable[str] = file
        if self._quoting == "backslash":
            lines = _without_backslashes(file, self.dialect.delimiter)
        return csv.reader(lines, delimiter=self.dialect.delimiter, strict=True, **_QUOTING[self._quoting])

    def _hint(self, place: str, first: int, last: int, said: str) -> str:
        """Return a hint about quotation marks in the lines for which the parser reported an error."""
        with self._open(place) as (file, _):
            lines = islice(file.lines(), first - 1, last)
            head = next(lines)
            has_backslash = '\\"' in head or any('\\"' in line for line in lines)
        if first == 1 and head.lstrip().startswith(("{", "[")):
            return "; if it is JSON with one object per line, give it the extension .jsonl"
        if self._quoting == "minimal" and has_backslash:
            return f"; {_BACKSLASH}"
        if first == 1 and (hint := delimiter_hint(head)):
            return hint
        belong = "if quotation marks are part of the text, add --quoting none"
        if last > first:
            return f"; if a quotation mark has been open since line {first}, close it; {belong}"
        return f"; double the quotation marks inside a quoted field; {belong}" if "expected after" in said else ""

    def _undecodable(self, place: str) -> str:
        """Return the location of the first field with bytes in another encoding."""
        with suppress(csv.Error, UnicodeError), self._open(place, "surrogateescape") as (file, _):
            header: Sequence[str] = []
            for number, row in enumerate(filter(None, self._reader(file))):
                file.spent = 0
                header = header or row
                for i, value in enumerate(row):
                    if undecodable(value):
                        column = repr(header[i]) if number and i < len(header) else str(i + 1)
                        return f"column {column} in {f'row {number}' if number else 'the header'} of {place}"
        return place


def _without_backslashes(lines: Iterable[str], delimiter: str) -> Iterator[str]:
    r"""Yield lines with "" for \" and \ for \\ in quoted fields; every other backslash is text, as in Spark."""
    inside = False
    for line in lines:
        whole = []
        starts, closed = not inside, False
        for piece in _pieces(line):
            changed = []
            for token in _TOKEN.findall(piece):
                if inside and token[0] == "\\" and len(token) > 1:
                    changed.append(token.replace('\\"', '""') if token[1] == '"' else token[::2])
                    continue
                if token[0] == '"':  # the first one is text in a field that is not quoted
                    count = len(token) if inside or starts or closed else len(token) - 1
                    inside = inside != bool(count % 2)
                closed = token[0] == '"' and not inside
                starts = not inside and token.endswith(delimiter)
                changed.append(token)
            whole.append("".join(changed))
        yield "".join(whole)


def _pieces(line: str) -> Iterator[str]:
    """Yield the pieces of a line, none of which ends between a backslash and the character that it escapes."""
    start = 0
    while start < len(line):
        end = start + _PIECE
        piece = line[start:end]
        if (len(piece) - len(piece.rstrip("\\"))) % 2:
            piece = line[start : end + 1]
        yield piece
        start += len(piece)


def _lines(first: int, last: int) -> str:
    return f"on lines {first} to {last}" if last > first else f"on line {first}"
