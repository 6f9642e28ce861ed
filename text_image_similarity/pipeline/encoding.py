"""Encoding of batches, and the search for the items to blame if that fails."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np

from ..errors import DeviceLostError, ErrorCode, RowError
from ..records import is_whole
from ..similarity import Embeddings
from .rows import Outcome

logger = logging.getLogger("text_image_similarity")


def encode_each(encode: Callable[[list[Any]], Embeddings], items: list[Any]) -> list[Outcome]:
    """Encode a batch; if that fails, encode its items one by one, so that only the faulty ones fail.

    Raises:
        DeviceLostError: The device stopped working; nothing more can be encoded.
    """
    if not items:
        return []
    try:
        vectors = list(encode(items))
    except DeviceLostError:  # no row's fault, and every other row would fail too
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
        (
            vector
            if np.isfinite(vector).all()
            else RowError(ErrorCode.NON_FINITE, "the model returned an embedding that is not finite")
        )
        for vector in vectors
    ]
