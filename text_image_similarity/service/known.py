"""Embeddings that a service knows: the latest in memory, more of them in the library's file if there is one."""

from __future__ import annotations

from collections.abc import Mapping
from threading import Lock

from ..embedding_cache import EmbeddingCache
from ..pipeline.rows import Recent, Vector


class Known:
    """Embeddings by content, up to a number of them. Safe to share between threads.

    Args:
        entries: Most embeddings in memory.
        file: Keeps them from run to run; None keeps them in memory alone.
    """

    def __init__(self, entries: int, file: EmbeddingCache | None) -> None:
        self._recent: Recent[bytes, Vector] = Recent(entries)
        self._file = file
        self._lock = Lock()

    def get(self, key: bytes) -> Vector | None:
        """Return the embedding of a key, or None."""
        with self._lock:
            vector = self._recent.get(key)
        if vector is None and self._file is not None and (vector := self._file.get(key)) is not None:
            with self._lock:
                self._recent.put(key, vector)
        return vector

    def put(self, vectors: Mapping[bytes, Vector]) -> None:
        """Keep embeddings by key."""
        with self._lock:
            for key, vector in vectors.items():
                self._recent.put(key, vector.copy())  # a row of a batch would keep all of the batch
        if self._file is not None:
            self._file.put(vectors)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
