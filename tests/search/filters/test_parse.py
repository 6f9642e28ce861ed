"""The forms in which a filter may be given, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given

from tests.support.filters import FIELDS as AWKWARD
from tests.support.filters import as_text, filters
from text_image_similarity.errors import InputTypeError, UsageError
from text_image_similarity.search.fields import Field
from text_image_similarity.search.filters import (
    And,
    Compare,
    Exists,
    Filter,
    Not,
    OneOf,
    Or,
    mapping,
    parse_filter,
    to_dict,
)
from text_image_similarity.search.filters.text import _tokens

FIELDS = (
    Field("category"),
    Field("price", "number"),
    Field("in_stock", "bool"),
    Field("color", "texts"),
    Field("size", "number"),
    Field("sold", "date"),
    Field("note"),
    Field("select"),
    Field("and", "number"),
    Field("odd `name` 😀"),
)
LONG = "x" * 201
FOOTWEAR = Compare("category", "eq", "Footwear")
CHEAP = Compare("price", "lte", 90.0)


class Unshown:
    """A value that no message may show, because it is beyond the length of any."""

    def __repr__(self) -> str:
        raise AssertionError


def parsed(given: Any) -> Filter | None:
    return parse_filter(given, FIELDS)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, None),
        ({}, None),
        ("{}", None),
        ({"category": "Footwear"}, FOOTWEAR),
        ({"category": "Footwear", "price": {"lte": 90}}, And((FOOTWEAR, CHEAP))),
        ({"price": {"gte": 10, "lte": 90}}, And((Compare("price", "gte", 10.0), CHEAP))),
        ({"category": ["a", "b", "a"]}, OneOf("category", ("a", "b"))),
        ({"category": {"not_in": ("a",)}}, OneOf("category", ("a",), negated=True)),
        ({"category": []}, OneOf("category", ())),
        ({"size": np.array([1, 2])}, OneOf("size", (1.0, 2.0))),
        ({"color": "red"}, Compare("color", "eq", "red")),
        ({"color": {"exists": True}}, Exists("color")),
        ({"color": {"exists": False}}, Exists("color", wanted=False)),
        ({"and": [{"category": "Footwear"}, {"price": {"lte": 90}}]}, And((FOOTWEAR, CHEAP))),
        ({"or": [{"category": "Footwear"}, {"price": {"lte": 90}}]}, Or((FOOTWEAR, CHEAP))),
        ({"or": [{"category": "Footwear"}]}, FOOTWEAR),
        ({"not": {"category": "Footwear"}, "price": {"lte": 90}}, And((Not(FOOTWEAR), CHEAP))),
        ({"field": "and", "op": "eq", "value": 1}, Compare("and", "eq", 1.0)),
        ({"sold": {"gte": "1970-01-02"}}, Compare("sold", "gte", 86400.0)),
        ({"sold": {"gte": "1970-01-02T01:00+01:00"}}, Compare("sold", "gte", 86400.0)),
        (Compare("sold", "gte", 86400), Compare("sold", "gte", 86400.0)),  # a tree holds what is stored
        ({"category": 7.0}, Compare("category", "eq", "7")),
        ({"color": [7, 7.0, 7.5]}, OneOf("color", ("7", "7.5"))),
        ({"_id": ["1", "2"]}, OneOf("_id", ("1", "2"))),
        (' {"price": {"lte": 90}}', CHEAP),
        (CHEAP, CHEAP),
        (Compare("category", "eq", "e\u0301"), Compare("category", "eq", "é")),
        (And((CHEAP,)), CHEAP),
        (Not(Or((CHEAP, OneOf("size", (1, 1.0, -0.0))))), Not(Or((CHEAP, OneOf("size", (1.0, 0.0)))))),
    ],
)
def test_objects(given: object, expected: Filter | None) -> None:
    assert parsed(given) == expected
    if isinstance(given, dict) and "size" not in given:
        assert parsed(json.dumps(given)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('category = "Footwear"', FOOTWEAR),
        ("category=='Footwear'", FOOTWEAR),
        ("category != 'Footwear'", Compare("category", "ne", "Footwear")),
        ("category <> 'Footwear'", Compare("category", "ne", "Footwear")),
        ("price < 90", Compare("price", "lt", 90.0)),
        ("price<=90", CHEAP),
        ("price <= +9.e1", CHEAP),
        ("price > -.5", Compare("price", "gt", -0.5)),
        ("price >= 1e3", Compare("price", "gte", 1000.0)),
        ("price >= '90'", Compare("price", "gte", 90.0)),
        ("in_stock = TRUE", Compare("in_stock", "eq", True)),
        ("category = 007", Compare("category", "eq", "007")),
        ("category = 7.5", Compare("category", "eq", "7.5")),
        ("category in (-7, '7.0')", OneOf("category", ("-7", "7.0"))),
        ('sold >= "2026-01-31"', Compare("sold", "gte", 1769817600.0)),
        ("color IN (\"red\", 'blue')", OneOf("color", ("red", "blue"))),
        ("size not in (1,2)", OneOf("size", (1.0, 2.0), negated=True)),
        ("size in ()", OneOf("size", ())),
        ("note exists", Exists("note")),
        ("note not exists", Exists("note", wanted=False)),
        ("not note exists", Not(Exists("note"))),
        ("select = 'x'", Compare("select", "eq", "x")),
        ("`and` = 1", Compare("and", "eq", 1.0)),
        ("`odd ``name`` 😀` = 'x'", Compare("odd `name` 😀", "eq", "x")),
        (r'''category = "a\"'\'\\\n\u00e9\ud83d\ude00"''', Compare("category", "eq", "a\"''\\\né😀")),
        (r"""category = 'a"\"\'\\'""", Compare("category", "eq", 'a""\'\\')),
        ("category = '\n'", Compare("category", "eq", "\n")),
        ("price <= 90 or price <= 90 and not price <= 90", Or((CHEAP, And((CHEAP, Not(CHEAP)))))),
        ("(price <= 90 or note exists) and ((price <= 90))", And((Or((CHEAP, Exists("note"))), CHEAP))),
        ("NOT (price <= 90 AND note exists)", Not(And((CHEAP, Exists("note"))))),
    ],
)
def test_texts(text: str, expected: Filter) -> None:
    assert parsed(text) == expected


@given(filters())
def test_round_trips(where: Filter) -> None:
    form = to_dict(where, AWKWARD)
    assert parse_filter(form, AWKWARD) == where
    assert parse_filter(json.dumps(form), AWKWARD) == where
    assert parse_filter(where, AWKWARD) == where
    assert parse_filter(as_text(where), AWKWARD) == where


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("price <= 9O", "price <= 9O: expected a number at character 10"),
        (
            'category = "Footwear" and price <= ninety',
            '... ory = "Footwear" and price <= ninety: expected a number at ',
        ),
        ("category = Footwear", 'category = Footwear: expected text in quotes, such as "red", at character 12'),
        ("in_stock = maybe", "expected true or false at character 12"),
        ("sold > 31-01-2026", 'sold > 31-01-2026: expected a date in quotes, such as "2026-01-31", at character 8'),
        ("sold > 1769817600", 'sold > 1769817600: expected a date in quotes, such as "2026-01-31", at character 8'),
        ("sold in ('2026-01-31', 20260131)", 'expected a date in quotes, such as "2026-01-31", at character 24'),
        ("sold > '20260131'", "'sold' must be a date such as 2026-11-28 or .*, not '20260131'"),
        ("sold > '1611121301234'", "'sold' must be a date such as"),  # Python reads a day of 1611
        ("category = 7.0", 'category = 7.0: expected text in quotes, such as "7.0", at character 12'),
        ("category = 1e999", 'expected text in quotes, such as "1e999"'),
        ("price = 1_000", "price = 1_000: expected a number at character 9"),
        ("price = '1_000'", "'price' must be a number, not '1_000'"),
        ("price", "price: expected =, !=, <, <=, >, >=, `in`, `not in` or `exists` at the end"),
        ("price <= ", "expected a number at the end"),
        ("price <= 90 note exists", "price <= 90 note: expected `and`, `or` or the end of the filter at character 13"),
        ("price <= 90 and", "expected the name of a field, in backquotes if it is unusual, at the end"),
        ("and = 1", "and: expected the name of a field, in backquotes if it is unusual, at character 1"),
        ("(price <= 90", r"expected \) at the end"),
        ("price <= 90)", "expected `and`, `or` or the end of the filter at character 12"),
        ("price in 1", r"price in 1: expected \( at character 10"),
        ("price in (1 2)", "expected , at character 13"),
        ("price in (1,)", "expected a number at character 13"),
        ("price not 1", "expected `in` or `exists` at character 11"),
        ("category = 'red", "the ' at character 12 is never closed"),
        ("`category = 'red'", "the ` at character 1 is never closed"),
        (r"category = '\q'", r"expected one of the escapes .* at character 12"),
        (
            "note exists and prise <= 90",
            r"the field 'prise' does not exist; the fields are .*price, .*, _id, _group, _error; .* \(at character 17 of the filter\)",
        ),
        ("price <= 'much'", r"'price' must be a number, not 'much' \(at character 1 of the filter\)"),
        ("price <= 1e999", "'price' must be a finite number"),
        (
            "category < 'b'",
            "'category' cannot be compared with <, <=, > or >=, because its kind is text; use = ",
        ),
        ("in_stock >= true", "'in_stock' cannot be compared with <"),
        ("color > 'a'", "'color' cannot be compared with <"),
        ("category = ''", "'category' cannot be compared with '', which means a missing value; use `exists`"),
        (r"category = '\ud800'", "'category' contains a lone surrogate"),
        (" ", "the filter is empty; leave it out"),
        ('{"price": 1', "the filter begins with { but is not JSON: .* at character 12"),
        ('{"price": 1, "price": 2}', "the filter has 'price' twice in one object"),
        ('{"price": NaN}', "'price' cannot be compared with nan"),
        ('{"price": -Infinity}', "'price' must be a finite number"),
        ('{"price": ' + "9" * 5000 + "}", "the filter is not JSON that can be read"),
    ],
)
def test_what_is_wrong_with_a_text(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parsed(text)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"prise": 1}, "the field 'prise' does not exist; the fields are category, price"),
        ({"price": {"lt": 1, "near": 2}}, r"'near' is not a filter operator \(field 'price'\); use one of eq, ne"),
        ({"price": {}}, "the condition on 'price' is empty"),
        ({"price": None}, "'price' cannot be compared with None"),
        ({"price": True}, "'price' must be a number, not True"),
        ({"price": [1, float("nan")]}, "'price' cannot be compared with nan"),
        ({"price": {"in": 1}}, r"in needs a list of values, not 1 \(field 'price'\)"),
        ({"price": {"in": "12"}}, "in needs a list of values"),
        ({"price": {"eq": [1]}}, "'price' must be a number"),
        ({"category": {"eq": ["a"]}}, "'category' must be text"),
        ({"color": {"eq": ["a"]}}, "'color' must be text"),
        ({"price": {"exists": 1}}, r"exists needs true or false, not 1 \(field 'price'\)"),
        ({"sold": 86400}, "'sold' must be a date such as 2026-11-28 or .*, not 86400"),
        ({"sold": ["2026-11-28", 20261128]}, "'sold' must be a date such as 2026-11-28 or .*, not 20261128"),
        ({"price": "１２"}, "'price' must be a number"),
        (Compare("sold", "eq", 1e300), "'sold' must be a date in the years 1 to 9999"),
        (Compare("sold", "eq", float("nan")), "'sold' must be a date in the years 1 to 9999"),
        ({"sold": True}, "'sold' must be a date"),
        ({"and": []}, "'and' needs a list of at least one filter"),
        ({"or": {"price": 1}}, "'or' needs a list of at least one filter"),
        ({"or": [{}]}, "'or' must contain a filter"),
        ({"not": []}, "'not' must contain a filter"),
        ({1: 2}, "names fields and operators with strings, not with 1"),
        ({"price": {1: 2}}, "names fields and operators with strings, not with 1"),
        ({"field": 3, "op": "eq", "value": 1}, "names fields and operators with strings, not with 3"),
        (And(()), "And has no parts"),
        (Compare("prise", "eq", 1.0), "the field 'prise' does not exist"),
        (Compare("price", "like", 1.0), "'like' is not a filter operator"),  # type: ignore[arg-type]
        (OneOf("price", "ab"), "in needs a list"),  # type: ignore[arg-type]
        ({LONG: 1}, "'x{59} has 201 characters; a field's name has at most 200$"),
        ({LONG: {}}, "'x{59} has 201 characters"),
        ({"price": {LONG: 1}}, "'x{59} has 201 characters"),
        ({"field": LONG, "op": "eq", "value": 1}, "'x{59} has 201 characters"),
        (Compare(LONG, "eq", 1.0), "'x{59} has 201 characters"),
        ({"price": {"eq": {"of": [1] * 10 + [Unshown()]}}}, r"'price' must be a number, not {'of': \[1, "),
        (
            {"price": {"in": dict.fromkeys("abcdefghij", 1) | {"k": Unshown()}}},
            "in needs a list of values, not {'a': 1, ",
        ),
        ({"not": [[[[Unshown()]]]]}, r"'not' must contain .*, not \[\[\[Ellipsis"),
    ],
)
def test_what_is_wrong_with_an_object(given: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parsed(given)


def test_a_name_that_occurs_twice_is_found_without_comparing_all_pairs() -> None:
    compared = 0

    class Name(str):
        __hash__ = str.__hash__

        def __eq__(self, other: object) -> bool:
            nonlocal compared
            compared += 1
            return str(self) == str(other)

    names = [Name(number) for number in range(1000)]
    with pytest.raises(UsageError, match="'999' twice"):
        mapping._once([(name, 1) for name in (*names, Name(999))])
    assert compared < 10_000


@pytest.mark.parametrize("given", [3, ["price"], Not("price <= 90")])  # type: ignore[arg-type]
def test_what_is_not_a_filter(given: object) -> None:
    with pytest.raises(InputTypeError, match="must be a filter"):
        parsed(given)


def nested(levels: int) -> Filter:
    where: Filter = CHEAP
    for _ in range(levels):
        where = Not(where)
    return where


def test_sixteen_levels_are_enough() -> None:
    made = to_dict(nested(16), FIELDS)
    for form in (nested(16), made, json.dumps(made), "not " * 16 + "price <= 90"):
        assert parsed(form) == nested(16)
    deep: dict[str, Any] = {"price": {"lte": 90}}
    for _ in range(17):
        deep = {"or": [deep, {"note": "x"}]}
    deepest = json.loads('{"not": ' * 200 + '{"price": 1}' + "}" * 200)
    around: dict[str, Any] = {"not": {}}
    around["not"] = around
    for form in (
        *(nested(17), nested(600), deep, deepest, around),
        *("not " * 17 + "price <= 90", "(" * 30_000, "not " * 16_000, "(" * 17 + "price <= 90" + ")" * 17),
        *('{"not":' * 9_000, '{"price": ' + "[" * 60_000, '{"\\"{{{": ' + "[" * 60_000),
    ):
        with pytest.raises(UsageError, match="nested more than 16 levels deep"):
            parsed(form)
    with pytest.raises(UsageError, match="does not exist; the fields"):  # brackets in a text are not levels
        parsed(json.dumps({"[" * 100: '"' + "{" * 100}))
    half = And((CHEAP, Not(nested(8))))
    assert parsed(half) == half


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (" or ".join(["price = 1"] * 257), "at most 256 conditions"),
        ({"and": [{"price": 1}] * 257}, "at most 256 conditions"),
        ({"price": list(range(1001))}, r"in accepts at most 1,000 values \(field 'price'\)"),
        ({"or": [{"price": list(range(1000))}] * 11}, "and a filter at most 10,000"),
        ("note exists" + " " * 65_536, "65,547 characters long, but at most 65,536 are allowed"),
        ("'" + "\\'" * 32_000, "never closed"),
        ('{"' + '\\"' * 32_000, "not JSON"),
        ("`" * 65_001, "never closed"),
        ("`" * 65_000, r"'`{59} has 32,499 characters"),
        ({"note": "x" * 10_001}, "'note' is 10,001 characters long"),
    ],
    ids=range(10),
)
def test_limits(given: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parsed(given)


def test_nothing_is_read_behind_a_quote_that_is_never_closed() -> None:
    assert [token.kind for token in _tokens("note = 'a' or note = 'b and \\'c")][-1] == "other"
    assert len(list(_tokens("'" * 3 + " \\'" * 1000))) == 2


def test_the_largest_filters() -> None:
    found = parsed(" or ".join(["price = 1"] * 256))
    assert isinstance(found, Or)
    assert len(found.parts) == 256
    found = parsed({"price": range(1000)})
    assert isinstance(found, OneOf)
    assert len(found.values) == 1000


@pytest.mark.parametrize("wrong", ["1" * 200_000 + "x", "1" * 200_000, "1e" + "1" * 200_000, "." * 200_000])
def test_long_numbers_are_refused_at_once(wrong: str) -> None:
    """Read in the square of their length, each of these would take minutes."""
    with pytest.raises(UsageError, match=r"'price' must be a number, not '[1.]"):
        Field("price", "number").stored(wrong)
    with pytest.raises(UsageError):
        parsed("price = " + wrong[:65_000])


def test_long_dates_are_refused_at_once() -> None:
    for wrong in ("2026-01-01T" + " " * 200_000 + "\nx", "2026-01-01T" + "0" * 200_000):
        with pytest.raises(UsageError, match=r"'sold' must be a date such as .* not '2026-01-01T"):
            Field("sold", "date").stored(wrong)
    assert Field("sold", "date").stored(" 1970-01-02\n") == 86400.0
    assert Field("price", "number").stored(" 1.5e2\n") == 150.0


@pytest.mark.parametrize(
    ("given", "written"),
    [
        ("0001-01-01T00:00:00+14:00", "0001-01-01"),  # "no date" of .NET in local time
        ("9999-12-31T23:59:59.9999999Z", "9999-12-31T23:59:59+00:00"),
        ("9999-12-31T23:59:59-12:00", "9999-12-31T23:59:59+00:00"),
        ("9999-12-31", "9999-12-31"),
    ],
)
def test_a_date_at_the_ends_of_the_calendar_can_be_written(given: str, written: str) -> None:
    field = Field("sold", "date")
    stored = field.stored(given)
    assert stored is not None
    assert field.written(stored) == written
    assert field.stored(field.written(stored)) == stored


def test_a_date_that_an_earlier_version_stored_can_be_written() -> None:
    assert Field("sold", "date").written(253402300800.0 + 43200) == "9999-12-31T23:59:59+00:00"
    assert Field("sold", "date").written(-62135596800.0 - 50400) == "0001-01-01"
