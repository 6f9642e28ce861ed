"""A filter as a tree: which products count, by the values of their fields.

The values in a tree are stored values (see `fields`). `parse_filter` makes trees whose fields and values are checked, and
every function that takes a `Filter` expects one of those.

Logic has two values. Where a product lacks a field, everything that asks for the field's value is false, `ne` and `not_in`
too; only `Exists(field, wanted=False)` is true, and so is a `Not` around what is false.
A list of texts is equal to each text in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..fields import BUILT_IN, Field, Scalar, named

Comparison = Literal["eq", "ne", "lt", "lte", "gt", "gte"]


@dataclass(frozen=True, slots=True)
class Compare:
    """A field's value, compared with another one; the order of texts is not known here, only that of numbers and dates."""

    field: str
    op: Comparison
    value: Scalar


@dataclass(frozen=True, slots=True)
class OneOf:
    """A field's value is among some, or present and not among them. Nothing is among none."""

    field: str
    values: tuple[Scalar, ...]
    negated: bool = False


@dataclass(frozen=True, slots=True)
class Exists:
    """A field has a value, or lacks one."""

    field: str
    wanted: bool = True


@dataclass(frozen=True, slots=True)
class And:
    """All parts are true; there are two or more."""

    parts: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class Or:
    """At least one part is true; there are two or more."""

    parts: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class Not:
    """The part is false."""

    part: Filter


Filter = Compare | OneOf | Exists | And | Or | Not


def to_dict(where: Filter, fields: Sequence[Field]) -> dict[str, Any]:
    """Return the canonical form of a filter for JSON, from which `parse_filter` makes an equal tree.

    Args:
        where: A checked filter.
        fields: The declared fields, by which dates are known.

    Example:
        >>> to_dict(Not(Compare("price", "lte", 90.0)), [Field("price", "number")])
        {'not': {'field': 'price', 'op': 'lte', 'value': 90.0}}
    """
    match where:
        case Compare(field, op, value):
            return {"field": field, "op": op, "value": named((*BUILT_IN, *fields), field).written(value)}
        case OneOf(field, values, negated):
            declared = named((*BUILT_IN, *fields), field)
            listed = [declared.written(value) for value in values]
            return {"field": field, "op": "not_in" if negated else "in", "value": listed}
        case Exists(field, wanted):
            return {"field": field, "op": "exists", "value": wanted}
        case And(parts):
            return {"and": [to_dict(part, fields) for part in parts]}
        case Or(parts):
            return {"or": [to_dict(part, fields) for part in parts]}
        case Not(part):
            return {"not": to_dict(part, fields)}


def depth_of(where: Filter) -> int:
    """Return how many levels of `And`, `Or` and `Not` a filter has."""
    match where:
        case And(parts) | Or(parts):
            return 1 + max(map(depth_of, parts))
        case Not(part):
            return 1 + depth_of(part)
        case _:
            return 0
