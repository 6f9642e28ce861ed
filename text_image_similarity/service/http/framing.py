"""Where the heads and the chunked bodies of requests end, found before anything is parsed.

The parser cannot say where in its data a request ends. If it is fed exactly to the ends, no request begins within the
data of another.
"""

from __future__ import annotations

import re

_HEAD_END = b"\r\n\r\n"
_UPGRADE = re.compile(rb"\r\nUpgrade(?=:)", re.IGNORECASE)
# Clients write chunks of what they read or buffer, of 1 KiB and more; some write a chunk for each token of JSON.
TINY_CHUNKS = 256  # chunks of a body for which no others must make up
CHUNK_BYTES = 256  # bytes of chunks that allow another one
CHUNK_LINE = 64  # bytes of the line before a chunk, with extensions and its CRLF
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;|$)")


def without_upgrade(head: bytes | bytearray) -> bytes | bytearray:
    """Rename the header `Upgrade` of a head: the parser would take the body for another protocol."""
    return _UPGRADE.sub(b"\r\nX-Upgrade", head)


class HeadEnd:
    """Finds the end of a head, and searches no byte twice.

    Attributes:
        size: Number of bytes of the head so far, including empty lines before it.
        headers: Number of its headers that have ended.
        is_bad: Whether it cannot be one: it begins without a letter, or a line ends with LF alone.
    """

    def __init__(self) -> None:
        self.size = self.headers = 0
        self.is_bad = False
        self._empty = self._seen = self._lines = 0

    def find(self, data: bytearray) -> int:
        """Return the length of the head that data begins with, or 0 if its end has not arrived.

        Args:
            data: What has arrived, each time with more at its end. Empty lines before the head are removed from it.
        """
        if not self._seen and data.startswith((b"\r", b"\n")):
            empty = len(data) - len(data.lstrip(b"\r\n"))
            del data[:empty]
            self._empty += empty
        end = data.find(_HEAD_END, max(0, self._seen - 3))
        stop = len(data) if end < 0 else end + len(_HEAD_END)
        ended = data.count(b"\n", self._seen, stop)
        if ended != data.count(b"\r\n", max(0, self._seen - 1), stop) or (data and not data[:1].isalpha()):
            self.is_bad = True
        self._lines += ended
        self.headers = self._lines - (1 if end < 0 else 2)
        self.size, self._seen = self._empty + stop, stop
        return 0 if end < 0 else stop


class ChunkedEnd:
    """Finds the end of a chunked body by the sizes of its chunks, whose content it does not look at.

    A tiny chunk takes as much time as a large one, and this class stops at the first that is too many.

    Attributes:
        is_bad: Whether there are too many tiny chunks, or the line before a chunk is malformed or too long.
        has_too_many: Whether there are too many tiny chunks.
    """

    def __init__(self) -> None:
        self.is_bad = self.has_too_many = False
        self._chunk = 0  # bytes of a chunk, with the CRLF behind it, that have not arrived
        self._in_trailers = False
        self._spare: float = TINY_CHUNKS  # how many more empty chunks, or trailers, there may be

    def find(self, data: bytearray) -> int:
        """Return how many bytes may be parsed: up to the end of the body, or of what has arrived of it in whole lines.

        Args:
            data: What has arrived and was not among the bytes that this method has returned before.
        """
        start = 0
        while start < len(data) and self._spare >= 0:
            if self._chunk:
                taken = min(self._chunk, len(data) - start)
                self._chunk -= taken
                start += taken
                continue
            stop = len(data) if self._in_trailers else start + CHUNK_LINE
            end = data.find(b"\r\n", start, stop)
            if end < 0:
                self.is_bad = not self._in_trailers and stop <= len(data)
                break
            line = data[start:end]
            start = end + 2
            if not self._in_trailers:
                self._begin_chunk(line)
                if self.is_bad:
                    break
            elif line:
                self._spare -= 1  # the parser counts them too, and refuses so many
            else:
                break
        return 0 if self.is_bad else start

    def _begin_chunk(self, line: bytearray) -> None:
        """Count a chunk by the line before it."""
        if (found := _CHUNK_SIZE.match(line)) is None:
            self.is_bad = True
        elif size := int(found[1], 16):
            self._chunk = size + 2
            self._spare = min(self._spare + size / CHUNK_BYTES, TINY_CHUNKS) - 1
            self.is_bad = self.has_too_many = self._spare < 0
        else:
            self._in_trailers, self._spare = True, TINY_CHUNKS
