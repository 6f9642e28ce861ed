"""Unicode's normal forms (UAX #15) in time that grows with the text.

`unicodedata.normalize` sorts the marks on a letter, in time that grows with their number squared, while no other thread runs: 20,000 of them
take more than a second. Here a text is normalised in pieces. No piece begins with a mark or another sign that may join the letter before it, so
the result is the usual one, unless a letter has more marks than a piece has characters.
"""

from __future__ import annotations

from typing import Literal
from unicodedata import category, normalize

_PIECE = 128  # characters, or twice as many where marks go on


def normal_form(form: Literal["NFC", "NFKD"], text: str) -> str:
    r"""Return a text in a normal form.

    Example:
        >>> normal_form("NFC", "e\u0301")
        'é'
    """
    if text.isascii():
        return text
    pieces, start = [], 0
    while start < len(text):
        end = min(start + _PIECE, len(text))
        last = min(end + _PIECE, len(text))
        while end < last and _may_join(text[end]):
            end += 1
        pieces.append(normalize(form, text[start:end]))
        start = end
    return "".join(pieces)


def _may_join(sign: str) -> bool:
    """Say whether a sign may become one with what stands before it: marks, and vowels and final consonants of Hangul."""
    return category(sign).startswith("M") or "\u1160" <= sign <= "\u11ff"
