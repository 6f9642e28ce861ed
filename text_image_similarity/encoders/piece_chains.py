"""Limit how long a unigram model may look, at each letter of a caption, for pieces that begin there.

The library `tokenizers` copies every such piece. In a vocabulary of `a`, `aa`, `aaa` and so on, these are as many as the
vocabulary is long, and most of them are long.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from .protocol_buffers import fields_of

_EACH = 64  # bytes that take as long to copy as a piece takes besides its own
# Bytes of all pieces that begin at a letter of a caption, times how many letters the tokenizer's steps make of it. Pieces
# of up to 16 letters, as sentencepiece makes by default, have up to 1,700; a row of 64 of its spaces, 10,500. The steps
# of published unigram models make up to 72 letters of one.
_MOST_COPIED = 1 << 19


def check_chains(pieces: Iterable[str | bytes], growth: int) -> None:
    """Check that few or short pieces of a unigram model begin with one another.

    Args:
        pieces: The pieces.
        growth: How many times longer the tokenizer's steps may make a caption.

    Raises:
        ValueError: Looking up the pieces at each letter of a caption could take too long.
    """
    # In order, a piece comes right after those that it begins with, and others that begin with these.
    chain: list[tuple[bytes, int]] = []  # pieces that begin with the one before, and the bytes of each and those before
    for piece in sorted(each.encode(errors="surrogatepass") if isinstance(each, str) else each for each in pieces):
        while chain and not piece.startswith(chain[-1][0]):
            chain.pop()
        copied = len(piece) + _EACH + (chain[-1][1] if chain else 0)
        if (copied + len(piece)) * growth > _MOST_COPIED:  # also the way to a piece that does not match in the end
            raise ValueError(
                "the tokenizer has long pieces that begin with one another, whose search could take too long; use another "
                "tokenizer"
            )
        chain.append((piece, copied))


def pieces_of(model: bytes) -> Iterator[bytes]:
    """Yield the texts of a sentencepiece model's pieces.

    Raises:
        ValueError: The model is damaged.
    """
    for number, value in fields_of(model):
        if number == 1 and isinstance(value, bytes):
            yield from (text for inner, text in fields_of(value) if inner == 1 and isinstance(text, bytes))
