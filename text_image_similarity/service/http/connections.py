"""Limits on connections: request heads, idle time, and unread responses; `peers` limits their number and rate.

Uvicorn's protocol limits only the idle time after a response. With these limits, the service is safe without a proxy.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from ...fetch import are_too_small
from ..audit import AuditLog, Note
from ..clients import peer_name
from .framing import TOO_MANY_CHUNKS, ChunkedEnd, HeadEnd, find_mistake, refusal, set_host, without_upgrade
from .peers import peers_of
from .small_reads import READ_BYTES

HEAD_BYTES = 16 * 1024
# Headers and trailers of a request, and parameters of its URL. Apache and Kestrel have the same limit; browsers send
# about 20 headers, and CDNs add up to 50.
MOST_FIELDS = 100
HEAD_S = 10.0  # from a head's first byte to its end, and from an early response to the end of its request
REST_BYTES = 1 << 25  # of a body of known length to read after its response, so that another request can follow
DROPPED_BYTES = 1 << 18  # of a longer or chunked body to read after its response, which is the connection's last
DROPPED_S = 2.0  # from a connection's last response to its end, if the client is still sending
SEND_S = 30.0  # for a client to read what is buffered for it
_MOST_AHEAD = 1 << 16  # bytes that may wait to be parsed; with more, reading pauses

_TOO_MANY_BYTES = "head_bytes", f"a request head had more than {HEAD_BYTES:,} bytes"
_TOO_MANY_HEADERS = "headers", f"a request head had more than {MOST_FIELDS} headers"
_TOO_LONG = refusal("431 Request Header Fields Too Large")
_BUSY = refusal("503 Service Unavailable", headers="retry-after: 1\r\n")


class LimitedProtocol(HttpToolsProtocol):
    """A client's connection; see the module's docstring.

    A head is parsed when it has arrived completely and the request before it has been answered: a client cannot make
    the service parse many heads at once. Reading continues, so that the service notices when the client leaves.
    """

    audit: AuditLog | None = None
    _deadline: asyncio.TimerHandle | None = None  # deadline of a head, or of the rest of a refused request
    _sending: asyncio.TimerHandle | None = None
    _peer: str | None = None  # set once the connection is counted
    _head, _headers = 0, 0  # bytes, and number of headers, of the head and the trailers
    _left = 0  # bytes of a body of known length that have not arrived
    _is_last = False  # whether the response says that the connection ends after it
    _dropped: int | None = None  # bytes dropped after the last response; None before it
    _most_dropped = DROPPED_BYTES
    _full = False  # whether reading is paused: too much waits to be parsed, or other connections have their turn
    _may_begin = False  # whether the parser is at a head
    _pieces, _received = 0, 0  # pieces of the body from the parser, and their bytes
    _whole = True  # whether no request is arriving
    _too_long: tuple[str, str] | None = None  # why a head is too long: a reason and a detail for the audit log
    _mistake: bytes | None = None  # the response to a request that is refused for a reason that it states
    _is_answered = False  # whether what arrives is the rest of a body, of known length, after its response

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._ahead = bytearray()  # what has arrived and is not parsed yet
        self._peers = peers_of(self.server_state)
        self._head_end, self._chunked_end = HeadEnd(), ChunkedEnd()
        self._body = bytearray()  # part of a body that has arrived and has not been passed on

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept a connection, unless there are too many."""
        super().connection_made(transport)
        peer = peer_name(self.client[0] if self.client else "")
        if (refused := self._peers.refusal(peer)) is not None:
            self._note(*refused)
            transport.write(_BUSY)
            transport.close()
            return
        self._peer = peer
        self._peers.add(peer)
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        if self._peer is not None:
            self._peers.remove(self._peer)
            self._peer = None
        self._stop_waiting()
        self.resume_writing()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse received data; a head that is too long or too slow ends the connection."""
        self._unset_keepalive_if_required()
        is_rest = self._is_answered or self._dropped is not None
        delay_s = self._peers.rest_delay_s(self._peer or "", len(data)) if is_rest else 0.0
        if self._dropped is None:
            self._ahead += data
            self._parse()
        else:
            self._dropped += len(data)
        # After a full read, the event loop would read again at once.
        if (delay_s or len(data) >= READ_BYTES or self._dropped) and not self.transport.is_closing():
            self.transport.pause_reading()
            self._full = True
            self.loop.call_later(delay_s, self._pause_or_resume)

    def _parse(self) -> None:
        """Parse what has arrived: parts of bodies, and complete heads once the previous request has been answered."""
        while self._ahead and not self.transport.is_closing():
            if self._is_answered:
                self._skip()
                continue
            self._may_begin = self._whole
            if not (end := self._find_head() if self._whole else self._find_body()):
                break
            data, self._ahead = self._ahead, self._ahead[end:]
            del data[end:]
            super().data_received(without_upgrade(data) if self._may_begin else data)  # type: ignore[arg-type]
            if self._head_end.size and not self.transport.is_closing():  # the parser did not accept the data as a head
                self.send_400_response("Invalid HTTP request received.")
        self._hand_on()
        self._pause_or_resume()

    def _find_head(self) -> int:
        """Return the length of the next head, or 0 if it, or the previous response, is not complete."""
        if self.cycle is not None and not self.cycle.response_complete:
            return 0
        if self._deadline is None:
            self._unset_keepalive_if_required()
            said = f"a request head took more than {HEAD_S:g} s to arrive"
            self._deadline = self.loop.call_later(HEAD_S, self._abort, "head_time", said)
        end = self._head_end.find(self._ahead)
        self._head, self._headers = self._head_end.size, self._head_end.headers
        if self._is_too_long() or self._head_end.is_bad:
            self.send_400_response("Invalid HTTP request received.")
            return 0
        return end

    def _find_body(self) -> int:
        """Return how many waiting bytes belong to the body; refuse tiny chunks and trailers that are too long."""
        if self._left:
            return min(self._left, len(self._ahead))
        end = self._chunked_end.find(self._ahead)
        if self._chunked_end.is_bad:
            if self._chunked_end.has_too_many:
                said = f"{TOO_MANY_CHUNKS}; send larger chunks, or a Content-Length"
                self._mistake = refusal("400 Bad Request", said)
                self._note("pieces", TOO_MANY_CHUNKS)
            self.send_400_response("Invalid HTTP request received.")
        elif not end and len(self._ahead) > HEAD_BYTES:
            self._too_long = _TOO_MANY_BYTES
            self.send_400_response("")
        return end

    def _pause_or_resume(self) -> None:
        """Pause reading while too much is waiting to be parsed, or once enough was dropped, whatever else resumes it."""
        if self.transport.is_closing():
            return
        full = len(self._ahead) > _MOST_AHEAD if self._dropped is None else self._dropped >= self._most_dropped
        if full:
            self.transport.pause_reading()
        elif self._full and not self.flow.read_paused:
            self.transport.resume_reading()
        self._full = full

    def on_message_begin(self) -> None:
        """Begin a request; none may begin within the data of another."""
        if not self._may_begin:
            self._refuse()
        self._may_begin, self._pieces, self._received = False, 0, 0
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Store a header; a trailer is only counted."""
        if self._whole:
            super().on_header(name, value)
            return
        self._head += len(name) + len(value) + 4
        self._headers += 1
        if self._is_too_long():
            self._refuse()

    def on_headers_complete(self) -> None:
        """Start the request."""
        self._stop_waiting()
        self._mistake = find_mistake(self.parser.get_http_version(), self.headers)
        if self._mistake is not None or self.parser.should_upgrade():  # CONNECT, and the parser would not see a body
            self._refuse()
        set_host(self.headers, self.url)
        self._left = next((int(value) for name, value in self.headers if name == b"content-length"), 0)
        self._head_end, self._chunked_end = HeadEnd(), ChunkedEnd()
        super().on_headers_complete()
        self._whole = False
        self.cycle.send = partial(self._send, self.cycle.send)  # type: ignore[method-assign]

    async def _send(self, send: Callable[[Any], Awaitable[None]], message: Any) -> None:
        """Send a part of the response; its head closes the connection if the rest of the request is not read."""
        if message["type"] != "http.response.start" or self._whole:
            await send(message)
            return
        if not self._may_arrive():
            message = {**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]}
        await send(message)
        if not self.cycle.keep_alive:  # Uvicorn would close at once, and the client might lose the response
            self._is_last = self.cycle.keep_alive = True

    def _may_arrive(self) -> bool:
        """Tell whether the rest of a body is read after the response."""
        return 0 < self._left <= REST_BYTES

    def on_body(self, body: bytes) -> None:
        """Collect a piece of the body; those that arrive together are passed on together: tiny ones are slow."""
        self._pieces += 1
        self._received += len(body)
        self._left = max(0, self._left - len(body))
        if are_too_small(self._pieces, self._received):
            self._note("pieces", f"a body came in {self._pieces:,} tiny pieces ({self._received:,} bytes)")
            self._refuse()
        self._body += body

    def _skip(self) -> None:
        """Drop what has arrived of the rest of a body after its response, unparsed; another request may follow it."""
        size = min(self._left, len(self._ahead))
        del self._ahead[:size]
        self._left -= size
        if not self._left:
            self._is_answered = False
            self.on_message_complete()
            self.parser = httptools.HttpRequestParser(self)  # the old one is waiting for the rest

    def on_message_complete(self) -> None:
        """Record that the request has arrived completely, perhaps after its response."""
        self._left, self._whole = 0, True
        self._hand_on()
        if self.cycle.response_complete:
            self._stop_waiting()
            keep = self.timeout_keep_alive_handler
            self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, keep)
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Continue with the next request; the rest of a request that was refused early has a few seconds to arrive."""
        super().on_response_complete()
        if self.transport.is_closing():
            return
        if self._is_last:  # a half-close: the client can read the whole response while it is still sending
            self.transport.write_eof()
            if self._full:
                self._full = False
                self.transport.resume_reading()
            seconds, self._most_dropped = (HEAD_S, self._left) if self._may_arrive() else (DROPPED_S, DROPPED_BYTES)
            self._deadline = self.loop.call_later(seconds, self.transport.abort)
            self._ahead.clear()
            self._dropped = 0
        elif self._whole:
            self._parse()
        else:
            self._is_answered = True
            said = f"{HEAD_S:g} s after the response, a request was still being sent"
            self._deadline = self.loop.call_later(HEAD_S, self._abort, "rest_time", said)

    def pause_writing(self) -> None:
        """Wait, for a limited time, for the client to read its response."""
        super().pause_writing()
        if self._sending is None:
            said = f"the client did not read the pending part of its response within {SEND_S:g} s"
            self._sending = self.loop.call_later(SEND_S, self._abort, "send_time", said)

    def resume_writing(self) -> None:
        """Resume sending."""
        if self._sending is not None:
            self._sending.cancel()
            self._sending = None
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Refuse a request that cannot be parsed or is too long, unless the response to it has begun."""
        if self._too_long:
            self._note(*self._too_long)
        if self._whole and self.cycle is not None and not self.cycle.response_complete:
            self.cycle.keep_alive = False  # the earlier request is fine; the client may resend what followed it
        elif not self._whole and self.cycle.response_started:
            self.transport.close()
        elif (refused := _TOO_LONG if self._too_long else self._mistake) is not None:
            self.transport.write(refused)
            self.transport.close()
        else:
            super().send_400_response(msg)

    def _is_too_long(self) -> bool:
        if self._head > HEAD_BYTES:
            self._too_long = _TOO_MANY_BYTES
        elif self._headers > MOST_FIELDS:
            self._too_long = _TOO_MANY_HEADERS
        return self._too_long is not None

    def _hand_on(self) -> None:
        """Pass the received part of a body to the application."""
        if self._body:
            body, self._body = bytes(self._body), bytearray()
            super().on_body(body)

    def _refuse(self) -> None:
        raise ValueError("too much")  # the parser stops, and Uvicorn then calls `send_400_response`

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _abort(self, reason: str, detail: str) -> None:
        """End the connection, even if there is unsent data."""
        self._note(reason, detail)
        self.transport.abort()

    def _note(self, reason: str, detail: str) -> None:
        """Write an exceeded limit to the audit log."""
        if self.audit is not None:
            address = self.client[0] if self.client else ""
            self.audit.record(Note("limit_hit", reason, detail), peer_name(address), address=address)
