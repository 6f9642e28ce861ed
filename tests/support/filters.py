"""Products with awkward values, and any number of filters over them, for whatever has to agree about filters."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

from hypothesis import strategies as st

from text_image_similarity.search.fields import BUILT_IN, Field, FieldKind, Scalar, Value
from text_image_similarity.search.filters import And, Compare, Exists, Filter, Not, OneOf, Or, parse_filter
from text_image_similarity.search.filters.tree import Comparison

FIELDS = (
    Field("category"),
    Field("select"),
    Field("`\"quoted\"\\ 'name' 😀"),
    Field("price", "number"),
    Field("and", "number"),
    Field("in_stock", "bool"),
    Field("sold", "date"),
    Field("tags", "texts"),
)
LONG = "x" * 10_000
TEXTS = (
    *("red", "Red", "RED ", "7", "null", "true", "é", "日本", "😀", "%", "_", "a\\b", "\n", "\\"),
    *('"', "'", "''", "' OR 1=1 --", "a\0b", "a", "\0", "\1", "\0010", "\1\1", LONG, LONG[:-1] + "y"),
)
NUMBERS = (0.0, 1.0, -1.0, 0.1, 0.30000000000000004, 79.5, 1e308, -1e308, 5e-324, 2.0**53, 2.0**53 + 2, 1e-7, 1e22)
DATES = (0.0, -86400.0, 1769817600.0, 1769817600.5, 253402300799.0, -62135596800.0)


def random_value(random: Random, kind: FieldKind) -> Scalar:
    """Return a stored value of a field, for a list that of one of its texts."""
    match kind:
        case "number":
            return random.choice(NUMBERS)
        case "date":
            return random.choice(DATES)
        case "bool":
            return random.random() < 0.5
        case _:
            return random.choice(TEXTS)


def random_product(random: Random, number: int) -> dict[str, Value | None]:
    """Return the stored values of a product; each but its id is missing now and then."""
    found: dict[str, Value | None] = {}
    for field in (*BUILT_IN, *FIELDS):
        if field.name == "_id":
            found[field.name] = f"{number}"
        elif random.random() < 0.3:
            found[field.name] = None
        elif field.name == "_group":
            found[field.name] = random.choice(TEXTS)[:1000]
        elif field.kind == "texts":
            found[field.name] = tuple(dict.fromkeys(random.choices(TEXTS, k=random.randint(1, 4))))
        else:
            found[field.name] = random_value(random, field.kind)
    return found


def random_products(seed: int, number: int) -> list[dict[str, Value | None]]:
    """Return the stored values of products, the same for each seed."""
    random = Random(seed)
    return [random_product(random, each) for each in range(number)]


def random_filter(random: Random, depth: int = 3) -> Filter:
    """Return a filter as `parse_filter` would, with up to so many levels."""
    if depth == 0 or random.random() < 0.3:
        return _random_leaf(random)
    if random.random() < 0.25:
        return Not(random_filter(random, depth - 1))
    parts = tuple(random_filter(random, depth - 1) for _ in range(random.randint(2, 3)))
    return And(parts) if random.random() < 0.5 else Or(parts)


def random_filters(seed: int, number: int, depth: int = 3) -> list[Filter]:
    """Return filters, the same for each seed."""
    random = Random(seed)
    return [random_filter(random, depth) for _ in range(number)]


def filters() -> st.SearchStrategy[Filter]:
    """Return Hypothesis' strategy for filters over `FIELDS`."""
    return st.builds(random_filter, st.randoms(use_true_random=False), st.integers(0, 4))


def as_text(where: Filter) -> str:
    """Return a filter in the text language."""
    match where:
        case And(parts):
            return f"({' and '.join(map(as_text, parts))})"
        case Or(parts):
            return f"({' OR '.join(map(as_text, parts))})"
        case Not(part):
            return f"not {as_text(part)}"
        case Exists(field, wanted):
            return f"{_name(field)} {'' if wanted else 'not '}exists"
        case OneOf(field, values, negated):
            listed = ", ".join(_value(field, value) for value in values)
            return f"{_name(field)} {'not ' if negated else ''}in ({listed})"
        case Compare(field, op, value):
            signs = {"eq": "=", "ne": "!=", "lt": "<", "lte": "<=", "gt": ">", "gte": ">="}
            return f"{_name(field)} {signs[op]} {_value(field, value)}"


def _random_leaf(random: Random) -> Filter:
    field = random.choice((*BUILT_IN, *FIELDS))
    if field.name == "_id":
        return OneOf("_id", tuple({str(random.randint(0, 400)): None for _ in range(40)}), random.random() < 0.5)
    draw = random.random()
    if draw < 0.15:
        return Exists(field.name, random.random() < 0.5)
    if draw < 0.45:
        values = dict.fromkeys(random_value(random, field.kind) for _ in range(random.randint(0, 8)))
        return OneOf(field.name, tuple(values), random.random() < 0.4)
    ops: tuple[Comparison, ...] = ("eq", "ne")
    if field.kind in ("number", "date"):
        ops = ("eq", "ne", "lt", "lte", "gt", "gte")
    return Compare(field.name, random.choice(ops), random_value(random, field.kind))


def _name(field: str) -> str:
    return f"`{field.replace('`', '``')}`"


def _value(field: str, value: Any) -> str:
    kind = {each.name: each.kind for each in (*BUILT_IN, *FIELDS)}[field]
    if kind == "date":
        return f'"{(datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=value)).isoformat()}"'
    return json.dumps(value)


def largest_filters() -> list[Filter]:
    """Return filters as wide and as deep as `parse_filter` lets them be."""
    parts = [{"tags": [f"{number}", "red"]} for number in range(255)] + [{"price": list(range(1000))}]
    found = []
    for join in ("or", "and"):
        where = parse_filter({join: parts}, FIELDS)
        assert where is not None
        for _ in range(15):
            where = Not(where)
        found.append(where)
    return found
