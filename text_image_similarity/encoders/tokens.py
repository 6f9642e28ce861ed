"""Captions -> token ids, and batches of them that hold little padding.

How wide a caption is padded depends on the caption alone, never on its neighbours: padding moves no result by more than
its last digits, but those it may move.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from .captions import Cleaning, cleaner
from .protocols import CutIds

if TYPE_CHECKING:
    from .piece_rules import PieceFile

Ids = list[int]


@dataclass(frozen=True, slots=True)
class Tokens:
    """How one model reads captions; safe to share between threads.

    Args:
        encode: n captions -> their token ids, cut at the model's context length, without padding.
        pad: The id that fills a row up.
        context_length: Tokens of the longest row; None for no limit.
        whole: Whether every row is filled up to that (SigLIP).
        tokenizer: What `encode` uses, where that can be saved as one file.
        clean: What is done to a caption before the tokenizer sees it, if anything.
        pieces: The sentencepiece model that `encode` uses instead of a tokenizer, with the rules around it.
    """

    encode: Callable[[Sequence[str]], list[Ids]]
    pad: int
    context_length: int | None
    whole: bool = False
    tokenizer: Tokenizer | None = None
    clean: Cleaning | None = None
    pieces: PieceFile | None = None

    def filled(self, context_length: int) -> Tokens:
        """Return the same with every row filled up to so many tokens."""
        return replace(self, whole=True, context_length=context_length)

    def batches(
        self, rows: Sequence[Ids], *, most: int, step: int, widths: Sequence[int] = ()
    ) -> Iterator[NDArray[np.int64]]:
        """Yield rows, given shortest first, in batches (n, t) of one width.

        Args:
            rows: Token ids.
            most: Rows of a batch.
            step: What widths are multiples of, up to the context length.
            widths: Those to use instead, in ascending order; a longer row has a multiple.
        """

        def width(row: Ids) -> int:
            wanted = next((one for one in widths if len(row) <= one), -(-len(row) // step) * step)
            limit = self.context_length or wanted
            return limit if self.whole else min(wanted, limit)

        for t, group in groupby(rows, width):
            alike = list(group)
            yield from (self.padded(alike[start : start + most], t) for start in range(0, len(alike), most))

    def padded(self, rows: Sequence[Ids], width: int) -> NDArray[np.int64]:
        """Fill rows up on the right to shape (n, width)."""
        ids = np.full((len(rows), width), self.pad, np.int64)
        for row, given in zip(ids, rows, strict=True):
            row[: len(given)] = given
        return ids


def tokens_of(tokenizer: Tokenizer, *, pad: int, if_empty: Ids | None = None) -> Tokens:
    """Read captions with a tokenizer that cuts them itself and leaves padding alone.

    Args:
        tokenizer: With truncation switched on and padding off; nobody may change it afterwards.
        pad: The id that fills a row up.
        if_empty: What a caption without a token becomes, for models that cannot do with none.
    """

    def encode(texts: Sequence[str]) -> list[Ids]:
        return [ids_of(encoding) or list(if_empty or []) for encoding in tokenizer.encode_batch_fast(list(texts))]

    return Tokens(encode, pad, (tokenizer.truncation or {}).get("max_length"), tokenizer=tokenizer)


def cleaned_tokens(tokenizer: Tokenizer, *, pad: int, clean: Cleaning, whole: bool = False) -> Tokens:
    """Read captions as `tokens_of` does, cleaned by one of open_clip's rules first.

    Raises:
        MissingExtraError: ftfy is missing.
    """
    plain, rule = tokens_of(tokenizer, pad=pad), cleaner(clean)

    def encode(texts: Sequence[str]) -> list[Ids]:
        return plain.encode([rule(text) for text in texts])

    return replace(plain, encode=encode, whole=whole, clean=clean)


def ids_of(encoding: Encoding) -> Ids:
    """Return the ids of a caption, as `CutIds` if it was cut."""
    return CutIds(encoding.ids) if encoding.overflowing else encoding.ids


def by_length(rows: Sequence[Ids]) -> list[int]:
    """Return the order that brings rows of like length together, shortest first."""
    return sorted(range(len(rows)), key=lambda i: len(rows[i]))
