"""Filters written as mappings, such as JSON objects: `{"category": "Footwear", "price": {"gte": 10, "lte": 90}}`."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from ...checks import excerpt
from ...errors import UsageError
from ..fields import check_name
from .leaves import OPERATORS, LeafMaker, check_level, is_several, joined
from .tree import And, Filter, Not, Or

_EXPLICIT = {"field", "op", "value"}
MOST_BRACKETS = 64  # more than 16 levels of and/or need, with an object and a list each, and a list of values


def from_json(text: str, maker: LeafMaker) -> Filter | None:
    """Return the filter for a JSON object; None for an empty one.

    Raises:
        UsageError: The text is not JSON, or not a filter.
    """
    _check_brackets(text)
    try:
        given = json.loads(text, object_pairs_hook=_once)
    except json.JSONDecodeError as exc:
        raise UsageError(f"the filter begins with {{ but is not JSON: {exc.msg} at character {exc.pos + 1}") from None
    except ValueError as exc:  # a whole number of more than 4,300 digits
        raise UsageError(f"the filter is not JSON that can be read: {exc}") from None
    return from_mapping(given, maker)


def from_mapping(given: Mapping[str, Any], maker: LeafMaker, level: int = 0) -> Filter | None:
    """Return the filter for a mapping; None for an empty one.

    Raises:
        UsageError: The mapping is not a filter.
    """
    if given.keys() == _EXPLICIT:
        return maker.make(_text_of(given["field"]), _text_of(given["op"]), given["value"])
    parts: list[Filter] = []
    for key, value in given.items():
        match _text_of(key):
            case "and" | "or":
                parts.append(joined(And if key == "and" else Or, _each(key, value, maker, level + 1)))
            case "not":
                parts.append(Not(_whole(value, "not", maker, level + 1)))
            case _:
                parts += _conditions(key, value, maker)
    return joined(And, parts) if parts else None


def _each(key: str, given: object, maker: LeafMaker, level: int) -> list[Filter]:
    if not is_several(given) or not len(given):
        raise UsageError(f"{key!r} needs a list of at least one filter, not {excerpt(given)}")
    return [_whole(part, key, maker, level) for part in given]


def _whole(given: object, key: str, maker: LeafMaker, level: int) -> Filter:
    check_level(level)
    found = from_mapping(given, maker, level) if isinstance(given, Mapping) else None
    if found is None:
        raise UsageError(f"{key!r} must contain a filter such as {{'price': {{'lte': 90}}}}, not {excerpt(given)}")
    return found


def _conditions(name: str, given: object, maker: LeafMaker) -> list[Filter]:
    if not isinstance(given, Mapping):
        return [maker.make(name, "in" if is_several(given) else "eq", given)]
    if not given:
        raise UsageError(f"the condition on {name!r} is empty; use one of {', '.join(OPERATORS)}")
    return [maker.make(name, _text_of(op), value) for op, value in given.items()]


def _text_of(name: object) -> str:
    if not isinstance(name, str):
        raise UsageError(f"a filter names fields and operators with strings, not with {excerpt(name)}")
    check_name(name)
    return name


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build a JSON object, refusing duplicate keys; Python's parser would silently drop one of them."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise UsageError(
            f"the filter has {excerpt(twice, 60)} twice in one object; write the conditions as a list under 'and'"
        )
    return found


def _check_brackets(text: str) -> None:
    """Refuse JSON that is nested so deeply that Python's parser would exhaust its stack."""
    depth, inside = 0, False
    for sign in re.findall(r'\\.|["\[\]{}]', text, re.DOTALL):
        if sign == '"':
            inside = not inside
        elif not inside and len(sign) == 1:
            depth += 1 if sign in "[{" else -1
            if depth > MOST_BRACKETS:
                check_level(depth)
