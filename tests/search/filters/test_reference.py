"""What a filter means."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from text_image_similarity.search.fields import Field, Value
from text_image_similarity.search.filters import matches, parse_filter

FIELDS = (Field("kind"), Field("price", "number"), Field("new", "bool"), Field("tags", "texts"))
WITH: Mapping[str, Value | None] = {"kind": "shoe", "price": 10.0, "new": True, "tags": ("red", "blue")}
WITHOUT: Mapping[str, Value | None] = {"kind": None, "price": None, "tags": None}


@pytest.mark.parametrize(
    ("text", "of_one_with", "of_one_without"),
    [
        ("kind = 'shoe'", True, False),
        ("kind = 'Shoe'", False, False),
        ("kind != 'shoe'", False, False),
        ("kind != 'bag'", True, False),
        ("not kind = 'shoe'", False, True),
        ("not kind != 'shoe'", True, True),
        ("kind in ('bag', 'shoe')", True, False),
        ("kind not in ('bag', 'shoe')", False, False),
        ("kind not in ('bag')", True, False),
        ("kind in ()", False, False),
        ("kind not in ()", True, False),
        ("not kind in ('bag')", True, True),
        ("price < 10", False, False),
        ("price <= 10", True, False),
        ("price > 10", False, False),
        ("price >= 10", True, False),
        ("price > 9 and price < 11", True, False),
        ("not price < 10", True, True),
        ("new = true", True, False),
        ("new != true", False, False),
        ("tags = 'red'", True, False),
        ("tags = 'blue'", True, False),
        ("tags != 'red'", False, False),
        ("tags != 'green'", True, False),
        ("tags in ('green', 'blue')", True, False),
        ("tags not in ('green', 'blue')", False, False),
        ("tags not in ()", True, False),
        ("kind exists", True, False),
        ("kind not exists", False, True),
        ("tags exists", True, False),
        ("new not exists", False, True),
        ("kind = 'bag' or price = 10", True, False),
        ("kind = 'bag' or kind not exists", False, True),
    ],
)
def test_semantics(text: str, of_one_with: bool, of_one_without: bool) -> None:
    where = parse_filter(text, FIELDS)
    assert matches(where, WITH) is of_one_with
    assert matches(where, WITHOUT) is of_one_without


def test_no_filter_lets_all_pass() -> None:
    assert matches(None, WITHOUT)
