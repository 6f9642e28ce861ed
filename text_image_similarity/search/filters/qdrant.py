"""Filters for Qdrant, over the payload keys `f0`, `f1` and so on; a missing field has no key.

Booleans are stored as 0 and 1, because qdrant-edge, with which this is tested, cannot compare booleans.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from qdrant_client import models

from ..fields import Field, Scalar, Value
from .sql import column_names
from .tree import And, Compare, Exists, Filter, Not, OneOf, Or

_NOTHING = models.HasIdCondition(has_id=[])


def compile_qdrant(where: Filter, fields: Iterable[Field]) -> models.Condition:
    """Return a filter as a Qdrant condition.

    Args:
        where: A checked filter.
        fields: The declared fields; `column_names` numbers their keys.
    """
    return _condition(where, column_names(fields))


def qdrant_value(value: Value) -> list[str] | str | float:
    """Return a stored value for a payload."""
    if isinstance(value, bool):
        return int(value)
    return list(value) if isinstance(value, tuple) else value


def _condition(where: Filter, keys: dict[str, str]) -> models.Condition:
    match where:
        case Compare(field, "eq", value):
            return _among(keys[field], (value,))
        case Compare(field, "ne", value):
            return _not_among(keys[field], (value,))
        case Compare(field, op, value):
            return models.FieldCondition(key=keys[field], range=models.Range.model_validate({op: value}))
        case OneOf(field, values, negated):
            return _not_among(keys[field], values) if negated else _among(keys[field], values)
        case Exists(field, wanted):
            return models.Filter(must_not=[_missing(keys[field])]) if wanted else _missing(keys[field])
        case And(parts):
            return models.Filter(must=[_condition(part, keys) for part in parts])
        case Or(parts):
            return models.Filter(should=[_condition(part, keys) for part in parts])
        case Not(part):
            return models.Filter(must_not=[_condition(part, keys)])


def _missing(key: str) -> models.IsEmptyCondition:
    return models.IsEmptyCondition(is_empty=models.PayloadField(key=key))


def _not_among(key: str, values: Sequence[Scalar]) -> models.Filter:
    return models.Filter(must_not=[_missing(key), _among(key, values)])


def _among(key: str, values: Sequence[Scalar]) -> models.Condition:
    texts = [value for value in values if isinstance(value, str)]
    if texts:  # if one value is a text, all are
        return models.FieldCondition(key=key, match=models.MatchAny(any=texts))
    if not values:
        return _NOTHING
    return models.Filter(should=[_equal(key, value) for value in values])


def _equal(key: str, value: Scalar) -> models.FieldCondition:
    if isinstance(value, bool):
        return models.FieldCondition(key=key, match=models.MatchValue(value=int(value)))
    number = float(value)  # Qdrant can match only integers
    return models.FieldCondition(key=key, range=models.Range(gte=number, lte=number))
