"""Embeddings kept in a file from run to run, by content: the same picture or caption is encoded once.

The file is an SQLite database in write-ahead mode, so many runs and processes of one machine may read and write it at
once, and a killed one leaves it whole. It grows by about 4 bytes a value and embedding; to start afresh, delete it. It
does not belong on a network file system, whose locks SQLite cannot rely on.
"""

from __future__ import annotations

import logging
import sqlite3
from hashlib import blake2b
from os import PathLike, fspath
from threading import Lock
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .errors import ConfigError

logger = logging.getLogger("text_image_similarity")

Vector = NDArray[np.float32]  # (embed_dim,)
_TOGETHER = 256  # embeddings written in one transaction; so many a killed run may lose
_PATIENCE_S = 30.0  # how long another process may be writing


class EmbeddingCache:
    """Embeddings by the content of what they stand for. Safe to share between threads.

    Args:
        path: The file; made if it is not there.

    Raises:
        ConfigError: The file cannot be opened, or is something else.
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        self._lock = Lock()
        self._new: dict[bytes, Vector] = {}
        self._broken = False
        try:
            self._file = sqlite3.connect(fspath(path), timeout=_PATIENCE_S, check_same_thread=False)
            self._file.execute("PRAGMA page_size = 16384")  # holds several embeddings; a file keeps the size it has
            self._file.execute("PRAGMA journal_mode = WAL")
            self._file.execute("PRAGMA synchronous = NORMAL")
            self._file.execute("CREATE TABLE IF NOT EXISTS embeddings (key BLOB PRIMARY KEY, vector BLOB NOT NULL)")
        except sqlite3.Error as exc:
            raise ConfigError(f"embedding_cache={fspath(path)!r} cannot be used: {exc}") from exc

    def get(self, key: bytes) -> Vector | None:
        """Return the embedding of a key, shape (embed_dim,) float32, or None."""
        with self._lock:
            if (new := self._new.get(key)) is not None:
                return new
            try:
                found = self._file.execute("SELECT vector FROM embeddings WHERE key = ?", (key,)).fetchone()
            except sqlite3.Error as exc:
                self._give_up(exc)
                return None
        return None if found is None else np.frombuffer(found[0], "<f4").astype(np.float32)

    def put(self, key: bytes, vector: Vector) -> None:
        """Keep an embedding; it is written soon, together with others."""
        with self._lock:
            self._new[key] = vector
            if len(self._new) >= _TOGETHER:
                self._write()

    def close(self) -> None:
        """Write what is not written yet, and close the file."""
        with self._lock:
            self._write()
            self._file.close()

    def _write(self) -> None:
        rows = [(key, vector.astype("<f4").tobytes()) for key, vector in self._new.items()]
        self._new.clear()
        if self._broken or not rows:
            return
        try:
            with self._file:
                self._file.executemany("INSERT OR IGNORE INTO embeddings VALUES (?, ?)", rows)
        except sqlite3.Error as exc:
            self._give_up(exc)

    def _give_up(self, exc: sqlite3.Error) -> None:
        """Go on without the file: a full disk or a broken cache costs time, not rows."""
        if not self._broken:
            self._broken = True
            logger.warning("the embedding cache cannot be used any more, the run goes on without it: %s", exc)


def content_key(fingerprint: str, kind: Literal["image", "text"], content: bytes) -> bytes:
    """Return the key, 20 bytes, of what a model makes of a picture's file or a caption's UTF-8.

    Args:
        fingerprint: What the embedding depends on besides the content.
        kind: What the content is.
        content: All of it.
    """
    model = blake2b(f"{kind} {fingerprint}".encode(), digest_size=32).digest()
    return blake2b(content, digest_size=20, key=model).digest()
