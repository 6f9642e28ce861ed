"""Memory that a process shares with a program that it starts.

It has no name on Linux and macOS, so nothing is left behind however either process ends. On Linux it is a memfd: no size of
/dev/shm limits it (containers have 64 MB there, or nothing), and only the pages that were written take memory.
"""

from __future__ import annotations

import mmap
import os
import secrets
import sys
import tempfile
from contextlib import suppress

_KEPT = 8 << 20  # bytes whose memory is kept from one use to the next


class SharedArea:
    """Bytes that two processes read and write.

    Args:
        size: Its bytes; they take memory once they are written.

    Raises:
        OSError: There is not enough memory or disk.

    Attributes:
        handle: What the other process gives to `open_area`.
        inherited: File descriptors to be passed on to it.
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
        """Close the descriptors, once the other process has its own."""
        for file in self.inherited:
            os.close(file)
        self.inherited = ()

    def forget(self, used: int) -> None:
        """Give back the memory of what was used beyond a few megabytes; its content is lost."""
        if used > _KEPT and hasattr(mmap, "MADV_REMOVE"):
            with suppress(OSError):  # of a system without it: then the memory is kept
                self.memory.madvise(mmap.MADV_REMOVE, _KEPT, self.size - _KEPT)

    def close(self) -> None:
        """Let go of it; while another thread copies from it, that thread's `close` will."""
        self.passed_on()
        with suppress(BufferError):
            self.memory.close()


def open_area(handle: str, size: int) -> mmap.mmap:
    """Return the memory that another process shares with this one."""
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
