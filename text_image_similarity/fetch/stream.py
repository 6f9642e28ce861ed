"""A connection for httpcore that obeys the row's deadline in every wait and limits the heads of responses."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar

import httpcore
import httpx

from ..errors import ErrorCode, RowError
from .nested_tls import NestedTlsStream
from .trust import explain_untrusted

A = TypeVar("A")
T = TypeVar("T")

HEAD_BYTES = 64 * 1024  # bytes of a response before its content: status line, headers, and interim responses

# The exceptions that a connection raises.
FAILURES = (
    httpcore.TimeoutException,
    httpcore.NetworkError,
    httpcore.ProtocolError,
    httpcore.ProxyError,
    httpcore.UnsupportedProtocol,
)
_LONGEST_S = 24 * 3600.0  # longest single wait to request from the system

_deadline: ContextVar[float] = ContextVar("deadline", default=float("inf"))
_head: ContextVar[Head | None] = ContextVar("head", default=None)


@dataclass(slots=True)
class Head:
    """The state of reading a response head: how many bytes may follow, and whether its connection was used before."""

    left: int = HEAD_BYTES
    reused: bool = False


class row_deadline:  # noqa: N801 - used as a function, which as a generator would take three times as long
    """Limit every network call of this thread during a block to `deadline` (`time.monotonic()` seconds)."""

    __slots__ = ("_deadline", "_token")

    def __init__(self, deadline: float) -> None:
        self._deadline = deadline

    def __enter__(self) -> None:
        self._token = _deadline.set(self._deadline)

    def __exit__(self, *_: object) -> None:
        _deadline.reset(self._token)


@contextmanager
def head_of_an_answer(read: int = 0) -> Iterator[Head]:
    """Limit what this thread reads during a block to the size of a response head, part of which may have been read."""
    head = Head(HEAD_BYTES - read)
    token = _head.set(head)
    try:
        yield head
    finally:
        _head.reset(token)


def time_left(timeout: float | None, now: float | None = None) -> float:
    """Return the seconds that a call may take: the given number, but no more than the row has left."""
    left = _deadline.get() - (time.monotonic() if now is None else now)
    if left <= 0:
        raise httpcore.ReadTimeout("the row's time is used up")
    return left if timeout is None else min(left, timeout)


def as_httpx(problem: Exception) -> Exception:
    """Return an httpcore exception as the httpx exception of the same name."""
    found: Exception = getattr(httpx, type(problem).__name__)(str(problem))
    return found


class GuardedStream(httpcore.NetworkStream):
    """A connected socket, plain or with TLS, that waits only in `_in_time`.

    A timeout on the socket itself would take three system calls for each read, and threads would switch around each of
    them.
    """

    def __init__(self, connected: socket.socket) -> None:
        connected.setblocking(False)
        self._socket = connected
        if sys.platform != "win32":
            self._poll = select.poll()  # select does not support descriptors above 1,023
        self._aborted = False
        self._has_served = False
        self._has_asked = False  # whether a request was sent; before that, there is nothing to read

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        if head := _head.get():
            if head.left <= 0:
                raise httpcore.RemoteProtocolError(f"the response's head is larger than {HEAD_BYTES:,} bytes")
            max_bytes = min(max_bytes, head.left)
        waiting = self._has_asked and not isinstance(self._socket, ssl.SSLSocket)
        try:
            data = self._in_time(self._socket.recv, max_bytes, timeout, waiting=waiting)
        except (OSError, ValueError) as exc:
            raise self._failure(exc, httpcore.ReadTimeout, httpcore.ReadError) from exc
        self._has_asked = False
        if not data:
            self._check_open()
        if head:
            head.left -= len(data)
        self._has_served = True
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        if head := _head.get():
            head.reused = self._has_served
        try:
            while buffer:
                buffer = buffer[self._in_time(self._socket.send, buffer, timeout, to_write=True) :]
        except (OSError, ValueError) as exc:
            raise self._failure(exc, httpcore.WriteTimeout, httpcore.WriteError) from exc
        self._has_asked = True

    def close(self) -> None:
        self._socket.close()

    def abort(self) -> None:
        """Make blocked calls return; a connection that is already closed is left alone."""
        self._aborted = True
        with contextlib.suppress(OSError):
            # Not SSLSocket.shutdown, which removes the TLS layer while another thread is reading.
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        name = server_hostname and server_hostname.removesuffix(".")
        try:
            if isinstance(self._socket, ssl.SSLSocket):  # a connection to a proxy, with TLS to the server inside
                nested = NestedTlsStream(self, ssl_context, name)
                nested.shake_hands(timeout)
                return nested
            # In two steps, so that `abort` can break the socket of a handshake that hangs.
            self._socket = ssl_context.wrap_socket(self._socket, server_hostname=name, do_handshake_on_connect=False)
            self._check_open()
            self._in_time(self._socket.do_handshake, False, timeout)
        except (OSError, ValueError) as exc:
            self.close()
            failure = self._failure(exc, httpcore.ConnectTimeout, httpcore.ConnectError)
            if isinstance(failure, httpcore.ConnectTimeout):
                raise failure from exc
            # Converted here: httpcore's pool would drop the cause, which tells a TLS error from a connection error.
            code = ErrorCode.TLS_ERROR if isinstance(exc, ssl.SSLError) else ErrorCode.CONNECT_ERROR
            raise RowError(code, f"TLS: {exc}{explain_untrusted(exc)}") from exc
        except BaseException:
            self.close()
            raise
        return self

    def get_extra_info(self, info: str) -> Any:
        match info:
            case "ssl_object":
                return self._socket if isinstance(self._socket, ssl.SSLSocket) else None
            case "is_readable":
                return self._is_readable()
        return None

    def _is_readable(self) -> bool:
        """Tell whether an idle connection has anything to read, which can only be its end or unexpected data."""
        if isinstance(self._socket, ssl.SSLSocket) and self._socket.pending():
            return True
        try:
            return self._is_ready(0.0, to_write=False)
        except ValueError:  # the connection is closed
            return True

    def _in_time(
        self,
        call: Callable[[A], T],
        argument: A,
        timeout: float | None,
        *,
        to_write: bool = False,
        waiting: bool = False,
    ) -> T:
        """Return the result of a call on the socket, after waiting until the socket is ready for it.

        Args:
            call: The call, which raises an error if the socket is not ready.
            argument: Argument of the call.
            timeout: Seconds; None means the time that the row has left.
            to_write: Whether the call sends something.
            waiting: Whether the socket is known not to be ready yet.
        """
        now = time.monotonic()
        end = now + time_left(timeout, now)
        while True:
            if not waiting:
                try:
                    return call(argument)
                except ssl.SSLWantReadError:
                    to_write = False
                except ssl.SSLWantWriteError:
                    to_write = True
                except BlockingIOError:
                    pass
                now = time.monotonic()
            if now >= end or not self._is_ready(end - now, to_write):
                raise TimeoutError("timed out")
            waiting = False

    def _is_ready(self, seconds: float, to_write: bool) -> bool:
        """Wait until the socket can be read or written, and return whether it can."""
        seconds = min(max(seconds, 0.0), _LONGEST_S)
        if sys.platform == "win32":
            return any(select.select(*([], [self._socket]) if to_write else ([self._socket], []), [], seconds))
        # Replaces the previous registration.
        self._poll.register(self._socket, select.POLLOUT if to_write else select.POLLIN)
        return bool(self._poll.poll(seconds * 1000))

    def _check_open(self) -> None:
        if self._aborted:
            raise RowError(ErrorCode.CONNECT_ERROR, "the run was closed")

    def _failure(self, problem: OSError | ValueError, late: type[Exception], failed: type[Exception]) -> Exception:
        """Return the httpcore exception for a system error; a ValueError comes from TLS closed during a read.

        Raises:
            RowError: The connection was aborted by closing the run.
        """
        if isinstance(problem, TimeoutError):
            return late(str(problem))
        self._check_open()
        return failed(str(problem))
