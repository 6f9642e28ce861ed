"""Accept a tokenizer's regular expressions only if they match in a time proportional to the length of a caption.

The library `tokenizers` (Oniguruma) tries one way to match after another, for every letter of every caption. Accepted is
a small part of the syntax, without groups: alternatives, each a row of letters and classes of letters, which may be
repeated. Behind a repetition without end, everything else must be optional, so that the letters that it has read are
never read again. These forms, and the few others below, are those that published models have.
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
# the dot that lower-casing leaves over, which tokenizers of models that are trained here remove.
_GROUPS = ("(?i:'s|'t|'re|'ve|'m|'ll|'d)", "'(?:[sdmt]|ll|ve|re)", "'(?i:[sdmt]|ll|ve|re)", "(?<=i)\u0307")
# Last alternatives, which read each row of spaces at most three times, because they never leave more than its end.
_SPACES = (r"\s*[\r\n]+|\s+(?!\S)|\s+", r"\s+(?!\S)|\s+")
_MOST_WAYS = 9  # in which the optional parts of an alternative may match


class PatternCost(NamedTuple):
    """What is known of an expression that is accepted.

    Args:
        shortest: How many letters it matches at least.
        read: How many letters are read at most, some of them again, to find out whether it matches at one place; the
            letters of repetitions without end are not counted.
    """

    shortest: int
    read: int


def read_pattern(pattern: str) -> PatternCost | None:
    """Return what is known of an expression, or None if it is not accepted."""
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
    """Return what is known of an alternative, and where it ends."""
    shortest, longest, ways, endless = 0, 0, 1, False
    while at < len(pattern) and pattern[at] != "|":
        if (part := _PART.match(pattern, at)) is None:
            return None, at
        least, most = _range_of(part)
        if endless and least > 0:  # could fail, and then everything before would be tried in another way
            return None, at
        if not endless:  # what comes later cannot fail, so nothing is read again
            longest += least if most is None else most
        endless = endless or most is None
        ways *= 1 if most is None else max(1, most - least + 1)
        shortest, at = shortest + least, part.end()
    return (PatternCost(shortest, longest * ways) if ways <= _MOST_WAYS else None), at


def _range_of(part: re.Match[str]) -> tuple[int, int | None]:
    """Return how often a part is repeated: at least, and at most unless without end."""
    if (sign := part["sign"]) is not None:
        return _SIGNS[sign]
    if part["least"] is None:
        return 1, 1
    least = int(part["least"])
    if part["comma"] is None:
        return least, least
    return least, None if part["most"] is None else int(part["most"])
