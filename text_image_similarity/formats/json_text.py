"""Remove and add members in a JSON object's text, without changing the text of other members."""

from __future__ import annotations

import json
import re

BLANK = " \t\r\n"
_BLANKS = re.compile(f"[{BLANK}]*")
_DECODER = json.JSONDecoder()


def without(text: str, dropped: frozenset[str]) -> str:
    """Remove members from an object's text, without changing the text of others."""
    kept = []
    at = _past_blank(text, 1)
    while text[at] != "}":
        begin = at
        name, at = _DECODER.raw_decode(text, at)
        _, at = _DECODER.raw_decode(text, _past_blank(text, _past_blank(text, at) + 1))
        if name not in dropped:
            kept.append(text[begin:at])
        at = _past_blank(text, at)
        if text[at] == ",":
            at = _past_blank(text, at + 1)
    return "{" + ", ".join(kept) + "}"


def extended(text: str, members: str) -> str:
    """Append members to an object's text."""
    inner = text[:-1].rstrip(BLANK)
    return f"{inner}{'' if inner == '{' else ', '}{members}}}"


def _past_blank(text: str, at: int) -> int:
    found = _BLANKS.match(text, at)
    assert found is not None  # no blank is a match too
    return found.end()
