"""Hashes of files, computed while they are read or written."""

from __future__ import annotations

import io
from collections.abc import Iterable
from hashlib import blake2b
from typing import IO, Any


class Hashed(io.RawIOBase):
    """A file that hashes the bytes read through it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._hash = blake2b(digest_size=16)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count: int = self._file.readinto(buffer)  # type: ignore[attr-defined]
        self._hash.update(memoryview(buffer)[:count])
        return count

    def finish(self) -> str:
        """Read the rest of the file, and return the hash of the whole file."""
        buffer = bytearray(1 << 20)  # reused, because newly allocated memory is slow
        while self.readinto(buffer):
            pass
        return self._hash.hexdigest()

    def close(self) -> None:
        self._file.close()
        super().close()


class HashedWriter(io.RawIOBase):
    """A file that hashes the bytes written through it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._hash = blake2b(digest_size=16)

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._hash.update(data)
        return self._file.write(data)

    def digest(self) -> str:
        """Return the hash of what has been written."""
        return self._hash.hexdigest()


def one_digest(digests: Iterable[str]) -> str:
    """Return one digest for the hashes of several files, in order."""
    return blake2b("-".join(digests).encode(), digest_size=16).hexdigest()
