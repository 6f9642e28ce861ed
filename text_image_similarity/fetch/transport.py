"""The network transport for httpx: it connects only to checked addresses, and enforces a row's deadline on reads.

httpx itself limits each read, not their sum, and resolves a name again after any check of it. Here, every connection,
even after a redirect, goes to the address that was checked, while Host and SNI keep the name.

A proxy is used only if it is configured, and is then trusted. The proxy's targets are checked first: literal addresses,
and names as far as they can be resolved here. A SOCKS proxy then gets the checked address (`socks5`); all others
resolve names themselves, because they may know names that are unknown here.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from os import PathLike
from threading import Lock, local

import httpcore
import httpx

from ..config import Limits
from ..errors import ConfigError, ErrorCode, RowError
from .backend import GuardedBackend, Resolver, system_resolver
from .direct import KEPT, Direct, DirectAnswer, Times
from .proxies import httpcore_proxy, is_socks, socks_errors
from .stream import FAILURES, as_httpx, head_of_an_answer
from .targets import Target
from .trust import LOCKS_HANDSHAKES, create_ssl_context


class GuardedTransport(httpx.BaseTransport):
    """An httpx transport over persistent, guarded connections.

    Every thread has its own small pool, because httpcore's pool examines all its connections for each request, some
    with a system call. One pool for 32 threads would spend more time on its list than on the network.

    Args:
        limits: Limits; `connect_s` and those on addresses and ports are used.
        proxy: Proxy for all requests, as in `Config.proxy`; None connects to the hosts directly.
        ca_file: Certificates to trust in addition to the system's.
        resolve: Function `(host, port) -> addresses`; None uses the system's resolver.
        trusted: Whether the targets come from the caller, not from references, so that any address and port is allowed.

    Raises:
        ConfigError: `ca_file` contains no certificates.
    """

    def __init__(
        self,
        limits: Limits,
        *,
        proxy: str | None = None,
        ca_file: str | PathLike[str] | None = None,
        resolve: Resolver | None = None,
        trusted: bool = False,
    ) -> None:
        self._trusts_targets = trusted
        self._proxy = proxy
        self._ca_file = ca_file
        self._backend = GuardedBackend(limits, resolve or system_resolver, to_proxy=proxy is not None, trusted=trusted)
        # Created at the first request unless the caller named a file, because many runs have only local files.
        self._ssl_context = None if ca_file is None else create_ssl_context(ca_file)
        self._untrusted: ConfigError | None = None  # set if a file named by the environment cannot be used
        self._lock = Lock()
        self._own = local()
        self._direct = Direct(self._backend, self._own_ssl_context)
        self._pools: list[httpcore.ConnectionPool] = []

    @property
    def is_direct(self) -> bool:
        """Whether requests go to their hosts, not to a proxy, so that `get` can be used."""
        return self._proxy is None

    def get(self, target: Target, headers: bytes, times: Times) -> DirectAnswer:
        """Send a GET request to its host and return the response; see `Direct.get`."""
        if target.origin.scheme == "https":
            self._own_ssl_context()
            self._check_trusted()
        try:
            return self._direct.get(target, headers, times)
        except FAILURES as exc:
            raise as_httpx(exc) from exc.__cause__ or exc

    def _own_ssl_context(self) -> ssl.SSLContext:
        """Return the SSL context of the calling thread."""
        context: ssl.SSLContext | None = getattr(self._own, "ssl_context", None)
        if context is None:
            context = self._own.ssl_context = self._trusted()
        return context

    def _pool(self) -> httpcore.ConnectionPool:
        """Return the calling thread's pool of connections."""
        pool: httpcore.ConnectionPool | None = getattr(self._own, "pool", None)
        if pool is None:
            pool = self._own.pool = httpcore.ConnectionPool(
                ssl_context=self._own_ssl_context(),
                proxy=httpcore_proxy(self._proxy, self._trusted) if self._proxy else None,
                max_connections=None,
                max_keepalive_connections=KEPT,
                network_backend=self._backend,
            )
            self._pools.append(pool)
        return pool

    def prepare(self) -> None:
        """Load the certificates, so that this does not take time from a row."""
        if self._ssl_context is None:
            self._trusted()

    def check(self, host: str, port: int | None) -> None:
        """Refuse a URL whose host or port may not be reached, as far as that is known without looking up its name.

        `handle_request` does so too, but only after about as much work as it takes to fetch a URL.

        Raises:
            RowError: `blocked_address`.
        """
        if not self._trusts_targets:
            self._backend.check_host(host, port)

    def _trusted(self) -> ssl.SSLContext:
        """Return the SSL context that verifies servers."""
        with self._lock:
            if self._ssl_context is not None and not LOCKS_HANDSHAKES:
                return self._ssl_context
            try:
                self._ssl_context = create_ssl_context(self._ca_file)
            except ConfigError as exc:
                self._untrusted = exc
                self._ssl_context = create_ssl_context(self._ca_file, {})
            return self._ssl_context

    def _check_trusted(self) -> None:
        if self._untrusted is not None:
            raise RowError(ErrorCode.TLS_ERROR, str(self._untrusted)) from self._untrusted

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        url, pool = request.url, self._pool()
        if url.scheme == "https":
            self._check_trusted()
        host, extensions = url.raw_host, request.extensions
        if self._proxy and not self._trusts_targets:
            scheme = self._proxy.partition(":")[0].lower()
            address = self._backend.check_target(url.host, url.port, by_name=scheme != "socks5h")
            if address is not None and scheme == "socks5":
                host, extensions = str(address).encode("ascii"), {**extensions, "sni_hostname": url.host}
        sent = httpcore.Request(
            request.method,
            httpcore.URL(scheme=url.raw_scheme, host=host, port=url.port, target=url.raw_path),
            headers=request.headers.raw,
            content=request.stream,
            extensions=extensions,
        )
        with _httpx_errors(), socks_errors() if is_socks(self._proxy) else nullcontext():
            try:
                with head_of_an_answer() as head:
                    response = self._backend.send(pool, sent)
            except (httpcore.NetworkError, httpcore.RemoteProtocolError):
                if not head.reused:
                    raise
                # A reused connection may have ended, or may hold leftovers of an earlier response.
                with head_of_an_answer():
                    response = self._backend.send(pool, sent)
        return httpx.Response(
            response.status,
            headers=response.headers,
            stream=_Body(response),
            extensions=response.extensions,
        )

    def abort(self) -> None:
        """Break every connection, current or future, so that blocked reads return."""
        self._backend.abort()

    def close(self) -> None:
        self._direct.close()
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
    try:
        yield
    except FAILURES as exc:
        raise as_httpx(exc) from exc.__cause__ or exc
