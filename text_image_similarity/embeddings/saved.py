"""What keeps embeddings beyond a process, seen from the memory in front of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float32]  # (embed_dim,)
_LENGTH_TOLERANCE = 1e-3  # what a model of half precision, or a service, may have left


class SavedEmbeddings(Protocol):
    """Embeddings by the content of what they stand for. Safe to share between threads.

    It costs time at most: whatever happens to it, `get` finds less and `put` keeps less, and neither raises.
    """

    def get(self, key: bytes) -> Vector | None:
        """Return the embedding of a key, shape (embed_dim,) float32, or None."""

    def get_many(self, keys: Sequence[bytes]) -> dict[bytes, Vector]:
        """Return the embeddings that are there, by key."""

    def put(self, vectors: Mapping[bytes, Vector]) -> None:
        """Keep embeddings by key."""

    def close(self) -> None:
        """Let go of what was opened."""


def read_vector(content: bytes, embed_dim: int) -> Vector | None:
    """Return the embedding in some bytes, or None if they hold something else: embeddings have length 1."""
    if len(content) != 4 * embed_dim:
        return None
    vector = np.frombuffer(content, "<f4").astype(np.float32)
    length = float(np.linalg.norm(vector))
    return vector if abs(length - 1) < _LENGTH_TOLERANCE else None  # which also holds for no NaN and no infinity


def write_vector(vector: Vector) -> bytes:
    """Return an embedding as bytes: little-endian float32."""
    return vector.astype("<f4").tobytes()
