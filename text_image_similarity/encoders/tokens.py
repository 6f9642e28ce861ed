"""Turn captions into token ids, in batches with little padding.

The width to which a caption is padded depends only on that caption, never on others in its batch, because padding may
change the last digits of a result.
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
from .panics import panics_are_errors
from .protocols import CutIds
from .token_growth import growth_of

if TYPE_CHECKING:
    from .piece_rules import PieceFile

Ids = list[int]

# Largest number of characters after the tokenizer's first steps, each of which may take 230 bytes of memory: in all
# captions that are tokenized at once, and in a single caption.
_AT_ONCE = 1 << 22
_MOST_GROWN = 1 << 26


@dataclass(frozen=True, slots=True)
class Tokens:
    """A model's way of tokenizing captions; safe to share between threads.

    Args:
        encode: Function that turns n captions into their token ids, cut at the model's context length, without padding.
        pad: Id of the padding token.
        context_length: Length of the longest row, in tokens; None for no limit.
        whole: Whether every row is padded to `context_length` (SigLIP).
        tokenizer: The tokenizer that `encode` uses, if it can be saved as one file.
        clean: How captions are cleaned before they are tokenized; None if they are not.
        pieces: The sentencepiece model, and the rules around it, that `encode` uses instead of a tokenizer.
    """

    encode: Callable[[Sequence[str]], list[Ids]]
    pad: int
    context_length: int | None
    whole: bool = False
    tokenizer: Tokenizer | None = None
    clean: Cleaning | None = None
    pieces: PieceFile | None = None

    def filled(self, context_length: int) -> Tokens:
        """Return a copy that pads every row to `context_length` tokens."""
        return replace(self, whole=True, context_length=context_length)

    def batches(
        self, rows: Sequence[Ids], *, most: int, step: int, widths: Sequence[int] = ()
    ) -> Iterator[NDArray[np.int64]]:
        """Yield rows, which must be given shortest first, in batches (n, t) of one width.

        Args:
            rows: Token ids.
            most: Largest number of rows in a batch.
            step: Widths are multiples of this, up to the context length.
            widths: Widths to use instead, in ascending order; a longer row gets a multiple of `step`.
        """

        def width(row: Ids) -> int:
            wanted = next((one for one in widths if len(row) <= one), -(-len(row) // step) * step)
            limit = self.context_length or wanted
            return limit if self.whole else min(wanted, limit)

        for t, group in groupby(rows, width):
            alike = list(group)
            yield from (self.padded(alike[start : start + most], t) for start in range(0, len(alike), most))

    def padded(self, rows: Sequence[Ids], width: int) -> NDArray[np.int64]:
        """Pad rows on the right, and return them as an array (n, width)."""
        ids = np.full((len(rows), width), self.pad, np.int64)
        for row, given in zip(ids, rows, strict=True):
            row[: len(given)] = given
        return ids


def copy_tokenizer(tokenizer: Tokenizer, length: int) -> Tokenizer:
    """Return a copy of a tokenizer that cuts captions at a length in tokens and does not pad them."""
    own = Tokenizer.from_str(tokenizer.to_str())
    own.encode_special_tokens = tokenizer.encode_special_tokens  # `to_str` leaves this out
    own.no_padding()
    own.enable_truncation(length)
    return own


def tokens_of(tokenizer: Tokenizer, *, pad: int, if_empty: Ids | None = None) -> Tokens:
    """Return the `Tokens` of a tokenizer that cuts captions itself and does not pad them.

    Args:
        tokenizer: A tokenizer with truncation on and padding off, which must not be changed afterwards.
        pad: Id of the padding token.
        if_empty: Ids for a caption that has no tokens, for models that need at least one.
    """

    most: int | None = (tokenizer.truncation or {}).get("max_length")
    growth = growth_of(tokenizer)

    @panics_are_errors()
    def encode(texts: Sequence[str]) -> list[Ids]:
        rows = [
            ids_of(encoding) or list(if_empty or [])
            for some in in_groups(texts, growth)
            for encoding in tokenizer.encode_batch_fast(some)
        ]
        if most is not None and max(map(len, rows), default=0) > most:
            raise ValueError(f"the model's tokenizer turns this text into more tokens than the model reads, {most}")
        return rows

    return Tokens(encode, pad, most, tokenizer=tokenizer)


def cleaned_tokens(tokenizer: Tokenizer, *, pad: int, clean: Cleaning, whole: bool = False) -> Tokens:
    """Return `Tokens` like those of `tokens_of` that clean captions first, as open_clip does.

    Raises:
        MissingExtraError: ftfy is not installed.
    """
    plain, rule = tokens_of(tokenizer, pad=pad), cleaner(clean)

    def encode(texts: Sequence[str]) -> list[Ids]:
        return plain.encode([rule(text) for text in texts])

    return replace(plain, encode=encode, whole=whole, clean=clean)


def in_groups(texts: Sequence[str], growth: int) -> Iterator[list[str]]:
    """Yield captions, in order, in groups of limited length, each of which is tokenized at once.

    Args:
        texts: The captions.
        growth: Largest factor by which the tokenizer's steps may lengthen a caption.

    Raises:
        ValueError: A caption is so long that it could fill the memory.
    """
    most = _AT_ONCE // growth
    if sum(map(len, texts)) <= most:  # the case for most batches
        yield list(texts)
        return
    if (longest := max(map(len, texts))) * growth > _MOST_GROWN:
        raise ValueError(
            f"a caption has {longest:,} characters, and this model's tokenizer may make it {growth} times longer; "
            "shorten it"
        )
    group: list[str] = []
    size = 0
    for text in texts:
        if group and size + len(text) > most:
            yield group
            group, size = [], 0
        group.append(text)
        size += len(text)
    yield group


def ids_of(encoding: Encoding) -> Ids:
    """Return the token ids of a caption, as `CutIds` if it was cut."""
    return CutIds(encoding.ids) if encoding.overflowing else encoding.ids


def by_length(rows: Sequence[Ids]) -> list[int]:
    """Return the indices that sort rows by length, shortest first."""
    return sorted(range(len(rows)), key=lambda i: len(rows[i]))
