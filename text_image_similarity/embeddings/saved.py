"""The protocol of stores that keep embeddings beyond a process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float32]  # (embed_dim,)
_LENGTH_TOLERANCE = 1e-3  # deviation from length 1 that half precision or a service may cause


class SavedEmbeddings(Protocol):
    """A store of embeddings, by content. Safe to share between threads.

    A store's failures only cost time: `get` then finds less and `put` stores less, and neither raises an exception.
    """

    def get(self, key: bytes) -> Vector | None:
        """Return the embedding of a key, shape (embed_dim,) float32, or None."""

    def get_many(self, keys: Sequence[bytes]) -> dict[bytes, Vector]:
        """Return the stored embeddings by key."""

    def put(self, vectors: Mapping[bytes, Vector]) -> None:
        """Store embeddings by key."""

    def close(self) -> None:
        """Release all resources."""


def read_vector(content: object, embed_dim: int) -> Vector | None:
    """Return the embedding that bytes contain, or None for any other value, or if they are not a vector of length 1."""
    if not isinstance(content, bytes) or len(content) != 4 * embed_dim:
        return None
    vector = np.frombuffer(content, "<f4").astype(np.float32)
    length = float(np.linalg.norm(vector))
    return vector if abs(length - 1) < _LENGTH_TOLERANCE else None  # false for NaN and infinity, too


def write_vector(vector: Vector) -> bytes:
    """Return an embedding as bytes: little-endian float32."""
    return vector.astype("<f4").tobytes()
