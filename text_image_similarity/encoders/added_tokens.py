"""Limit the tokens that a tokenizer has outside its vocabulary: each letter of them takes about 75 bytes of memory.

The library `tokenizers` passes an added token through the tokenizer's own normalizer when it opens the tokenizer,
unless the token's `normalized` is false. For a normalised token, the length that it may have afterwards is counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from tokenizers import Tokenizer

from .protocol_buffers import fields_of

_MOST_ADDED = 1 << 20  # letters of all tokens outside the vocabulary; Gemma 3's tokens have 80,000
_MOST_ID = 1 << 24  # also the largest number of tokens in a model's settings
_FLAGS = {"content", "id", "lstrip", "normalized", "rstrip", "single_word", "special"}  # members of an added token
_NORMAL, _BYTE = 1, 6  # types of sentencepiece's pieces that are only in the vocabulary
_SYMBOLS = {30, 31, 45, 46, 47, 48}  # fields of control symbols, user-defined symbols, and unk, bos, eos and pad


def check_added(tokens: Any, growth: int, before: int = 0) -> None:
    """Check the total length of the tokens outside the vocabulary, in any form in which libraries store them.

    Args:
        tokens: The tokens. A plain string, and a token whose `normalized` is not false, may be normalised.
        growth: Largest factor by which the normalizer may lengthen a token.
        before: Largest number of letters that the normalizer may put before a token; they are lengthened too.

    Raises:
        ValueError: The tokens have too many letters, or may have too many once they are normalised; or one has too
            large an id.
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
            check_ids([one.get("id"), *(int(key) for key in one if key.isdecimal() and isinstance(one[key], Mapping))])
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


def check_ids(ids: Iterable[Any]) -> None:
    """Check that ids of tokens are not negative and not too large; values that are not whole numbers are ignored.

    Raises:
        ValueError: An id is too large or negative.
    """
    for one in ids:
        if isinstance(one, int) and not 0 <= one <= _MOST_ID:
            raise ValueError(f"a token has the id {one!r:.50}, which is not from 0 to {_MOST_ID:,}; correct it")


def check_stripped(tokenizer: Tokenizer) -> None:
    """Check that no added token of an open tokenizer is white space and also takes the white space around it.

    Raises:
        ValueError: There is such a token. At each one, the library looks for the end of the white space again.
    """
    for token in tokenizer.get_added_tokens_decoder().values():
        if not (token.lstrip or token.rstrip):
            continue
        normalizer = tokenizer.normalizer if token.normalized else None
        if (normalizer.normalize_str(token.content) if normalizer else token.content).isspace():
            raise ValueError(
                f"the added token {token.content!r:.50} of the tokenizer is white space and takes the white space around it, "
                "which could take too long; set its lstrip and rstrip to false"
            )


def added_pieces(model: bytes) -> Iterator[str]:
    """Yield the texts that libraries add as tokens outside the vocabulary: control pieces and user-defined pieces.

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
