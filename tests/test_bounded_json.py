"""JSON within bounds: what it may have is counted before any of it is made."""

from __future__ import annotations

import json
from typing import Any

import pytest

from text_image_similarity.bounded_json import JsonLimitError, parse_json


@pytest.mark.parametrize("value", [
    [1, [2, {"a": 3}], 4],
    {"a, [b]": 'c "d" \\', "e\\": "{,,,,}", "\\\"": "\\\\\",[["},
    ["one", "two", {"three": "four"}],
    ["\\" * 7 + '"' + ",",  "\\" * 8],
    'all, of [it, {is a text',
    {},
    -7,
])  # fmt: skip
def test_parts_are_counted_outside_of_texts(value: Any) -> None:
    text = json.dumps(value)
    bare = json.dumps(_without_signs(value))
    parts = sum(map(bare.count, ",[{"))
    assert parse_json(text, most_parts=parts) == value
    if parts:
        with pytest.raises(JsonLimitError, match=f"more than {parts - 1} commas and brackets"):
            parse_json(text, most_parts=parts - 1)


def _without_signs(value: Any) -> Any:
    """Return a value whose texts have no sign that counts."""
    if isinstance(value, dict):
        return {f"name{place}": _without_signs(inner) for place, inner in enumerate(value.values())}
    return list(map(_without_signs, value)) if isinstance(value, list) else "x"


@pytest.mark.parametrize(
    "text", ['[{"":1},{"":1},{"":1}]', "[[],[],[],[]]", '["a"' + '"a"' * 30 + ",,,,]", "[,,,,,,,,"]
)
def test_nothing_is_made_of_a_text_with_too_many(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json, "loads", lambda *args, **hooks: pytest.fail("it was read"))
    with pytest.raises(JsonLimitError):
        parse_json(text, most_parts=4)


def test_the_texts_of_a_damaged_text_are_not_counted_without_end() -> None:
    """Each of them would cost as much as a value, and none has a comma."""
    with pytest.raises(JsonLimitError):
        parse_json('""' * 100 + ",,", most_parts=1)
    with pytest.raises(json.JSONDecodeError):
        parse_json('""' * 2 + ",,,", most_parts=3)


@pytest.mark.parametrize(
    "text", ["[" * 101 + "]" * 101, '{"a":' * 101 + "1" + "}" * 101, "[" * 900 + "]" * 900, "[" * 100_000]
)
def test_what_is_parsed_can_be_written_too(text: str) -> None:
    """Which takes more of the stack: 900 levels can be parsed, but perhaps not where they are written."""
    with pytest.raises(JsonLimitError, match="it is nested more than 100 levels deep"):
        parse_json(text)
    assert parse_json("[" * 100 + "]" * 100)
    assert len(parse_json("[" + "[[]]," * 200 + '"[[["]')) == 201


def test_whole_numbers_have_so_many_digits() -> None:
    assert parse_json("[" + "7" * 308 + "]", most_parts=1) == [int("7" * 308)]
    assert float(parse_json("9" * 308)) < float("inf")  # a larger number might raise an OverflowError
    assert parse_json("-1.5e3", most_parts=0) == -1500
    for text in ("7" * 309, "-" + "7" * 308, "[1, " + "7" * 5000 + "]"):
        with pytest.raises(JsonLimitError, match="more than 308 digits"):
            parse_json(text, most_parts=2)
    assert parse_json("70", most_parts=0, most_digits=2) == 70
    with pytest.raises(JsonLimitError, match="more than 1 digits"):
        parse_json("70", most_parts=0, most_digits=1)


def test_hooks_are_those_of_json() -> None:
    assert parse_json('{"a": 1, "a": 2}', most_parts=2, object_pairs_hook=list) == [("a", 1), ("a", 2)]
