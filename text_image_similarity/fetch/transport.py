"""The network under httpx: it dials only addresses that were checked, and it holds a row's deadline on every read.

httpx itself bounds each read, not their sum, and resolves a name after any check made on it. Here the address that was
checked is the one dialled, for every connection and so after every redirect, while Host and SNI keep the name.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from queue import Empty, SimpleQueue
from threading import Lock, Thread, local
from typing import Any
from weakref import WeakSet

import httpcore
import httpx

from ..config import Limits
from ..errors import ErrorCode, RowError

Resolver = Callable[[str, int], list[str]]

_KEPT = 2  # idle connections, and so open files, a thread keeps, for rows that go back and forth between hosts

_deadline: ContextVar[float] = ContextVar("deadline", default=float("inf"))


@contextmanager
def row_deadline(deadline: float) -> Iterator[float]:
    """Make every network call of this thread end by `deadline` (`time.monotonic()` seconds)."""
    token = _deadline.set(deadline)
    try:
        yield deadline
    finally:
        _deadline.reset(token)


class GuardedTransport(httpx.BaseTransport):
    """An httpx transport over kept-alive, guarded connections.

    Every thread has a small pool of its own. httpcore's pool looks at all its connections for each request, some of them
    with a call to the system, so that one pool for 32 threads spends more time on its list than on the network.

    Args:
        limits: `connect_s` and `allow_private_addresses` are used.
        resolve: `(host, port) -> addresses`; None asks the system.
    """

    def __init__(self, limits: Limits, *, resolve: Resolver | None = None) -> None:
        self._backend = _GuardedBackend(limits, resolve or _system_resolver)
        self._ssl_context = httpx.create_ssl_context(trust_env=False)
        self._own = local()
        self._pools: list[httpcore.ConnectionPool] = []

    def _pool(self) -> httpcore.ConnectionPool:
        """Return the calling thread's pool."""
        pool: httpcore.ConnectionPool | None = getattr(self._own, "pool", None)
        if pool is None:
            pool = self._own.pool = httpcore.ConnectionPool(
                ssl_context=self._ssl_context,
                max_connections=None,
                max_keepalive_connections=_KEPT,
                network_backend=self._backend,
            )
            self._pools.append(pool)
        return pool

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        url = request.url
        with _httpx_errors():
            response = self._pool().handle_request(
                httpcore.Request(
                    request.method,
                    httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
                    headers=request.headers.raw,
                    content=request.stream,
                    extensions=request.extensions,
                )
            )
        return httpx.Response(
            response.status,
            headers=response.headers,
            stream=_Body(response),
            extensions=response.extensions,
        )

    def abort(self) -> None:
        """Break every connection, open or still to come, so that blocked reads return."""
        self._backend.abort()

    def close(self) -> None:
        for pool in self._pools:
            pool.close()


class _Body(httpx.SyncByteStream):
    def __init__(self, response: httpcore.Response) -> None:
        self._response = response

    def __iter__(self) -> Iterator[bytes]:
        with _httpx_errors():
            yield from self._response.iter_stream()

    def close(self) -> None:
        self._response.close()


@contextmanager
def _httpx_errors() -> Iterator[None]:
    """Raise httpcore's exceptions as httpx's, which carry the same names."""
    try:
        yield
    except (
        httpcore.TimeoutException,
        httpcore.NetworkError,
        httpcore.ProtocolError,
        httpcore.UnsupportedProtocol,
    ) as exc:
        raise getattr(httpx, type(exc).__name__)(str(exc)) from exc.__cause__ or exc


class _GuardedBackend(httpcore.NetworkBackend):
    def __init__(self, limits: Limits, resolve: Resolver) -> None:
        self._limits = limits
        self._resolve = resolve
        self._system = httpcore.SyncBackend()
        self._open: WeakSet[_GuardedStream] = WeakSet()
        self._lock = Lock()
        self._aborted = False

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        addresses = self._in_time(lambda: self._resolve(host, port), host)
        if not self._limits.allow_private_addresses:
            for address in addresses:
                if not is_public(address):
                    raise RowError(ErrorCode.BLOCKED_ADDRESS, f"{host} is {address}, which is not a public address")
        failure: Exception = RowError(ErrorCode.DNS_ERROR, f"{host} has no address")
        for address in addresses:
            self._check_open()
            try:
                stream = self._system.connect_tcp(
                    address, port, _time_left(self._limits.connect_s), local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as exc:
                failure = exc
            else:
                guarded = _GuardedStream(stream)
                with self._lock:
                    self._open.add(guarded)
                    if self._aborted:
                        guarded.abort()
                return guarded
        raise failure

    def _in_time(self, resolve: Callable[[], list[str]], host: str) -> list[str]:
        """Resolve a name within the row's time; on a daemon thread, because a resolver cannot be stopped."""
        answer: SimpleQueue[list[str] | Exception] = SimpleQueue()

        def ask() -> None:
            try:
                answer.put(resolve())
            except Exception as exc:  # passed on to the row that asked
                answer.put(exc)

        Thread(target=ask, name="score-dns", daemon=True).start()
        while True:
            self._check_open()
            left = _deadline.get() - time.monotonic()
            if left <= 0:
                raise RowError(ErrorCode.DNS_ERROR, f"{host} was not resolved in time")
            with contextlib.suppress(Empty):
                found = answer.get(timeout=min(left, 0.1))  # not longer, to see that the run is closing
                if isinstance(found, Exception):
                    raise found
                return found

    def _check_open(self) -> None:
        if self._aborted:
            raise RowError(ErrorCode.CONNECT_ERROR, "the run was closed")

    def abort(self) -> None:
        with self._lock:
            self._aborted = True
            for stream in self._open:
                stream.abort()


class _GuardedStream(httpcore.NetworkStream):
    """A connection whose every wait ends with the row's deadline."""

    def __init__(self, inner: httpcore.NetworkStream) -> None:
        self._inner = inner

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._inner.read(max_bytes, _time_left(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, _time_left(timeout))

    def close(self) -> None:
        self._inner.close()

    def abort(self) -> None:
        """Make blocked reads return; a connection that is closed already needs no breaking."""
        with contextlib.suppress(OSError, AttributeError):
            self._inner.get_extra_info("socket").shutdown(socket.SHUT_RDWR)

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        try:
            self._inner = self._inner.start_tls(ssl_context, server_hostname, _time_left(timeout))
        except httpcore.ConnectError as exc:
            code = ErrorCode.TLS_ERROR if isinstance(exc.__cause__, ssl.SSLError) else ErrorCode.CONNECT_ERROR
            raise RowError(code, f"TLS: {exc}") from exc
        return self

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


def _time_left(timeout: float | None) -> float:
    left = _deadline.get() - time.monotonic()
    if left <= 0:
        raise httpcore.ReadTimeout("the row's time is used up")
    return left if timeout is None else min(left, timeout)


def _system_resolver(host: str, port: int) -> list[str]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as exc:
        raise RowError(ErrorCode.DNS_ERROR, f"{host}: {getattr(exc, 'strerror', None) or exc}") from exc
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def is_public(address: str) -> bool:
    """Say whether an IP address is globally reachable, looking into IPv6 forms that carry an IPv4 address."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        carried = ip.ipv4_mapped or ip.sixtofour or (ip.teredo and ip.teredo[1])
        if not carried and (ip in _NAT64 or (int(ip) >> 32 == 0 and int(ip) > 1)):
            carried = ipaddress.IPv4Address(int(ip) & 0xFFFF_FFFF)  # NAT64, or the old IPv4-compatible form
        if carried:
            ip = carried
    # Python calls some multicast ranges global, and the deprecated site-local range reserved.
    return ip.is_global and not ip.is_multicast and not ip.is_reserved and not getattr(ip, "is_site_local", False)
