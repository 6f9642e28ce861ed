"""Opening Parquet files, and a check of their pages before Arrow decompresses them.

Arrow allocates what the header of a page demands, whatever the file's footer says. The headers are read as their bytes
pass on their way to Arrow, so that remote files take no further requests, and columns that are not read are not looked
at.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import accumulate
from typing import IO, NoReturn

import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import TableError
from .page_headers import LONGEST_HEADER, IncompleteHeaderError, PageHeader, read_header
from .parquet_encodings import encoding_of, most_page_bytes
from .rows import PART_SIZE
from .signatures import LONGEST, text_format
from .storage import open_bytes, reading

_BUFFER = 4 * 1024 * 1024  # bytes read at a time of each column of a large row group
_LOOK_BUFFER = 64 * 1024  # the same, if only the first row is read
_HEADER_BUFFER = 16 * 1024  # bytes read at first of a header that is not in one piece
_PADDING = 100  # for old files of parquet-mr, Arrow reads this many more bytes of a column
# Pages of a row group; if there are more, they must have as many bytes as this on average.
_MOST_PAGES = 65_536
_PAGE_BYTES = 64


@contextmanager
def open_parquet(
    place: str, dropped: Collection[str] = (), dictionaries: Sequence[str] = (), *, look: bool = False
) -> Iterator[ParquetReader]:
    """Open a file.

    Args:
        place: Place of the file.
        dropped: Columns that will not be read.
        dictionaries: Paths of columns to read as dictionaries.
        look: Whether only the first rows will be read.

    Raises:
        UsageError, TableError: The file cannot be opened, or what is read of it is damaged or too large.
    """
    with reading(place), open_bytes(place) as raw:
        source = _CheckedFile(place, raw)
        try:
            with pq.ParquetFile(source, read_dictionary=dictionaries) as file:
                metadata = file.metadata
                largest = max(
                    (metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups)), default=0
                )
                if largest <= PART_SIZE and not look:
                    yield ParquetReader(file, source, dropped)
                    return
            # By default, Arrow fetches a whole row group before it returns the first row.
            with pq.ParquetFile(
                source,
                metadata=metadata,
                read_dictionary=dictionaries,
                pre_buffer=False,
                buffer_size=_LOOK_BUFFER if look else _BUFFER,
            ) as file:
                yield ParquetReader(file, source, dropped)
        except UnicodeDecodeError as exc:
            raise TableError(f"{place} cannot be read as Parquet: the name of a column is not UTF-8") from exc
        except pa.ArrowMemoryError as exc:
            raise TableError(f"{place} needs more memory than is available: {exc}") from exc
        except pa.ArrowException as exc:
            if source.refusal:
                raise source.refusal from exc
            raw.seek(0)
            if found := text_format(raw.read(LONGEST)):
                raise TableError(f"{place} is {found}") from exc
            raise TableError(f"{place} cannot be read as Parquet: {exc}") from exc


@dataclass(frozen=True, slots=True)
class ParquetReader:
    """An open file.

    Args:
        file: The file, as Arrow opened it.
        source: Bytes of the file.
        dropped: Columns that will not be read.
    """

    file: pq.ParquetFile
    source: _CheckedFile
    dropped: Collection[str]

    @property
    def metadata(self) -> pq.FileMetaData:
        """The metadata in the file's footer."""
        return self.file.metadata

    def batches(self, most: int, group: int, columns: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
        """Yield the rows of a row group, `most` at a time, with the given columns; None means all columns."""
        row_group = self.metadata.row_group(group)
        self.source.check(row_group, self.metadata.schema, most_page_bytes(row_group, self.dropped), columns)
        yield from self.file.iter_batches(most, row_groups=[group], columns=columns)


@dataclass(slots=True)
class _Column:
    """A column of a row group: where its bytes begin and end, how many values are left, and where the next page begins.

    `hides` tells whether a header has an encoding of texts that the footer does not declare; the number of rows that
    are read at once depends on it.
    """

    name: str
    start: int
    end: int
    values: int
    next: int
    hides: Callable[[PageHeader], bool]


@dataclass(slots=True)
class _CheckedFile:
    """File that Arrow reads; before Arrow gets a byte of a column, the headers of the pages up to it are checked."""

    place: str
    raw: IO[bytes]
    refusal: TableError | None = field(init=False, default=None)
    _columns: list[_Column] = field(init=False, default_factory=list)
    _starts: list[int] = field(init=False, default_factory=list)
    _ends: list[int] = field(init=False, default_factory=list)  # the furthest end so far
    _most: int = field(init=False, default=0)
    _size: int = field(init=False, default=0)
    _pages: int = field(init=False, default=0)
    _stored: int = field(init=False, default=0)

    def check(
        self, group: pq.RowGroupMetaData, schema: pq.ParquetSchema, most: int, columns: Sequence[str] | None
    ) -> None:
        """Check the pages of a row group's columns from now on; together, they may have at most `most` bytes."""
        size = self.raw.seek(0, os.SEEK_END)
        wanted = None if columns is None else set(columns)
        chunks = {
            place: chunk
            for place, chunk in enumerate(map(group.column, range(group.num_columns)))
            if wanted is None or not wanted.isdisjoint(accumulate(chunk.path_in_schema.split("."), "{}.{}".format))
        }
        stored = sum(chunk.total_compressed_size for chunk in chunks.values())
        if stored > size:
            raise TableError(
                f"{self.place} is damaged: the columns of a row group take {stored:,} bytes, more than the file's {size:,}; "
                "write the file again"
            )
        for place, chunk in chunks.items():
            if not schema.column(place).max_repetition_level and chunk.num_values != group.num_rows:
                raise TableError(
                    f"column {chunk.path_in_schema!r} of {self.place} is damaged: it has {chunk.num_values:,} values in "
                    f"{group.num_rows:,} rows; write the file again"
                )
        self._columns = sorted((_column(chunk, size) for chunk in chunks.values()), key=lambda column: column.start)
        self._starts = [column.start for column in self._columns]
        self._ends = list(accumulate((column.end for column in self._columns), max))
        self._most, self._size, self._pages, self._stored = most, 0, 0, 0

    def read(self, count: int = -1) -> bytes:
        start = self.raw.tell()
        data = self.raw.read(count)
        end = start + len(data)
        for place in reversed(range(bisect_left(self._starts, end))):
            if self._ends[place] <= start:
                break
            self._walk(self._columns[place], memoryview(data), start)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self.raw.seek(offset, whence)

    def tell(self) -> int:
        return self.raw.tell()

    def close(self) -> None:
        self.raw.close()

    @property
    def closed(self) -> bool:
        return self.raw.closed

    def _walk(self, column: _Column, data: memoryview, start: int) -> None:
        """Check the headers of a column's pages that begin before the end of `data`, which begins at byte `start`."""
        end = min(start + len(data), column.end)
        while column.values > 0 and column.next < end:
            try:
                header = self._header(column, data, start)
            except (ValueError, IncompleteHeaderError) as exc:
                self._refuse(
                    f"column {column.name!r} of {self.place} is damaged: the header of its page at byte {column.next:,} is not "
                    f"valid ({exc or 'it is cut off'}); write the file again"
                )
            stored = header.length + header.compressed
            column.next += stored
            column.values -= header.values
            if column.values < 0 or column.hides(header):
                said = "has more values" if column.values < 0 else "is stored in another way"
                self._refuse(
                    f"column {column.name!r} of {self.place} is damaged: it {said} than the file's footer says; write the file again"
                )
            self._size += header.uncompressed
            self._pages += 1
            self._stored += stored
            if self._size > self._most:
                self._refuse(
                    f"column {column.name!r} of {self.place} has a page of {header.uncompressed:,} bytes, compressed "
                    f"to {header.compressed:,}, which brings its row group to more than {self._most:,} bytes, the most "
                    "that its size in the file allows; write the file in smaller row groups, or without the column"
                )
            if self._pages > max(_MOST_PAGES, self._stored // _PAGE_BYTES):
                self._refuse(
                    f"column {column.name!r} of {self.place} has too many pages, {self._pages:,} in {self._stored:,} bytes; "
                    "write the file with larger pages"
                )

    def _header(self, column: _Column, data: memoryview, start: int) -> PageHeader:
        """Read the header of a column's next page, from `data` if all of it is there."""
        if column.next >= start:
            with suppress(IncompleteHeaderError):
                return read_header(data[column.next - start : column.end - start])
        place = self.raw.tell()
        try:
            length = _HEADER_BUFFER
            while True:
                self.raw.seek(column.next)
                found = self.raw.read(min(length, column.end - column.next))
                try:
                    return read_header(memoryview(found))
                except IncompleteHeaderError:
                    if len(found) < length or length >= LONGEST_HEADER:
                        raise
                    length *= 2
        finally:
            self.raw.seek(place)

    def _refuse(self, said: str) -> NoReturn:
        self.refusal = TableError(said)
        raise self.refusal


def _column(chunk: pq.ColumnChunkMetaData, size: int) -> _Column:
    """Return where Arrow begins to read a column, and where it ends at the latest."""
    start = chunk.data_page_offset
    first = chunk.dictionary_page_offset
    if first is not None and 0 < first < start:
        start = first
    end = min(start + chunk.total_compressed_size + _PADDING, size)
    has_dictionary, has_differences = encoding_of(chunk)
    is_text = chunk.physical_type == "BYTE_ARRAY"

    def hides(header: PageHeader) -> bool:
        return is_text and (header.has_dictionary > has_dictionary or header.has_differences > has_differences)

    return _Column(chunk.path_in_schema.partition(".")[0], start, end, chunk.num_values, start, hides)
