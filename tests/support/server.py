"""A loopback HTTP server that answers as told, whole requests at a time, at the level of raw sockets."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType

import httpx

from tests.support.clock import HANG_S

Answer = bytes | Callable[[socket.socket, str], bytes | None]


def response(body: bytes = b"", status: str = "200 OK", **headers: str) -> bytes:
    """Spell out an HTTP response; a header named `content_length` replaces the true one."""
    fields = {"content_length": str(len(body)), **headers}
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
    return "\r\n".join([f"HTTP/1.1 {status}", *lines, "", ""]).encode() + body


class Streamed(httpx.SyncByteStream):
    """A body as the network gives it."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    def __iter__(self) -> Iterator[bytes]:
        yield self._body


class Server:
    """Serves `routes`: path -> bytes to send, or a function that gets the socket and the request's head, and sends or returns them.

    Attributes:
        routes: What to answer; an unknown path is answered with 404. A query string is ignored.
        hits: Requests by path, query included.
        heads: The heads of all requests, in order of arrival.
        connections: Connections accepted.

    Args:
        wrap: What is done to a connection before a request is read from it: TLS, or a fault.
    """

    def __init__(self, wrap: Callable[[socket.socket], socket.socket] | None = None) -> None:
        self._wrap = wrap
        self.routes: dict[str, Answer] = {}
        self.hits: Counter[str] = Counter()
        self.heads: list[str] = []
        self.connections = 0
        self.busiest = 0  # most requests answered at one time
        self.busiest_by_path: Counter[str] = Counter()  # the same for each path, without its query
        self._busy: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._asked = threading.Condition(self._lock)
        self._stopping = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []

    @property
    def port(self) -> int:
        port: int = self._listener.getsockname()[1]
        return port

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def hang(self, *_: object) -> None:
        """Answer nothing until the server stops."""
        self._stopping.wait()

    def wait_for(self, start: str, count: int, seconds: float = HANG_S) -> None:
        """Wait until `count` requests for paths that start so have come."""
        with self._asked:
            assert self._asked.wait_for(
                lambda: sum(n for p, n in self.hits.items() if p.startswith(start)) >= count, seconds
            )

    def __enter__(self) -> Server:
        self._start(self._accept)
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._stopping.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        for thread in list(self._threads):
            thread.join(HANG_S)

    def _start(self, target: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._stopping.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self.connections += 1
                self._open.add(connection)
            self._start(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection, self._wrapped(connection) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while head := _read_head(connection):
                path = head.split(" ")[1]
                with self._lock:
                    self.hits[path] += 1
                    self.heads.append(head)
                    bare = path.partition("?")[0]
                    self._busy[bare] += 1
                    self.busiest = max(self.busiest, self._busy.total())
                    self.busiest_by_path[bare] = max(self.busiest_by_path[bare], self._busy[bare])
                    self._asked.notify_all()
                try:
                    answer = self.routes.get(bare, response(status="404 Not Found"))
                    sent = (answer(connection, head) if callable(answer) else answer) or b""
                finally:
                    with self._lock:
                        self._busy[bare] -= 1
                connection.sendall(sent)  # its place is free before the client can ask again
        with self._lock:
            self._open.discard(connection)

    def _wrapped(self, connection: socket.socket) -> socket.socket:
        return self._wrap(connection) if self._wrap else connection


def _read_head(connection: socket.socket) -> str:
    head = b""
    while b"\r\n\r\n" not in head:
        chunk = connection.recv(65536)
        head += chunk
        if not chunk or head.startswith(b"\x16"):  # the end, or a TLS greeting, which this server hangs up on
            return ""
    return head.decode("latin-1")


def exchange(connection: socket.socket, pieces: Iterable[bytes] = ()) -> tuple[int, bytes]:
    """Send pieces for as long as they are taken, and read until the other side hangs up; return the bytes sent and the answer."""
    count, found = 0, b""
    with contextlib.suppress(OSError):  # it did not listen to the end
        for piece in pieces:
            connection.sendall(piece)
            count += len(piece)
    with contextlib.suppress(ConnectionResetError):
        while piece := connection.recv(1 << 20):
            found += piece
    return count, found
