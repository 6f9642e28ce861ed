"""Requests on one connection, however their bytes are split: where each ends, and when it is parsed."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from tests.service.test_connections import connect, listening
from tests.support.clock import HANG_S
from text_image_similarity.service.http import peers
from text_image_similarity.service.http.connections import (
    DROPPED_BYTES,
    HEAD_BYTES,
    MOST_FIELDS,
    REST_BYTES,
    LimitedProtocol,
)
from text_image_similarity.service.http.framing import CHUNK_BYTES, CHUNK_LINE, TINY_CHUNKS, ChunkedEnd
from text_image_similarity.service.http.peers import peers_of
from text_image_similarity.service.http.server import protocol_of
from text_image_similarity.service.http.small_reads import READ_BYTES

GET = b"GET /b HTTP/1.1\r\nHost: x\r\n\r\n"
CHUNKED = b"POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
CONTENT = b"\r\n\r\n".ljust(64, b"a")


async def tell(scope: Any, receive: Any, send: Any) -> None:
    """Answer with the request."""
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message["body"], message["more_body"]
    headers = [(name.decode(), value.decode()) for name, value in scope["headers"]]
    await reply(send, json.dumps([scope["method"], scope["path"], headers, body.decode()]).encode())


async def reply(send: Any, said: bytes) -> None:
    headers = [(b"content-length", str(len(said)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": said})


class Wire(asyncio.Transport):
    """The server's end of a connection, without a network."""

    def __init__(self, address: str) -> None:
        super().__init__({"peername": (address, 1)})
        self.sent, self.closed, self.reading, self.ended = b"", False, True, False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.sent += data

    def write_eof(self) -> None:
        self.ended = True

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True


class Talk:
    """A connection to an application, inside an event loop."""

    def __init__(
        self,
        app: Any = tell,
        kind: type[LimitedProtocol] = LimitedProtocol,
        state: ServerState | None = None,
        address: str = "192.0.2.1",
    ) -> None:
        config = uvicorn.Config(app, ws="none", lifespan="off", log_config=None, access_log=False)
        config.load()
        self.wire = Wire(address)
        self.protocol = kind(config, state or ServerState(), {}, _loop=asyncio.get_running_loop())
        self.protocol.connection_made(self.wire)

    async def hear(self, data: bytes) -> bytes:
        """Receive data, as far as the connection is open; return all that has been sent."""
        if not self.wire.closed:
            self.protocol.data_received(data)
        for _ in range(20):
            await asyncio.sleep(0)
        return self.wire.sent

    def end(self) -> None:
        self.protocol.connection_lost(None)


def answers(pieces: Iterable[bytes], at_once: bool = False) -> list[Any]:
    """Return the requests that the application got, and the statuses of other answers."""

    async def talk() -> bytes:
        connection = Talk()
        for piece in pieces:
            if at_once and not connection.wire.closed:
                connection.protocol.data_received(piece)
            else:
                await connection.hear(piece)
        said = await connection.hear(b"")
        connection.end()
        return said

    said = asyncio.run(talk())
    return [
        json.loads(body) if body else int(status)
        for status, body in re.findall(rb"HTTP/1.1 (\d+)[^\[]*?\r\n\r\n(\[.*?\](?=HTTP|$))?", said)
    ]


STREAMS = {
    "GET and GET": b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n" + GET,
    "a length and GET": b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 8\r\n\r\n\r\n\r\nGET " + GET,
    "chunks and GET": CHUNKED + b"6;a=b\r\n\r\n\r\nab\r\n1\r\nc\r\n0\r\nX-T: 1\r\nHost: y\r\n\r\n" + GET,
    "an upgrade and GET": b"GET /a HTTP/1.1\r\nHost: x\r\nUpgrade: foo\r\nConnection: upgrade\r\n\r\n" + GET,
    "empty lines": b"\r\n\r\nGET /a HTTP/1.1\r\nHost: x\r\n\r\n\r\n" + GET,
}


@pytest.mark.parametrize("at_once", [False, True], ids=["slowly", "at once"])
@pytest.mark.parametrize("stream", STREAMS.values(), ids=STREAMS)
def test_requests_are_the_same_however_they_are_split(stream: bytes, at_once: bool) -> None:
    whole = answers([stream])
    assert [request[1] for request in whole] == ["/a", "/b"]
    assert whole[1] == ["GET", "/b", [["host", "x"]], ""]
    for at in range(1, len(stream)):
        assert answers([stream[:at], stream[at:]], at_once) == whole
    assert answers([bytes([each]) for each in stream], at_once) == whole


def test_a_split_end_of_a_head_does_not_hide_the_next_request() -> None:
    """Its body would be executed as a request."""
    smuggled = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
    first = b"GET /a HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: foo\r\n\r"
    second = b"\nPOST /b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(smuggled) + smuggled
    found = answers([first, second], at_once=True)
    assert [request[:2] for request in found] == [["GET", "/a"], ["POST", "/b"]]
    assert found[1][3] == smuggled.decode()


@pytest.mark.parametrize("length", [b"Content-Length: %d" % len(GET), b"Transfer-Encoding: chunked"])
def test_a_request_to_upgrade_may_have_a_body(length: bytes) -> None:
    """As the clients of Java and curl send it by default when they are to speak HTTP/2."""
    head = (
        b"POST /a HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUPGRADE:h2c\r\nHTTP2-Settings: AA\r\n"
        + length
    )
    body = GET if length.startswith(b"C") else b"%x\r\n%b\r\n0\r\n\r\n" % (len(GET), GET)
    found = answers([head + b"\r\n\r\n" + body + GET])
    assert [(request[1], request[3]) for request in found] == [("/a", GET.decode()), ("/b", "")]
    assert ["x-upgrade", "h2c"] in found[0][2]


@pytest.mark.parametrize(
    "begin",
    [
        b"\x16\x03\x01",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/1.1\n",
        b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\nContent-Length: 28\r\n\r\n" + GET,
    ],
)
def test_what_is_no_head_is_refused_at_once(begin: bytes) -> None:
    assert answers([begin]) == [400]


def test_trailers_are_not_headers() -> None:
    trailers = b"X-Forwarded-For: 1.2.3.4\r\nHost: y\r\n\r\n"
    found = answers([CHUNKED + b"0\r\n" + trailers + GET])
    assert found[0][2] == [["host", "x"], ["transfer-encoding", "chunked"]]
    assert found[1][2] == [["host", "x"]]


def test_the_content_of_chunks_is_not_searched() -> None:
    """Each empty line in it would be a piece of its own, and so many pieces are refused."""
    size = 4 << 20
    stream = CHUNKED + b"%x\r\n" % size + CONTENT * (size // len(CONTENT)) + b"\r\n0\r\n\r\n"
    pieces = [stream[start : start + (1 << 16)] for start in range(0, len(stream), 1 << 16)]
    parsed: list[int] = []

    class Watched(LimitedProtocol):
        def on_body(self, body: bytes) -> None:
            parsed.append(len(body))
            super().on_body(body)

    async def talk() -> bytes:
        connection = Talk(kind=Watched)
        for piece in pieces:
            await connection.hear(piece)
        connection.end()
        return connection.wire.sent

    assert asyncio.run(talk()).startswith(b"HTTP/1.1 200")
    assert sum(parsed) == size
    assert len(parsed) <= len(pieces)


class Searched(bytearray):
    """Data that counts how often it is searched."""

    searches = 0

    def find(self, *args: Any) -> int:
        self.searches += 1
        return super().find(*args)


TINY = b"1\r\na\r\n"


@pytest.mark.parametrize(
    "before", [b"", b"%x\r\n" % (1 << 20) + b"a" * (1 << 20) + b"\r\n"], ids=["first", "after much"]
)
def test_no_tiny_chunk_is_looked_at_once_there_are_too_many(before: bytes) -> None:
    data, chunks = Searched(before + TINY * 10_000 + b"0\r\n\r\n"), ChunkedEnd()
    assert chunks.find(data) == 0
    assert chunks.has_too_many
    assert data.searches <= TINY_CHUNKS + 2


def test_no_trailer_is_looked_at_once_there_are_too_many() -> None:
    data, chunks = Searched(TINY * 200 + b"0\r\n" + b"a:\r\n" * 16_000), ChunkedEnd()
    assert chunks.find(data) < len(data)
    assert data.searches <= 200 + TINY_CHUNKS + 2
    assert answers([CHUNKED + bytes(data)]) == [431]


def test_small_chunks_may_be_as_many_as_they_like() -> None:
    small = b"%x\r\n" % CHUNK_BYTES + b"a" * CHUNK_BYTES + b"\r\n"
    larger = b"%x\r\n" % (3 * CHUNK_BYTES) + b"a" * 3 * CHUNK_BYTES + b"\r\n"
    (only,) = answers([CHUNKED, TINY * 200, small * 1000, *[larger * 100 + TINY * 200] * 20, b"0\r\n\r\n"])
    assert len(only[3]) == 200 + 1000 * CHUNK_BYTES + 20 * (300 * CHUNK_BYTES + 200)


LINE = b"1;" + b"a" * (CHUNK_LINE - 4)


@pytest.mark.parametrize(
    ("line", "ends"),
    [(LINE, True), (b"0" * 14 + b"1", True), (LINE + b"a", False), (b"0" * 15 + b"1", False), (b"-1", False)],
)
def test_the_line_before_a_chunk_is_short(line: bytes, ends: bool) -> None:
    """However it is split; otherwise the request is refused, and nothing after it is answered."""
    stream = CHUNKED + line + b"\r\na\r\n0\r\n\r\n" + GET
    found = answers([stream])
    assert [request if isinstance(request, int) else request[1] for request in found] == (
        ["/a", "/b"] if ends else [400]
    )
    for at in range(len(CHUNKED), len(stream)):
        assert answers([stream[:at], stream[at:]], True) == found
    assert answers([CHUNKED + line + b"a" * CHUNK_LINE]) == [400]  # an end is not waited for


def test_a_body_of_known_length_in_very_many_tiny_pieces_is_refused() -> None:
    """Each piece that the network delivers takes time."""

    async def talk() -> tuple[int, bytes]:
        connection = Talk()
        await connection.hear(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n")
        count = 0
        while not connection.wire.closed and count < 100_000:
            connection.protocol.data_received(b"a")
            count += 1
        connection.end()
        return count, connection.wire.sent

    count, said = asyncio.run(talk())
    assert said.startswith(b"HTTP/1.1 400")
    assert count == 8193


@pytest.mark.parametrize(
    ("bad", "status"),
    [
        (b"FOO BAR\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX-A: " + b"a" * HEAD_BYTES, b"431"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"a:\r\n" * (MOST_FIELDS + 1), b"431"),
    ],
    ids=["malformed", "long", "headers"],
)
def test_a_bad_head_is_refused_when_its_turn_comes(bad: bytes, status: bytes) -> None:
    async def talk() -> tuple[bytes, bytes]:
        done = asyncio.Event()

        async def wait(scope: Any, receive: Any, send: Any) -> None:
            await done.wait()
            await reply(send, b"done")

        connection = Talk(wait)
        before = await connection.hear(GET + bad)
        done.set()
        after = await connection.hear(b"")
        connection.end()
        return before, after

    before, after = asyncio.run(talk())
    assert before == b""
    assert re.findall(rb"HTTP/1.1 (\d+)", after) == [b"200", status]
    assert b"done" in after


def test_a_connection_is_idle_after_the_rest_of_a_refused_body() -> None:
    async def talk() -> None:
        async def refuse(scope: Any, receive: Any, send: Any) -> None:
            await reply(send, b"no")

        connection = Talk(refuse)
        assert b" 200 " in await connection.hear(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n")
        assert connection.protocol._deadline is not None
        await connection.hear(b"a")
        assert connection.protocol._deadline is None
        idle = connection.protocol.timeout_keep_alive_task
        assert idle is not None
        await connection.hear(b"GET")
        assert idle.cancelled()
        assert connection.protocol._deadline is not None
        connection.end()

    asyncio.run(talk())


def test_a_client_that_sends_at_full_speed_is_read_after_its_last_response() -> None:
    """The read that ended with the response was a full one, after which reading pauses until the next turn."""

    async def talk() -> None:
        async def refuse(scope: Any, receive: Any, send: Any) -> None:
            await reply(send, b"no")

        connection = Talk(refuse)
        said = await connection.hear(CHUNKED + b"%x\r\n" % (1 << 20) + b"a" * READ_BYTES)
        assert said.endswith(b"no")
        assert connection.wire.ended
        assert connection.wire.reading
        connection.end()

    asyncio.run(talk())


def test_a_client_that_asks_for_the_end_of_the_connection_may_first_send_all() -> None:
    """Closing at once would reset the connection, and the client might lose the response."""

    async def talk() -> None:
        async def refuse(scope: Any, receive: Any, send: Any) -> None:
            await reply(send, b"no")

        connection = Talk(refuse)
        head = b"POST /a HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % (1 << 20)
        assert (await connection.hear(head)).endswith(b"no")
        assert connection.wire.ended
        for _ in range(16):
            assert connection.wire.reading
            await connection.hear(b"a" * (1 << 16))
        assert not connection.wire.reading
        assert not connection.wire.closed
        connection.end()

    asyncio.run(talk())


@pytest.mark.parametrize(
    ("head", "rest"),
    [
        (CHUNKED, b"%x\r\n" % (1 << 14) + b"a" * (1 << 14) + b"\r\n"),
        (CHUNKED, b"x" * (1 << 14)),
        (b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (REST_BYTES + 1), b"a" * (1 << 14)),
    ],
    ids=["chunks", "malformed", "a length"],
)
def test_the_rest_of_a_request_is_dropped_after_its_response(
    head: bytes, rest: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not parsed, only so much of it is read, and no other request may follow."""
    fed: list[int] = []

    class Watched(LimitedProtocol):
        def on_body(self, body: bytes) -> None:
            fed.append(len(body))
            super().on_body(body)

    async def talk() -> None:
        async def refuse(scope: Any, receive: Any, send: Any) -> None:
            await reply(send, b"no")

        connection = Talk(refuse, Watched)
        said = await connection.hear(head)
        assert said.endswith(b"no")
        assert b"\r\nconnection: close\r\n" in said
        assert connection.wire.ended
        read = 0
        while connection.wire.reading and read < 100 * DROPPED_BYTES:
            assert await connection.hear(rest) == said
            read += len(rest)
        assert DROPPED_BYTES <= read <= DROPPED_BYTES + len(rest)
        assert not connection.wire.closed  # the client may still be reading the response
        assert await connection.hear(GET) == said
        assert connection.protocol._deadline is not None
        connection.end()

    monkeypatch.setattr(ChunkedEnd, "find", lambda self, data: fed.append(len(data)))
    asyncio.run(talk())
    assert fed == []


REFUSED = b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"


async def refuse_posts(scope: Any, receive: Any, send: Any) -> None:
    """Refuse a POST request before its body; answer others with their path."""
    await reply(send, b"no" if scope["method"] == "POST" else scope["path"].encode())


def test_a_rest_of_known_length_is_dropped_unparsed_before_the_next_request() -> None:
    rest = GET * 3
    parsed: list[bytes] = []

    class Watched(LimitedProtocol):
        def on_body(self, body: bytes) -> None:
            parsed.append(body)
            super().on_body(body)

    async def talk(pieces: Iterable[bytes]) -> tuple[bytes, bool]:
        connection = Talk(refuse_posts, Watched)
        await connection.hear(REFUSED % len(rest))
        for piece in pieces:
            await connection.hear(piece)
        closed = connection.wire.closed
        connection.end()
        return connection.wire.sent, closed

    stream = rest + GET + REFUSED % len(rest) + rest + GET
    for at in range(len(stream)):
        said, closed = asyncio.run(talk([stream[:at], stream[at:]]))
        assert re.findall(rb"\r\n\r\n(no|/b)", said) == [b"no", b"/b", b"no", b"/b"]
        assert not closed
    assert asyncio.run(talk(bytes([each]) for each in stream))[0].count(b"HTTP/1.1 200") == 4
    parsed.clear()
    asyncio.run(talk([rest[:9], rest[9:] + GET]))
    assert parsed == []


@pytest.mark.parametrize("close", [b"", b"Connection: close\r\n"], ids=["open", "last"])
def test_what_one_address_sends_of_answered_requests_is_read_slowly(
    close: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over all of its connections; another address is not affected."""
    monkeypatch.setattr(peers, "RESTS_A_SECOND", READ_BYTES)

    async def talk() -> None:
        state = ServerState()
        peers_of(state)._clock = lambda: 100.0

        async def refused(address: str) -> Talk:
            connection = Talk(refuse_posts, state=state, address=address)
            await connection.hear((REFUSED % (1 << 20)).replace(b"Content", close + b"Content"))
            return connection

        first, second, other = await refused("192.0.2.1"), await refused("192.0.2.1"), await refused("192.0.2.2")
        delays: list[float] = []
        for connection in (first, second, other):
            loop = connection.protocol.loop
            clocked: Any = SimpleNamespace(call_later=lambda delay_s, *_: delays.append(delay_s))
            connection.protocol.loop = clocked
            connection.protocol.data_received(bytes(READ_BYTES))
            connection.protocol.loop = loop
            assert not connection.wire.reading
            connection.protocol._pause_or_resume()
            assert connection.wire.reading
        assert delays == [0.0, 1.0, 0.0]
        for connection in (first, second, other):
            assert not connection.wire.closed
            connection.end()

    asyncio.run(talk())


def test_a_small_read_of_an_answered_request_counts_as_a_larger_one() -> None:
    now = 100.0
    known = peers.Peers(lambda: now)
    small, whole = peers.LEAST_READ, peers.RESTS_A_SECOND
    assert [known.rest_delay_s("a", 1) for _ in range(whole // small)][-1] == 0.0
    assert known.rest_delay_s("a", 1) == pytest.approx(small / whole)
    assert known.rest_delay_s("b", whole) == 0.0
    now += 1.0
    assert known.rest_delay_s("b", whole + small) == pytest.approx(small / whole)


def test_a_request_within_the_data_of_another_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Should the parser ever see an end where this module sees none."""
    monkeypatch.setattr(ChunkedEnd, "find", lambda self, data: len(data))
    (only,) = answers([CHUNKED + b"0\r\n\r\n" + GET])
    assert only[1] == "/a"


@pytest.mark.parametrize(
    ("request_line", "status"),
    [(b"GET /a HTTP/1.1", b"400"), (b"GET http://y/a HTTP/1.1", b"400"), (b"GET /a HTTP/1.0", b"200")],
)
def test_a_request_in_http_1_1_has_a_host(request_line: bytes, status: bytes) -> None:
    async def talk() -> bytes:
        connection = Talk()
        said = await connection.hear(request_line + b"\r\nX-A: Host: x\r\n\r\n")
        assert connection.wire.closed
        connection.end()
        return said

    said = asyncio.run(talk())
    assert said.startswith(b"HTTP/1.1 " + status)
    assert (b"the request has 0 Host headers; send exactly one" in said) is (status == b"400")


CODING = b"Transfer-Encoding: "


@pytest.mark.parametrize(
    ("version", "fields", "status"),
    [
        (b"1.1", CODING + b"Chunked", 200),
        (b"1.1", CODING + b"gzip, chunked", 501),
        (b"1.1", CODING + b"gzip\r\n" + CODING + b"chunked", 501),
        (b"1.1", CODING + b"gzip", 400),
        (b"1.1", CODING + b"identity", 400),
        (b"1.1", CODING + b"chunked, gzip", 400),
        (b"1.1", CODING + b"chunked, chunked", 400),
        (b"1.1", CODING + b"chunked\r\n" + CODING + b"chunked", 400),
        (b"1.1", CODING + b"xchunked", 400),
        (b"1.1", CODING, 400),
        (b"1.1", CODING + b"chunked\r\nContent-Length: 5", 400),
        (b"1.1", b"Content-Length: 5\r\n" + CODING + b"chunked", 400),
        (b"1.1", b"Content-Length: 5\r\nContent-Length: 5", 400),
        (b"1.0", CODING + b"chunked", 400),
    ],
)
def test_chunked_is_the_only_transfer_coding(version: bytes, fields: bytes, status: int) -> None:
    """What has two lengths, or none that is known, is refused (RFC 9112, 6.1), and nothing after it is read."""
    found = answers([b"POST /a HTTP/%b\r\nHost: x\r\n%b\r\n\r\n0\r\n\r\n" % (version, fields) + GET])
    assert [request if isinstance(request, int) else request[1] for request in found] == (
        ["/a", "/b"] if status == 200 else [status]
    )


@pytest.mark.parametrize("second", [b"", b"Host: y\r\n", b"HOST: x\r\n"])
def test_a_request_has_one_host(second: bytes) -> None:
    found = answers([b"GET /a HTTP/1.1\r\nHost: x\r\n" + second + b"\r\n" + GET])
    assert [request if isinstance(request, int) else request[1] for request in found] == (
        [400] if second else ["/a", "/b"]
    )


@pytest.mark.parametrize(
    ("url", "host"),
    [
        (b"http://y:1/a?b", "y:1"),
        (b"HTTP://x@y/a", "y"),
        (b"https://[::1]:1/a", "[::1]:1"),
        (b"/a?b=http://y/", "x"),
    ],
)
def test_the_host_of_an_absolute_url_is_the_one_that_is_checked(url: bytes, host: str) -> None:
    (only,) = answers([b"GET " + url + b" HTTP/1.1\r\nHost: x\r\n\r\n"])
    assert only[1:3] == ["/a", [["host", host]]]


@pytest.mark.parametrize("size", [READ_BYTES - 1, READ_BYTES])
def test_a_connection_is_read_once_a_turn(size: int) -> None:
    """The event loop reads again at once what fills the buffer, up to 32 times."""

    async def talk() -> None:
        connection = Talk()
        await connection.hear(b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 10000000\r\n\r\n")
        for _ in range(3):
            connection.protocol.data_received(bytes(size))
            assert connection.wire.reading is (size < READ_BYTES)
            await connection.hear(b"")
            assert connection.wire.reading
        connection.end()

    asyncio.run(talk())


@pytest.mark.parametrize(
    "ahead", [GET, b"GET", b"POST /b HTTP/1.1\r\nHost: x\r\nContent-Length: 9000\r\n\r\n" + b"a" * 9000]
)
def test_what_waits_does_not_hide_that_the_client_has_left(ahead: bytes) -> None:
    begun, left = threading.Event(), threading.Event()

    async def wait(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        begun.set()
        if (await receive())["type"] == "http.disconnect":
            left.set()

    with listening(app=wait) as (_, port):
        with connect(port) as connection:
            connection.sendall(b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n" + ahead)
            assert begun.wait(HANG_S)
        assert left.wait(HANG_S)


def test_each_server_reads_into_a_buffer_of_its_own() -> None:
    async def make() -> list[Any]:
        config = uvicorn.Config(tell, ws="none", lifespan="off", log_config=None)
        config.load()
        audit: Any = None
        protocols = [protocol_of(audit) for _ in range(2)]
        made: list[Any] = [each(config=config, server_state=ServerState(), app_state={}) for each in protocols * 2]
        return [each.get_buffer(0) for each in made]

    buffers = asyncio.run(make())
    assert buffers[0] is buffers[2]
    assert buffers[0] is not buffers[1]
