"""Guess a table's fields from the values of its columns."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..errors import UsageError
from ..records import is_missing
from .fields import Field, FieldKind, is_amount
from .product_columns import is_blank, json_list

logger = logging.getLogger("text_image_similarity")

_KINDS: tuple[FieldKind, ...] = ("bool", "number", "date", "text", "texts")  # kinds in order of preference
_CODE = re.compile(r"[-+]?0\d", re.ASCII)  # leading zeros, as in article numbers and postal codes
_MOST = 64


def guess_fields(names: Sequence[str], batches: Iterable[Mapping[str, Sequence[Any]]]) -> tuple[Field, ...]:
    """Return fields that fit the values of columns; a column that fits no kind of field is left out.

    Args:
        names: Names of the columns.
        batches: Batches of rows, each with the values of every column.

    Example:
        >>> guess_fields(["size", "code"], [{"size": ["7", "8.5"], "code": ["007", "42"]}])
        (Field(name='size', kind='number'), Field(name='code', kind='text'))
    """
    filled: set[str] = set()
    amounts: dict[str, str | None] = {}  # an amount from each column that may hold prices
    kinds = {name: list(_KINDS) for name in names if 0 < len(name) <= 200 and not name.startswith("_")}
    for columns in batches:
        for name, fitting in kinds.items():
            if fitting:
                given = [value for value in columns[name] if not is_missing(value) and value != ""]
                fitting[:] = [kind for kind in fitting if all(_fits(Field(name, kind), value) for value in given)]
                if "number" not in fitting:
                    _note_amounts(amounts, name, given)
                if not all(isinstance(value, str) and is_blank(value) for value in given):
                    filled.add(name)
    for name, amount in amounts.items():
        if amount is not None and kinds[name][:1] == ["text"]:
            logger.warning(
                "values such as %r make the column %r a text field, which is not compared as a number; to filter and "
                "sort it by number, write the values without a currency or thousands separators, as in 1299.00",
                amount,
                name,
            )
    found = [Field(name, fitting[0] if name in filled else "text") for name, fitting in kinds.items() if fitting]
    return tuple(found[:_MOST])


def _note_amounts(amounts: dict[str, str | None], name: str, given: Iterable[Any]) -> None:
    """Record an amount from a column in which all values are amounts or numbers, and None for any other column."""
    if amounts.get(name, "") is None:
        return
    for value in given:
        if isinstance(value, str) and is_amount(value):
            amounts.setdefault(name, value)
        elif not _fits(Field(name, "number"), value):
            amounts[name] = None
            return


def _fits(declared: Field, value: Any) -> bool:
    """Tell whether a value fits a field's kind, and cannot also be read as another kind."""
    match declared.kind, value:
        case "number" | "bool" | "date", str() if is_blank(value):
            return True
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
