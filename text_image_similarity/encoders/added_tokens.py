"""Limit the tokens that a tokenizer has besides its vocabulary: each letter of them takes about 75 bytes of memory.

The library `tokenizers` passes an added token through the tokenizer's own normalizer when the tokenizer opens, unless
the token says that it is not to be normalised. Such a token counts with the length that it may have afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .protocol_buffers import fields_of

_MOST_ADDED = 1 << 20  # letters of all tokens besides the vocabulary; Gemma 3's tokens have 80,000
_FLAGS = {"content", "id", "lstrip", "normalized", "rstrip", "single_word", "special"}  # members of an added token
_NORMAL, _BYTE = 1, 6  # types of sentencepiece's pieces that are only in the vocabulary
_SYMBOLS = {30, 31, 45, 46, 47, 48}  # control symbols, the user's, and those for unk, bos, eos and pad


def check_added(tokens: Any, growth: int, before: int = 0) -> None:
    """Check the length of tokens besides the vocabulary, in any of the forms in which libraries state them.

    Args:
        tokens: The tokens. A text alone, and a token that does not say otherwise, may be normalised.
        growth: How many times longer the normalizer may make a token.
        before: How many letters the normalizer may write before a token, which then grow too.

    Raises:
        ValueError: The tokens have too many letters, or may have once they are normalised.
    """
    waiting, plain, grown = [tokens], 0, 0
    while waiting:
        one = waiting.pop()
        if isinstance(one, str):
            plain += len(one)
            grown += (before + len(one)) * growth
        elif isinstance(one, list):
            waiting += one
        elif isinstance(one, Mapping):
            waiting += [
                key for key in one if key not in _FLAGS and not (key.isdigit() and isinstance(one[key], Mapping))
            ]
            values = dict(one)
            if one.get("normalized") is False and isinstance(one.get("content"), str):
                kept = len(values.pop("content"))
                plain, grown = plain + kept, grown + kept
            waiting += values.values()
    if max(plain, grown) > _MOST_ADDED:
        normalised = " once they are normalised" if plain <= _MOST_ADDED else ""
        raise ValueError(
            f"the added tokens of the tokenizer have {max(plain, grown):,} letters{normalised}, more than {_MOST_ADDED:,}; "
            "use another tokenizer"
        )


def added_pieces(model: bytes) -> Iterator[str]:
    """Yield the texts that libraries add as tokens besides the vocabulary: control pieces and those of the user.

    Raises:
        ValueError: The sentencepiece model is damaged.
    """
    for number, value in fields_of(model):
        texts: list[bytes | int] = []
        if number == 1 and isinstance(value, bytes):
            piece = dict(fields_of(value))  # its text, score and type
            if piece.get(3, _NORMAL) not in (_NORMAL, _BYTE):
                texts = [piece.get(1, b"")]
        elif number == 2 and isinstance(value, bytes):  # trainer_spec
            texts = [text for inner, text in fields_of(value) if inner in _SYMBOLS]
        yield from (text.decode(errors="replace") for text in texts if isinstance(text, bytes))
