"""Normal forms: those of Python, in time that grows with the text."""

from __future__ import annotations

import random
import unicodedata

import pytest

from text_image_similarity import normal_forms
from text_image_similarity.normal_forms import normal_form

LETTERS = ["a", " ", "é", "ﬁ", "中", "가", "\u1100", "\u1161", "\u11a8", "\u09c7", "\u09be", "Å", "ḍ\u0307", "😀", "\N{CYRILLIC SMALL LETTER I}"]  # fmt: skip
MARKS = ["\u0301", "\u0323", "\u0307", "\u0315", "\u0300", "\u3099"]


@pytest.mark.parametrize("form", ["NFC", "NFKD"])
def test_a_text_has_the_usual_form(form: str) -> None:
    drawn = random.Random(7)
    for _ in range(300):
        parts = [drawn.choice(LETTERS) + "".join(drawn.choices(MARKS, k=drawn.choice([0, 0, 1, 3, 30]))) for _ in range(200)]  # fmt: skip
        text = "".join(parts)[: drawn.randrange(2000)]
        assert normal_form(form, text) == unicodedata.normalize(form, text)  # type: ignore[arg-type]


def test_no_long_piece_is_normalised_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    longest = []

    def normalize(form: str, text: str) -> str:
        longest.append(len(text))
        return text

    monkeypatch.setattr(normal_forms, "normalize", normalize)
    text = "a" + "\u0315\u0300" * 50_000
    assert normal_form("NFC", text) == text
    assert max(longest) <= 256
