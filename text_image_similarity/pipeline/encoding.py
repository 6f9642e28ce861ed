"""Batches into vectors, and which of their items are to blame where that fails."""

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
    """Encode a batch; if it fails, encode its items one by one, so that only the guilty ones fail.

    Raises:
        DeviceLostError: Nothing more can be encoded.
    """
    if not items:
        return []
    try:
        vectors = list(encode(items))
    except DeviceLostError:  # no row's fault, and every other row would fail too
        raise
    except Exception as exc:  # whatever a model raises belongs to rows, not to the run
        if len(items) == 1:
            logger.debug("an item could not be encoded", exc_info=True)
            reason = f"{type(exc).__name__}: {exc}"
            if isinstance(items[0], str) and not is_whole(items[0]):  # a tokenizer refuses such text
                reason = "the caption holds half a character (a lone surrogate); fix the row"
            return [RowError(ErrorCode.ENCODER_ERROR, reason)]
        return [outcome for item in items for outcome in encode_each(encode, [item])]
    return [
        vector if np.isfinite(vector).all() else RowError(ErrorCode.NON_FINITE, "the model gave no finite embedding")
        for vector in vectors
    ]
