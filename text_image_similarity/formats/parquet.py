"""Parquet: every column keeps its type, nested ones too."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from ..errors import TableError
from .places import Hashed, explained, open_bytes
from .rows import ArrowRows

_PART_BYTES = 64 * 1024 * 1024


@dataclass(slots=True)
class ParquetTable:
    """A table of typed columns, in one file or several with the same schema.

    Args:
        files: Where it is.
        dropped: Columns that are passed over.
    """

    files: list[str]
    dropped: frozenset[str] = frozenset()
    schema: pa.Schema = field(init=False)
    row_count: int = field(init=False, default=0)
    digest: str = field(init=False, default="")
    _counts: list[int] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        for place in self.files:
            with _opened(place) as file:
                schema = file.schema_arrow
                self._counts.append(file.metadata.num_rows)
            if place == self.files[0]:
                self.schema = schema
            elif not schema.equals(self.schema):
                raise TableError(
                    f"{place} has other columns or types than {self.files[0]}:\n{schema}\nand\n{self.schema}"
                )
        self.row_count = sum(self._counts)
        kept = [column for column in self.schema if column.name not in self.dropped]
        self.schema = pa.schema(kept, self.schema.metadata)

    @property
    def columns(self) -> list[str]:
        return list(self.schema.names)

    def scan(self) -> None:
        """Hash the files."""
        digests = []
        for place in self.files:
            with explained(place), Hashed(open_bytes(place)) as raw:
                raw.drain()
                digests.append(raw.digest)
        self.digest = "-".join(digests)

    def read(self, start: int, most: int) -> Iterator[ArrowRows]:
        """Yield the rows from number `start` (from 0) on, `most` at a time, or fewer that are very large."""
        at_once = min(most, *(self._fitting(place) for place in self.files)) if self.files else most
        waiting: list[pa.RecordBatch] = []
        held = 0
        for batch in self._batches(start, at_once):
            waiting.append(batch)
            held += batch.num_rows
            while held >= at_once:
                table = pa.Table.from_batches(waiting)
                yield self._rows(table.slice(0, at_once))
                held -= at_once
                waiting = table.slice(at_once).to_batches()
        if held:
            yield self._rows(pa.Table.from_batches(waiting))

    def _batches(self, start: int, most: int) -> Iterator[pa.RecordBatch]:
        """Yield what is stored from a row on, in pieces of any size; row groups before it are not read."""
        for place, count in zip(self.files, self._counts, strict=True):
            if start >= count > 0:
                start -= count
                continue
            with _opened(place) as file:
                groups = list(range(file.num_row_groups))
                while groups and start >= (rows := file.metadata.row_group(groups[0]).num_rows):
                    start -= rows
                    groups.pop(0)
                for batch in file.iter_batches(most, row_groups=groups):
                    yield batch.slice(start)
                    start -= min(start, batch.num_rows)

    def _rows(self, table: pa.Table) -> ArrowRows:
        """Return a table as one batch, the same one wherever reading began."""
        kept = [i for i, name in enumerate(table.schema.names) if name not in self.dropped]
        return ArrowRows(pa.record_batch([_whole(table.column(i)) for i in kept], schema=self.schema))

    def _fitting(self, place: str) -> int:
        """Return how many rows of a file fit into a part, by their mean size."""
        with _opened(place) as file:
            groups = [file.metadata.row_group(i) for i in range(file.num_row_groups)]
        rows, size = sum(group.num_rows for group in groups), sum(group.total_byte_size for group in groups)
        return max(1, _PART_BYTES * rows // size) if size and rows else _PART_BYTES


def _whole(column: pa.ChunkedArray) -> pa.Array:
    """Return a column in one piece; a dictionary holds its own values only, not those of other rows of the file."""
    if not pa.types.is_dictionary(column.type):
        return column.combine_chunks()
    encoded = column.cast(column.type.value_type).combine_chunks().dictionary_encode()
    indices = encoded.indices.cast(column.type.index_type)
    return pa.DictionaryArray.from_arrays(indices, encoded.dictionary, ordered=column.type.ordered)


@contextmanager
def _opened(place: str) -> Iterator[pq.ParquetFile]:
    with explained(place), open_bytes(place) as raw:
        try:
            with pq.ParquetFile(raw) as file:
                yield file
        except pa.ArrowException as exc:
            raise TableError(f"{place} cannot be read as Parquet: {exc}") from exc
