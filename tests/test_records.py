import json
import math
from decimal import Decimal
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest

from tests.support.images import inline
from text_image_similarity import Config, Record, Scorer, score_csv, score_pairs
from text_image_similarity.encoders.testing import ColourEncoder
from text_image_similarity.errors import RowError
from text_image_similarity.pipeline import LocalEngine
from text_image_similarity.records import caption_of, is_invisible, reference_of, references_of

RED = inline("red")
NOT_TEXT: list[Any] = [
    (None, "is empty or missing"),
    (" \t", "is empty or missing"),
    ("\u200b\ufeff\xad\x00\x7f", "is empty or missing"),
    (Decimal("sNaN"), "is missing (sNaN)"),
    pytest.param(10**5000, "is a number with too many digits", id="many digits"),
    (math.nan, "is missing (nan)"),
    (np.float32("nan"), "is missing (nan)"),
    (Decimal("NaN"), "is missing (NaN)"),
    (pd.NaT, "is missing (NaT)"),
    (pd.NA, "is missing (<NA>)"),
    (math.inf, "is inf, not text"),
    (True, "is True, not text"),
    (np.bool_(False), "is a value of type bool, not text"),
    (["a", "b"], "is a list; one row per caption is needed"),
    (np.array(["a", "b"]), "is a ndarray; one row per caption is needed"),
    ({"text": "a"}, "is a dict; one row per caption is needed"),
    (b"a dog", "is a bytes value, not text"),
]


@pytest.mark.parametrize(("value", "reason"), NOT_TEXT)
def test_what_is_not_text_has_no_caption_and_no_score(value: Any, reason: str) -> None:
    error = f"empty_caption: the caption {reason}"
    assert str(caption_of(value)) == error
    assert str(reference_of(value)) == f"invalid_url: the image {reason.replace('per caption', 'per image')}"
    with Scorer(Config(), encoder=ColourEncoder()) as scorer:
        assert [result.error for result in scorer.score_pairs([Record(RED, value), Record.of(RED, value)])] == [
            error
        ] * 2
        if not isinstance(value, bytes):  # which raises there, as a programmer's mistake
            assert [str(found) for found in scorer.embed_texts([value])] == [error]
            assert [result.error for result in scorer.score_images([np.zeros((2, 2, 3), np.uint8)], [value])] == [error]


@pytest.mark.parametrize("value", [7, 0.5, np.int64(7), np.float64(0.5), Decimal("1.50"), 10**400])
def test_a_finite_number_is_its_text(value: Any) -> None:
    assert (caption_of(value), reference_of(value)) == (str(value), str(value))
    assert Record.of(value, value) == Record(str(value), str(value))
    as_number, as_text = score_pairs([Record(RED, value), Record(RED, str(value))], Config(), encoder=ColourEncoder())
    assert as_number == as_text
    assert as_number.error is None


def test_a_caption_that_is_missing_in_json_lines_is_not_scored_as_a_word(tmp_path: Path) -> None:
    values = ["NaN", "Infinity", "null", "true", '{"a": 1}', "1e400", '""', "7", '"red"']
    lines = (f'{{"url": "{RED}", "caption": {value}}}\n' for value in values)
    (tmp_path / "in.jsonl").write_text("".join(lines))
    score_csv(tmp_path / "in.jsonl", tmp_path / "out.jsonl", Config(), engine=LocalEngine(encoder=ColourEncoder()))
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["error"] is None for row in rows] == [*[False] * 7, True, True]
    assert rows[0]["error"] == "empty_caption: the caption is missing (nan)"
    assert rows[4]["error"] == "empty_caption: the caption is a dict; one row per caption is needed"


def test_a_row_without_both_is_told_of_its_caption() -> None:
    (result,) = score_pairs([Record(None, None)], Config(), encoder=ColourEncoder())  # type: ignore[arg-type]
    assert result.error == "empty_caption: the caption is empty or missing"
    assert isinstance(reference_of(None), RowError)


@pytest.mark.parametrize("end", ["", "\u00e9"])
def test_very_many_invisible_characters_are_not_looked_at_one_by_one(end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    looked = Mock(side_effect=is_invisible)
    monkeypatch.setattr("text_image_similarity.records.is_invisible", looked)
    text = " \u200b\u3164" * 100_000 + end
    assert str(reference_of(text)) == (text if end else "invalid_url: the image is empty or missing")
    assert references_of(text, ["a dog"]) == ((text, "a dog") if end else ("a dog",))
    assert looked.call_count < 100
