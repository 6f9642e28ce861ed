"""Check a PEFT adapter's regular expressions, which could take forever to match the names of a model's modules.

Python's `re` tries one way to match after another, so this module computes in how many ways an expression may match.
The numbers of ways of successive parts are multiplied, and those of alternatives are added, unless the first letters of
the alternatives exclude each other. Repeating a part that may match in several ways gives exponentially many ways.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from importlib import import_module
from itertools import pairwise
from typing import Any

from ..errors import ModelNameError

# Settings that hold regular expressions, or names that peft puts into one.
_PATTERNS = re.compile(r"(\w+_)?modules(_to_save)?|\w+_pattern|target_parameters")
_REPEATED = 32  # ways of a repetition: about the number of letters of a name that it can match
_MOST_WAYS = 2 * _REPEATED**4  # ways to match a name, in all expressions together
_LONGEST = 20_000  # letters of an expression
# Entries of a list, which peft compares with each other, and of a mapping, whose expressions it matches with each module:
# `re` keeps 512 compiled ones. The largest models have 480 modules to adapt.
_MOST: dict[type, int] = {list: 1_000, dict: 500}


def check_patterns(name: str, file: str, settings: dict[str, Any]) -> None:
    """Check that an adapter's regular expressions can be matched in a short time.

    Args:
        name: The adapter's name as the user gave it, for messages.
        file: The name of the adapter's settings file.
        settings: The contents of that file.

    Raises:
        ModelNameError: An expression is not valid, is too long or repeats a repetition, the expressions together have too
            many repetitions, or there are too many of them.
    """
    ways = 0.0
    for key in filter(_PATTERNS.fullmatch, settings):
        if (most := _MOST.get(type(settings[key]))) and len(settings[key]) > most:
            raise ModelNameError(
                f"{name} has {len(settings[key]):,} entries in {key} in its {file}, but at most {most:,} are accepted; use a "
                "regular expression instead"
            )
        for pattern in _expressions(settings[key]):
            ways += _ways_of(pattern)
            if ways > _MOST_WAYS:
                raise ModelNameError(
                    f"{name} has {key} {pattern!r:.100} in its {file}, which is not a valid regular expression or may "
                    "take too long; list the names of the modules instead"
                )


def _expressions(value: Any) -> Iterator[str]:
    for each in [value] if isinstance(value, str) else value if isinstance(value, (list, dict)) else ():
        if isinstance(each, str):
            yield each


def _ways_of(pattern: str) -> float:
    """Return the largest number of ways in which an expression may match.

    An invalid expression is treated as having unlimited ways, because peft could make it part of a valid one.
    """
    if len(pattern) > _LONGEST:
        return math.inf
    try:
        return _ways(import_module("re._parser").parse(pattern))  # this module has no public name
    except (re.error, RecursionError, OverflowError):
        return math.inf


def _ways(parts: Iterable[tuple[Any, Any]]) -> float:
    ways = 1.0
    for kind, content in parts:
        match str(kind):
            case "BRANCH":
                found = list(map(_ways, content[1]))
                ways *= max(found) if _exclude_each_other(content[1]) else sum(found)
            case "MAX_REPEAT" | "MIN_REPEAT" | "POSSESSIVE_REPEAT":
                ways *= _ways_repeated(*content)
            case "SUBPATTERN" | "ASSERT" | "ASSERT_NOT":
                ways *= _ways(content[-1])
            case "ATOMIC_GROUP":
                ways *= _ways(content)
            case "GROUPREF_EXISTS":
                ways *= _ways(content[1]) + _ways(content[2] or ())
    return ways


def _ways_repeated(least: int, most: int, inner: Any) -> float:
    if least > 1 and inner.getwidth()[0] == 0:  # an empty match may be repeated four billion times
        return math.inf
    once = _ways(inner)
    if most <= 1:
        return once + (1 - least)
    return min(most - least + 1, _REPEATED) if once == 1 else math.inf


def _exclude_each_other(options: Iterable[Iterable[tuple[Any, Any]]]) -> bool:
    """Return whether at most one of several alternatives can match, because none begins with the letters of another."""
    firsts = sorted(map(_first_letters, options))
    return not any(after.startswith(before) for before, after in pairwise(firsts))


def _first_letters(parts: Iterable[tuple[Any, Any]]) -> str:
    letters = ""
    for kind, content in parts:
        if str(kind) != "LITERAL":
            break
        letters += chr(content).casefold()
    return letters
