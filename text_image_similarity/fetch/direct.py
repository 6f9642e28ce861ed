"""Send GET requests directly to their hosts in HTTP/1.1, over persistent connections that each thread keeps.

Almost every response is plain: a printable head in one piece, with one Content-Length and nothing else that says where
the content ends. One regular expression, which is stricter than h11, parses such a head. All other responses, even
those that are not HTTP, are left to h11 from their first byte, and so are the reasons for rejecting them.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from threading import local
from typing import Any, NamedTuple

import h11
import httpcore
import httpx

from .backend import GuardedBackend
from .stream import FAILURES, HEAD_BYTES, GuardedStream, as_httpx, head_of_an_answer
from .targets import Origin, Target

KEPT = 2  # idle connections (and therefore open files) per thread, for rows that alternate between hosts

_AT_ONCE = 64 * 1024  # bytes to read at a time
_MOST_INCOMPLETE = 100 * 1024  # bytes of a chunk's head or of trailers, as in httpcore
# Possessive, so that no head takes more than linear time.
_PLAIN = re.compile(
    rb"HTTP/1\.1 ([2-5]\d\d)(?: ([\t\x20-\x7e]*+))?\r\n((?:[!#$%&'*+.^_`|~0-9A-Za-z-]++:[\t\x20-\x7e]*+\r\n)*+)\r\n"
)
_FIELD = re.compile(rb"([^:\r\n]++):([^\r]*+)\r\n")
_FRAMING = re.compile(rb"^(content-length|content-encoding|transfer-encoding|connection):([^\r]*+)\r\n", re.I | re.M)
_NO_CONTENT = frozenset({204, 304})
_MOST_DIGITS = 19

Headers = list[tuple[bytes, bytes]]
Body = Generator[bytes, None, bool]  # returns whether the connection can be used again


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds for the TLS handshake, and for each read or write."""

    handshake: float
    each: float


def header_lines(headers: httpx.Headers) -> bytes:
    """Return headers as `Direct.get` sends them, checked by h11."""
    sent = h11.Connection(h11.CLIENT).send(h11.Request(method="GET", target="/", headers=headers.raw))
    assert sent is not None
    return sent.partition(b"\r\n")[2]


class Direct:
    """Sends GET requests to hosts, without a proxy.

    Args:
        backend: Backend that opens connections.
        ssl_context: Function that returns the SSL context.
    """

    def __init__(self, backend: GuardedBackend, ssl_context: Callable[[], ssl.SSLContext]) -> None:
        self._backend = backend
        self._ssl_context = ssl_context
        self._own = local()
        self._all: list[dict[Origin, GuardedStream]] = []  # the idle connections of each thread
        self._closed = False

    def get(self, target: Target, headers: bytes, times: Times) -> DirectAnswer:
        """Send a request and return the response, of which only the head has been read.

        Args:
            target: What to request.
            headers: All headers, as they are sent, including the empty line at the end.
            times: Limits on waits.

        Raises:
            RowError: The connection is not allowed, or was closed with the run.
            httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError: There is no valid response.
        """
        request = b"GET %s HTTP/1.1\r\n%s" % (target.path, headers)
        kept = self._kept().pop(target.origin, None)
        if kept is not None and not kept.get_extra_info("is_readable"):
            try:
                return self._ask(kept, target.origin, request, times)
            except (httpcore.NetworkError, httpcore.RemoteProtocolError):
                pass  # the connection may have ended, or contain leftovers of an earlier response
        elif kept is not None:
            kept.close()
        return self._ask(self._connect(target.origin, times), target.origin, request, times)

    def close(self) -> None:
        """Close idle connections; those in use are closed with their responses."""
        self._closed = True
        for idle in self._all:
            for stream in list(idle.values()):
                stream.close()

    def _kept(self) -> dict[Origin, GuardedStream]:
        kept: dict[Origin, GuardedStream] | None = getattr(self._own, "kept", None)
        if kept is None:
            kept = self._own.kept = {}
            self._all.append(kept)
        return kept

    def _connect(self, origin: Origin, times: Times) -> GuardedStream:
        stream = self._backend.connect_tcp(origin.ascii_host, origin.port or (443 if origin.scheme == "https" else 80))
        if origin.scheme == "https":
            stream.start_tls(self._ssl_context(), origin.ascii_host, times.handshake)
        return stream

    def _ask(self, stream: GuardedStream, origin: Origin, request: bytes, times: Times) -> DirectAnswer:
        try:
            # A server may respond and close the connection before it has read the whole request.
            with suppress(httpcore.WriteError):
                stream.write(request, times.each)
            received = stream.read(HEAD_BYTES, times.each)
            head, body = _plain(stream, received, times.each) or _by_h11(stream, received, times.each)
        except BaseException:
            stream.close()
            raise
        return DirectAnswer(head, body, partial(self._put_back, origin, stream), stream.close)

    def _put_back(self, origin: Origin, stream: GuardedStream) -> None:
        kept = self._kept()
        kept[origin] = stream
        if len(kept) > KEPT:
            kept.pop(next(iter(kept))).close()
        if self._closed:
            stream.close()


class _Head(NamedTuple):
    status: int
    reason: bytes
    headers: Callable[[], Headers]
    length: int | None = None  # of a body that is delimited only by its length
    whole: bytes | None = None  # that body, if it arrived with the head
    keeps: bool = False  # whether the connection can be reused afterwards


class DirectAnswer(httpx.SyncByteStream):
    """A response whose body has not been read yet.

    Attributes:
        length: Bytes of the body if it is plain and the response is a success, otherwise None.
        whole: The body, if it arrived with the head.
    """

    def __init__(self, head: _Head, body: Body, put_back: Callable[[], None], hang_up: Callable[[], None]) -> None:
        self.length = head.length if 200 <= head.status < 300 else None
        self.whole = head.whole
        self._head = head
        self._body = body
        self._is_over = head.keeps
        self._put_back = put_back
        self._hang_up = hang_up

    def __iter__(self) -> Iterator[bytes]:
        try:
            self._is_over = yield from self._body
        except FAILURES as exc:
            raise as_httpx(exc) from exc.__cause__ or exc

    def close(self) -> None:
        """Keep the connection for the next request if it can be reused; otherwise close it."""
        if self._is_over:
            self._put_back()
        else:
            self._hang_up()

    def as_response(self) -> httpx.Response:
        """Return the response as an `httpx.Response`."""
        head = self._head
        return httpx.Response(
            head.status, headers=head.headers(), stream=self, extensions={"reason_phrase": head.reason}
        )


def _plain(stream: GuardedStream, received: bytes, timeout: float) -> tuple[_Head, Body] | None:
    """Return a response if it is plain, otherwise None."""
    found = _PLAIN.match(received)
    if found is None:
        return None
    status = int(found[1])
    named: dict[bytes, bytes] = {}
    for name, value in _FRAMING.findall(received, *found.span(3)):
        name, value = name.lower(), value.strip(b" \t")
        named[name] = named[name] + b"," + value if name in named else value
    length, connection = named.get(b"content-length", b""), named.get(b"connection", b"keep-alive").lower()
    if (
        status in _NO_CONTENT
        or b"transfer-encoding" in named
        or not (length.isdigit() and len(length) <= _MOST_DIGITS)
        or connection not in (b"keep-alive", b"close")
    ):
        return None
    most = int(length)
    start = received[found.end() : found.end() + most]
    keeps = connection == b"keep-alive" and len(received) == found.end() + len(start)  # nothing follows the body
    is_whole = len(start) == most
    head = _Head(
        status,
        found[2] or b"",
        partial(_fields, found[3]),
        None if b"content-encoding" in named else most,
        start if is_whole else None,
        keeps and is_whole,
    )
    return head, _plain_body(stream, start, most, timeout, keeps)


def _fields(lines: bytes) -> Headers:
    return [(name, value.strip(b" \t")) for name, value in _FIELD.findall(lines)]


def _plain_body(stream: GuardedStream, start: bytes, length: int, timeout: float, keeps: bool) -> Body:
    if start:
        yield start
    left = length - len(start)
    while left:
        data = stream.read(min(left, _AT_ONCE), timeout)
        if not data:
            raise httpcore.RemoteProtocolError(
                "peer closed connection without sending complete message body "
                f"(received {length - left} bytes, expected {length})"  # in h11's words
            )
        left -= len(data)
        yield data
    return keeps


def _by_h11(stream: GuardedStream, received: bytes, timeout: float) -> tuple[_Head, Body]:
    """Return a response that h11 has parsed.

    Raises:
        httpcore.RemoteProtocolError: The response is not HTTP.
    """
    parser = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MOST_INCOMPLETE)
    parser.send(h11.Request(method="GET", target="/", headers=[("Host", "")]))  # as if the parser had sent the request
    parser.send(h11.EndOfMessage())
    _feed(parser, received)
    with head_of_an_answer(len(received)):
        event = _next_event(parser, stream, timeout)
        while isinstance(event, h11.InformationalResponse) and event.status_code != 101:
            event = _next_event(parser, stream, timeout)
    return _Head(event.status_code, event.reason, event.headers.raw_items), _h11_body(parser, stream, timeout)


def _h11_body(parser: h11.Connection, stream: GuardedStream, timeout: float) -> Body:
    while isinstance(event := _next_event(parser, stream, timeout), h11.Data):
        yield bytes(event.data)
    is_over = parser.our_state is h11.DONE and parser.their_state is h11.DONE
    return is_over and parser.trailing_data == (b"", False)


def _next_event(parser: h11.Connection, stream: GuardedStream, timeout: float) -> Any:
    try:
        while (event := parser.next_event()) is h11.NEED_DATA:
            _feed(parser, stream.read(_AT_ONCE, timeout))
    except h11.RemoteProtocolError as exc:
        raise httpcore.RemoteProtocolError(str(exc)) from exc
    return event


def _feed(parser: h11.Connection, received: bytes) -> None:
    if not received and parser.their_state is h11.SEND_RESPONSE:
        raise httpcore.RemoteProtocolError("Server disconnected without sending a response.")
    parser.receive_data(received)
