"""Find where the heads and the chunked bodies of requests end, before anything is parsed.

The parser does not report where in its data a request ends. If its data always stops at such an end, no request begins
within the data of another.
"""

from __future__ import annotations

import re

_HEAD_END = b"\r\n\r\n"
_UPGRADE = re.compile(rb"\r\nUpgrade(?=:)", re.IGNORECASE)
# Most clients write chunks of at least 1 KiB, as they read or buffer data; some write a chunk for each token of JSON.
TINY_CHUNKS = 256  # tiny chunks of a body that are accepted in any case
CHUNK_BYTES = 256  # bytes of content for which one more chunk is accepted
CHUNK_LINE = 64  # longest line before a chunk, in bytes, with extensions and CRLF
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;|$)")


def without_upgrade(head: bytes | bytearray) -> bytes | bytearray:
    """Return a head with its `Upgrade` header renamed, because the parser would treat the body as another protocol."""
    return _UPGRADE.sub(b"\r\nX-Upgrade", head)


class HeadEnd:
    """Finds the end of a request's head, without searching any byte twice.

    Attributes:
        size: Number of bytes of the head so far, including empty lines before it.
        headers: Number of its headers that have arrived completely.
        is_bad: Whether this is not a head, because its first character is not a letter, or a line ends with LF alone.
    """

    def __init__(self) -> None:
        self.size = self.headers = 0
        self.is_bad = False
        self._empty = self._seen = self._lines = 0

    def find(self, data: bytearray) -> int:
        """Return the length of the head at the beginning of `data`, or 0 if its end has not arrived.

        Args:
            data: All that has arrived so far; new data is at its end. Empty lines before the head are removed from it.
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

    A tiny chunk takes as much time as a large one, so the search stops as soon as there are too many of them.

    Attributes:
        is_bad: Whether there are too many tiny chunks, or the line before a chunk is malformed or too long.
        has_too_many: Whether there are too many tiny chunks.
    """

    def __init__(self) -> None:
        self.is_bad = self.has_too_many = False
        self._chunk = 0  # bytes of a chunk, with the CRLF after it, that have not arrived
        self._in_trailers = False
        self._spare: float = TINY_CHUNKS  # how many more tiny chunks, or trailers, are accepted

    def find(self, data: bytearray) -> int:
        """Return how many bytes may be parsed: up to the end of the body, or to a line that has not arrived completely.

        Args:
            data: What has arrived, without the bytes that earlier calls have counted.
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
                self._spare -= 1  # `LimitedProtocol` counts trailers too, and accepts fewer
            else:
                break
        return 0 if self.is_bad else start

    def _begin_chunk(self, line: bytearray) -> None:
        """Read the line before a chunk."""
        if (found := _CHUNK_SIZE.match(line)) is None:
            self.is_bad = True
        elif size := int(found[1], 16):
            self._chunk = size + 2
            self._spare = min(self._spare + size / CHUNK_BYTES, TINY_CHUNKS) - 1
            self.is_bad = self.has_too_many = self._spare < 0
        else:
            self._in_trailers, self._spare = True, TINY_CHUNKS
