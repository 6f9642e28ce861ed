"""The network under httpx: it dials only addresses that were checked, and it holds a row's deadline on every read.

httpx itself bounds each read, not their sum, and resolves a name after any check made on it. Here the address that was
checked is the one dialled, for every connection and so after every redirect, while Host and SNI keep the name. Through a
proxy, which is used only if it is configured, names are the proxy's to resolve and only literal addresses are checked.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from threading import Lock, Thread, local
from typing import Any
from weakref import WeakSet

import httpcore
import httpx

from ..config import Limits
from ..errors import ErrorCode, RowError
from .addresses import IPAddress, why_denied
from .dial import dial
from .stream import GuardedStream, head_of_an_answer, time_left

Resolver = Callable[[str, int], list[str]]

_KEPT = 2  # idle connections, and so open files, a thread keeps, for rows that go back and forth between hosts


class GuardedTransport(httpx.BaseTransport):
    """An httpx transport over kept-alive, guarded connections.

    Every thread has a small pool of its own. httpcore's pool looks at all its connections for each request, some of them
    with a call to the system, so that one pool for 32 threads spends more time on its list than on the network.

    Args:
        limits: `connect_s` and `allow_private_addresses` are used.
        proxy: `http://host:port` that all requests go through; None goes to the hosts themselves.
        resolve: `(host, port) -> addresses`; None asks the system.
        ssl_context: What certificates are held against; None is certifi's roots, whatever the environment says.
    """

    def __init__(
        self,
        limits: Limits,
        *,
        proxy: str | None = None,
        resolve: Resolver | None = None,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._limits = limits
        self._proxy = proxy
        self._backend = _GuardedBackend(limits, resolve or _system_resolver, to_proxy=proxy is not None)
        self._ssl_context = ssl_context or httpx.create_ssl_context(trust_env=False)
        self._own = local()
        self._pools: list[httpcore.ConnectionPool] = []

    def _pool(self) -> httpcore.ConnectionPool:
        """Return the calling thread's pool."""
        pool: httpcore.ConnectionPool | None = getattr(self._own, "pool", None)
        if pool is None:
            pool = self._own.pool = httpcore.ConnectionPool(
                ssl_context=self._ssl_context,
                proxy=httpcore.Proxy(self._proxy) if self._proxy else None,
                max_connections=None,
                max_keepalive_connections=_KEPT,
                network_backend=self._backend,
            )
            self._pools.append(pool)
        return pool

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        url = request.url
        if self._proxy and not self._limits.allow_private_addresses:
            check_literal(url.host)
        sent = httpcore.Request(
            request.method,
            httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
            headers=request.headers.raw,
            content=request.stream,
            extensions=request.extensions,
        )
        with _httpx_errors():
            try:
                with head_of_an_answer() as head:
                    response = self._pool().handle_request(sent)
            except (httpcore.NetworkError, httpcore.RemoteProtocolError):
                if not head.reused:
                    raise
                # A kept connection may have ended, or hold what an earlier answer left behind.
                with head_of_an_answer():
                    response = self._pool().handle_request(sent)
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
        httpcore.ProxyError,
        httpcore.UnsupportedProtocol,
    ) as exc:
        raise getattr(httpx, type(exc).__name__)(str(exc)) from exc.__cause__ or exc


class _GuardedBackend(httpcore.NetworkBackend):
    def __init__(self, limits: Limits, resolve: Resolver, *, to_proxy: bool) -> None:
        self._limits = limits
        self._resolve = resolve
        self._checked = not (to_proxy or limits.allow_private_addresses)
        self._open: WeakSet[GuardedStream] = WeakSet()
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
        addresses = self._addresses(host, port)
        try:
            connected = dial(addresses, port, time_left(self._limits.connect_s), self._check_open)
        except TimeoutError as exc:
            raise httpcore.ConnectTimeout(f"{host}: {exc}") from exc
        except OSError as exc:
            raise httpcore.ConnectError(f"{host}: {exc}") from exc
        stream = GuardedStream(connected)
        with self._lock:
            self._open.add(stream)
            if self._aborted:
                stream.abort()
        return stream

    def _addresses(self, host: str, port: int) -> list[IPAddress]:
        """Return all addresses of a host, checked."""
        if self._checked:
            check_literal(host)
        if literal := _literal(host):
            return [literal]
        addresses = []
        for text in self._in_time(lambda: self._resolve(host, port), host):
            try:
                ip = ipaddress.ip_address(text)
            except ValueError as exc:
                raise RowError(ErrorCode.DNS_ERROR, f"{host} is said to be {text!r}, which is no address") from exc
            if self._checked and (reason := why_denied(ip)):
                raise RowError(ErrorCode.BLOCKED_ADDRESS, f"{host} is {ip}, {reason}")
            addresses.append(ip)
        if not addresses:
            raise RowError(ErrorCode.DNS_ERROR, f"{host} has no address")
        return addresses

    def _in_time(self, resolve: Callable[[], list[str]], host: str) -> list[str]:
        """Resolve a name within the row's time; on a daemon thread, because a resolver cannot be stopped."""
        answer: SimpleQueue[list[str] | RowError] = SimpleQueue()

        def ask() -> None:
            try:
                answer.put(resolve())
            except RowError as error:  # passed on to the row that asked
                answer.put(error)
            except Exception as exc:
                reason = getattr(exc, "strerror", None) or str(exc) or type(exc).__name__
                answer.put(RowError(ErrorCode.DNS_ERROR, f"{host}: {reason}"))

        Thread(target=ask, name="score-dns", daemon=True).start()
        end = time.monotonic() + time_left(None)
        while True:
            self._check_open()
            left = end - time.monotonic()
            if left <= 0:
                raise RowError(ErrorCode.DNS_ERROR, f"{host} was not resolved in time")
            with contextlib.suppress(Empty):
                found = answer.get(timeout=min(left, 0.1))  # not longer, to see that the run is closing
                if isinstance(found, RowError):
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


def check_literal(host: str) -> None:
    """Raise if a URL's host is itself an address that may not be dialled, or the name that always means this machine."""
    if host.removesuffix(".").rpartition(".")[2].lower() == "localhost":  # RFC 6761
        raise RowError(ErrorCode.BLOCKED_ADDRESS, f"{host} is this machine")
    if (ip := _literal(host)) and (reason := why_denied(ip)):
        raise RowError(ErrorCode.BLOCKED_ADDRESS, f"{ip} is {reason}")


def _literal(host: str) -> IPAddress | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _system_resolver(host: str, port: int) -> list[str]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))
