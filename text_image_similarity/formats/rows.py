"""Rows of a table, for conversion between formats.

Each kind of rows keeps them as they were read, and returns them in three forms: text fields for CSV and TSV, JSON
objects, and an Arrow batch for Parquet. Converting a format to itself therefore changes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal, Protocol

import pyarrow as pa

from ..bounded_json import part_count
from ..errors import TableError
from ..files import without_nan
from ..records import is_whole
from .arrow_types import cell_values, plain_values
from .json_text import without

PART_SIZE = 16 * 1024 * 1024  # characters or bytes; the row that reaches this size ends a part
_FIELD_SIZE = 8  # bytes of a field in addition to its characters
_VALUE_SIZE = 64  # mean bytes of a value that is short in JSON

# Types of JSON columns in other formats; `long` is an integer that floats cannot represent, `json` is a text that holds
# JSON.
ValueKind = Literal["null", "bool", "integer", "long", "number", "string", "json"]
_ARROW: dict[ValueKind, pa.DataType] = {
    "null": pa.null(),
    "bool": pa.bool_(),
    "integer": pa.int64(),
    "long": pa.int64(),
    "number": pa.float64(),
    "string": pa.string(),
    "json": pa.string(),
}


class Rows(Protocol):
    """Consecutive rows of a table."""

    def __len__(self) -> int: ...

    @property
    def nbytes(self) -> int:
        """Approximate size in memory, in bytes."""

    def column(self, name: str) -> list[Any]:
        """Return a column's values as Python objects."""

    def fields(self) -> list[list[str]]:
        """Return the rows as texts; a missing value is empty."""

    def objects(self) -> list[str]:
        """Return the rows as JSON objects, each on one line."""

    def arrow(self) -> pa.RecordBatch:
        """Return the rows as an Arrow batch."""

    def without(self, dropped: frozenset[str]) -> Rows:
        """Return the rows without some columns; all columns with such a name are removed."""

    def chosen(self, places: Sequence[int]) -> Rows:
        """Return the rows at some positions (from 0), in order."""


@dataclass(frozen=True, slots=True)
class TextRows:
    """Rows of CSV or TSV: every value is its exact text."""

    columns: Sequence[str]
    values: list[list[str]]

    def __len__(self) -> int:
        return len(self.values)

    @property
    def nbytes(self) -> int:
        return sum(map(len, chain.from_iterable(self.values))) + _FIELD_SIZE * len(self.columns) * len(self.values)

    def column(self, name: str) -> list[Any]:
        place = self.columns.index(name)
        return [row[place] for row in self.values]

    def fields(self) -> list[list[str]]:
        return self.values

    def objects(self) -> list[str]:
        return [dump(dict(zip(self.columns, row, strict=True))) for row in self.values]

    def arrow(self) -> pa.RecordBatch:
        return pa.record_batch(
            [list(column) for column in zip(*self.values, strict=True)], schema=text_schema(self.columns)
        )

    def without(self, dropped: frozenset[str]) -> TextRows:
        kept = [place for place, name in enumerate(self.columns) if name not in dropped]
        return TextRows([self.columns[i] for i in kept], [[row[i] for i in kept] for row in self.values])

    def chosen(self, places: Sequence[int]) -> TextRows:
        return TextRows(self.columns, [self.values[place] for place in places])


@dataclass(frozen=True, slots=True)
class JsonRows:
    """Rows of JSON Lines: their numbers (from 1), lines and values."""

    numbers: Sequence[int]
    kinds: dict[str, ValueKind]
    lines: list[str]
    values: list[dict[str, Any]]

    def __len__(self) -> int:
        return len(self.lines)

    @property
    def nbytes(self) -> int:
        return 2 * sum(map(len, self.lines))  # the lines, and as much again for their values

    def column(self, name: str) -> list[Any]:
        return [row.get(name) for row in self.values]

    def fields(self) -> list[list[str]]:
        columns = [self._whole(name, [as_text(value) for value in self.column(name)]) for name in self.kinds]
        return [list(row) for row in zip(*columns, strict=True)]

    def objects(self) -> list[str]:
        return self.lines

    def arrow(self) -> pa.RecordBatch:
        arrays = []
        for name, kind in self.kinds.items():
            column = self.column(name)
            if kind == "json":
                column = [None if value is None else dump(value) for value in column]
            arrays.append(self._whole(name, column))
        return pa.record_batch(arrays, schema=json_schema(self.kinds))

    def without(self, dropped: frozenset[str]) -> JsonRows:
        kinds = {name: kind for name, kind in self.kinds.items() if name not in dropped}
        lines = [
            line if dropped.isdisjoint(row) else without(line, dropped)
            for line, row in zip(self.lines, self.values, strict=True)
        ]
        return JsonRows(self.numbers, kinds, lines, self.values)

    def chosen(self, places: Sequence[int]) -> JsonRows:
        lines, values = [self.lines[place] for place in places], [self.values[place] for place in places]
        return JsonRows([self.numbers[place] for place in places], self.kinds, lines, values)

    def _whole(self, name: str, values: list[Any]) -> list[Any]:
        """Return values unchanged, or raise a `TableError` if a text among them has a lone surrogate."""
        for number, value in zip(self.numbers, values, strict=True):
            if isinstance(value, str) and not is_whole(value):
                raise TableError(
                    f"column {name!r} in row {number} contains a lone surrogate (half of a UTF-16 pair), which only JSON "
                    "can represent; name an output that ends in .jsonl, or fix the row"
                )
        return values


@dataclass(frozen=True, slots=True)
class ArrowRows:
    """Rows of Parquet."""

    batch: pa.RecordBatch

    def __len__(self) -> int:
        return int(self.batch.num_rows)

    @property
    def nbytes(self) -> int:
        return int(self.batch.nbytes)

    def column(self, name: str) -> list[Any]:
        return cell_values(self.batch.column(name))

    def fields(self) -> list[list[str]]:
        return [[as_text(value) for value in row] for row in self._plain_rows()]

    def objects(self) -> list[str]:
        names = self.batch.schema.names
        return [dump(without_nan(dict(zip(names, row, strict=True)))) for row in self._plain_rows()]

    def arrow(self) -> pa.RecordBatch:
        return self.batch

    def without(self, dropped: frozenset[str]) -> ArrowRows:
        return ArrowRows(
            self.batch.select([at for at, name in enumerate(self.batch.schema.names) if name not in dropped])
        )

    def chosen(self, places: Sequence[int]) -> ArrowRows:
        return ArrowRows(self.batch.take(pa.array(places, pa.int64())))

    def _plain_rows(self) -> Iterator[tuple[Any, ...]]:
        if not self.batch.num_columns:  # all columns are left out
            return iter([()] * len(self))
        return zip(*map(plain_values, self.batch.columns, self.batch.schema.names), strict=True)


def text_schema(columns: Sequence[str]) -> pa.Schema:
    """Return a schema of text columns."""
    return pa.schema([(name, pa.string()) for name in columns])


def json_schema(kinds: dict[str, ValueKind]) -> pa.Schema:
    """Return a schema of columns of JSON values."""
    names = [name.encode("utf-8", "backslashreplace").decode("utf-8") for name in kinds]
    return pa.schema(list(zip(names, map(_ARROW.__getitem__, kinds.values()), strict=True)))


def size_of_fields(row: Sequence[str]) -> int:
    """Return the size that a row of texts has in a part, where empty texts count too."""
    return sum(map(len, row)) + _FIELD_SIZE * len(row)


def size_of_json(text: str) -> int:
    """Return the size of a JSON text within a part, including its parsed values."""
    return len(text) + _VALUE_SIZE * part_count(text)


def kind_of(value: object) -> ValueKind:
    """Return the column type of a JSON value."""
    match value:
        case None:
            return "null"
        case bool():
            return "bool"
        case int() if -(2**53) <= value <= 2**53:
            return "integer"
        case int() if -(2**63) <= value < 2**63:
            return "long"
        case float():
            return "number"
        case str():
            return "string"
        case _:
            return "json"


def wider(one: ValueKind, other: ValueKind) -> ValueKind:
    """Return the narrowest type that holds the values of both."""
    if one == other or other == "null":
        return one
    if one == "null":
        return other
    if {one, other} == {"integer", "long"}:
        return "long"
    return "number" if {one, other} == {"integer", "number"} else "json"


def as_text(value: object) -> str:
    """Return a value as text; missing values are empty."""
    if value is None or value != value:  # NaN counts as a missing value
        return ""
    if isinstance(value, (bool, dict, list, tuple)):
        return dump(without_nan(value))
    return str(value)


def dump(value: object) -> str:
    """Return JSON on one line; values that JSON cannot represent, such as decimals, become text."""
    return json.dumps(value, ensure_ascii=False, default=str)
