"""Text files, compressed or not, in UTF-8 or UTF-16, read line by line or field by field."""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import IO, TypeVar, cast

from ..errors import TableError
from .hashing import Hashed
from .names import Codec, format_of
from .rows import PART_SIZE
from .signatures import LONGEST, other_format
from .storage import open_bytes, reading

_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_UTF32 = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)
_MAGIC: dict[Codec, bytes] = {"gzip": b"\x1f\x8b", "zstd": b"\x28\xb5\x2f\xfd"}
_ROW_CHARACTERS = 64 * 1024 * 1024  # more than the longest data: URL allowed by default
# Delimiters of a row, in and between fields. A field takes at least 8 bytes of memory, even if it is empty.
_ROW_DELIMITERS = 4 * 1024 * 1024
_ROW_LINES = 1024 * 1024  # of a quoted field, for example; each takes time and memory in many places
_BLANK_LINES = 1024 * 1024  # of a file, besides ten for each row: a few compressed bytes may expand to very many
_SHORT = 1024 * 1024  # characters of a row up to which its delimiters and lines are not counted
Row = TypeVar("Row")


class Lines(io.TextIOWrapper):
    """A text file with limited rows: a few compressed bytes may expand to a line that does not fit in memory.

    Attributes:
        place: Name of the file in messages.
        delimiter: Character that ends fields; an empty text if rows have none.
        spent: Characters of the current row; the reader resets it to 0 at the end of a row.
    """

    place = ""
    delimiter = ""
    spent = 0
    _delimiters = 0  # of the current row
    _row_lines = 0
    _blank = 0  # lines so far

    def __next__(self) -> str:  # type: ignore[override]  # typeshed has bytes there
        line = self.readline(_ROW_CHARACTERS - self.spent + 1)
        if not line:
            raise StopIteration
        self.spent += len(line)
        if self.spent > _SHORT and self.delimiter:
            self._count(line)
        if self.spent > _ROW_CHARACTERS:
            raise TableError(
                f"{self.place} has a row of more than {_ROW_CHARACTERS:,} characters; it begins with {line[:40]!r}. Was a quote left open, or "
                "is this another kind of file?"
            )
        return line

    def _count(self, line: str) -> None:
        """Count the delimiters and the lines of a long row."""
        if self.spent - len(line) <= _SHORT:
            self._delimiters = self._row_lines = 0
        self._delimiters += line.count(self.delimiter)
        self._row_lines += 1
        if self._delimiters > _ROW_DELIMITERS:
            raise TableError(
                f"{self.place} has a row with more than {_ROW_DELIMITERS:,} delimiters; it begins with {line[:40]!r}. "
                "Is this another kind of file?"
            )
        if self._row_lines > _ROW_LINES:
            raise csv.Error(f"it has more than {_ROW_LINES:,} lines")  # the reader's caller says which row

    def skip_blank(self, rows: int) -> None:
        """Count a blank line after a number of rows, and refuse a file with far too many."""
        self._blank += 1
        if self._blank > _BLANK_LINES + 10 * rows:
            raise TableError(
                f"{self.place} has far more blank lines ({self._blank:,}) than rows; remove the blank lines. Is this another kind of "
                "file?"
            )

    def lines(self) -> Iterator[str]:
        """Yield lines, each of which is a row."""
        for line in self:
            self.spent = 0
            yield line


@contextmanager
def open_text(place: str, *, encoding: str | None = None, errors: str = "strict") -> Iterator[tuple[Lines, Hashed]]:
    """Open a text file, and hash its bytes while they are read.

    Without an encoding, a byte-order mark decides, and UTF-8 is the default. Line ends are unchanged.

    Raises:
        UsageError, TableError: The file cannot be read.
    """
    with reading(place), Hashed(open_bytes(place)) as raw, _expanded(place, raw) as data:
        head = data.peek(LONGEST)[:LONGEST]
        if found := other_format(head):
            raise TableError(f"{place} is {found}")
        if encoding is None:
            if head.startswith(_UTF32):
                raise TableError(f"{place} is UTF-32; add --encoding utf-32 (Dialect(encoding=...))")
            encoding = "utf-16" if head.startswith(_UTF16) else "utf-8-sig"
        elif codecs.lookup(encoding).name == "utf-8":
            encoding = "utf-8-sig"
        with Lines(data, encoding, errors, newline="") as file:
            file.place = place
            yield file, raw


def in_parts(rows: Iterable[Row], start: int, most: int, length: Callable[[Row], int]) -> Iterator[list[Row]]:
    """Yield rows from index `start` on, the first being 0, `most` at a time, or fewer if they are very long."""
    part: list[Row] = []
    size = 0
    for row in islice(rows, start, None):
        part.append(row)
        size += length(row)
        if len(part) == most or size >= PART_SIZE:
            yield part
            part, size = [], 0
    if part:
        yield part


def _expanded(place: str, raw: Hashed) -> io.BufferedReader:
    """Return a file's decompressed content."""
    codec = format_of(place).codec
    buffered: io.BufferedReader = io.BufferedReader(raw, 1 << 16)
    if codec is None:
        return buffered
    if (head := buffered.peek(4)) and not head.startswith(_MAGIC[codec]):
        raise TableError(
            f"{place} is not compressed with {codec}, although its name says so; remove the suffix from its name"
        )
    from pyarrow import CompressedInputStream

    return io.BufferedReader(cast(io.RawIOBase, CompressedInputStream(cast(IO[bytes], buffered), codec)), 1 << 16)


def undecodable(text: str) -> bool:
    """Tell whether a text read with `surrogateescape` contains bytes that could not be decoded."""
    return any("\udc80" <= character <= "\udcff" for character in text)
