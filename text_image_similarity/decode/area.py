"""Memory shared between a process and a program that it starts.

On Linux and macOS the memory has no name, so nothing is left behind no matter how either process ends. On Linux it is a
memfd, which is not limited by the size of /dev/shm (containers have 64 MB there, or nothing), and takes memory only for
pages that were written.
"""

from __future__ import annotations

import mmap
import os
import secrets
import sys
import tempfile
from contextlib import suppress

_KEPT = 8 << 20  # bytes whose memory is kept between uses


class SharedArea:
    """A block of memory that two processes read and write.

    Args:
        size: Size in bytes; pages take memory only once they are written.

    Raises:
        OSError: There is not enough memory or disk space.

    Attributes:
        handle: Handle that the other process passes to `open_area`.
        inherited: File descriptors to pass on to the other process.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.inherited: tuple[int, ...] = ()
        if sys.platform == "win32":
            self.handle = f"text-image-similarity-{os.getpid()}-{secrets.token_hex(8)}"
            self.memory = mmap.mmap(-1, size, tagname=self.handle)
            return
        file = _unnamed_file()
        try:
            os.ftruncate(file, size)
            self.memory = mmap.mmap(file, size)
        except BaseException:
            os.close(file)
            raise
        self.handle, self.inherited = str(file), (file,)

    def passed_on(self) -> None:
        """Close the descriptors in `inherited` once the other process has its own."""
        for file in self.inherited:
            os.close(file)
        self.inherited = ()

    def forget(self, used: int) -> None:
        """Release the used memory beyond a few megabytes; its content is lost."""
        if used > _KEPT and hasattr(mmap, "MADV_REMOVE"):
            with suppress(OSError):  # on a system without this call, the memory is kept
                self.memory.madvise(mmap.MADV_REMOVE, _KEPT, self.size - _KEPT)

    def close(self) -> None:
        """Release the memory; if another thread is copying from it, that thread's `close` does so."""
        self.passed_on()
        with suppress(BufferError):
            self.memory.close()


def open_area(handle: str, size: int) -> mmap.mmap:
    """Return the memory that another process shares with this process."""
    if sys.platform == "win32":
        return mmap.mmap(-1, size, tagname=handle)
    memory = mmap.mmap(int(handle), size)
    os.close(int(handle))
    return memory


def _unnamed_file() -> int:
    if sys.platform == "linux":
        return os.memfd_create("text_image_similarity")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
