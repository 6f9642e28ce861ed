"""The leaves of a filter: operators, their valid fields and values, and limits on the size of a filter."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, TypeGuard, cast, get_args

from ...checks import excerpt
from ...errors import UsageError
from ..fields import Field, Scalar, named
from .tree import And, Compare, Comparison, Exists, Filter, OneOf, Or

MOST_LEVELS = 16
OPERATORS = (*get_args(Comparison), "in", "not_in", "exists")

_MOST_LEAVES = 256
_MOST_VALUES = 1000
_MOST_VALUES_TOGETHER = 10_000  # SQLite accepts 32,766 parameters, PostgreSQL 65,535


class LeafMaker:
    """Creates the leaves of one filter, checks them against the fields, and counts them."""

    def __init__(self, fields: Iterable[Field]):
        self._fields = tuple(fields)
        self._leaves = 0
        self._values = 0

    def field(self, name: str) -> Field:
        """Return a field by its name; if there is none, the UsageError lists the fields."""
        return named(self._fields, name)

    def make(self, name: str, op: str, value: object) -> Filter:
        """Return the leaf that compares a field with one or several values.

        Raises:
            UsageError: The field, the operator or the value is not valid, or the filter becomes too large.
        """
        field = self.field(name)
        self._leaves += 1
        if self._leaves > _MOST_LEAVES:
            raise UsageError(f"a filter has at most {_MOST_LEAVES} conditions; combine those on one field with `in`")
        if op not in OPERATORS:
            raise UsageError(
                f"{excerpt(op, 60)} is not a filter operator (field {name!r}); use one of {', '.join(OPERATORS)}"
            )
        if op == "exists":
            if not isinstance(value, bool):
                raise UsageError(f"exists needs true or false, not {excerpt(value)} (field {name!r})")
            return Exists(name, value)
        if op in ("in", "not_in"):
            return OneOf(name, self._several(field, op, value), negated=op == "not_in")
        if op not in ("eq", "ne") and field.kind not in ("number", "date"):
            raise UsageError(
                f"{name!r} cannot be compared with <, <=, > or >=, because its kind is {field.kind}; use = (eq), "
                "!= (ne) or `in`"
            )
        return Compare(name, cast(Comparison, op), _comparable(_element_of(field), value))

    def _several(self, field: Field, op: str, given: object) -> tuple[Scalar, ...]:
        if not is_several(given):
            raise UsageError(f"{op} needs a list of values, not {excerpt(given)} (field {field.name!r})")
        self._values += len(given)
        if len(given) > _MOST_VALUES or self._values > _MOST_VALUES_TOGETHER:
            raise UsageError(
                f"{op} accepts at most {_MOST_VALUES:,} values (field {field.name!r}), and a filter at most "
                f"{_MOST_VALUES_TOGETHER:,} in total"
            )
        element = _element_of(field)
        return tuple(dict.fromkeys(_comparable(element, value) for value in given))


def is_several(given: object) -> TypeGuard[Collection[Any]]:
    """Tell whether a value is a list or similar."""
    return isinstance(given, Collection) and not isinstance(given, (str, bytes, Mapping))


def joined(kind: type[And] | type[Or], parts: list[Filter]) -> Filter:
    """Return the parts as one filter; a single part is returned as it is."""
    return parts[0] if len(parts) == 1 else kind(tuple(parts))


def check_level(level: int) -> None:
    """Raise a UsageError if a filter has too many levels."""
    if level > MOST_LEVELS:
        raise UsageError(
            f"the filter is nested more than {MOST_LEVELS} levels deep; remove parentheses, and combine conditions "
            "on one field with `in`"
        )


def _element_of(field: Field) -> Field:
    """Return the field whose values a condition compares: for a field of lists, a field of single texts."""
    return Field(field.name) if field.kind == "texts" else field


def _comparable(field: Field, value: object) -> Scalar:
    """Return the stored form of a value, for a field that does not hold lists."""
    stored = field.stored(value)
    if stored is None:
        raise UsageError(
            f"{field.name!r} cannot be compared with {excerpt(value)}, which means a missing value; use `exists`"
        )
    assert not isinstance(stored, tuple)
    return stored
