"""Unicode normal forms (UAX #15) in linear time.

`unicodedata.normalize` sorts the marks on a letter in quadratic time while it holds the GIL: 20,000 marks take more
than a second. Here, a text is normalised in pieces. No piece begins with a mark or another character that may join the
letter before it. The result is therefore the same as with one piece, unless a letter has more marks than a piece may
have characters.
"""

from __future__ import annotations

from typing import Literal
from unicodedata import category, normalize

_PIECE = 128  # characters, or up to twice as many if marks continue


def normal_form(form: Literal["NFC", "NFKD"], text: str) -> str:
    r"""Return a text in a Unicode normal form.

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
    """Tell whether a character may combine with the one before it: marks, and vowels and final consonants of Hangul."""
    return category(sign).startswith("M") or "\u1160" <= sign <= "\u11ff"
