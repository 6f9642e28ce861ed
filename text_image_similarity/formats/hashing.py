"""Hashes of files, computed while they are read."""

from __future__ import annotations

import io
from collections.abc import Iterable
from hashlib import blake2b
from typing import IO, Any


class Hashed(io.RawIOBase):
    """A file that hashes what is read through it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._hash = blake2b(digest_size=16)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        self._hash.update(data)
        return len(data)

    def finish(self) -> str:
        """Read what is left, and return the hash of it all."""
        while self.read(1 << 20):
            pass
        return self._hash.hexdigest()

    def close(self) -> None:
        self._file.close()
        super().close()


def one_digest(digests: Iterable[str]) -> str:
    """Return what stands for the content of files, by their hashes in order."""
    return blake2b("-".join(digests).encode(), digest_size=16).hexdigest()
