"""The connection without a proxy: what it reads itself is what h11 reads, and nothing is left for the next request."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpcore
import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.clock import HANG_S
from tests.support.faults import CHUNKED, FAULTS, OK, Certificates, chunks, then
from tests.support.server import Server, response
from text_image_similarity import Config, Limits, RowError
from text_image_similarity.fetch import Fetcher, GuardedTransport, direct, http_url
from text_image_similarity.fetch.targets import Targets

pytestmark = pytest.mark.usefixtures("few_authorities")

LOOPBACK = Limits(allow_private_addresses=True, connect_s=600.0, total_s=600.0, max_bytes=1_000_000)
PATIENT = Config(timeout_s=600.0, retries=0, limits=LOOPBACK)
LENGTH = OK + b"Content-Length: 7\r\n"

# Heads and bodies at the edges of HTTP, where two parsers may disagree about where an answer ends.
ODD = {
    "plain": LENGTH + b"\r\npicture",
    "without a reason": b"HTTP/1.1 200\r\nContent-Length: 7\r\n\r\npicture",
    "a reason of many words": b"HTTP/1.1 200 All \t is well\r\nContent-Length: 7\r\n\r\npicture",
    "a length with zeros": OK + b"Content-Length: 0007\r\n\r\npicture",
    "a length with blanks": OK + b"Content-Length: \t 7 \t\r\n\r\npicture",
    "a length with a sign": OK + b"Content-Length: +7\r\n\r\npicture",
    "a length in hexadecimal": OK + b"Content-Length: 0x7\r\n\r\npicture",
    "a length with an underscore": OK + b"Content-Length: 1_0\r\n\r\npicture...",
    "a length of nothing": OK + b"Content-Length: \r\n\r\npicture",
    "a length of 20 digits": OK + b"Content-Length: 00000000000000000007\r\n\r\npicture",
    "a length of 21 digits": OK + b"Content-Length: 000000000000000000007\r\n\r\npicture",
    "the same length twice": LENGTH + b"Content-Length: 7\r\n\r\npicture",
    "the same length twice in a line": OK + b"Content-Length: 7, 7\r\n\r\npicture",
    "another length in a line": OK + b"Content-Length: 7, 8\r\n\r\npicture",
    "another length in other letters": LENGTH + b"CONTENT-LENGTH: 8\r\n\r\npicture",
    "a length and chunks": LENGTH + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    "chunks and a length": CHUNKED[:-2] + b"Content-Length: 7\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    "a length and another transfer encoding": LENGTH + b"Transfer-Encoding: gzip\r\n\r\npicture",
    "a length and a transfer encoding of nothing": LENGTH + b"Transfer-Encoding:\r\n\r\npicture",
    "chunked twice": OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks in capitals": OK + b"Transfer-Encoding: CHUNKED\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    "chunks with extensions and trailers": CHUNKED + b"3;a=b\r\nabc\r\n0\r\nX: 1\r\n\r\n",
    "chunks with a space before the name's colon": OK + b"Transfer-Encoding : chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    "a length with a space before its colon": OK + b"Content-Length : 7\r\n\r\npicture",
    "a folded length": OK + b"Content-Length:\r\n 7\r\n\r\npicture",
    "a folded header": LENGTH + b"X: a\r\n b\r\n\r\npicture",
    "a header that hides a length": OK + b"X: a\nContent-Length: 3\r\nContent-Length: 7\r\n\r\npicture",
    "bare line feeds": b"HTTP/1.1 200 OK\nContent-Length: 7\n\npicture",
    "bare line feeds in the head's end": LENGTH + b"\npicture",
    "a bare carriage return": OK + b"Content-Length: 7\rX: 1\r\n\r\npicture",
    "a carriage return too many": OK + b"Content-Length: 7\r\r\n\r\npicture",
    "bytes above ASCII in a header": LENGTH + b"X: \xe9\xff\r\n\r\npicture",
    "a control character in a header": LENGTH + b"X: a\x01b\r\n\r\npicture",
    "a NUL in a name": LENGTH + b"X\0: a\r\n\r\npicture",
    "an empty header": LENGTH + b"X:\r\nY: \t \r\n\r\npicture",
    "one header again and again": LENGTH + b"Set-Cookie: a=b\r\n" * 300 + b"\r\npicture",
    "a header with a colon": LENGTH + b"X: a:b: c\r\n\r\npicture",
    "blanks without end in a header": LENGTH + b"X: a" + b" " * 30_000 + b"b\r\n\r\npicture",
    "a name without end": LENGTH + b"x" * 60_000,
    "an empty line first": b"\r\n" + LENGTH + b"\r\npicture",
    "HTTP/1.0": b"HTTP/1.0 200 OK\r\nContent-Length: 7\r\n\r\npicture",
    "HTTP/1.0 that stays": b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 7\r\n\r\npicture",
    "HTTP/1.2": b"HTTP/1.2 200 OK\r\nContent-Length: 7\r\n\r\npicture",
    "HTTP/2.0": b"HTTP/2.0 200 OK\r\nContent-Length: 7\r\n\r\npicture",
    "http in small letters": b"http/1.1 200 OK\r\nContent-Length: 7\r\n\r\npicture",
    "two spaces before the status": b"HTTP/1.1  200 OK\r\nContent-Length: 7\r\n\r\npicture",
    "a status of four digits": b"HTTP/1.1 2000 OK\r\nContent-Length: 7\r\n\r\npicture",
    "status 099": b"HTTP/1.1 099 OK\r\nContent-Length: 7\r\n\r\npicture",
    "status 599": b"HTTP/1.1 599 Odd\r\nContent-Length: 7\r\n\r\npicture",
    "status 206": b"HTTP/1.1 206 Part\r\nContent-Length: 7\r\n\r\npicture",
    "204 with a body": b"HTTP/1.1 204 No\r\nContent-Length: 7\r\n\r\npicture",
    "304 with a body": b"HTTP/1.1 304 No\r\nContent-Length: 7\r\n\r\npicture",
    "100 first": b"HTTP/1.1 100 Continue\r\n\r\n" + LENGTH + b"\r\npicture",
    "103 with a length first": b"HTTP/1.1 103 Hints\r\nContent-Length: 5\r\n\r\n" + LENGTH + b"\r\npicture",
    "no length": OK + b"\r\npicture",
    "no length and no end": OK + b"X: 1\r\n",
    "a body that is too short": LENGTH + b"\r\npict",
    "a body that is too long": LENGTH + b"\r\npicture" + b"picture",
    "an answer behind the answer": (LENGTH + b"\r\npicture") * 2,
    "an empty body and an answer behind it": response() + LENGTH + b"\r\npicture",
    "it closes": LENGTH + b"Connection: close\r\n\r\npicture",
    "it stays": LENGTH + b"Connection: Keep-Alive\r\n\r\npicture",
    "it closes and stays": LENGTH + b"Connection: keep-alive, close\r\n\r\npicture",
    "it closes in another line": LENGTH + b"Connection: keep-alive\r\nConnection: close\r\n\r\npicture",
    "it upgrades": LENGTH + b"Connection: upgrade\r\nUpgrade: h2c\r\n\r\npicture",
    "a redirect with a body": b"HTTP/1.1 302 Found\r\nLocation: /y\r\nContent-Length: 7\r\n\r\npicture",
    "an encoding of nothing": LENGTH + b"Content-Encoding:\r\n\r\npicture",
    "an encoding that is none": LENGTH + b"Content-Encoding: identity\r\n\r\npicture",
}  # fmt: skip


class Received:
    """A stream that gives some pieces and then ends."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = list(pieces)

    def read(self, max_bytes: int, timeout: float) -> bytes:
        if not self.pieces:
            return b""
        piece = self.pieces.pop(0)
        if len(piece) > max_bytes:
            self.pieces.insert(0, piece[max_bytes:])
        return piece[:max_bytes]


Outcome = tuple[Any, ...]


def outcome(read: Callable[[Any, bytes, float], tuple[Any, Any] | None], *pieces: bytes) -> tuple[Outcome, bool] | None:
    """Return what an answer is read as, with whether its connection can be used again; None if it is not read."""
    stream, body = Received(*pieces[1:]), b""
    try:
        found = read(stream, pieces[0], 1.0)
        if found is None:
            return None
        head, rest = found
        said = (head.status, head.reason, [(name.lower(), value) for name, value in head.headers()])
        try:
            while True:
                body += next(rest)
        except StopIteration as end:
            return (*said, body), end.value and not stream.pieces  # what is left is seen before the next request
    except httpcore.RemoteProtocolError as exc:
        return (type(exc), str(exc), body), False


def agree(*pieces: bytes) -> bool:
    """Check that an answer read as a plain one is what h11 reads, and return whether it was read as one."""
    plain = outcome(direct._plain, *pieces)
    if plain is not None:
        assert plain == outcome(direct._by_h11, *pieces)
    return plain is not None


@pytest.mark.parametrize("name", ODD)
def test_a_plain_answer_is_what_h11_reads_wherever_it_is_cut(name: str) -> None:
    answer = ODD[name]
    agree(answer)
    for at in range(1, min(len(answer), 400)):
        agree(answer[:at], answer[at:])


def test_which_answers_are_plain() -> None:
    """The test above compares something, and what differs from a plain answer in its frame is left to h11."""
    plain = {name for name, answer in ODD.items() if agree(answer)}
    assert {"plain", "it closes", "a body that is too long", "a redirect with a body", "status 599"} <= plain
    left = re.compile(
        "twice|chunk|HTTP/|204|304|10[03]|bare|folded|hides|transfer|above|control|NUL|sign|and stays|no length"
    )
    assert not {name for name in plain if left.search(name)}


@given(
    name=st.sampled_from(sorted(ODD)),
    at=st.integers(0, 150),
    gone=st.integers(0, 3),
    put=st.sampled_from(
        [b"", b"\r", b"\n", b"\r\n", b" ", b"\t", b":", b"\0", b"\x0b", b"\x85", b"0", b"7", b",", b"-", b"close"]
    ),
    cut=st.integers(1, 200),
)
@settings(max_examples=400)
def test_a_plain_answer_is_what_h11_reads_whatever_is_changed(
    name: str, at: int, gone: int, put: bytes, cut: int
) -> None:
    answer = ODD[name][:at] + put + ODD[name][at + gone :]
    agree(answer or b"x")
    agree(*filter(None, (answer[:cut], answer[cut:])) or (b"x",))


class ByHttpcore(httpx.BaseTransport):
    """The way over httpcore, which requests without a proxy took before."""

    def __init__(self) -> None:
        self._transport = GuardedTransport(LOOPBACK)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        return self._transport.handle_request(request)

    def close(self) -> None:
        self._transport.close()


def result(fetcher: Fetcher, url: str) -> bytes | str:
    try:
        return fetcher.fetch(url)
    except RowError as error:
        return str(error)


def test_odd_answers_end_as_over_httpcore(server: Server) -> None:
    answers = ODD | {name: fault.answer for name, fault in FAULTS.items() if isinstance(fault.answer, bytes)}
    with closing(Fetcher(PATIENT)) as ours, closing(Fetcher(PATIENT, transport=ByHttpcore())) as theirs:
        for name, answer in answers.items():
            server.routes["/x"] = then(answer, cut="half") if isinstance(answer, bytes) else answer
            url = server.url("/x")
            assert result(ours, url) == result(theirs, url), name


# Connections


@pytest.mark.parametrize("name", ["a body that is too long", "an answer behind the answer"])
def test_what_follows_a_body_is_never_an_answer(server: Server, name: str) -> None:
    server.routes |= {"/x": ODD[name], "/y": response(b"another")}
    with closing(Fetcher(PATIENT)) as fetcher:
        for _ in range(3):
            assert (fetcher.fetch(server.url("/x")), fetcher.fetch(server.url("/y"))) == (b"picture", b"another")
    assert server.connections == 4  # /y's is kept for the next /x


def test_what_follows_a_body_under_tls_is_never_an_answer(certificates: Certificates, ca_file: Path) -> None:
    """It waits in the layer of TLS, where the system does not see it."""
    context = certificates.server("good")
    body = bytes(200_000)
    with (
        Server(lambda connection: context.wrap_socket(connection, server_side=True)) as server,
        closing(Fetcher(replace(PATIENT, ca_file=ca_file), resolve=lambda *_: ["127.0.0.1"])) as fetcher,
    ):
        server.routes |= {"/x": response(body) + response(b"poison"), "/y": response(b"another")}
        url = f"https://photos.test:{server.port}"
        assert (fetcher.fetch(url + "/x"), fetcher.fetch(url + "/y")) == (body, b"another")
        assert server.connections == 2


@pytest.mark.parametrize("framed", [response(b"picture"), CHUNKED + chunks(b"picture") + b"0\r\n\r\n"])
def test_what_comes_later_is_never_an_answer_either(server: Server, framed: bytes) -> None:
    has_answer, has_more = threading.Event(), threading.Event()

    def answer(connection: socket.socket, _: str) -> None:
        connection.sendall(framed)
        assert has_answer.wait(HANG_S)
        connection.sendall(response(b"poison"))
        has_more.set()

    server.routes |= {"/x": answer, "/y": response(b"another")}
    with closing(Fetcher(PATIENT)) as fetcher:
        assert fetcher.fetch(server.url("/x")) == b"picture"
        has_answer.set()
        assert has_more.wait(HANG_S)
        assert fetcher.fetch(server.url("/y")) == b"another"
    assert server.connections == 2


@pytest.mark.parametrize(
    ("answer", "connections"),
    [
        (response(b"picture"), 1),
        (response(b"picture" * 40_000), 1),
        (CHUNKED + chunks(b"abc", b"def") + b"0\r\n\r\n", 1),
        (b"HTTP/1.1 103 Hints\r\n\r\n" + response(b"picture"), 1),
        (response(b"gone", "404 Not Found"), 1),
        (response(b"", "204 No Content"), 1),
        (response(b"", "304 Not Modified"), 3),
        (response(b"picture", connection="close"), 3),
        (CHUNKED + chunks(b"picture") + b"0\r\n\r\nHTTP/1.1", 3),
        (response(b"gone" * 40_000, "404 Not Found"), 3),  # not read
    ],
)
def test_a_connection_is_kept_if_its_answer_has_an_end_that_was_read(
    server: Server, answer: bytes, connections: int
) -> None:
    server.routes["/x"] = answer
    with closing(Fetcher(PATIENT)) as fetcher:
        assert len({result(fetcher, server.url("/x")) for _ in range(3)}) == 1
    assert server.connections == connections


def test_a_thread_keeps_two_connections() -> None:
    with Server() as one, Server() as two, Server() as three, closing(Fetcher(PATIENT)) as fetcher:
        for server in (one, two, one, two, three, two, three, one):
            server.routes["/x"] = response(b"picture")
            assert fetcher.fetch(server.url("/x")) == b"picture"
        assert (one.connections, two.connections, three.connections) == (2, 1, 1)


def test_closing_closes_connections_kept_and_in_use(server: Server) -> None:
    """An answer that is read to its end after the run was closed leaves no socket open, or a warning would fail this."""
    server.routes["/x"] = response(b"picture")
    transport = GuardedTransport(LOOPBACK)
    target = Targets().find(server.url("/x"))
    answer = transport.get(target, b"Host: x\r\n\r\n", direct.Times(600.0, 600.0))
    transport.close()
    assert b"".join(answer) == b"picture"
    answer.close()
    assert not answer._hang_up.__self__._socket.fileno() >= 0  # type: ignore[attr-defined]


def test_a_request_is_as_over_httpcore(server: Server) -> None:
    server.routes["/x"] = response(b"picture")
    url = server.url("/x?a=%20b&c=d")
    with closing(Fetcher(PATIENT)) as ours, closing(Fetcher(PATIENT, transport=ByHttpcore())) as theirs:
        assert ours.fetch(url) == theirs.fetch(url)
    assert server.heads[0] == server.heads[1]


def test_an_opt_out_is_seen_beside_a_plain_body(server: Server) -> None:
    server.routes["/x"] = response(b"picture", x_robots_tag="noai")
    with closing(Fetcher(replace(PATIENT, limits=replace(LOOPBACK, respect_opt_out=True)))) as fetcher:
        assert str(result(fetcher, server.url("/x"))).startswith("disallowed_by_origin")


# URLs


def parts(url: httpx.URL) -> tuple[object, ...]:
    return url.scheme, url.host, url.raw_host.decode("ascii"), url.port, url.raw_path


def same_target(text: str) -> None:
    try:
        expected: tuple[object, ...] = parts(http_url(text))
    except ValueError as exc:
        expected = (str(exc),)
    targets = Targets()
    for _ in range(2):  # the second time its host is remembered
        assert expected == target_of(targets, text)


def target_of(targets: Targets, text: str) -> tuple[object, ...]:
    try:
        found = targets.find(text)
    except ValueError as exc:
        return (str(exc),)
    origin = found.origin
    assert parts(found.url) == (origin.scheme, origin.host, origin.ascii_host, origin.port, found.path)
    return parts(found.url)


@pytest.mark.parametrize("start", ["http://example.org", "https://EXAMPLE.org:443", "http://[::1]:81", "https://bücher.example",
                                   "http://a@b", "http://127.1", "HTTP://a.b", "http:/a", " http://a.b", "http://a.b:0", "http://a b"])  # fmt: skip
@pytest.mark.parametrize("end", ["", "/", "/a/b.jpg", "/a//b", "/.", "/..", "/a/../b", "/a/.b/c", "/a./b", "/a...", "/a?", "/?b", "?b",
                                 "/a?b=/../c", "/a%20b", "/a%2", "/a%zz", "/a b", "/a#b", "/ä", "/a|b", "/a{b}", "/a;b=c,d", "/a\\b", "/a\nb",
                                 "/a?b%", "/a?b'c", "/a?b|c", "/a'b(c)*!$", "/" + "a" * 8192])  # fmt: skip
def test_a_target_is_what_the_url_says(start: str, end: str) -> None:
    same_target(start + end)


@given(st.text(st.sampled_from("ab/.%2eE?#&=:@'[]|~ ;"), max_size=12))
@settings(max_examples=300)
def test_a_target_is_what_any_url_says(end: str) -> None:
    same_target("http://example.org/" + end)


def test_no_more_hosts_are_remembered_than_some(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("text_image_similarity.fetch.targets._REMEMBERED", 20)
    targets = Targets()
    for i in range(100):
        assert targets.find(f"http://host{i}.test/").origin.host == f"host{i}.test"
    assert len(targets._known) <= 20


def test_no_more_headers_are_kept_than_some(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("text_image_similarity.fetch.fetcher._REMEMBERED", 5)
    with closing(Fetcher(PATIENT, resolve=lambda *_: [])) as fetcher:
        for i in range(20):
            assert str(result(fetcher, f"http://host{i}.test/")).startswith("dns_error")
        assert len(fetcher._sent_headers) <= 5
