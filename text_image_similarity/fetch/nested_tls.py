"""TLS inside another stream, for an https server behind an https proxy: `SSLContext.wrap_socket` only takes sockets."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import httpcore

T = TypeVar("T")

_AT_ONCE = 64 * 1024  # bytes per read from the underlying stream


class NestedTlsStream(httpcore.NetworkStream):
    """A TLS connection through another stream; that stream limits each wait.

    Args:
        below: The underlying stream.
        context: SSL context that verifies the server.
        server_hostname: Name of the server.
    """

    def __init__(self, below: httpcore.NetworkStream, context: ssl.SSLContext, server_hostname: str | None) -> None:
        self._below = below
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=server_hostname)

    def shake_hands(self, timeout: float | None) -> None:
        """Perform the TLS handshake and verify the server.

        Raises:
            ssl.SSLError: The server could not be verified.
        """
        self._run(self._tls.do_handshake, timeout)

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        try:
            return self._run(partial(self._tls.read, max_bytes), timeout)
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            return b""
        except ssl.SSLError as exc:
            raise httpcore.ReadError(str(exc)) from exc

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        try:
            while buffer:
                buffer = buffer[self._run(partial(self._tls.write, buffer), timeout) :]
        except ssl.SSLError as exc:
            raise httpcore.WriteError(str(exc)) from exc

    def close(self) -> None:
        self._below.close()

    def get_extra_info(self, info: str) -> Any:
        if info == "ssl_object":
            return self._tls
        if info == "is_readable" and self._tls.pending():
            return True
        return self._below.get_extra_info(info)

    def _run(self, step: Callable[[], T], timeout: float | None) -> T:
        """Repeat a step until it needs no more bytes, sending its output."""
        while True:
            try:
                done = step()
            except ssl.SSLWantReadError:
                self._send(timeout)
                if received := self._below.read(_AT_ONCE, timeout):
                    self._incoming.write(received)
                else:
                    self._incoming.write_eof()
            else:
                self._send(timeout)
                return done

    def _send(self, timeout: float | None) -> None:
        if self._outgoing.pending:
            self._below.write(self._outgoing.read(), timeout)
