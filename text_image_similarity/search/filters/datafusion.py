"""Filters for LanceDB, whose DataFusion takes no parameters: values are written into the text, quoted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..fields import Field
from .sql import column_names
from .tree import Scalar


class DataFusionWriter:
    """Writes filters over the columns `f0`, `f1` ...

    Args:
        fields: The declared fields; `column_names` numbers their columns.
    """

    def __init__(self, fields: Iterable[Field]):
        declared = tuple(fields)
        self._columns = column_names(declared)
        self._texts = {field.name for field in declared if field.kind == "texts"}

    def column(self, field: str) -> str:
        return self._columns[field]

    def is_texts(self, field: str) -> bool:
        return field in self._texts

    def value(self, value: Scalar) -> str:
        match value:
            case bool():
                return "TRUE" if value else "FALSE"
            case str():
                doubled = value.replace("'", "''")  # no other character has a meaning between single quotes
                return f"'{doubled}'"
            case _:
                return repr(float(value))

    def contains(self, column: str, values: Sequence[str]) -> str:
        return f"array_has_any({column}, make_array({', '.join(map(self.value, values))}))"
