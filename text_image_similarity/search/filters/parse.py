"""Parse filters from any of their forms, and check them against the fields."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ...errors import InputTypeError, UsageError
from ..fields import BUILT_IN, Field
from .leaves import LeafMaker, check_level, is_several, joined
from .mapping import from_json, from_mapping
from .text import from_text
from .tree import And, Compare, Exists, Filter, Not, OneOf, Or, depth_of

MOST_CHARACTERS = 65_536


def parse_filter(given: Filter | Mapping[str, Any] | str | None, fields: Iterable[Field]) -> Filter | None:
    """Return a filter as a checked tree.

    Args:
        given: A tree, a mapping, JSON text that begins with `{`, or the text language (see `text`). With None or an
            empty mapping, every product passes.
        fields: Declared fields; the built-in fields are added.

    Returns:
        A tree of at most 16 levels and 256 leaves; None if every product passes.

    Raises:
        InputTypeError: The filter has none of the types that `given` accepts.
        UsageError: The filter cannot be parsed or is too large, a field does not exist, or a value is not of the
            field's kind.

    Example:
        >>> parse_filter("price <= 90 and note exists", [Field("price", "number"), Field("note")])
        And(parts=(Compare(field='price', op='lte', value=90.0), Exists(field='note', wanted=True)))
        >>> parse_filter({"price": {"lte": 90}}, [Field("price", "number")])
        Compare(field='price', op='lte', value=90.0)
    """
    maker = LeafMaker((*BUILT_IN, *fields))
    found: Filter | None
    match given:
        case None:
            return None
        case str():
            found = _from_str(given, maker)
        case Mapping():
            found = from_mapping(given, maker)
        case Compare() | OneOf() | Exists() | And() | Or() | Not():
            found = _checked(given, maker, 0)
        case _:
            raise InputTypeError.of("where", "a filter, a mapping or a string", given)
    if found is not None:
        check_level(depth_of(found))
    return found


def _from_str(given: str, maker: LeafMaker) -> Filter | None:
    if len(given) > MOST_CHARACTERS:
        raise UsageError(f"the filter is {len(given):,} characters long, but at most {MOST_CHARACTERS:,} are allowed")
    if not given.strip():
        raise UsageError("the filter is empty; leave it out to include every product")
    return from_json(given, maker) if given.lstrip().startswith("{") else from_text(given, maker)


def _checked(where: Filter, maker: LeafMaker, level: int) -> Filter:
    """Return a caller's tree in canonical form, after checking all of it."""
    check_level(level)
    match where:
        case Compare(field, op, value):
            return maker.make(field, op, _written(maker.field(field), value))
        case OneOf(field, values, negated):
            declared = maker.field(field)
            listed = [_written(declared, value) for value in values] if is_several(values) else values
            return maker.make(field, "not_in" if negated else "in", listed)
        case Exists(field, wanted):
            return maker.make(field, "exists", wanted)
        case Not(part):
            return Not(_checked(part, maker, level + 1))
        case And(parts) | Or(parts):
            if not parts:
                raise UsageError(f"{type(where).__name__} has no parts; give it at least one")
            return joined(type(where), [_checked(part, maker, level + 1) for part in parts])
    raise InputTypeError.of("a part of the filter", "a filter", where)


def _written(field: Field, value: Any) -> object:
    """Return a value of a tree, which holds dates in seconds, as the other forms write it."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return field.written(value) if is_number else value
