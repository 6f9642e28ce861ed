"""The meaning of filters in plain Python, against which every store is tested."""

from __future__ import annotations

import operator
from collections.abc import Mapping

from ..fields import Scalar, Value
from .tree import And, Compare, Exists, Filter, Not, OneOf, Or

_ORDERED = {"lt": operator.lt, "lte": operator.le, "gt": operator.gt, "gte": operator.ge}


def matches(where: Filter | None, values: Mapping[str, Value | None]) -> bool:
    """Tell whether a product passes a filter.

    Args:
        where: A checked filter; None lets every product pass.
        values: Stored values of the product, by field; a field that is None or absent is missing.
    """
    match where:
        case None:
            return True
        case Compare(field, op, value):
            return _compares(values.get(field), op, value)
        case OneOf(field, among, negated):
            return (found := values.get(field)) is not None and _is_among(found, among) != negated
        case Exists(field, wanted):
            return (values.get(field) is not None) == wanted
        case And(parts):
            return all(matches(part, values) for part in parts)
        case Or(parts):
            return any(matches(part, values) for part in parts)
        case Not(part):
            return not matches(part, values)


def _compares(found: Value | None, op: str, value: Scalar) -> bool:
    if found is None:
        return False
    if op in ("eq", "ne"):
        return _is_among(found, (value,)) == (op == "eq")
    return bool(_ORDERED[op](found, value))


def _is_among(found: Value, among: tuple[Scalar, ...]) -> bool:
    return any(each in among for each in found) if isinstance(found, tuple) else found in among
