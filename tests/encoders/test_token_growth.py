"""Tokenizers that would make captions far longer."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tokenizers import Tokenizer, models

from text_image_similarity.encoders.token_growth import tokenizer_from

_PLAIN = json.loads(Tokenizer(models.WordLevel({"[UNK]": 0}, "[UNK]")).to_str())


def replace(content: str, **pattern: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern or {"String": "a"}, "content": content}


def text(*steps: dict[str, Any]) -> str:
    return json.dumps({**_PLAIN, "normalizer": {"type": "Sequence", "normalizers": list(steps)}})


@pytest.mark.parametrize(
    "steps",
    [
        [replace("a" * 100)],
        [replace("aaa")] * 7,
        [replace("a", Regex="")] * 11,
        [replace("a", String="")] * 11,
        [{"type": "ByteLevel"}] * 6,
        [{"type": "Prepend", "prepend": "a" * 9}],
        [replace("b")] * 49,
    ],
)
def test_normalizers_that_could_grow_a_caption_are_refused(steps: list[dict[str, Any]]) -> None:
    for nested in (steps, [{"type": "Sequence", "normalizers": steps}]):
        with pytest.raises(ValueError, match="far longer"):
            tokenizer_from(text(*nested))


def test_those_of_published_models_are_not() -> None:
    steps = [{"type": "Prepend", "prepend": "\u2581"}, replace("\u2581", String=" "), replace(" ", Regex="\\s+")]
    steps += [replace(each, String="x") for each in ("''", "...", "<<")]
    assert tokenizer_from(text(*steps)).encode("a").ids
