"""Find where the heads and the chunked bodies of requests end, before anything is parsed, and refuse ambiguous heads.

The parser does not report where in its data a request ends. If its data always stops at such an end, no request begins
within the data of another.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_HEAD_END = b"\r\n\r\n"
_AUTHORITY = re.compile(rb"[A-Za-z]+://(?:[^/?#]*@)?([^/?#]*)")
_UPGRADE = re.compile(rb"\r\nUpgrade(?=:)", re.IGNORECASE)
# Most clients write chunks of at least 1 KiB, as they read or buffer data; some write a chunk for each token of JSON.
TINY_CHUNKS = 256  # tiny chunks of a body that are accepted in any case
CHUNK_BYTES = 256  # bytes of content for which one more chunk is accepted
CHUNK_LINE = 64  # longest line before a chunk, in bytes, with extensions and CRLF
TOO_MANY_CHUNKS = f"more than {TINY_CHUNKS} chunks had fewer than {CHUNK_BYTES} bytes on average"
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;|$)")


def without_upgrade(head: bytes | bytearray) -> bytes | bytearray:
    """Return a head with its `Upgrade` header renamed, because the parser would treat the body as another protocol."""
    return _UPGRADE.sub(b"\r\nX-Upgrade", head)


def refusal(status: str, said: str = "", headers: str = "") -> bytes:
    """Return the response that refuses a request, or a connection, and ends it.

    Args:
        status: Status and its name.
        said: Text for the client.
        headers: More headers, each with CRLF after it.
    """
    end = f"content-length: {len(said)}\r\nconnection: close\r\n\r\n{said}"
    kind = "content-type: text/plain; charset=utf-8\r\n" if said else ""
    return f"HTTP/1.1 {status}\r\n{headers}{kind}{end}".encode()


def find_mistake(version: str, headers: Sequence[tuple[bytes, bytes]]) -> bytes | None:
    """Return the response to a request with a wrong Host or Transfer-Encoding (RFC 9112, 3.2 and 6), or None.

    Args:
        version: Version of HTTP, such as `1.1`.
        headers: Headers with names in lower case.
    """
    hosts = sum(name == b"host" for name, _ in headers)
    if hosts > 1 or (not hosts and version >= "1.1"):
        return refusal("400 Bad Request", f"the request has {hosts} Host headers; send exactly one")
    told = [value for name, value in headers if name == b"transfer-encoding"]
    codings = [coding.strip().lower() for coding in b",".join(told).split(b",")] if told else []
    if codings in ([], [b"chunked"]):
        if not codings or (version >= "1.1" and all(name != b"content-length" for name, _ in headers)):
            return None
        said = "Transfer-Encoding needs HTTP/1.1, and excludes Content-Length; send only Content-Length"
        return refusal("400 Bad Request", said)
    understood = codings[-1] == b"chunked" and codings.count(b"chunked") == 1
    said = "the only Transfer-Encoding that the service reads is one `chunked`; send that, or a Content-Length"
    return refusal("501 Not Implemented" if understood else "400 Bad Request", said)


def set_host(headers: list[tuple[bytes, bytes]], url: bytes) -> None:
    """Replace the Host header with the host of an absolute URL (RFC 9112, 3.2.2)."""
    if (found := _AUTHORITY.match(url)) is not None:
        headers[:] = [*(header for header in headers if header[0] != b"host"), (b"host", found[1])]


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
