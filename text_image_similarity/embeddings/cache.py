"""A file that keeps embeddings by content between runs, so that the same image or caption is encoded only once.

The file is an SQLite database in write-ahead mode, so several processes on one machine may read and write it at once,
and a killed process leaves it intact. The file grows by about 4 bytes for each value of an embedding, unless
`max_entries` is set; to start over, delete it. Do not put it on a network file system, whose locks SQLite cannot rely
on.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from hashlib import blake2b
from os import PathLike, fspath
from pathlib import Path
from threading import Lock
from typing import Literal
from weakref import finalize

from ..errors import ConfigError, DatabaseError
from ..sqlite_files import check_sqlite_place
from .saved import Vector, read_vector, write_vector

logger = logging.getLogger("text_image_similarity")

_APPLICATION = 0x74697363  # "tisc", the application id of our SQLite files
_TABLE = "CREATE TABLE embeddings (key BLOB PRIMARY KEY, vector BLOB NOT NULL)"
_SCHEMA = [
    ("table", "embeddings", "embeddings", _TABLE),
    ("index", "sqlite_autoindex_embeddings_1", "embeddings", None),
]
_PATIENCE_S = 30.0  # longest wait while another process is writing
_DROP_OLDEST = "DELETE FROM embeddings WHERE rowid <= (SELECT max(rowid) FROM embeddings) - ?"  # in order of insertion


class EmbeddingCache:
    """A file that stores embeddings by the content of their image or caption. Safe to share between threads.

    Args:
        path: Path of the file; created if it does not exist.
        embed_dim: Length of an embedding; one of another length counts as missing.
        max_entries: Maximum number of embeddings to keep, for all models together; the oldest are removed. None keeps
            all.

    Raises:
        ConfigError: The file cannot be opened, or is not an embedding cache.
    """

    def __init__(self, path: str | PathLike[str], embed_dim: int, *, max_entries: int | None = None) -> None:
        self._lock = Lock()
        self._max_entries = max_entries
        self._embed_dim = embed_dim
        self._broken = False
        try:
            self._file = _opened(Path(path).expanduser())
        except (sqlite3.Error, OSError, DatabaseError) as exc:
            raise ConfigError(f"embedding_cache={fspath(path)!r} cannot be used: {exc}") from exc
        finalize(self, self._file.close).atexit = False  # closes the file of an object that was never closed

    def get(self, key: bytes) -> Vector | None:
        """Return the embedding of a key, shape (embed_dim,) float32, or None."""
        with self._lock:
            try:
                found = self._file.execute("SELECT vector FROM embeddings WHERE key = ?", (key,)).fetchone()
            except sqlite3.Error as exc:
                self._give_up(exc)
                return None
        return None if found is None else read_vector(found[0], self._embed_dim)

    def get_many(self, keys: Sequence[bytes]) -> dict[bytes, Vector]:
        """Return the stored embeddings by key, shape (embed_dim,) float32 each."""
        return {key: vector for key in keys if (vector := self.get(key)) is not None}

    def put(self, vectors: Mapping[bytes, Vector]) -> None:
        """Store embeddings by key: all of them, or none if the process ends in the meantime."""
        rows = [(key, write_vector(vector)) for key, vector in vectors.items()]
        with self._lock:
            if self._broken or not rows:
                return
            try:
                with self._file:
                    self._file.executemany("INSERT OR IGNORE INTO embeddings VALUES (?, ?)", rows)
                    if self._max_entries is not None:
                        self._file.execute(_DROP_OLDEST, (self._max_entries,))
            except sqlite3.Error as exc:
                self._give_up(exc)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._file.close()

    def _give_up(self, exc: sqlite3.Error) -> None:
        """Continue without the file: a full disk or a broken cache costs time, not rows."""
        if not self._broken:
            self._broken = True
            logger.warning("the embedding cache can no longer be used; the run continues without it: %s", exc)


def _opened(path: Path) -> sqlite3.Connection:
    """Open or create a cache, waiting while another process creates it; SQLite itself does not wait."""
    end = time.monotonic() + _PATIENCE_S
    while True:
        check_sqlite_place(path)
        file = sqlite3.connect(path, timeout=_PATIENCE_S, check_same_thread=False)
        try:
            _set_up(file)
        except sqlite3.OperationalError as exc:
            file.close()
            if "locked" not in str(exc) or time.monotonic() > end:
                raise
            time.sleep(0.05)
        except BaseException:
            file.close()
            raise
        else:
            return file


def _set_up(file: sqlite3.Connection) -> None:
    (application,) = file.execute("PRAGMA application_id").fetchone()
    tables = file.execute("SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY type DESC LIMIT 3").fetchall()
    if tables and application != _APPLICATION:
        raise sqlite3.DatabaseError("it is another program's database")
    if tables and tables != _SCHEMA:  # a view, for example, could have rows without end
        raise sqlite3.DatabaseError("it has other tables than an embedding cache")
    if not tables:
        file.execute("PRAGMA page_size = 16384")  # a page holds several embeddings
    file.execute("PRAGMA journal_mode = WAL")
    file.execute("PRAGMA synchronous = NORMAL")
    if not tables:
        with file:
            file.execute("BEGIN IMMEDIATE")
            file.execute(f"PRAGMA application_id = {_APPLICATION}")
            if not file.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone():
                file.execute(_TABLE)


def content_key(fingerprint: str, kind: Literal["image", "text"], content: bytes) -> bytes:
    """Return the key (20 bytes) of a model's embedding of an image file or of a caption in UTF-8.

    Args:
        fingerprint: Digest of everything else that the embedding depends on.
        kind: Kind of the content.
        content: The whole content.
    """
    return content_keys(fingerprint, kind, [content])[0]


def content_keys(fingerprint: str, kind: Literal["image", "text"], contents: Iterable[bytes]) -> list[bytes]:
    """Return the key of each content, as `content_key` does; for many contents, this takes half the time."""
    empty, keys = _empty_hash(fingerprint, kind), []
    for content in contents:
        digest = empty.copy()
        digest.update(content)
        keys.append(digest.digest())
    return keys


@lru_cache(maxsize=64)
def _empty_hash(fingerprint: str, kind: str) -> blake2b:
    return blake2b(digest_size=20, key=blake2b(f"{kind} {fingerprint}".encode(), digest_size=32).digest())
