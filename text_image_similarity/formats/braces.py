"""Expand braces in file names, as in shells: `{00000..00127}` and `{train,test}`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import islice, product

from ..errors import UsageError

_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}|\{([^{}]*,[^{}]*)\}")
_MOST = 1_000_000


def expand_braces(place: str) -> list[str]:
    """Return the expansion of a name with braces, in order; the last braces vary fastest.

    A range keeps leading zeros: its numbers are as wide as the longer of its two ends. Braces without a range or a
    comma are literal.

    Raises:
        UsageError: There are more than a million names.

    Example:
        >>> expand_braces("{a,b}/{08..10}.tar")[:4]
        ['a/08.tar', 'a/09.tar', 'a/10.tar', 'b/08.tar']
    """
    pieces: list[Sequence[str]] = []
    at = count = 0
    for found in _BRACES.finditer(place):
        pieces += [[place[at : found.start()]], _alternatives(found, place)]
        at = found.end()
    pieces.append([place[at:]])
    names = ["".join(one) for one in islice(product(*pieces), _MOST + 1)]
    if (count := len(names)) > _MOST:
        raise UsageError(f"{place} expands to more than {_MOST:,} files; write a narrower pattern")
    return names if count else [place]


def _alternatives(found: re.Match[str], place: str) -> Sequence[str]:
    if found[3] is not None:
        return found[3].split(",")
    first, last = int(found[1]), int(found[2])
    if abs(last - first) >= _MOST:
        raise UsageError(f"{place} expands to more than {_MOST:,} files; write a narrower pattern")
    width = max(len(found[1]), len(found[2])) if "0" in (found[1][0], found[2][0]) else 0
    step = 1 if last >= first else -1
    return [f"{number:0{width}}" for number in range(first, last + step, step)]
