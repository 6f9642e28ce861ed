"""HTTP connections with the limits that uvicorn leaves to a proxy in front of it.

A head has an end and comes soon; a body that was refused is not read for ever; an answer that nobody reads is not kept.
The limits on bodies that are wanted are the gate's.
"""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD = 64 * 1024  # bytes; of a request's head, and of what a body says besides its content
MAX_PIPELINE = 64  # requests that a client has sent before it was answered
HEAD_S = 20.0  # from the connection's begin, or the head's, to the head's end
LINGER_S = 10.0  # how long a refused body is still read, so that its sender can come to read the answer
STALLED_S = 60.0  # how long an answer waits for its reader

_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\n"
    b"content-type: text/plain; charset=utf-8\r\ncontent-length: 38\r\n\r\nThe request's head has no end in time.\n"
)


class Connection(HttpToolsProtocol):
    """See the module."""

    _quiet = 0  # bytes since the parser has last told of something
    _in_body = False
    _closing: asyncio.TimerHandle | None = None
    _stalled: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._close_in(HEAD_S)

    def connection_lost(self, exc: Exception | None) -> None:
        self._keep()
        self.resume_writing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._quiet += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        idle = self.cycle is None or self.cycle.response_complete
        if self._quiet > MAX_HEAD:
            if idle:
                self.transport.write(_TOO_LARGE)
            self.transport.close()
        elif idle and not self._in_body and self._closing is None:
            self._close_in(HEAD_S)

    def on_headers_complete(self) -> None:
        if len(self.pipeline) >= MAX_PIPELINE:
            raise ValueError("the client sends more requests than it waits for")
        self._quiet, self._in_body = 0, True
        self._keep()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._quiet = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._quiet, self._in_body = 0, False
        self._keep()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._in_body and self.cycle.response_complete:
            self._close_in(LINGER_S)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stalled = self.loop.call_later(STALLED_S, self.transport.abort)

    def resume_writing(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None
        super().resume_writing()

    def timeout_keep_alive_handler(self) -> None:
        self.transport.abort()  # what is not read by now never will be

    def _unsupported_upgrade_warning(self) -> None:
        """Say nothing: whoever likes could fill the log with it."""

    def _close_in(self, seconds: float) -> None:
        self._keep()
        self._closing = self.loop.call_later(seconds, self.transport.abort)

    def _keep(self) -> None:
        if self._closing is not None:
            self._closing.cancel()
            self._closing = None
