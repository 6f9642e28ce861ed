"""JSON that strangers write, read within bounds: a short text may stand for very many values, and those take far more memory."""

from __future__ import annotations

import json
import re
from typing import Any

MOST_PARTS = 1_000_000  # of a row of a table, where lists of numbers may be long
MOST_DIGITS = 400  # of a whole number: no float has more before its point, and reading takes the square of their count
_PART = re.compile(r'[,\[{]|"[^"]*"?')


class JsonLimitError(ValueError):
    """A text in JSON is beyond a limit; the message completes a sentence: "it has more than 100 commas and brackets"."""


def parse_json(text: str, *, most_parts: int = MOST_PARTS, most_digits: int = MOST_DIGITS, **hooks: Any) -> Any:
    """Return what a text in JSON stands for.

    Args:
        text: The text.
        most_parts: Commas and opening brackets that it may have outside its texts. A value takes up to 200 bytes for each of them.
        most_digits: Digits, with the sign, that a whole number may have.
        hooks: What `json.loads` takes besides `parse_int`.

    Raises:
        JsonLimitError: It is beyond one of the limits.
        ValueError: It is not JSON.
        RecursionError: It is nested too deeply.
    """
    if part_count(text) > most_parts and _has_more_parts(text, most_parts):
        raise JsonLimitError(f"it has more than {most_parts:,} commas and brackets")

    def whole_number(digits: str) -> int:
        if len(digits) > most_digits:
            raise JsonLimitError(f"a number in it has more than {most_digits:,} digits; write it as text")
        return int(digits)

    return json.loads(text, parse_int=whole_number, **hooks)


def part_count(text: str) -> int:
    """Return how many commas and opening brackets a text in JSON has, those in its texts included."""
    return sum(map(text.count, ",[{"))


def _has_more_parts(text: str, most: int) -> bool:
    """Say whether a text has so many commas and opening brackets outside its texts, or so many texts that it must."""
    bare = text.replace("\\\\", "").replace('\\"', "")  # so that each quotation mark begins or ends a text
    parts = 0
    for count, found in enumerate(_PART.finditer(bare), 1):
        parts += bare[found.start()] != '"'
        if parts > most or count - parts > 2 * most + 2:  # a member has two texts and a comma
            return True
    return False
