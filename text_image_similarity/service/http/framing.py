"""Where the heads and the chunked bodies of requests end, found before anything is parsed.

The parser cannot say where in its data a request ends. If it is fed exactly to the ends, no request begins within the
data of another.
"""

from __future__ import annotations

import re

_HEAD_END = b"\r\n\r\n"
_UPGRADE = re.compile(rb"\r\nUpgrade(?=:)", re.IGNORECASE)
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
    """Finds the end of a chunked body by the sizes of its chunks, whose content it does not look at."""

    def __init__(self) -> None:
        self._chunk = 0  # bytes of a chunk, with the CRLF behind it, that have not arrived
        self._in_trailers = False

    def find(self, data: bytearray) -> int:
        """Return how many bytes may be parsed: up to the end of the body, or of what has arrived of it in whole lines.

        Args:
            data: What has arrived and was not among the bytes that this method has returned before.
        """
        start = 0
        while start < len(data):
            if self._chunk:
                taken = min(self._chunk, len(data) - start)
                self._chunk -= taken
                start += taken
                continue
            end = data.find(b"\r\n", start)
            if end < 0:
                break
            line = data[start:end]
            start = end + 2
            if self._in_trailers:
                if not line:
                    break
            elif (size := _CHUNK_SIZE.match(line)) is None:
                return len(data)  # the parser refuses it
            else:
                self._chunk = int(size[1], 16)
                self._in_trailers = not self._chunk
                self._chunk += 2 * (self._chunk > 0)
        return start
