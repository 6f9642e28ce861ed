"""Accept a tokenizer's regular expressions only if they match in time proportional to the length of a caption.

The library `tokenizers` (Oniguruma) tries one way to match after another, for every letter of every caption. Only a
small part of the syntax is accepted, without groups: alternatives, each a row of letters and classes of letters, which
may be repeated. After an unlimited repetition, everything else must be optional, so that the letters that it has read
are never read again. Published models use these forms, and the few others below.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_ESCAPE = (
    r"""\\(?:[pP]\{\^?\w{1,40}\}|x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|[nrtsSdDwW]|[-|.()\[\]{}*+?^$\\/\#&~!"%,:;=@_])"""
)
_CLASS = rf"\[\^?+(?:{_ESCAPE}|[^\[\]\\])++\]"
_PART = re.compile(
    rf"(?:{_ESCAPE}|{_CLASS}|[^\\\[\](){{}}|?*+^$])(?:(?P<sign>[?*+])|\{{(?P<least>\d)(?P<comma>,(?P<most>\d)?)?\}})?+"
)
_SIGNS = {"?": (0, 1), "*": (0, None), "+": (1, None)}
# Alternatives with groups, which no repetition precedes: English endings, as GPT-2, Llama 3 and Qwen split them off, and
# the dot that lower-casing leaves behind, which the tokenizers of models trained with this package remove.
_GROUPS = ("(?i:'s|'t|'re|'ve|'m|'ll|'d)", "'(?:[sdmt]|ll|ve|re)", "'(?i:[sdmt]|ll|ve|re)", "(?<=i)\u0307")
# Final alternatives, which read each row of spaces at most three times, because they never leave more than its end.
_SPACES = (r"\s*[\r\n]+|\s+(?!\S)|\s+", r"\s+(?!\S)|\s+")
_MOST_WAYS = 9  # ways in which the optional parts of an alternative may match


class PatternCost(NamedTuple):
    """The cost of matching an accepted expression.

    Args:
        shortest: Smallest number of letters that the expression matches.
        read: Largest number of letters that are read, some of them more than once, to find out whether the expression
            matches at one place; the letters of unlimited repetitions are not counted.
    """

    shortest: int
    read: int


def read_pattern(pattern: str) -> PatternCost | None:
    """Return the cost of an expression, or None if it is not accepted."""
    for spaces in _SPACES:
        if pattern == spaces:
            return PatternCost(1, 3)
        if pattern.endswith(f"|{spaces}"):
            before = _read(pattern.removesuffix(f"|{spaces}"))
            return None if before is None else PatternCost(min(before.shortest, 1), before.read + 3)
    return _read(pattern)


def _read(pattern: str) -> PatternCost | None:
    found, at = [], 0
    while True:
        group = next((one for one in _GROUPS if re.match(re.escape(one) + r"(\||\Z)", pattern[at:])), None)
        one, at = (PatternCost(1, 3), at + len(group)) if group else _read_alternative(pattern, at)
        if one is None:
            return None
        found.append(one)
        if at == len(pattern):
            return PatternCost(min(each.shortest for each in found), sum(each.read for each in found))
        at += 1  # the bar between two alternatives


def _read_alternative(pattern: str, at: int) -> tuple[PatternCost | None, int]:
    """Return the cost of an alternative, or None if it is not accepted, and where the alternative ends."""
    shortest, longest, ways, endless = 0, 0, 1, False
    while at < len(pattern) and pattern[at] != "|":
        if (part := _PART.match(pattern, at)) is None:
            return None, at
        least, most = _range_of(part)
        if endless and least > 0:  # it could fail, and then everything before it would be tried in another way
            return None, at
        if not endless:  # what comes later cannot fail, so nothing is read again
            longest += least if most is None else most
        endless = endless or most is None
        ways *= 1 if most is None else max(1, most - least + 1)
        shortest, at = shortest + least, part.end()
    return (PatternCost(shortest, longest * ways) if ways <= _MOST_WAYS else None), at


def _range_of(part: re.Match[str]) -> tuple[int, int | None]:
    """Return the smallest and the largest number of repetitions of a part; None means no limit."""
    if (sign := part["sign"]) is not None:
        return _SIGNS[sign]
    if part["least"] is None:
        return 1, 1
    least = int(part["least"])
    if part["comma"] is None:
        return least, least
    return least, None if part["most"] is None else int(part["most"])
