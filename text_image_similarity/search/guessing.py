"""Fields of a table that nobody declared, by the values of its columns."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..errors import UsageError
from ..records import is_missing
from .fields import Field, FieldKind
from .product_columns import json_list

_KINDS: tuple[FieldKind, ...] = ("bool", "number", "date", "text", "texts")  # the first that all values fit
_CODE = re.compile(r"[-+]?0\d", re.ASCII)  # as article numbers and postal codes begin
_MOST = 64


def guess_fields(names: Sequence[str], batches: Iterable[Mapping[str, Sequence[Any]]]) -> tuple[Field, ...]:
    """Return the fields that hold the values of columns; a column that no kind of field can hold is left out.

    Args:
        names: The columns.
        batches: Their values, some rows at once.

    Example:
        >>> guess_fields(["size", "code"], [{"size": ["7", "8.5"], "code": ["007", "42"]}])
        (Field(name='size', kind='number'), Field(name='code', kind='text'))
    """
    kinds = {name: list(_KINDS) for name in names if 0 < len(name) <= 200 and not name.startswith("_")}
    for columns in batches:
        for name, fitting in kinds.items():
            if fitting:
                fitting[:] = _fitting(name, fitting, columns[name])
    # A column without any value fits all kinds.
    found = [
        Field(name, "text" if fitting == list(_KINDS) else fitting[0]) for name, fitting in kinds.items() if fitting
    ]
    return tuple(found[:_MOST])


def _fitting(name: str, kinds: Sequence[FieldKind], values: Iterable[Any]) -> list[FieldKind]:
    given = [value for value in values if not is_missing(value) and value != ""]
    return [kind for kind in kinds if all(_fits(Field(name, kind), value) for value in given)]


def _fits(declared: Field, value: Any) -> bool:
    """Say whether a value is one of a field's kind, and not of another one that it could also be read as."""
    match declared.kind, value:
        case "number", str() if _CODE.match(value):
            return False
        case "texts", str():
            return json_list(value) is not None
        case "text", str() if json_list(value) is not None:
            return False
    try:
        declared.stored(value)
    except UsageError:
        return False
    return True
