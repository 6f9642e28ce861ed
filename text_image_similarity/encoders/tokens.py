"""Captions -> token ids, and batches of them that hold little padding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

Ids = list[int]


@dataclass(frozen=True, slots=True)
class Tokens:
    """How one model reads captions; safe to share between threads.

    Args:
        encode: n captions -> their token ids, cut at the model's context length, without padding.
        pad: The id that fills a row up.
        length: Tokens that every row is filled up to (SigLIP), or None for the longest of its batch.
        tokenizer: What `encode` uses, where that can be saved as one file.
    """

    encode: Callable[[Sequence[str]], list[Ids]]
    pad: int
    length: int | None = None
    tokenizer: Tokenizer | None = None

    def padded(self, rows: Sequence[Ids]) -> NDArray[np.int64]:
        """Fill rows up on the right to shape (n, t)."""
        ids = np.full((len(rows), self.length or max(map(len, rows))), self.pad, np.int64)
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
        return [encoding.ids or list(if_empty or []) for encoding in tokenizer.encode_batch_fast(list(texts))]

    return Tokens(encode, pad, tokenizer=tokenizer)


def by_length(rows: Sequence[Ids]) -> list[int]:
    """Return the order that brings rows of like length together, shortest first."""
    return sorted(range(len(rows)), key=lambda i: len(rows[i]))
