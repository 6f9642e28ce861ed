"""Filters as trees of conditions on the values of products' fields.

The values in a tree are stored values (see `fields`). `parse_filter` returns trees with checked fields and values, and
every function with a `Filter` argument expects such a tree.

Logic is two-valued. If a product lacks a field, every condition on the field's value is false, even `ne` and `not_in`;
only `Exists(field, wanted=False)` is true, and so is a `Not` around a false condition. A list of texts equals each text
in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..fields import BUILT_IN, Field, Scalar, named

Comparison = Literal["eq", "ne", "lt", "lte", "gt", "gte"]


@dataclass(frozen=True, slots=True)
class Compare:
    """A comparison of a field's value with another one; only numbers and dates can be less or greater, not text."""

    field: str
    op: Comparison
    value: Scalar


@dataclass(frozen=True, slots=True)
class OneOf:
    """A field's value is one of several or, if negated, present and none of them; an empty list contains no value."""

    field: str
    values: tuple[Scalar, ...]
    negated: bool = False


@dataclass(frozen=True, slots=True)
class Exists:
    """A field has a value, or has none."""

    field: str
    wanted: bool = True


@dataclass(frozen=True, slots=True)
class And:
    """All parts are true; there are two or more parts."""

    parts: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class Or:
    """At least one part is true; there are two or more parts."""

    parts: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class Not:
    """The part is false."""

    part: Filter


Filter = Compare | OneOf | Exists | And | Or | Not


def to_dict(where: Filter, fields: Sequence[Field]) -> dict[str, Any]:
    """Return the canonical JSON form of a filter, which `parse_filter` turns into an equal tree.

    Args:
        where: A checked filter.
        fields: The declared fields, which tell which values are dates.

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
