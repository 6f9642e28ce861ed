"""Limit the time in which a unigram model, at each letter of a caption, finds the pieces that begin there.

The library `tokenizers` copies every such piece. In a vocabulary of `a`, `aa`, `aaa` and so on, every piece may begin
at a letter, and most pieces are long.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from .protocol_buffers import fields_of

_EACH = 64  # bytes that take as long to copy as a piece takes in addition to its own bytes
# Bytes of all pieces that begin at a letter of a caption, times the number of letters that the tokenizer's steps make
# of that letter. Pieces of up to 16 letters, sentencepiece's default, have up to 1,700 bytes; rows of up to 64 of its
# spaces have 10,500. The steps of published unigram models make up to 72 letters of one.
_MOST_COPIED = 1 << 19
# Bytes of all pieces that begin at one letter that the steps make; the total length of these letters is limited too.
_MOST_EACH = 1 << 15


def check_chains(pieces: Iterable[str | bytes], growth: int) -> None:
    """Check that the pieces of a unigram model that begin with one another are few or short.

    Args:
        pieces: The pieces.
        growth: Largest factor by which the tokenizer's steps may lengthen a caption.

    Raises:
        ValueError: Looking up the pieces at each letter of a caption could take too long.
    """
    # In sorted order, a piece follows the pieces that it begins with and others that begin with these.
    chain: list[tuple[bytes, int]] = []  # pieces, each beginning with the one before, and the total bytes so far
    for piece in sorted(each.encode(errors="surrogatepass") if isinstance(each, str) else each for each in pieces):
        while chain and not piece.startswith(chain[-1][0]):
            chain.pop()
        copied = len(piece) + _EACH + (chain[-1][1] if chain else 0)
        read = copied + len(piece)  # also counts the search for a piece that fails at its end
        if read > _MOST_EACH or read * growth > _MOST_COPIED:
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
