"""Filters for LanceDB, whose query engine, DataFusion, does not support parameters; values are quoted in the SQL."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..fields import Field, Scalar
from .sql import Columns


class DataFusionWriter:
    """Writes filters over the columns `f0`, `f1` ...

    Args:
        fields: As for `Columns`.
    """

    def __init__(self, fields: Iterable[Field]):
        self.columns = Columns(fields)

    def value(self, value: Scalar) -> str:
        match value:
            case bool():
                return "TRUE" if value else "FALSE"
            case str():
                doubled = value.replace("'", "''")  # no other character is special within single quotes
                return f"'{doubled}'"
            case _:
                return repr(float(value))

    def contains(self, column: str, values: Sequence[str]) -> str:
        return f"array_has_any({column}, make_array({', '.join(map(self.value, values))}))"
