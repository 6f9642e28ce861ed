"""The words of products and queries, the same for every database."""

from __future__ import annotations

import re
import unicodedata

from ...normal_forms import normal_form

MOST_WORDS = 64  # distinct words of a query; more words, and more products that contain them, make a search slower
_WORD = re.compile(r"[^\W_]+")
_LONGEST = 1000  # bytes; a limit of PostgreSQL


def words_of(text: str) -> list[str]:
    """Return the words of a text without case and accents; the databases' own parsers depend on their locale.

    Example:
        >>> words_of("Café, café_2")
        ['cafe', 'cafe', '2']
    """
    plain = normal_form("NFKD", text).casefold()
    found = _WORD.findall("".join(sign for sign in plain if not unicodedata.combining(sign)))
    return [word for word in found if len(word.encode()) <= _LONGEST]


def asked_words(text: str) -> dict[str, str]:
    """Return the first distinct words of a query, each with its spelling in the query.

    Example:
        >>> asked_words("Café, CAFE noir")
        {'cafe': 'Café', 'noir': 'noir'}
    """
    found: dict[str, str] = {}
    for match in _WORD.finditer(normal_form("NFC", text)):
        for word in words_of(match[0]):
            found.setdefault(word, match[0])
            if len(found) == MOST_WORDS:
                return found
    return found
