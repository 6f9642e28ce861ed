"""What a client may do to a connection, on loopback; see `service.http.connections`."""

from __future__ import annotations

import asyncio
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import chain
from types import SimpleNamespace
from typing import Any, cast

import pytest
import uvicorn

from tests.support.clock import HANG_S
from tests.support.server import exchange
from text_image_similarity.service.clients import peer_name
from text_image_similarity.service.http import connections
from text_image_similarity.service.http import exchange as exchanges
from text_image_similarity.service.http import peers as limits_of_peers
from text_image_similarity.service.http.connections import HEAD_BYTES, MOST_FIELDS, LimitedProtocol
from text_image_similarity.service.http.framing import CHUNK_BYTES, TINY_CHUNKS
from text_image_similarity.service.http.peers import Peers
from text_image_similarity.service.http.small_reads import SmallReads, new_buffer
from text_image_similarity.service.jobs import Call, ClientLeftError

MIB = 1 << 20


async def answer(scope: Any, receive: Any, send: Any) -> None:
    """Answer with as many bytes as the path says, piece by piece."""
    if scope["type"] != "http":
        return
    size = int(scope["path"][1:] or 0)
    headers = [(b"content-length", str(size).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for start in range(0, size, MIB):
        await send({"type": "http.response.body", "body": bytes(min(MIB, size - start)), "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def count_body(scope: Any, receive: Any, send: Any) -> None:
    """Answer with how many bytes the body has, and in how many messages it came."""
    total = messages = 0
    more = True
    while more:
        message = await receive()
        total, messages, more = total + len(message["body"]), messages + 1, message["more_body"]
    said = f"{total} {messages}".encode()
    headers = [(b"content-length", str(len(said)).encode()), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": said})


@contextmanager
def listening(protocol: Any = LimitedProtocol, app: Any = answer) -> Iterator[tuple[uvicorn.Server, int]]:
    """Run the server with the service's connections before a small application; yield it and its port."""
    config = uvicorn.Config(app, port=0, http=protocol, ws="none", lifespan="off", log_config=None, access_log=False)
    server, started = uvicorn.Server(config), threading.Event()
    startup = server.startup

    async def told(sockets: Any = None) -> None:
        await startup(sockets)
        started.set()

    server.startup = told  # type: ignore[method-assign]
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    assert started.wait(HANG_S)
    try:
        yield server, server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(HANG_S)
        assert not thread.is_alive()


def connect(port: int, address: str = "127.0.0.1") -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), HANG_S, (address, 0))


def read(connection: socket.socket) -> bytes:
    """Return all that comes until the connection ends."""
    return exchange(connection)[1]


def sent(port: int, pieces: Iterator[bytes]) -> tuple[int, bytes]:
    """Send pieces over a connection of their own; return how many bytes were taken, and the answer."""
    with connect(port) as connection:
        return exchange(connection, pieces)


@pytest.mark.parametrize(
    ("begin", "again"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\nX-A: ", b"a"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n", b"X-A: a\r\n"),
        (b"GET /", b"a"),
        (b"", b"\r\n"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"X-A: a\r\n"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1;", b"a"),
    ],
    ids=["a value", "headers", "a URL", "empty lines", "trailers", "a chunk's extension"],
)
def test_what_no_head_is_long_enough_for_is_refused(begin: bytes, again: bytes) -> None:
    block = again * (MIB // len(again))
    with listening() as (_, port):
        count, _ = sent(port, iter([begin, *[block] * 100]))
        assert count < 30 * MIB  # what the system itself takes
        _, said = sent(
            port,
            iter([b"GET / HTTP/1.1\r\nHost: x\r\nX-A: ", b"a" * (HEAD_BYTES - 100), b"\r\nConnection: close\r\n\r\n"]),
        )
        assert said.startswith(b"HTTP/1.1 200")
        _, said = sent(
            port, iter([b"GET / HTTP/1.1\r\nHost: x\r\nX-A: ", b"a" * HEAD_BYTES, b"\r\nConnection: close\r\n\r\n"])
        )
        assert said.startswith(b"HTTP/1.1 431")


def test_a_body_in_pieces_of_a_byte_costs_little_and_ends() -> None:
    begin, end = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", b"0\r\n\r\n"
    with listening(app=count_body) as (_, port):
        _, said = sent(port, iter([begin + b"1\r\na\r\n" * TINY_CHUNKS + end]))
        total, messages = map(int, said.rpartition(b"\r\n")[2].split())
        assert total == TINY_CHUNKS
        assert messages < 10, "what arrives together is handed on together"
        _, said = sent(port, iter([begin + b"1\r\na\r\n" * (TINY_CHUNKS + 10) + end]))
        assert said.startswith(b"HTTP/1.1 400")
        _, said = sent(port, iter([begin + (b"%x\r\n" % CHUNK_BYTES + b"a" * CHUNK_BYTES + b"\r\n") * 9000 + end]))
        assert said.rpartition(b"\r\n")[2].startswith(b"%d " % (9000 * CHUNK_BYTES))


@pytest.mark.parametrize(
    ("head", "piece"),
    [
        (b"Content-Length: %d" % (100 * MIB), b"a" * MIB),
        (b"Transfer-Encoding: chunked", b"%x\r\n" % MIB + b"a" * MIB + b"\r\n"),
    ],
    ids=["a length", "chunks"],
)
def test_a_client_that_is_still_sending_gets_its_response(
    head: bytes, piece: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if it reads only when it can send no more, and no more than the system takes is sent."""
    monkeypatch.setattr(connections, "DROPPED_S", 0.2)
    with listening(lambda **options: SmallReads(LimitedProtocol(**options), new_buffer())) as (_, port):
        count, said = sent(port, iter([b"POST /7 HTTP/1.1\r\nHost: x\r\n" + head + b"\r\n\r\n", *[piece] * 100]))
    assert said.startswith(b"HTTP/1.1 200")
    assert said.endswith(bytes(7))
    assert count < 30 * MIB  # what the system itself takes


def test_a_request_to_upgrade_is_an_ordinary_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its headers are not searched again and again."""
    looked: list[Any] = []
    monkeypatch.setattr(LimitedProtocol, "_get_upgrade", looked.append)
    with listening() as (_, port), connect(port) as connection:
        for _ in range(2):
            connection.sendall(b"GET /1 HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n")
            assert connection.recv(MIB).startswith(b"HTTP/1.1 200")
    assert looked == []


@pytest.mark.parametrize(
    "begin", [b"G", b"GET / HTTP/1.1\r\nHost: x\r\nX-A: a", b"\r\n"], ids=["a letter", "half a head", "a line"]
)
def test_a_head_has_to_end(begin: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_S", 0.05)
    with listening() as (_, port), connect(port) as connection:
        connection.sendall(b"GET /1 HTTP/1.1\r\nHost: x\r\n\r\n")  # one that does is answered
        assert connection.recv(MIB).startswith(b"HTTP/1.1 200")
        connection.sendall(begin)
        assert b"HTTP" not in read(connection)


def test_an_answer_that_nobody_reads_ends_its_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "SEND_S", 0.05)
    with listening() as (server, port), connect(port) as connection:
        connection.sendall(b"GET /100000000 HTTP/1.1\r\nHost: x\r\n\r\n")
        ended = threading.Event()

        def look() -> None:
            loop = server.servers[0].get_loop()

            async def gone() -> bool:
                return not server.server_state.connections

            while not ended.is_set() and not asyncio.run_coroutine_threadsafe(gone(), loop).result(HANG_S):
                ended.wait(0.01)

        connection.recv(1)
        thread = threading.Thread(target=look, daemon=True)
        thread.start()
        thread.join(HANG_S)
        assert not thread.is_alive(), "the connection is still there"
        assert len(read(connection)) < 100_000_000


@pytest.mark.parametrize(
    ("begin", "end"),
    [
        (b"GET /0 HTTP/1.1\r\nHost: x\r\n", b""),
        (b"POST /0 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"B:\r\n"),
    ],
    ids=["a head", "trailers"],
)
def test_a_request_has_no_more_headers_than_allowed(begin: bytes, end: bytes) -> None:
    """Each is counted while it arrives, and those of another request on the connection are not."""
    most = MOST_FIELDS - begin.count(b":") - end.count(b":")
    with listening() as (_, port), connect(port) as connection:
        for _ in range(2):
            connection.sendall(begin + b"a:\r\n" * most + end + b"\r\n")
            assert connection.recv(MIB).startswith(b"HTTP/1.1 200")
        connection.sendall(begin + b"a:\r\n" * (most + 2) + end)  # it never ends
        assert b"HTTP/1.1 431" in read(connection)


PIPELINED = [
    b"GET /0 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"POST /1 HTTP/1.1\r\nHost: x\r\nContent-Length: 8\r\n\r\n\r\n\r\n\r\n\r\n",
    b"POST /2 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n\r\n\r\n\r\n0\r\nA: a\r\n\r\n",
    b"GET /3 HTTP/1.1\r\nA: a\r\nHost: localhost\r\n\r\n",
]


@pytest.mark.parametrize("size", [1, 3, 7, 50, 1000, 100_000])
def test_pipelined_requests_wait_unparsed_and_are_answered_in_turn(size: int) -> None:
    parsed: list[bool] = []
    bodies: list[bytes] = []

    class Watched(LimitedProtocol):
        def on_headers_complete(self) -> None:
            parsed.append(self.cycle is None or self.cycle.response_complete)
            super().on_headers_complete()

    async def echo(scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message["body"], message["more_body"]
        bodies.append(body)
        await asyncio.sleep(0)
        await answer(scope, receive, send)

    stream = (
        b"".join(PIPELINED * (3 if size < 50 else 100)) + b"GET /9 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    pieces = [stream[start : start + size] for start in range(0, len(stream), size)]
    with listening(Watched, echo) as (_, port):
        said = sent(port, iter(pieces))[1]
    lengths = re.findall(rb"content-length: (\d)", said)
    assert lengths == [b"0", b"1", b"2", b"3"] * (len(bodies) // 4) + [b"9"]
    assert bodies == [b"", b"\r\n" * 4, b"\r\n" * 2, b""] * (3 if size < 50 else 100) + [b""]
    assert all(parsed)


def test_reading_stays_paused_while_much_waits() -> None:
    """Even if the application listens for the end of the connection, which resumes reading."""
    leave = threading.Event()
    parsed: list[bytes] = []

    class Watched(LimitedProtocol):
        def on_headers_complete(self) -> None:
            super().on_headers_complete()
            parsed.append(self.url)

    async def wait(scope: Any, receive: Any, send: Any) -> None:
        leaving = [asyncio.create_task(receive()) for _ in range(2)]
        while scope["path"] == "/1" and not leave.is_set():
            await asyncio.sleep(0.001)
        for each in leaving:
            each.cancel()
        await answer(scope, receive, send)

    ahead = b"GET /2 HTTP/1.1\r\nHost: x\r\n\r\n" * 100
    with (
        listening(lambda **options: SmallReads(Watched(**options), new_buffer()), wait) as (server, port),
        connect(port) as connection,
    ):
        connection.sendall(b"GET /1 HTTP/1.1\r\nHost: x\r\n\r\n" + ahead)
        try:
            taken = sent_until_full(connection, ahead)
            (kept,) = cast("set[Any]", server.server_state.connections)
            found = list(parsed), len(kept._ahead)
        finally:
            leave.set()
        assert connection.recv(MIB).startswith(b"HTTP/1.1 200")
    assert found[0] == [b"/1"]
    assert found[1] <= 2 << 16
    assert taken < 30 * MIB  # which the system itself takes


def sent_until_full(connection: socket.socket, block: bytes) -> int:
    """Send until nothing more is taken; return how many bytes were."""
    total = 0
    connection.settimeout(0.3)
    with suppress(TimeoutError):
        while total < 30 * MIB:
            total += connection.send(block)
    connection.settimeout(HANG_S)
    return total


def test_a_pipelined_body_is_not_taken_for_the_rest_of_a_refused_one() -> None:
    begun = threading.Event()

    async def note_beginning(scope: Any, receive: Any, send: Any) -> None:
        message = await receive()
        while message["more_body"]:
            begun.set()
            message = await receive()
        await answer(scope, receive, send)

    with listening(app=note_beginning) as (server, port), connect(port) as connection:
        connection.sendall(
            b"GET /0 HTTP/1.1\r\nHost: x\r\n\r\nPOST /1 HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\na"
        )
        assert begun.wait(HANG_S)
        (kept,) = cast("set[Any]", server.server_state.connections)
        assert kept._deadline is None
        connection.sendall(b"a")
        said = b""
        while said.count(b"HTTP/1.1 200") < 2:
            more = connection.recv(MIB)
            assert more
            said += more


PLACES = {"127.0.0.1": 4, "127.0.0.2": 2, "127.0.0.3": 1, "127.0.0.4": 1}  # of 8


def test_one_address_has_no_more_connections_than_are_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits_of_peers, "MOST_CONNECTIONS", 8)
    ask = b"GET /0 HTTP/1.1\r\nHost: x\r\n\r\n"

    def status(connection: socket.socket) -> bytes:
        connection.sendall(ask)
        return connection.recv(MIB)[9:12]

    with listening() as (_, port):
        taken = {address: [connect(port, address) for _ in range(count)] for address, count in PLACES.items()}
        for address, found in taken.items():
            assert [status(each) for each in found] == [b"200"] * len(found)
            with connect(port, address) as more:
                assert read(more).startswith(b"HTTP/1.1 503")
        with connect(port, "127.0.0.5") as too_many:
            assert read(too_many).startswith(b"HTTP/1.1 503")
        for each in chain(*taken.values()):
            each.close()


def test_one_address_opens_so_many_connections_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits_of_peers, "NEW_A_SECOND", 0.001)
    monkeypatch.setattr(limits_of_peers, "NEW_AT_ONCE", 3)
    ask = b"GET /0 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    with listening() as (_, port):
        assert [sent(port, iter([ask]))[1][9:12] for _ in range(3)] == [b"200"] * 3
        with connect(port) as more, connect(port, "127.0.0.2") as another:
            assert read(more).startswith(b"HTTP/1.1 503")
            assert exchange(another, iter([ask]))[1].startswith(b"HTTP/1.1 200")


def test_an_address_may_open_connections_again_as_time_goes_by(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits_of_peers, "NEW_A_SECOND", 10)
    monkeypatch.setattr(limits_of_peers, "NEW_AT_ONCE", 20)
    monkeypatch.setattr(limits_of_peers, "_MOST_KNOWN", 50)
    now = 100.0
    peers = Peers(lambda: now)

    def opened(peer: str, times: int) -> int:
        return sum(peers.refusal(peer) is None for _ in range(times))

    assert opened("a", 100) == 20
    now += 0.5
    assert (opened("a", 100), opened("b", 7)) == (5, 7)
    now += 60
    assert opened("a", 100) == 20
    assert sum(opened(str(number), 1) for number in range(500)) == 500
    assert len(peers._whole_at) <= 50


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3::7", "2001:db8:1:2::"),
        ("fe80::1%eth0", "fe80::"),
    ],
)
def test_a_client_is_one_address_or_network(address: str, name: str) -> None:
    assert peer_name(address) == name


def test_a_client_that_takes_its_answer_too_slowly_has_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is nobody's fault, and no error to report."""
    monkeypatch.setattr(exchanges, "_SENDING_S", 0.01)
    held: list[int] = []

    async def send(message: Any) -> None:
        if message.get("body"):
            await asyncio.Event().wait()  # nobody reads

    async def sending() -> None:
        room = cast("Any", SimpleNamespace(hold=lambda client, size: held.append(size)))
        reply = exchanges.OutgoingAnswer(room, send, Call("an id"), closing=False, log=None)
        await reply.send({"type": "http.response.start", "status": 200})
        with pytest.raises(ClientLeftError):
            await reply.send({"type": "http.response.body", "body": bytes(1 << 20)})

    asyncio.run(sending())
    assert held == [1 << 20]
