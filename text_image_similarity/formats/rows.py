"""Rows of a table on their way from one format to the same or another.

Each source keeps its rows as it read them, and gives them in three ways: fields of text for CSV and TSV, JSON objects, an
Arrow batch for Parquet. So the way from a format to itself changes nothing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import pyarrow as pa  # type: ignore[import-untyped]

from ..errors import TableError

# What a column of JSON objects becomes elsewhere; `json` is a text that holds JSON.
Kind = Literal["null", "bool", "integer", "number", "string", "json"]
_ARROW: dict[Kind, pa.DataType] = {
    "null": pa.null(),
    "bool": pa.bool_(),
    "integer": pa.int64(),
    "number": pa.float64(),
    "string": pa.string(),
    "json": pa.string(),
}


class Rows(Protocol):
    """Some consecutive rows."""

    def __len__(self) -> int: ...

    def column(self, name: str) -> list[Any]:
        """Return a column's values as Python objects."""

    def fields(self) -> list[list[str]]:
        """Return the rows as texts; a missing value is empty."""

    def objects(self) -> list[str]:
        """Return the rows as JSON objects, each on one line."""

    def arrow(self) -> pa.RecordBatch:
        """Return the rows as an Arrow batch."""


@dataclass(frozen=True, slots=True)
class TextRows:
    """Rows of CSV or TSV: every value is its exact text."""

    columns: Sequence[str]
    values: list[list[str]]

    def __len__(self) -> int:
        return len(self.values)

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


@dataclass(frozen=True, slots=True)
class JsonRows:
    """Rows of JSON Lines: their lines, and what the lines mean."""

    kinds: dict[str, Kind]
    lines: list[str]
    values: list[dict[str, Any]]

    def __len__(self) -> int:
        return len(self.lines)

    def column(self, name: str) -> list[Any]:
        return [row.get(name) for row in self.values]

    def fields(self) -> list[list[str]]:
        return [[as_text(row.get(name)) for name in self.kinds] for row in self.values]

    def objects(self) -> list[str]:
        return self.lines

    def arrow(self) -> pa.RecordBatch:
        arrays = []
        for name, kind in self.kinds.items():
            column = self.column(name)
            if kind == "json":
                column = [None if value is None else dump(value) for value in column]
            arrays.append(column)
        return pa.record_batch(arrays, schema=json_schema(self.kinds))


@dataclass(frozen=True, slots=True)
class ArrowRows:
    """Rows of Parquet."""

    batch: pa.RecordBatch

    def __len__(self) -> int:
        return int(self.batch.num_rows)

    def column(self, name: str) -> list[Any]:
        values: list[Any] = self.batch.column(name).to_pylist()
        return values

    def fields(self) -> list[list[str]]:
        columns = [[as_text(value) for value in column.to_pylist()] for column in self.batch.columns]
        return [list(row) for row in zip(*columns, strict=True)]

    def objects(self) -> list[str]:
        return [dump(_plain(row)) for row in self.batch.to_pylist()]

    def arrow(self) -> pa.RecordBatch:
        return self.batch


def text_schema(columns: Sequence[str]) -> pa.Schema:
    """Return the schema of columns of text."""
    return pa.schema([(name, pa.string()) for name in columns])


def json_schema(kinds: dict[str, Kind]) -> pa.Schema:
    """Return the schema of columns of JSON values."""
    return pa.schema([(name, _ARROW[kind]) for name, kind in kinds.items()])


def kind_of(value: object) -> Kind:
    """Return what a JSON value is to a column."""
    match value:
        case None:
            return "null"
        case bool():
            return "bool"
        case int() if -(2**63) <= value < 2**63:
            return "integer"
        case float():
            return "number"
        case str():
            return "string"
        case _:
            return "json"


def wider(one: Kind, other: Kind) -> Kind:
    """Return the narrowest kind that holds the values of both."""
    if one == other or other == "null":
        return one
    if one == "null":
        return other
    return "number" if {one, other} == {"integer", "number"} else "json"


def as_text(value: object) -> str:
    """Spell out a value for a table of texts; a missing one is empty."""
    if value is None:
        return ""
    if isinstance(value, bytes):
        raise TableError("bytes cannot be written as text; name an output that ends in .parquet")
    if isinstance(value, (bool, dict, list)):
        return dump(_plain(value))
    return str(value)


def dump(value: object) -> str:
    """Write JSON on one line; what JSON has no words for, such as a date, becomes text."""
    return json.dumps(value, ensure_ascii=False, default=_spelled)


def _plain(value: Any) -> Any:
    """Return a value without numbers that JSON cannot hold; they become null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {str(name): _plain(inner) for name, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list) else value


def _spelled(value: object) -> str:
    if isinstance(value, bytes):
        raise TableError("bytes cannot be written as JSON; name an output that ends in .parquet")
    return str(value)
