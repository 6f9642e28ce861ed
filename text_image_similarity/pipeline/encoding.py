"""Encode batches, and find the faulty items if that fails."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import numpy as np

from ..errors import DeviceLostError, ErrorCode, RowError
from ..records import is_whole
from ..similarity import Embeddings
from .rows import Outcome

T = TypeVar("T")

logger = logging.getLogger("text_image_similarity")


def one_late(batches: Iterable[T], is_last: Callable[[T], bool], *, late: bool) -> Iterator[T]:
    """Yield each batch after the next one has been taken, so that a device can compute the next one in the meantime.

    Args:
        batches: Batches, whose encoding begins when they are taken.
        is_last: Function that tells whether no other batch may begin before this one has been yielded.
        late: Whether to hold each batch back like this; otherwise, batches are yielded as they are taken.
    """
    waiting: list[T] = []
    try:
        for batch in batches:
            waiting.append(batch)
            while len(waiting) > late or (waiting and is_last(batch)):
                yield waiting.pop(0)
    except Exception:
        yield from waiting  # the results of waiting batches come before the exception
        raise
    yield from waiting


def begin_each(
    begin: Callable[[list[Any]], Callable[[], Embeddings]],
    encode: Callable[[list[Any]], Embeddings],
    items: list[Any],
) -> Callable[[], list[Outcome]]:
    """Start encoding a batch, and return a function that waits for it and returns the result of `encode_each`.

    No error is raised here; errors are raised when the returned function is called.
    """
    try:
        begun = begin(items) if items else None
    except Exception:  # encoding raises it again
        begun = None
    return lambda: encode_each(encode, items, begun=begun)


def encode_each(
    encode: Callable[[list[Any]], Embeddings], items: list[Any], *, begun: Callable[[], Embeddings] | None = None
) -> list[Outcome]:
    """Encode a batch; if that fails, encode its items one by one, so that only the faulty ones fail.

    Args:
        encode: Function that encodes a batch.
        items: The batch.
        begun: Function that waits for the batch's embeddings, if encoding has already started.

    Returns:
        For each item, in order, its embedding or the reason why it has none.

    Raises:
        DeviceLostError: The device stopped working; nothing more can be encoded.
    """
    if not items:
        return []
    try:
        vectors = encode(items) if begun is None else begun()
        vectors = np.asarray(vectors).view()
        vectors.setflags(write=False)  # vectors are remembered, and shared by rows
        if vectors.ndim == 2 and math.isfinite(np.vdot(vectors, vectors)):  # takes a third of the time of the next line
            return list(vectors)
        finite = np.all(np.isfinite(vectors), axis=1)
    except DeviceLostError:  # not the fault of a row: every other row would fail too
        raise
    except Exception as exc:  # any exception of a model fails rows, not the run
        if len(items) == 1:
            logger.debug("an item could not be encoded", exc_info=True)
            reason = f"{type(exc).__name__}: {exc}"
            if isinstance(items[0], str) and not is_whole(items[0]):  # tokenizers refuse such text
                reason = "the caption contains a lone surrogate (half of a UTF-16 pair); fix the row"
            return [RowError(ErrorCode.ENCODER_ERROR, reason)]
        return [outcome for item in items for outcome in encode_each(encode, [item])]
    return [
        (vector if is_finite else RowError(ErrorCode.NON_FINITE, "the model returned an embedding that is not finite"))
        for vector, is_finite in zip(vectors, finite.tolist(), strict=True)
    ]
