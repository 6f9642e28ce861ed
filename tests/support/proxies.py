"""Proxies for tests: what a `Server` does with CONNECT, and a server that speaks SOCKS5 (RFC 1928, RFC 1929)."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from types import TracebackType

from tests.support.clock import HANG_S
from tests.support.server import response


def tunnel_to(port: int, *, login: str | None = None) -> Callable[[socket.socket, str], None]:
    """Return what answers CONNECT with a way to a port of this machine, for those who send `login` (base64) if it is given."""

    def answer(connection: socket.socket, head: str) -> None:
        if login is not None and f"\r\nProxy-Authorization: Basic {login}\r\n" not in head:
            connection.sendall(response(status="407 Proxy Authentication Required"))
            return
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        with socket.create_connection(("127.0.0.1", port)) as server:
            join(connection, server)

    return answer


def join(one: socket.socket, other: socket.socket) -> None:
    """Pass bytes on between two connections until both have ended."""
    back = threading.Thread(target=_pass_on, args=(other, one), daemon=True)
    back.start()
    _pass_on(one, other)
    back.join(HANG_S)


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


class SocksProxy:
    """A SOCKS5 proxy that leads every name and address to ports of this machine.

    Args:
        ports: For each port that is asked for the one that it leads to.
        login: The user and the password that are wanted, or None.

    Attributes:
        asked: The hosts and ports that it was asked for.
    """

    def __init__(self, ports: dict[int, int], login: tuple[str, str] | None = None) -> None:
        self._ports, self._login = ports, login
        self.asked: list[tuple[str, int]] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> SocksProxy:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        for each in (self._listener, *self._open):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection = self._listener.accept()[0]
                self._open.append(connection)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            if not self._is_welcome(connection):
                return
            _, _, _, kind = connection.recv(4)
            host = {
                1: lambda: socket.inet_ntop(socket.AF_INET, connection.recv(4)),
                3: lambda: connection.recv(connection.recv(1)[0]).decode("ascii"),
                4: lambda: socket.inet_ntop(socket.AF_INET6, connection.recv(16)),
            }[kind]()
            port = int.from_bytes(connection.recv(2))
            self.asked.append((host, port))
            if port not in self._ports:
                connection.sendall(b"\5\5\0\1" + bytes(6))  # refused
                return
            with socket.create_connection(("127.0.0.1", self._ports[port])) as server:
                connection.sendall(b"\5\0\0\1" + bytes(6))
                join(connection, server)

    def _is_welcome(self, connection: socket.socket) -> bool:
        count = connection.recv(2)[1]
        wanted = b"\0" if self._login is None else b"\2"
        if wanted not in connection.recv(count):
            connection.sendall(b"\5\xff")
            return False
        connection.sendall(b"\5" + wanted)
        if self._login is None:
            return True
        connection.recv(1)
        user, password = (connection.recv(connection.recv(1)[0]).decode() for _ in range(2))
        right = (user, password) == self._login
        connection.sendall(b"\1" + (b"\0" if right else b"\1"))
        return right
