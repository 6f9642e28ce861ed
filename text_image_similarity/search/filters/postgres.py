"""Filters for PostgreSQL: columns of text, double precision, boolean and text[], values as parameters."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..fields import Field
from .sql import column_names
from .tree import Scalar


class PostgresWriter:
    """Writes filters over the columns `f0`, `f1` ... of a table.

    PostgreSQL cannot hold U+0000: whoever runs the statement passes each text through `without_nul`, as for the columns.

    Args:
        fields: The declared fields; `column_names` numbers their columns.
        table: What to put before each column, such as `product`; nothing for the columns alone.

    Attributes:
        parameters: The values to pass to `execute`, in the order of their `%s`; a tuple stands for an array.
    """

    def __init__(self, fields: Iterable[Field], table: str = ""):
        declared = tuple(fields)
        names = column_names(declared).items()
        self._columns = {name: f"{table}.{column}" if table else column for name, column in names}
        self._texts = {field.name for field in declared if field.kind == "texts"}
        self.parameters: list[Scalar | tuple[str, ...]] = []

    def column(self, field: str) -> str:
        return self._columns[field]

    def is_texts(self, field: str) -> bool:
        return field in self._texts

    def value(self, value: Scalar) -> str:
        self.parameters.append(value)
        return "%s"

    def contains(self, column: str, values: Sequence[str]) -> str:
        self.parameters.append(tuple(values))
        return f"({column} && %s::text[])"
