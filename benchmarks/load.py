"""Cheap clients of the service: prepared requests over keep-alive connections, on one event loop.

`closed` keeps a number of clients busy, each of which waits for a response before it sends its next request. `opened`
sends on a schedule that does not depend on responses, and measures time from when a request was due, so that the delays
of a service that stalls are visible. No request is sent twice.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import socket
import time
from base64 import b64encode
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

PATH = "/v1/similarity"
SCORED = "scored"
_ANSWERED = (
    b'"error":null',
    b'{"match_id"',
)  # in the response to a request with one pair, and to a search for products
_ASK_S = 10.0
_PATIENCE_S = 60.0  # for the requests in progress when a schedule ends
_RETRY_AFTER = re.compile(rb"\r\nretry-after: *(\d+)")


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of a request; times are seconds of the machine's clock.

    Args:
        due: When the request should have been sent.
        sent: When the request was sent.
        ended: When the response was complete, or the connection was lost.
        kind: `scored`; `failed` with status 200; a status such as `429`; `refused`, if no connection was made and
            nothing was sent; `lost`, if the connection ended before the response; or `unanswered`, if there was no
            response by the end of a schedule.
    """

    due: float
    sent: float
    ended: float
    kind: str

    @property
    def seconds(self) -> float:
        """Seconds from when the request was due to its response."""
        return self.ended - self.due


Told = Callable[[int, bytes], None]  # status, or 0 if the connection ended, and body


class Connection(asyncio.Protocol):
    """One connection, with at most one request on it at a time."""

    def __init__(self) -> None:
        self._received = b""
        self._head = -1  # length of the head, once it has arrived
        self._length = 0
        self._status = 0
        self._told: Told | None = None
        self._closing = False
        self.usable = False
        self.retry_after_s = 0.0  # as in the last response

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport
        self.usable = True

    def post(self, request: bytes, told: Told) -> None:
        """Send a complete request; `told` is called once."""
        self._told = told
        self._transport.write(request)

    async def answer(self, request: bytes) -> tuple[int, bytes]:
        """Send a complete request and return the response's status and body, or (0, b"") if the connection ended."""
        answered: asyncio.Future[tuple[int, bytes]] = asyncio.get_running_loop().create_future()

        def told(status: int, body: bytes) -> None:
            if not answered.done():
                answered.set_result((status, body))

        self.post(request, told)
        return await answered

    def data_received(self, data: bytes) -> None:
        self._received += data
        if self._head < 0:
            end = self._received.find(b"\r\n\r\n")
            if end < 0:
                return
            self._read_head(self._received[:end].lower())
            self._head = end + 4
        if len(self._received) >= self._head + self._length:
            body, self._received = self._received[self._head :], b""
            self._head = -1
            if self._closing:
                self.close()
            self._tell(self._status, body)

    def connection_lost(self, exc: Exception | None) -> None:
        self.usable = False
        self._tell(0, b"")

    def close(self) -> None:
        """Close the connection."""
        self.usable = False
        self._transport.close()

    def _read_head(self, head: bytes) -> None:
        self._status = int(head[9:12])
        self._length = int(head.split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])
        self._closing = b"connection: close" in head
        found = _RETRY_AFTER.search(head)
        self.retry_after_s = float(found[1]) if found else 0.0

    def _tell(self, status: int, body: bytes) -> None:
        told, self._told = self._told, None
        if told is not None:
            told(status, body)


@dataclass(frozen=True, slots=True)
class Address:
    """The address where a service listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"http://{self.host}:{self.port}"


def address_of(url: str) -> Address:
    """Return the address in a URL made by `str(address)`."""
    host, _, port = url.removeprefix("http://").partition(":")
    return Address(host, int(port))


def post(body: Any, path: str = PATH, key: str = "") -> bytes:
    """Return a complete POST request for an object, or for bytes as they are; `key` is an API key."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return head("POST", path, key, Content_Type="application/json", Content_Length=len(content)) + content


def post_pair(picture: bytes, caption: str) -> bytes:
    """Return a complete request for the score of one pair."""
    return post({"pairs": [{"image_base64": b64encode(picture).decode(), "caption": caption}]})


def get(path: str) -> bytes:
    """Return a complete GET request for a path."""
    return head("GET", path)


def head(method: str, path: str, key: str = "", **headers: object) -> bytes:
    """Return a request head, including its empty line; `key` is an API key."""
    named = {"Host": "localhost", **headers, **({"X_API_Key": key} if key else {})}
    lines = (f"{name.replace('_', '-')}: {value}" for name, value in named.items())
    return "\r\n".join([f"{method} {path} HTTP/1.1", *lines, "", ""]).encode()


async def ask(address: Address, request: bytes) -> tuple[int, bytes]:
    """Send one request over a new connection; return its status and body, or (0, b"") if nothing comes back."""
    try:
        connection = await connect(address)
    except OSError:
        return 0, b""
    try:
        return await asyncio.wait_for(connection.answer(request), _ASK_S)
    except TimeoutError:
        return 0, b""
    finally:
        connection.close()


async def closed(address: Address, requests: Iterable[bytes], clients: int) -> list[Outcome]:
    """Have clients post the requests, each client one at a time, until none are left."""
    shared, found = iter(requests), list[Outcome]()
    await asyncio.gather(*(_client(address, shared, found) for _ in range(clients)))
    return found


async def _client(address: Address, requests: Iterator[bytes], found: list[Outcome]) -> None:
    connection = Connection()
    try:
        for request in requests:
            due = time.perf_counter()
            if not connection.usable:
                try:
                    connection = await connect(address)
                except OSError:
                    found.append(Outcome(due, due, time.perf_counter(), "refused"))
                    await asyncio.sleep(0.01)
                    continue
            sent = time.perf_counter()
            kind = _kind(*await connection.answer(request))
            found.append(Outcome(due, sent, time.perf_counter(), kind))
    finally:
        if connection.usable:
            connection.close()


async def opened(
    address: Address, requests: Sequence[bytes], rate: float, seconds: float, *, most: int = 512
) -> list[Outcome]:
    """Post requests repeatedly at random times (a Poisson process), regardless of their outcomes.

    Args:
        address: The address of the service.
        requests: Complete requests.
        rate: Requests per second, on average.
        seconds: How long to post requests.
        most: The maximum number of connections at a time; a request that is due while all are busy waits, and the wait
            counts.

    Returns:
        One outcome for each request that was due.
    """
    crowd, chance, number = _Crowd(address, most), random.Random(0), 0
    due = time.perf_counter()
    end = due + seconds
    while due < end:
        early = due - time.perf_counter()
        if early > 0:
            await asyncio.sleep(early)
            continue
        crowd.post(due, requests[number % len(requests)])
        number += 1
        due += chance.expovariate(rate)
    await crowd.finish()
    return crowd.found


class _Crowd:
    """A pool of connections: an idle one takes the next request, and a new one is opened if none is idle."""

    def __init__(self, address: Address, most: int) -> None:
        self._address, self._most = address, most
        self._idle: list[Connection] = []
        self._waiting: deque[tuple[float, bytes]] = deque()
        self._open = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._out = 0
        self._none_out = asyncio.Event()
        self.found: list[Outcome] = []

    def post(self, due: float, request: bytes) -> None:
        """Send a request as soon as a connection is free; `due` is when it should be sent."""
        self._out += 1
        self._none_out.clear()
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                self._send(connection, due, request)
                return
            self._open -= 1
        self._waiting.append((due, request))
        self._open_another()

    async def finish(self) -> None:
        """Wait for the requests in progress, up to a limit, and close the connections."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._none_out.wait(), _PATIENCE_S)
        now = time.perf_counter()
        self.found += [Outcome(now, now, now, "unanswered")] * self._out
        for connection in self._idle:
            connection.close()

    def _open_another(self) -> None:
        if self._open < self._most:
            self._open += 1
            task = asyncio.ensure_future(self._connect())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _connect(self) -> None:
        try:
            connection = await connect(self._address)
        except OSError:
            self._open -= 1
            if self._waiting:
                due, _ = self._waiting.popleft()
                self._end(Outcome(due, due, time.perf_counter(), "refused"))
            return
        self._next(connection)

    def _next(self, connection: Connection) -> None:
        if not connection.usable:
            self._open -= 1
            if self._waiting:
                self._open_another()
        elif self._waiting:
            self._send(connection, *self._waiting.popleft())
        else:
            self._idle.append(connection)

    def _send(self, connection: Connection, due: float, request: bytes) -> None:
        sent = time.perf_counter()

        def told(status: int, body: bytes) -> None:
            self._end(Outcome(due, sent, time.perf_counter(), _kind(status, body)))
            self._next(connection)

        connection.post(request, told)

    def _end(self, outcome: Outcome) -> None:
        self.found.append(outcome)
        self._out -= 1
        if not self._out:
            self._none_out.set()


async def connect(address: Address, source: str | None = None) -> Connection:
    """Open a connection; `source`, if given, is the address of this machine to connect from, such as 127.0.0.9."""
    loop = asyncio.get_running_loop()
    local = None if source is None else (source, 0)
    _, connection = await loop.create_connection(
        Connection, address.host, address.port, family=socket.AF_INET, local_addr=local
    )
    return connection


async def probe(address: Address, end: float, every_s: float = 0.05) -> list[float]:
    """Request /livez until `time.perf_counter` is `end`, each time over a new connection; return the response times.

    A probe without a response counts as the longest time that a client waits.
    """
    found = []
    while (began := time.perf_counter()) < end:
        status, _ = await ask(address, get("/livez"))
        found.append(time.perf_counter() - began if status == 200 else _ASK_S)
        await asyncio.sleep(every_s)
    return found


def _kind(status: int, body: bytes) -> str:
    if status == 200:
        return SCORED if any(sign in body for sign in _ANSWERED) else "failed"
    return str(status) if status else "lost"


def kinds(outcomes: Iterable[Outcome]) -> dict[str, int]:
    """Count outcomes by kind."""
    return dict(Counter(outcome.kind for outcome in outcomes))


def percentile(values: Iterable[float], percent: float) -> float:
    """Return the smallest value that at least `percent` percent of the values do not exceed; 0 for an empty list."""
    there = sorted(values)
    rank = -(-len(there) * percent // 100)
    return there[max(int(rank), 1) - 1] if there else 0.0


def percentiles(values: Iterable[float]) -> dict[str, float]:
    """Return the median, the 99th percentile and the largest value."""
    there = sorted(values)
    return {"p50": percentile(there, 50), "p99": percentile(there, 99), "max": percentile(there, 100)}
