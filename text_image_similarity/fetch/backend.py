"""Connections for httpcore, which go only to checked addresses, obey the row's deadline, and can be aborted."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import time
from collections.abc import Callable, Iterable
from queue import Empty, SimpleQueue
from threading import Lock, Thread, local
from typing import Any
from weakref import WeakSet

import httpcore

from ..config import Limits
from ..errors import ErrorCode, RowError
from .addresses import EVERYWHERE, IPAddress, why_denied
from .dial import dial
from .proxies import explain_unused_proxy
from .stream import GuardedStream, time_left

Resolver = Callable[[str, int], list[str]]

_OPEN_PORTS = 1024  # references may use any port from here on; most lower ports belong to services other than the web
_LOOK_UP_S = 2.0  # timeout for resolving a name when a proxy is used; some company networks cannot resolve any
_MOST_ADDRESSES = 100  # addresses of a name that are checked
_REMEMBERED = 4096  # number of checked names, and of allowed hosts, to remember


class GuardedBackend(httpcore.NetworkBackend):
    """A network backend that opens only allowed connections.

    Args:
        limits: Limits; `connect_s` and those on addresses and ports are used.
        resolve: Function `(host, port) -> addresses`.
        to_proxy: Whether connections lead to a proxy, whose own address is trusted.
        trusted: Whether every address is trusted.
    """

    def __init__(self, limits: Limits, resolve: Resolver, *, to_proxy: bool, trusted: bool = False) -> None:
        self._limits = limits
        self._resolve = resolve
        self._checked = not (to_proxy or trusted)
        private = limits.allow_private_addresses
        self._allowed = EVERYWHERE if private else tuple(map(ipaddress.ip_network, limits.allow_networks))
        self._ports = frozenset({80, 443, *limits.allow_ports})
        self._whose = "the proxy " if to_proxy else ""
        self._targets: dict[str, IPAddress | None] = {}  # checked targets, if connections lead to a proxy
        self._open_hosts: set[tuple[str, int | None]] = set()  # hosts that `check_host` allows
        self._open: WeakSet[GuardedStream] = WeakSet()
        self._own = local()  # latest stream of each thread
        self._lock = Lock()
        self._aborted = False

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> GuardedStream:
        try:
            addresses = self._addresses(host, port)
            connected = dial(addresses, port, time_left(self._limits.connect_s), self._check_open)
        except RowError as error:
            if error.code is not ErrorCode.DNS_ERROR:
                raise
            raise RowError(error.code, f"{self._whose}{error.detail}{self._hint()}") from error
        except TimeoutError as exc:
            raise httpcore.ConnectTimeout(f"{self._whose}{host}: {exc}{self._hint()}") from exc
        except OSError as exc:
            raise httpcore.ConnectError(f"{self._whose}{host}: {exc}{self._hint()}") from exc
        stream = self._own.latest = GuardedStream(connected)
        with self._lock:
            self._open.add(stream)
            if self._aborted:
                stream.abort()
        return stream

    def _hint(self) -> str:
        return "" if self._whose else explain_unused_proxy()

    def send(self, pool: httpcore.ConnectionPool, request: httpcore.Request) -> httpcore.Response:
        """Send a request; if that fails, close its connection, which httpcore does not do for a SOCKS proxy."""
        self._own.latest = None
        try:
            return pool.handle_request(request)
        except BaseException:
            if self._own.latest is not None:
                self._own.latest.close()
            raise
        finally:
            self._own.latest = None

    def check_target(self, host: str, port: int | None, *, by_name: bool) -> IPAddress | None:
        """Check the target of a request through a proxy.

        Args:
            host: Host name or address.
            port: Port of the target, for the resolver.
            by_name: Whether a name may be resolved on this machine.

        Returns:
            A checked address for a name; None if `host` is an address, if its name may not or cannot be resolved here,
            or if every address is allowed.

        Raises:
            RowError: `blocked_address`.
        """
        self.check_host(host, port)
        if not by_name or self._allowed is EVERYWHERE or _literal(host) is not None:
            return None
        if host not in self._targets:
            try:
                found = self._resolved(host, port or 443, _LOOK_UP_S, checked=True)
            except RowError as error:
                if error.code is not ErrorCode.DNS_ERROR:
                    raise
                found = []
            if len(self._targets) >= _REMEMBERED:
                self._targets.clear()
            self._targets[host] = found[0] if found else None
        return self._targets[host]

    def _addresses(self, host: str, port: int) -> list[IPAddress]:
        """Return all addresses of a host after checking them."""
        if self._checked:
            self.check_host(host, port)
        if literal := _literal(host):
            return [literal]
        return self._resolved(host, port, float("inf"), checked=self._checked)

    def _resolved(self, host: str, port: int, most_s: float, *, checked: bool) -> list[IPAddress]:
        addresses = []
        for text in self._in_time(lambda: self._resolve(host, port), host, most_s)[:_MOST_ADDRESSES]:
            try:
                ip = ipaddress.ip_address(text)
            except ValueError as exc:
                raise RowError(ErrorCode.DNS_ERROR, f"{host} resolves to {text!r}, which is not an address") from exc
            if checked and (reason := why_denied(ip, self._allowed)):
                raise RowError(ErrorCode.BLOCKED_ADDRESS, f"{host} is {ip}, {reason}")
            addresses.append(ip)
        if not addresses:
            raise RowError(ErrorCode.DNS_ERROR, f"{host} has no address")
        return addresses

    def _in_time(self, resolve: Callable[[], list[str]], host: str, most_s: float) -> list[str]:
        """Resolve a name within the row's time, on a daemon thread, because a resolver cannot be stopped."""
        answer: SimpleQueue[list[str] | RowError] = SimpleQueue()

        def ask() -> None:
            try:
                answer.put(resolve())
            except RowError as error:  # passed on to the row
                answer.put(error)
            except Exception as exc:
                reason = getattr(exc, "strerror", None) or str(exc) or type(exc).__name__
                answer.put(RowError(ErrorCode.DNS_ERROR, f"{host}: {reason}"))

        Thread(target=ask, name="score-dns", daemon=True).start()
        end = time.monotonic() + time_left(most_s)
        while True:
            self._check_open()
            left = end - time.monotonic()
            if left <= 0:
                raise RowError(ErrorCode.DNS_ERROR, f"{host} was not resolved in time")
            with contextlib.suppress(Empty):
                found = answer.get(timeout=min(left, 0.1))  # short waits, so that a closing run is noticed
                if isinstance(found, RowError):
                    raise found
                return found

    def _check_open(self) -> None:
        if self._aborted:
            raise RowError(ErrorCode.CONNECT_ERROR, "the run was closed")

    def check_host(self, host: str, port: int | None) -> None:
        """Raise an error if a URL's port is not allowed, or its host is a denied address or a name of this machine.

        Args:
            host: Host name or address.
            port: Port of the URL; None means the scheme's default port.

        Raises:
            RowError: `blocked_address`.
        """
        if (host, port) in self._open_hosts:
            return
        if port is not None and port < _OPEN_PORTS and port not in self._ports:
            raise RowError(
                ErrorCode.BLOCKED_ADDRESS,
                f"port {port} of {host} is not allowed for references; to allow it, use --limit allow_ports={port}",
            )
        if host.removesuffix(".").rpartition(".")[2].lower() == "localhost":  # RFC 6761
            if why_denied(ipaddress.IPv4Address("127.0.0.1"), self._allowed):
                raise RowError(ErrorCode.BLOCKED_ADDRESS, f"{host} is this machine")
        elif (ip := _literal(host)) and (reason := why_denied(ip, self._allowed)):
            raise RowError(ErrorCode.BLOCKED_ADDRESS, f"{ip} is {reason}")
        if len(self._open_hosts) >= _REMEMBERED:
            self._open_hosts.clear()
        self._open_hosts.add((host, port))

    def abort(self) -> None:
        with self._lock:
            self._aborted = True
            for stream in self._open:
                stream.abort()


def _literal(host: str) -> IPAddress | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def system_resolver(host: str, port: int) -> list[str]:
    """Return the system's addresses for a host."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))
