"""Filters for PostgreSQL: columns of text, double precision, boolean and text[], with values as parameters."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..fields import Field, Scalar
from .sql import Columns


class PostgresWriter:
    """Writes filters over the columns `f0`, `f1` ... of a table.

    PostgreSQL cannot store U+0000; the caller must pass each text through `without_nul`, as for the columns.

    Args:
        fields, table: As for `Columns`.

    Attributes:
        parameters: The values to pass to `execute`, in the order of their `%s`; a tuple is passed as an array.
    """

    def __init__(self, fields: Iterable[Field], table: str = ""):
        self.columns = Columns(fields, table)
        self.parameters: list[Scalar | tuple[str, ...]] = []

    def value(self, value: Scalar) -> str:
        self.parameters.append(value)
        return "%s"

    def contains(self, column: str, values: Sequence[str]) -> str:
        self.parameters.append(tuple(values))
        return f"({column} && %s::text[])"
