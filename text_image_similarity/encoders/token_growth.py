"""Open a tokenizer whose normalizers cannot make a caption much longer.

A stranger's `tokenizer.json` below 1 KB could otherwise turn one letter into gigabytes, before the caption is cut.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tokenizers import Tokenizer

from ..bounded_json import parse_json
from .tokens import panics_are_errors

_MOST_PARTS = 1 << 26  # commas and brackets; a vocabulary of a million pieces has a few million
_MOST_STEPS = 48  # Replace and Prepend in a row; CLIP's and T5's have a few
_MOST_LETTERS = 8  # letters that a step may write; all published steps write up to three
_MOST_GROWTH = 1024  # how many times longer all steps together may make a text
_STEPS = ("normalizer", "pre_tokenizer")


def tokenizer_from(text: str) -> Tokenizer:
    """Return the tokenizer of a `tokenizer.json`.

    Raises:
        ValueError: The tokenizer is damaged, or could make captions too long.
    """
    try:
        stated = parse_json(text, most_parts=_MOST_PARTS)
    except ValueError as exc:
        raise ValueError(f"tokenizer.json is damaged: {exc}") from exc
    _check_growth(stated)
    try:
        with panics_are_errors():
            return Tokenizer.from_str(text)
    except Exception as exc:  # the library `tokenizers` raises nothing more specific
        raise ValueError(f"tokenizer.json is damaged: {exc}") from exc


def _check_growth(stated: Any) -> None:
    growth, count = 1, 0
    for step in (step for key in _STEPS if isinstance(stated, dict) for step in _steps(stated.get(key))):
        length, factor = _growth(step)
        count, growth = count + 1, growth * factor
        if length > _MOST_LETTERS or count > _MOST_STEPS or growth > _MOST_GROWTH:
            raise ValueError(
                "tokenizer.json has normalizers that could make a caption far longer; use another tokenizer"
            )


def _growth(step: dict[str, Any]) -> tuple[int, int]:
    """Return how many letters a step writes at once, and how many times longer it could make a text."""
    if step["type"] == "ByteLevel":
        return 1, 4
    length = len(str(step.get("content" if step["type"] == "Replace" else "prepend")))
    if step["type"] == "Prepend":
        return length, 1  # the step writes only once
    pattern = step.get("pattern")
    replaced = str(pattern.get("String") or "") if isinstance(pattern, dict) else ""
    # A regular expression may match the empty string, between any two letters.
    return length, max(1, -(-length // len(replaced))) if replaced else 1 + length


def _steps(part: Any) -> Iterator[dict[str, Any]]:
    """Yield the steps of a normalizer or pre-tokenizer that write text."""
    if isinstance(part, list):
        for each in part:
            yield from _steps(each)
    elif isinstance(part, dict):
        if part.get("type") in ("Replace", "Prepend", "ByteLevel"):
            yield part
        for inner in ("normalizers", "pretokenizers"):
            yield from _steps(part.get(inner))
