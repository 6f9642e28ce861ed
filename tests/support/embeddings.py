"""Embeddings and the keys they are kept under."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from text_image_similarity.embeddings.cache import content_key


def vector(number: int) -> NDArray[np.float32]:
    drawn = np.random.default_rng(number).normal(size=7)
    return (drawn / np.linalg.norm(drawn)).astype(np.float32)


def key(number: int, model: str = "model") -> bytes:
    return content_key(model, "image", str(number).encode())
