"""Filters for SQLite: columns of TEXT, REAL and INTEGER, lists of text as JSON, values as parameters."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from ..fields import Field, Value
from .sql import column_names, without_nul
from .tree import Scalar


class SqliteWriter:
    """Writes filters over the columns `f0`, `f1` ... of a table.

    Args:
        fields: The declared fields; `column_names` numbers their columns.
        table: What to put before each column, such as `product`; nothing for the columns alone.

    Attributes:
        parameters: The values to pass to `execute`, in the order of their `?`.
    """

    def __init__(self, fields: Iterable[Field], table: str = ""):
        declared = tuple(fields)
        self._columns = {
            name: f"{table}.{column}" if table else column for name, column in column_names(declared).items()
        }
        self._texts = {field.name for field in declared if field.kind == "texts"}
        self.parameters: list[Scalar] = []

    def column(self, field: str) -> str:
        return self._columns[field]

    def is_texts(self, field: str) -> bool:
        return field in self._texts

    def value(self, value: Scalar) -> str:
        self.parameters.append(value)
        return "?"

    def contains(self, column: str, values: Sequence[str]) -> str:
        listed = ", ".join(self.value(without_nul(value)) for value in values)
        return f"EXISTS (SELECT 1 FROM json_each({column}) WHERE value IN ({listed}))"


def sqlite_value(value: Value | None) -> Scalar | None:
    """Return a stored value as a column holds it."""
    if not isinstance(value, tuple):
        return value
    return json.dumps([without_nul(text) for text in value], ensure_ascii=False)  # json_each ends a text at a NUL
