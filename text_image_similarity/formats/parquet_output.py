"""Write Parquet. The parts of a run are kept as Arrow streams, which are written and read without any encoding."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import TableError
from .arrow_types import holds_bytes
from .rows import Rows

_GROUP_ROWS = 1 << 16
_GROUP_BYTES = 64 * 1024 * 1024
_LARGE = 4096  # mean bytes of a value; values of this size hardly occur twice


@dataclass(frozen=True, slots=True)
class ParquetOutput:
    """Output in Parquet.

    Args:
        schema: Schema of the rows.
        added: Columns that each part adds.
    """

    schema: pa.Schema
    added: Sequence[pa.Field]

    def __post_init__(self) -> None:
        with _explained():  # checked now instead of when all rows have been scored
            pq.ParquetWriter(pa.BufferOutputStream(), self._whole()).close()

    def part(self, rows: Rows, added: Sequence[Sequence[Any]]) -> memoryview:
        with _explained():
            columns = [*rows.arrow().columns, *arrays_of(added, self.added)]
            batch = pa.record_batch(columns, schema=self._whole())
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, batch.schema) as writer:
                writer.write_batch(batch)
        return memoryview(sink.getvalue())

    def join(self, parts: Iterable[bytes | memoryview], file: IO[bytes]) -> None:
        groups = _groups(parts)
        with _explained():
            first = next(groups, None)
            encoded = True if first is None else _repeating(first)
            with pq.ParquetWriter(file, self._whole(), use_dictionary=encoded) as writer:
                for group in chain([] if first is None else [first], groups):
                    writer.write_table(group, row_group_size=max(1, group.num_rows))

    def _whole(self) -> pa.Schema:
        return pa.schema([*self.schema, *self.added], self.schema.metadata)


def arrays_of(columns: Sequence[Sequence[Any]], fields: Sequence[pa.Field]) -> list[pa.Array]:
    """Return columns of values as Arrow columns."""
    return [pa.array(values, field.type) for values, field in zip(columns, fields, strict=True)]


def _groups(parts: Iterable[bytes | memoryview]) -> Iterator[pa.Table]:
    """Yield the content of parts in row groups of reasonable size."""
    waiting: list[pa.Table] = []
    for part in parts:
        with pa.ipc.open_stream(pa.py_buffer(part)) as stream:
            waiting.append(stream.read_all())
        if (
            sum(table.num_rows for table in waiting) >= _GROUP_ROWS
            or sum(table.nbytes for table in waiting) >= _GROUP_BYTES
        ):
            yield pa.concat_tables(waiting).unify_dictionaries()
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting).unify_dictionaries()


def _repeating(table: pa.Table) -> bool | list[str]:
    """Return the columns that benefit from a dictionary: all, or the paths of those without large values."""
    large = {
        name
        for name, column in zip(table.schema.names, table.columns, strict=True)
        if holds_bytes(column.type) and column.nbytes > _LARGE * table.num_rows
    }
    if not large:
        return True
    sink = pa.BufferOutputStream()
    pq.write_table(table.slice(0, 0), sink)  # to get the columns by their Parquet paths, even inside structs and lists
    schema = pq.ParquetFile(sink.getvalue()).schema
    columns = [schema.column(place) for place in range(len(schema.names))]
    return [each.path for each in columns if not (each.path.split(".")[0] in large and _is_bytes(each))]


def _is_bytes(column: pq.ColumnSchema) -> bool:
    return bool(column.physical_type == "BYTE_ARRAY" and column.logical_type.type == "NONE")


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except pa.ArrowException as exc:
        raise TableError(f"rows cannot be written as Parquet: {exc}") from exc
