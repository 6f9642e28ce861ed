"""Parquet: every column keeps its type, even if nested; only dictionary indices become wider."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import TableError
from .arrow_types import common_type, dense, dense_size, may_hold_images, stored
from .columns import check_count, check_depth
from .hashing import Hashed, one_digest
from .parquet_encodings import Encodings, check_compression, columns_to_read
from .parquet_file import open_parquet
from .rows import PART_SIZE, ArrowRows
from .storage import open_bytes, reading

# Limits in bytes for a row's texts and numbers (as for a row of text) and for a whole row. Images have their own limit.
_CELL_BYTES = 64 * 1024 * 1024
_ROW_BYTES = 512 * 1024 * 1024
# Maximum number of values of a column of lists in a row group: a row must be read completely before its bytes can be
# counted, and repeated values take hardly any bytes in the file.
_LIST_VALUES = 8 * 1024 * 1024
_ROW_VALUES = 10_000  # or as many for each of its rows, on average
# Maximum number of values of a column chunk with fewer bytes than one for every `_PACKED` values, which may all be in a
# single row.
_PACKED_VALUES = 64 * 1024 * 1024
_PACKED = 64
# A table may have the first number of rows for each of its bytes, and the second number in any case. Nulls and repeated
# values take hardly any bytes; rows that consist of nothing else come to about 260 for each byte, as writers end their
# pages by then.
_PACKED_ROWS = 1024
_MOST_PACKED_ROWS = 16 * 1024 * 1024
# Spark reads the columns of a file from here rather than from the schema, and would miss the added columns.
_OUTDATED = b"org.apache.spark.sql.parquet.row.metadata"


@dataclass(slots=True)
class ParquetTable:
    """A table of typed columns, in one or several files with the same columns.

    Args:
        files: Places of the table's files.
        dropped: Columns to skip.
    """

    files: list[str]
    dropped: frozenset[str] = frozenset()
    schema: pa.Schema = field(init=False)
    row_count: int = field(init=False, default=0)
    digest: str = field(init=False, default="")
    _counts: list[int] = field(init=False, default_factory=list)
    _bytes: int = field(init=False, default=0)
    _fitting: int = field(init=False, default=PART_SIZE)
    _encodings: Encodings = field(init=False, default_factory=Encodings)

    images: ClassVar[str | None] = None
    captions: ClassVar[str | None] = None

    def __post_init__(self) -> None:
        schemas = [self._look_at(place) for place in self.files]
        self._check_rows()
        if any(self._counts):  # the types of a file without rows do not matter
            schemas = [
                schema if count else _untyped(schema) for schema, count in zip(schemas, self._counts, strict=True)
            ]
        whole = list(schemas[0])
        for place, other in zip(self.files[1:], schemas[1:], strict=True):
            whole = _common(whole, list(other), (self.files[0], place))
        self.row_count = sum(self._counts)
        kept = [column for column in whole if column.name not in self.dropped]
        metadata = {key: value for key, value in (schemas[0].metadata or {}).items() if key != _OUTDATED}
        self.schema = pa.schema(kept, metadata or None)

    def _look_at(self, place: str) -> pa.Schema:
        """Return a file's columns with their stored types, and remember its number of rows."""
        with open_parquet(place) as reader:
            file = reader.file
            self._counts.append(file.metadata.num_rows)
            self._bytes += reader.source.seek(0, os.SEEK_END)
            self._fitting = min(self._fitting, _fitting(file.metadata))
            found = file.schema_arrow
            kept = [name for name in found.names if name not in self.dropped]
            unread = self.dropped if columns_to_read(kept, self.dropped) else ()
            self._encodings.learn(file.metadata, unread)
            check_count(len(found), place)
            check_depth(found, place)
            _check_lists(file.metadata, place)
            check_compression(file.metadata, unread, place)
        return pa.schema([column.with_type(stored(column.type)) for column in found], found.metadata)

    def _check_rows(self) -> None:
        """Refuse files of a few bytes with hundreds of millions of rows, which would all be read one by one.

        Raises:
            TableError: There are too many rows for the bytes of the files.
        """
        rows = sum(self._counts)
        if rows > max(_MOST_PACKED_ROWS, _PACKED_ROWS * self._bytes):
            others = len(self.files) - 1
            more, verb = (f" and the {others:,} files like it", "have") if others else ("", "has")
            raise TableError(
                f"{self.files[0]}{more} {verb} {rows:,} rows in {self._bytes:,} bytes, more than {_PACKED_ROWS:,} per byte, so that "
                "hardly any row can have a content of its own; leave out rows that are repeated"
            )

    @property
    def columns(self) -> list[str]:
        return list(self.schema.names)

    def scan(self) -> None:
        """Hash the files."""
        digests = []
        for place in self.files:
            with reading(place), Hashed(open_bytes(place)) as raw:
                digests.append(raw.finish())
        self.digest = one_digest(digests)

    def read(self, start: int, most: int) -> Iterator[ArrowRows]:
        """Yield rows from index `start` on, counted from 0, `most` at a time, or fewer if they are very large."""
        most = min(most, self._fitting)
        part: list[pa.RecordBatch] = []
        rows = size = 0
        for batch, each in self._batches(start, most):
            while batch.num_rows:
                taken = batch.slice(0, min(most - rows, -(-(PART_SIZE - size) // each)))
                batch = batch.slice(taken.num_rows)
                part.append(taken)
                rows += taken.num_rows
                size += taken.num_rows * each
                if rows == most or size >= PART_SIZE:
                    yield self._rows(part)
                    part, rows, size = [], 0, 0
        if part:
            yield self._rows(part)

    def _batches(self, start: int, most: int) -> Iterator[tuple[pa.RecordBatch, int]]:
        """Yield stored batches from a row on, with the mean size of their rows in bytes.

        Each row group is read separately from its beginning, so the batches do not depend on `start`.
        """
        names = columns_to_read(self.schema.names, self.dropped)
        unread = self.dropped if names else frozenset()
        for place, count in zip(self.files, self._counts, strict=True):
            if start >= count:
                start -= count
                continue
            with (
                open_parquet(place, unread, self._encodings.repeated) as file,
                open_parquet(place, unread, self._encodings.single, look=True) as first,
            ):
                number = 0
                for group in range(file.metadata.num_row_groups):
                    if start >= (rows := file.metadata.row_group(group).num_rows):
                        start -= rows
                        number += rows
                        continue
                    at_once = min(most, self._encodings.at_once(first, group, unread))
                    for stored_batch in file.batches(at_once, group, names):
                        for piece in _pieces(self._kept(stored_batch), place, number):
                            batch = self._dense(piece, place)
                            yield batch.slice(start), max(1, batch.nbytes // max(1, batch.num_rows))
                            start -= min(start, batch.num_rows)
                            number += batch.num_rows

    def _kept(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Return a batch with only the columns to read, in the table's order."""
        names = batch.schema.names
        order = [place for place, name in enumerate(names) if name not in self.dropped]
        if [names[place] for place in order] != self.schema.names:  # in a different order, and with unique names
            order = [names.index(name) for name in self.schema.names]
        return batch.select(order)

    def _dense(self, batch: pa.RecordBatch, file: str) -> pa.RecordBatch:
        wanted = pa.schema([column.with_type(_while_cut(column.type)) for column in self.schema])
        try:
            columns = [
                (column if pa.types.is_dictionary(other.type) else column.cast(dense(column.type))).cast(other.type)
                for column, other in zip(batch.columns, wanted, strict=True)
            ]
        except pa.ArrowException as exc:
            raise TableError(
                f"{file} has a value that does not fit the type of its column in the other files: {exc}"
            ) from exc
        return pa.record_batch(columns, schema=wanted)

    def _rows(self, part: list[pa.RecordBatch]) -> ArrowRows:
        """Return a part as one batch; unordered dictionaries are reduced to the values of the part."""
        table = pa.Table.from_batches(part)
        columns = [_whole(column, kind.type) for column, kind in zip(table.columns, self.schema, strict=True)]
        return ArrowRows(pa.record_batch(columns, schema=self.schema))


def _untyped(schema: pa.Schema) -> pa.Schema:
    return pa.schema([column.with_type(pa.null()) for column in schema], schema.metadata)


def _common(one: list[pa.Field], other: list[pa.Field], places: tuple[str, str]) -> list[pa.Field]:
    """Return common columns for two files; a column without values in one file gets the other file's type.

    Raises:
        TableError: The columns do not agree; the message names those that differ.
    """
    names = [[column.name for column in columns] for columns in (one, other)]
    if sorted(names[0]) == sorted(names[1]) and len(set(names[0])) == len(names[0]):
        other = sorted(other, key=lambda column: names[0].index(column.name))
    elif names[0] != names[1]:
        apart = [name for name in dict.fromkeys([*names[1], *names[0]]) if names[0].count(name) != names[1].count(name)]
        found = f"only one of them has {', '.join(map(repr, apart))}" if apart else "the order of their columns differs"
        raise TableError(f"{places[1]} has different columns from {places[0]}; {found}")
    kinds = [common_type(a.type, b.type) for a, b in zip(one, other, strict=True)]
    apart = [
        f"{b.name!r} ({b.type} instead of {a.type})"
        for a, b, kind in zip(one, other, kinds, strict=True)
        if kind is None
    ]
    if apart:
        raise TableError(
            f"{places[1]} has columns whose types differ from those in {places[0]}: {', '.join(apart)}; cast them to one type"
        )
    return [
        a.with_type(kind).with_nullable(a.nullable or b.nullable) for a, b, kind in zip(one, other, kinds, strict=True)
    ]


def _fitting(metadata: pq.FileMetaData) -> int:
    """Return how many rows of a file fit in a part, by their mean size in the file."""
    size = sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))
    return max(1, PART_SIZE * metadata.num_rows // size) if size and metadata.num_rows else PART_SIZE


def _check_lists(metadata: pq.FileMetaData, file: str) -> None:
    """Refuse lists that would fill the memory before they can be split.

    Raises:
        TableError: A row group has too many values; the message names the column.
    """
    lists = [place for place in range(metadata.num_columns) if metadata.schema.column(place).max_repetition_level]
    for group in map(metadata.row_group, range(metadata.num_row_groups if lists else 0)):
        for column in map(group.column, lists):
            name = column.path_in_schema.partition(".")[0]
            if column.num_values > max(_PACKED_VALUES, _PACKED * column.total_compressed_size):
                raise TableError(
                    f"column {name!r} of {file} has {column.num_values:,} values in {column.total_compressed_size:,} bytes, more than "
                    f"{_PACKED} per byte; write the file in smaller row groups, or without the column"
                )
            if column.num_values > max(_LIST_VALUES, _ROW_VALUES * group.num_rows):
                raise TableError(
                    f"column {name!r} of {file} has {column.num_values:,} values in {group.num_rows:,} rows, more than {_ROW_VALUES:,} "
                    "per row; shorten its lists, or write the file without the column"
                )


def _whole(column: pa.ChunkedArray, kind: pa.DataType) -> pa.Array:
    """Return a column as one chunk of a type."""
    array = column.unify_dictionaries().combine_chunks()
    return array.dictionary_encode() if pa.types.is_dictionary(kind) and not kind.ordered else array


def _while_cut(kind: pa.DataType) -> pa.DataType:
    """Return the type that a column has while parts are assembled: without a dictionary unless it is ordered."""
    return kind if pa.types.is_dictionary(kind) and kind.ordered else dense(kind)


def _pieces(batch: pa.RecordBatch, file: str, number: int) -> Iterator[pa.RecordBatch]:
    """Cut stored rows into pieces that fit in memory without dictionaries.

    Args:
        batch: Rows as they are stored.
        file: File that the rows are in.
        number: Number of the file's rows before these rows.

    Raises:
        TableError: A single cell does not fit.
    """
    sizes = list(map(dense_size, batch.columns))
    if sum(sizes) > PART_SIZE and batch.num_rows > 1:
        half = batch.num_rows // 2
        yield from _pieces(batch.slice(0, half), file, number)
        yield from _pieces(batch.slice(half), file, number + half)
        return
    if sum(sizes) > _CELL_BYTES and batch.num_rows == 1:
        _check_row(batch.schema, sizes, f"row {number + 1} of {file}")
    yield batch


def _check_row(schema: pa.Schema, sizes: Sequence[int], where: str) -> None:
    """Refuse a row that is too large, because it is in memory several times.

    Args:
        schema: Columns of the row.
        sizes: Size of each cell, in bytes.
        where: The row, for messages.

    Raises:
        TableError: The row's texts and numbers, or all its cells together, are too large.
    """
    others = [
        (size, column.name) for size, column in zip(sizes, schema, strict=True) if not may_hold_images(column.type)
    ]
    largest, name = max(others, default=(0, ""))
    whole = sum(size for size, _ in others)
    if largest > _CELL_BYTES:
        said = f"column {name!r} in {where} has {largest:,} bytes, more than {_CELL_BYTES:,}; shorten it, or write the file without this column"
    elif whole > _CELL_BYTES:
        said = f"{where} has {whole:,} bytes without its images, more than {_CELL_BYTES:,}; leave out columns that are not needed"
    elif sum(sizes) > _ROW_BYTES:
        said = f"{where} has {sum(sizes):,} bytes, more than {_ROW_BYTES:,}; leave out columns that are not needed"
    else:
        return
    raise TableError(said)
