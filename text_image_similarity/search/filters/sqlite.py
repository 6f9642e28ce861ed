"""Filters for SQLite: columns of TEXT, REAL and INTEGER, with lists of text as JSON and values as parameters."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from ..fields import Field, Scalar, Value
from .sql import Columns, without_nul


class SqliteWriter:
    """Writes filters over the columns `f0`, `f1` ... of a table.

    Args:
        fields, table: As for `Columns`.

    Attributes:
        parameters: The values to pass to `execute`, in the order of their `?`.
    """

    def __init__(self, fields: Iterable[Field], table: str = ""):
        self.columns = Columns(fields, table)
        self.parameters: list[Scalar] = []

    def value(self, value: Scalar) -> str:
        self.parameters.append(value)
        return "?"

    def contains(self, column: str, values: Sequence[str]) -> str:
        listed = ", ".join(self.value(without_nul(value)) for value in values)
        return f"EXISTS (SELECT 1 FROM json_each({column}) WHERE value IN ({listed}))"


def sqlite_value(value: Value | None) -> Scalar | None:
    """Return a stored value for a column."""
    if not isinstance(value, tuple):
        return value
    return json.dumps([without_nul(text) for text in value], ensure_ascii=False)  # json_each ends a text at a NUL
