"""The number of rows of a Parquet file to read at once, depending on their longest text."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import TableError
from .arrow_types import longest_value
from .rows import PART_SIZE

_READ_ROWS = 64  # maximum number of rows to read at once
_FEW_ROWS = 4  # the same, if the length of texts is unknown, for example because they are stored as differences
# A page is decompressed as a whole, and a few rows may hold most of a row group. A row group of this size, in bytes, is
# read a few rows at a time if it is compressed this much, and refused if it is compressed even more.
_LARGE_GROUP = 256 * 1024 * 1024
_COMPRESSED = 32
_MOST_COMPRESSED = 1000
_MOST_FIXED = 64 * 1024 * 1024  # bytes of the values of fixed length in a row
_LOOKED_AT = 1024 * 1024  # largest dictionary in the file, in bytes, that is searched for the longest text


class Reader(Protocol):
    """An open file."""

    @property
    def metadata(self) -> pq.FileMetaData: ...

    def batches(self, most: int, group: int, columns: Sequence[str] | None) -> Iterator[pa.RecordBatch]: ...


def columns_to_read(names: list[str], dropped: Collection[str]) -> list[str] | None:
    """Return the columns to ask pyarrow for, or None for all.

    pyarrow takes the name "a" for each column of this name, and for "a.b" too, and would return some of them twice.
    """
    ordered = sorted(name.replace(".", "\0") for name in names)
    unclear = any(one == other or other.startswith(one + "\0") for one, other in pairwise(ordered))
    return names if dropped and not unclear else None


def check_compression(metadata: pq.FileMetaData, dropped: Collection[str], file: str) -> None:
    """Refuse row groups that would fill the memory when decompressed, ignoring columns that will not be read.

    Raises:
        TableError: A row group is too large for its bytes in the file (the message names its largest column), or values
            of fixed length, which take no bytes in the file where they are missing, are too long.
    """
    lengths = _fixed_lengths(metadata, dropped)
    row = sum(length for length, listed in lengths.values() if not listed)
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        size, stored = _sizes(group, dropped)
        for column in _columns(group, dropped) if lengths else ():
            length, listed = lengths.get(column.path_in_schema, (0, False))
            taken = length * column.num_values if listed else row if length else 0
            if taken > (max(_LARGE_GROUP, _MOST_COMPRESSED * stored) if listed else _MOST_FIXED):
                raise TableError(
                    f"column {column.path_in_schema.partition('.')[0]!r} of {file} takes {length:,} bytes for "
                    "each value, even a missing one, which is too much; write the file without the column"
                )
        if size > max(_LARGE_GROUP, _MOST_COMPRESSED * stored):
            largest = max(_columns(group, dropped), key=lambda column: column.total_uncompressed_size)
            name = largest.path_in_schema.partition(".")[0]
            raise TableError(
                f"column {name!r} of {file} has {largest.total_uncompressed_size:,} bytes, compressed to "
                f"{largest.total_compressed_size:,}, in a row group with a compression ratio of more than "
                f"{_MOST_COMPRESSED:,}; write the file in smaller row groups, or without the column"
            )


def _fixed_lengths(metadata: pq.FileMetaData, dropped: Collection[str]) -> dict[str, tuple[int, bool]]:
    """Return the length of the values of each column of fixed length, in bytes, and whether it holds lists of them."""
    columns = map(metadata.schema.column, range(metadata.num_columns))
    return {
        column.path: (column.length, column.max_repetition_level > 0)
        for column in columns
        if column.physical_type == "FIXED_LEN_BYTE_ARRAY" and column.path not in dropped
    }


def most_page_bytes(group: pq.RowGroupMetaData, dropped: Collection[str]) -> int:
    """Return how many bytes the pages of a row group may have, as much as `check_compression` allows.

    If the footer does not say that the row group is compressed a lot, its pages must not be either, because more rows
    are then read at once.
    """
    size, stored = _sizes(group, dropped)
    lot = size > max(_LARGE_GROUP, _COMPRESSED * stored)
    return max(_LARGE_GROUP, (_MOST_COMPRESSED if lot else _COMPRESSED) * stored)


def encoding_of(chunk: pq.ColumnChunkMetaData) -> tuple[bool, bool]:
    """Tell from the footer whether a column of texts has a dictionary, and whether it is stored as differences."""
    encodings = chunk.encodings
    has_dictionary = chunk.has_dictionary_page or not {"PLAIN_DICTIONARY", "RLE_DICTIONARY"}.isdisjoint(encodings)
    return has_dictionary, any(name[:5] == "DELTA" for name in encodings)


def _columns(group: pq.RowGroupMetaData, dropped: Collection[str]) -> list[pq.ColumnChunkMetaData]:
    columns = map(group.column, range(group.num_columns))
    return [column for column in columns if column.path_in_schema not in dropped]


def _sizes(group: pq.RowGroupMetaData, dropped: Collection[str]) -> tuple[int, int]:
    """Return the bytes of a row group's columns, decompressed and in the file."""
    columns = _columns(group, dropped)
    return sum(one.total_uncompressed_size for one in columns), sum(one.total_compressed_size for one in columns)


@dataclass(slots=True)
class Encodings:
    """The encodings of texts and bytes in files: a short file may expand to far more than fits in memory.

    A text that occurs in many rows is often stored only once, in a dictionary. If a column has one value per row, its
    longest value determines how many rows are read at once. If a column has lists of values, it is read
    as a dictionary, which is slow, and split before it is expanded.

    Attributes:
        single: Paths of columns with dictionaries and one value per row.
        repeated: Paths of other columns that can be read as dictionaries.
    """

    single: list[str] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)
    _few: set[str] = field(default_factory=set)
    _fixed: dict[str, int] = field(default_factory=dict)

    def learn(self, metadata: pq.FileMetaData, dropped: Collection[str]) -> None:
        """Add the encodings of a file, except those of columns that will not be read."""
        for path, (length, _) in _fixed_lengths(metadata, dropped).items():
            self._fixed[path] = max(length, self._fixed.get(path, 0))
        encodings: dict[str, list[tuple[bool, bool]]] = {}
        lists: set[str] = set()
        for place in range(metadata.num_columns):
            column = metadata.schema.column(place)
            if column.physical_type == "BYTE_ARRAY" and column.path not in dropped:
                found = encodings.setdefault(column.path, [])
                found += [
                    encoding_of(metadata.row_group(group).column(place)) for group in range(metadata.num_row_groups)
                ]
                if column.max_repetition_level:
                    lists.add(column.path)
        for path, found in encodings.items():
            has_dictionary, has_differences = (any(each[place] for each in found) for place in (0, 1))
            if has_differences or (path in lists and not has_dictionary):
                self._few.add(path)
            elif has_dictionary:
                known = self.repeated if path in lists else self.single
                known += [path] * (path not in known)

    def at_once(self, first: Reader, group: int, dropped: Collection[str]) -> int:
        """Return how many rows of a row group to read at once.

        Args:
            first: The file, with the columns of `single` read as dictionaries.
            group: Number of the row group.
            dropped: Columns that will not be read.
        """
        metadata = first.metadata.row_group(group)
        most = self._by_mean(metadata, dropped)
        if self._few or any(size > _LOOKED_AT for size in self._dictionary_sizes(metadata)):
            return min(most, _FEW_ROWS)
        if not self.single:
            return most
        row = next(first.batches(1, group, self.single), None)
        longest = 0 if row is None else sum(map(longest_value, row.columns))
        return max(1, min(most, PART_SIZE // max(1, longest)))

    def _by_mean(self, group: pq.RowGroupMetaData, dropped: Collection[str]) -> int:
        """Return how many rows of a row group fit in a part, by their mean size, or a few if it may be misleading."""
        size, stored = _sizes(group, dropped)
        most = _FEW_ROWS if size > max(_LARGE_GROUP, _COMPRESSED * stored) else _READ_ROWS
        # Values of fixed length may be stored only once, too.
        size += sum(self._fixed.get(one.path_in_schema, 0) * int(one.num_values) for one in _columns(group, dropped))
        return max(1, min(most, PART_SIZE * int(group.num_rows) // max(1, size)))

    def _dictionary_sizes(self, group: pq.RowGroupMetaData) -> Iterator[int]:
        """Yield the sizes of the dictionaries of `single` in the file, in bytes, if it declares them."""
        for column in map(group.column, range(group.num_columns)):
            if column.path_in_schema in self.single and column.dictionary_page_offset is not None:
                yield column.data_page_offset - column.dictionary_page_offset
