"""Parse untrusted JSON within limits, because even a short text may contain so many values that memory runs out."""

from __future__ import annotations

import json
import re
from typing import Any

MOST_PARTS = 1_000_000  # for a row of a table, where lists of numbers may be long
MOST_DEPTH = 100  # so that code that parses a text can also write it, even deep in the call stack
MOST_DIGITS = 308  # of a whole number, so that it can become a float; and parsing takes quadratic time
_PART = re.compile(r'[,\[{]|"[^"]*"?')


class JsonLimitError(ValueError):
    """A JSON text exceeds a limit; the message is a clause, such as "it has more than 100 commas and brackets"."""


def parse_json(text: str, *, most_parts: int = MOST_PARTS, most_digits: int = MOST_DIGITS, **hooks: Any) -> Any:
    """Return the value of a JSON text.

    Args:
        text: The JSON text.
        most_parts: Maximum number of commas and opening brackets outside strings; each takes up to 200 bytes of memory.
        most_digits: Maximum number of characters of a whole number, including its sign.
        hooks: Other arguments of `json.loads`, except `parse_int`.

    Raises:
        JsonLimitError: The text exceeds one of the limits.
        ValueError: The text is not JSON.
    """
    if part_count(text) > most_parts and _has_more_parts(text, most_parts):
        raise JsonLimitError(f"it has more than {most_parts:,} commas and brackets")

    def whole_number(digits: str) -> int:
        if len(digits) > most_digits:
            raise JsonLimitError(f"a number in it has more than {most_digits:,} digits; write it as a string")
        return int(digits)

    try:
        found = json.loads(text, parse_int=whole_number, **hooks)
    except RecursionError:
        found = None
    else:
        if text.count("[") + text.count("{") <= MOST_DEPTH or _depth_is_at_most(MOST_DEPTH, found):
            return found
    raise JsonLimitError(f"it is nested more than {MOST_DEPTH} levels deep")


def _depth_is_at_most(most: int, found: Any) -> bool:
    level = [found]
    for _ in range(most + 1):
        held = [each for each in level if isinstance(each, (dict, list))]
        if not held:
            return True
        level = [inner for each in held for inner in (each.values() if isinstance(each, dict) else each)]
    return False


def part_count(text: str) -> int:
    """Return how many commas and opening brackets a JSON text has, including those in its strings."""
    return sum(map(text.count, ",[{"))


def _has_more_parts(text: str, most: int) -> bool:
    """Tell whether a JSON text has, or must have, more than `most` commas and opening brackets outside strings."""
    bare = text.replace("\\\\", "").replace('\\"', "")  # so that each quotation mark begins or ends a string
    parts = 0
    for count, found in enumerate(_PART.finditer(bare), 1):
        parts += bare[found.start()] != '"'
        if parts > most or count - parts > 2 * most + 2:  # a member of an object has at most two strings and a comma
            return True
    return False
