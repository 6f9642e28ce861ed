"""Judged queries from a table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from text_image_similarity import Config, UsageError
from text_image_similarity.search.judgements import read_judgements


def table(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_judgements_are_read(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"q": "red", "pic": None, "product": 7.0, "match": True},
        {"q": " ", "pic": "a.png", "product": "b", "match": "no"},
        {"q": "blue", "product": "c", "match": 1.0},
    ]
    found = list(read_judgements(table(tmp_path / "in.jsonl", rows), ("q", "pic")))
    assert [(each.term.text, each.term.image, each.product, each.match) for each in found] == [
        ("red", None, "7", True),
        (None, str(tmp_path / "a.png"), "b", False),
        ("blue", None, "c", True),
    ]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"q": "red", "pic": "a.png", "product": "a", "match": True},
            "row 1 of .*: .* either a text or an image",
        ),
        ({"q": "", "pic": "", "product": "a", "match": True}, "row 1 of .*: .* either a text or an image"),
        ({"q": "red", "pic": "", "product": "a", "match": "maybe"}, "row 1 of .*: 'match' must be true or false"),
        (
            {"q": "red", "pic": "", "product": "a", "match": None},
            "row 1 of .*: 'match' must be true or false, not None",
        ),
        ({"q": "red", "pic": "", "match": True}, "column 'product' is missing"),
    ],
)
def test_what_is_no_judgement_is_named(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        list(read_judgements(table(tmp_path / "in.jsonl", [row]), ("q", "pic")))


def test_a_picture_elsewhere_needs_leave(tmp_path: Path) -> None:
    rows = [{"pic": "../a.png", "product": "b", "match": "no"}]
    source = table(tmp_path / "in.jsonl", rows)
    with pytest.raises(UsageError, match=r"row 1 of .*--files-under FOLDER .* is not under"):
        list(read_judgements(source, (None, "pic")))
    (found,) = read_judgements(source, (None, "pic"), config=Config(files_under="/"))
    assert found.term.image == str(tmp_path / "../a.png")


def test_a_column_of_queries_is_needed(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="name the column of queries"):
        list(read_judgements(table(tmp_path / "in.jsonl", [{"product": "a", "match": True}]), (None, None)))
