"""The fetcher against a loopback server that misbehaves, an injected transport and a fake resolver."""

from __future__ import annotations

import base64
import contextlib
import gzip
import socket
import ssl
import threading
import tracemalloc
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from itertools import repeat
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote_to_bytes

import httpcore
import httpx
import pytest

from tests.support.clock import HANG_S, ending, stop_fetchers_clock
from tests.support.images import make_png
from tests.support.server import Answer, Server, response
from text_image_similarity import Config, ErrorCode, Limits, RowError
from text_image_similarity.fetch import Fetcher, references, responses, stream
from text_image_similarity.fetch.host_headers import HostHeaders

pytestmark = pytest.mark.usefixtures("few_authorities")

LOOPBACK = Limits(allow_private_addresses=True, connect_s=600.0, total_s=600.0)
PATIENT = Config(timeout_s=600.0, retries=0, limits=LOOPBACK)
HASTY = replace(PATIENT, timeout_s=0.5)  # for what must time out


def failure(fetcher: Fetcher, url: str) -> RowError:
    with pytest.raises(RowError) as caught:
        fetcher.fetch(url)
    return caught.value


def fetch_once(url: str, config: Config = PATIENT) -> bytes:
    fetcher = Fetcher(config)
    try:
        return fetcher.fetch(url)
    finally:
        fetcher.close()


def code_of(url: str, config: Config = PATIENT) -> ErrorCode:
    with pytest.raises(RowError) as caught:
        fetch_once(url, config)
    return caught.value.code


def drip(connection: socket.socket, _: str) -> None:
    """Send a byte of a header now and then, for ever."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    while True:
        connection.sendall(b"x")
        threading.Event().wait(0.05)


def endless(connection: socket.socket, _: str) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        connection.sendall(b"x" * 65536)


def close_at_once(connection: socket.socket, _: str) -> None:
    connection.shutdown(socket.SHUT_RDWR)


def test_a_picture_comes_over_one_kept_alive_connection(server: Server) -> None:
    server.routes["/a.png"] = response(make_png())
    fetcher = Fetcher(PATIENT)
    for _ in range(5):
        assert fetcher.fetch(server.url("/a.png")) == make_png()
    fetcher.close()
    assert server.connections == 1
    assert "text-image-similarity/" in server.heads[0]
    assert "Accept-Encoding: identity" in server.heads[0]


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (response(status="404 Not Found"), "http_4xx"),
        (response(status="403 Forbidden"), "http_4xx"),
        (response(status="429 Too Many Requests"), "http_429"),
        (response(status="500 Internal Server Error"), "http_5xx"),
        (response(status="503 Service Unavailable"), "http_5xx"),
        (response(b"", "200 OK"), "empty_body"),
        (response(b"", "204 No Content"), "empty_body"),
        (response(b"", "304 Not Modified"), "redirect_error"),
        (response(b"", "302 Found"), "redirect_error"),
        (response(b"", "302 Found", location="ftp://example.org/a.png"), "redirect_error"),
        (response(b"", "302 Found", location="http://[::bad/"), "redirect_error"),
        (response(b"", "302 Found", location="http://xn--/"), "redirect_error"),
        (response(b"", "302 Found", location="http://a%20b/"), "redirect_error"),
        (response(b"x", content_length=str(21 * 1024 * 1024)), "too_many_bytes"),
        (endless, "too_many_bytes"),
        (response(b"short", content_length="100"), "timeout"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n", "bad_response"),
        (b"SSH-2.0-OpenSSH_9.9\r\n\r\n", "bad_response"),
        (close_at_once, "bad_response"),
        (drip, "timeout"),
    ],
)
def test_faults_have_their_codes(server: Server, answer: Answer, code: str) -> None:
    server.routes["/x"] = answer
    config = replace(HASTY if code == "timeout" else PATIENT, limits=replace(LOOPBACK, max_bytes=1_000_000))
    assert ending(lambda: code_of(server.url("/x"), config)) == code


def test_a_silent_server_times_out(server: Server) -> None:
    server.routes["/x"] = server.hang
    assert code_of(server.url("/x"), HASTY) == "timeout"


def test_a_status_is_in_the_detail(server: Server) -> None:
    fetcher = Fetcher(PATIENT)
    assert str(failure(fetcher, server.url("/none"))) == "http_4xx: 404 Not Found"
    fetcher.close()


def test_redirects_are_followed_and_counted(server: Server) -> None:
    for i in range(7):
        server.routes[f"/{i}"] = response(b"", "302 Found", location=f"/{i + 1}")
    server.routes["/7"] = response(b"done")
    assert fetch_once(server.url("/2")) == b"done"  # five redirects
    assert code_of(server.url("/1")) == "redirect_error"  # six
    server.routes["/loop"] = response(b"", "301 Moved Permanently", location="/loop")
    assert code_of(server.url("/loop")) == "redirect_error"
    assert server.hits["/loop"] == 6


def test_cookies_are_not_kept(server: Server) -> None:
    server.routes["/set"] = response(b"x", set_cookie="id=1")
    fetcher = Fetcher(PATIENT)
    fetcher.fetch(server.url("/set"))
    fetcher.fetch(server.url("/set"))
    fetcher.close()
    assert "cookie:" not in server.heads[1].lower()


def test_passing_failures_are_tried_again(server: Server) -> None:
    answers = iter(
        [response(status="503 Busy", retry_after="0"), response(b"", content_length="7"), response(b"picture")]
    )

    def flaky(connection: socket.socket, _: str) -> None:
        connection.sendall(next(answers))
        if server.hits["/flaky"] == 2:
            connection.shutdown(socket.SHUT_RDWR)

    server.routes["/flaky"] = flaky
    assert fetch_once(server.url("/flaky"), replace(PATIENT, retries=2)) == b"picture"
    assert server.hits["/flaky"] == 3


def test_lasting_failures_are_not_tried_again(server: Server) -> None:
    assert code_of(server.url("/none"), replace(PATIENT, retries=3)) == "http_4xx"
    assert server.hits["/none"] == 1


def test_tries_are_counted(server: Server) -> None:
    server.routes["/x"] = response(status="500 Broken")
    assert code_of(server.url("/x"), replace(PATIENT, retries=1)) == "http_5xx"
    assert server.hits["/x"] == 2


@pytest.mark.parametrize("value", ["9", "Sun, 06 Nov 1994 08:49:37 GMT"])
def test_retry_after_is_waited_for(server: Server, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    now = datetime(1994, 11, 6, 8, 49, 28, tzinfo=UTC).timestamp()
    monkeypatch.setattr(responses, "time", SimpleNamespace(time=lambda: now))
    answers = iter([response(status="429 Slow Down", retry_after=value), response(b"picture")])
    server.routes["/x"] = lambda connection, _: connection.sendall(next(answers))
    fetcher = Fetcher(replace(PATIENT, retries=1))
    clock = stop_fetchers_clock(monkeypatch)
    clock.pass_over(fetcher._closing)
    clock.pass_over(fetcher._hosts._patience)
    assert fetcher.fetch(server.url("/x")) == b"picture"
    assert clock.waits == [9.0]
    fetcher.close()


@pytest.mark.parametrize("value", ["31", "100000000000", "Fri, 31 Dec 9999 23:59:59 GMT", "24"])
def test_a_long_retry_after_ends_the_row(server: Server, value: str) -> None:
    server.routes["/x"] = response(status="503 Busy", retry_after=value)
    limits = replace(LOOPBACK, total_s=20.0)
    assert code_of(server.url("/x"), replace(PATIENT, retries=3, limits=limits)) == "http_5xx"
    assert server.hits["/x"] == 1


def test_a_row_has_a_total_deadline(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("text_image_similarity.system.random.random", lambda: 0.0)
    server.routes["/x"] = server.hang
    config = Config(timeout_s=0.4, retries=50, limits=replace(LOOPBACK, total_s=1.0))
    assert code_of(server.url("/x"), config) == "timeout"
    assert 1 <= server.hits["/x"] <= 3  # with fifty tries left


def test_one_host_gets_a_bounded_number_of_requests(server: Server) -> None:
    full = threading.Event()

    def wait_for_company(*_: object) -> bytes:
        if server.busiest >= 3:
            full.set()
        full.wait(HANG_S)
        return response(b"x")

    server.routes["/x"] = wait_for_company
    fetcher = Fetcher(replace(PATIENT, limits=replace(LOOPBACK, per_host=3)))
    threads = [threading.Thread(target=fetcher.fetch, args=(server.url(f"/x?{i}"),)) for i in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    fetcher.close()
    assert server.busiest == 3
    assert sum(server.hits.values()) == 12


def test_a_kept_connection_that_has_ended_costs_no_try(server: Server) -> None:
    endings = iter([b""])

    def end_once(connection: socket.socket, _: str) -> None:
        if next(endings, None) is None:
            connection.sendall(response(b"picture"))
        else:
            connection.shutdown(socket.SHUT_RDWR)

    server.routes |= {"/a": response(b"picture"), "/b": end_once}
    fetcher = Fetcher(PATIENT)
    assert [fetcher.fetch(server.url(path)) for path in ("/a", "/b")] == [b"picture"] * 2
    fetcher.close()
    assert server.hits["/b"] == server.connections == 2


def test_what_an_answer_leaves_behind_does_not_harm_the_next_row(server: Server) -> None:
    server.routes |= {"/a": response(b"picture and more", content_length="7"), "/b": response(b"another")}
    fetcher = Fetcher(PATIENT)
    assert [fetcher.fetch(server.url(path)) for path in ("/a", "/b", "/b")] == [b"picture", b"another", b"another"]
    fetcher.close()


def test_a_fresh_connection_that_ends_is_not_tried_again_in_secret(server: Server) -> None:
    server.routes["/x"] = close_at_once
    assert code_of(server.url("/x")) == "bad_response"
    assert server.hits["/x"] == 1


def test_closing_ends_a_download_at_once(server: Server) -> None:
    asked = threading.Event()

    def hang(connection: socket.socket, head: str) -> None:
        asked.set()
        server.hang()

    server.routes["/x"] = hang
    fetcher = Fetcher(replace(PATIENT, retries=5))
    with ThreadPoolExecutor(1) as pool:
        row = pool.submit(failure, fetcher, server.url("/x"))
        assert asked.wait(HANG_S)
        fetcher.close()
        assert str(row.result(HANG_S)) == "connect_error: the run was closed"


def test_places_at_a_host_are_kept_across_redirects(server: Server) -> None:
    served, place, crowded = threading.Semaphore(0), threading.Lock(), threading.Event()

    def slowly(connection: socket.socket, _: str) -> None:
        if not place.acquire(blocking=False):
            crowded.set()
        served.acquire(timeout=0.01)  # never released: time for others to come, if they may
        if not crowded.is_set():
            place.release()  # before the answer, which lets the client go on
        connection.sendall(response(b"x"))

    server.routes["/door"] = response(b"", "302 Found", location=f"http://busy.test:{server.port}/x")
    server.routes["/x"] = slowly
    config = replace(PATIENT, limits=replace(LOOPBACK, per_host=1))
    fetcher = Fetcher(config, resolve=lambda host, port: ["127.0.0.1"])
    with ThreadPoolExecutor(20) as pool:
        found = list(pool.map(fetcher.fetch, [f"http://door{i}.test:{server.port}/door" for i in range(20)]))
    fetcher.close()
    assert found == [b"x"] * 20
    assert not crowded.is_set()


def test_waiting_for_a_place_ends_with_the_run(server: Server) -> None:
    server.routes["/x"] = server.hang
    fetcher = Fetcher(replace(PATIENT, limits=replace(LOOPBACK, per_host=1)))
    with ThreadPoolExecutor(3) as pool:
        rows = [pool.submit(failure, fetcher, server.url(f"/x?{i}")) for i in range(3)]
        server.wait_for("/x?", 1)
        fetcher.close()
        assert {row.result(HANG_S).code for row in rows} == {ErrorCode.CONNECT_ERROR}


@pytest.mark.parametrize("when", ["before a place", "with a place"])
def test_a_row_that_comes_as_the_run_ends_says_so(server: Server, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    server.routes["/x"] = response(b"x")
    fetcher = Fetcher(PATIENT)
    if when == "before a place":
        fetcher.close()

    def headers(*_: object, **__: object) -> dict[str, str]:
        fetcher.close()
        return {}

    monkeypatch.setattr(HostHeaders, "headers_for", headers)
    error = failure(fetcher, server.url("/x"))
    assert (error.code, error.detail) == ("connect_error", "the run was closed")
    assert not server.heads


def test_hosts_are_forgotten() -> None:
    transport = httpx.MockTransport(lambda request: httpx.Response(200, content=b"x"))
    fetcher = Fetcher(PATIENT, transport=transport)
    for i in range(50):
        fetcher.fetch(f"http://host{i}.test/")
    assert not fetcher._hosts._known


def test_pauses_between_tries_grow_and_are_jittered(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.routes["/x"] = response(status="500 Broken")
    monkeypatch.setattr("text_image_similarity.system.random.random", lambda: 0.5)
    fetcher = Fetcher(replace(PATIENT, retries=7, limits=replace(LOOPBACK, total_s=1000.0)))
    pauses: list[float] = []
    monkeypatch.setattr(fetcher._closing, "wait", lambda pause: pauses.append(pause))
    assert failure(fetcher, server.url("/x")).code == "http_5xx"
    fetcher.close()
    assert pauses == [0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 4.0]  # half of 0.25 * 2^n, capped at 8 s


def test_content_encodings_that_need_no_care_are_understood(server: Server) -> None:
    server.routes["/zipped"] = response(gzip.compress(make_png()), content_encoding="gzip")
    assert fetch_once(server.url("/zipped")) == make_png()
    for i, encoding in enumerate(("identity", "none", "utf-8", "binary", "aws-chunked", "gzip, identity")):
        body = gzip.compress(make_png()) if "gzip" in encoding else make_png()
        server.routes[f"/{i}"] = response(body, content_encoding=encoding)
        assert fetch_once(server.url(f"/{i}")) == make_png(), encoding
    server.routes["/br"] = response(b"x", content_encoding="br")
    assert code_of(server.url("/br")) == "bad_response"


def test_what_follows_a_gzip_stream_counts(server: Server) -> None:
    def flood(connection: socket.socket, _: str) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n" + gzip.compress(make_png()))
        while True:
            connection.sendall(b"x" * 65536)

    server.routes["/x"] = flood
    limits = replace(LOOPBACK, max_bytes=1_000_000)
    assert code_of(server.url("/x"), replace(PATIENT, limits=limits)) == "too_many_bytes"


def test_a_body_in_very_many_tiny_pieces_is_refused_and_lets_others_work(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(responses, "time", SimpleNamespace(sleep=pauses.append))
    with pytest.raises(RowError, match=r"8,193 pieces of 1 bytes") as caught:
        list(responses.expanded(repeat(b"x"), "", 1_000_000))
    assert caught.value.code is ErrorCode.BAD_RESPONSE
    assert len(pauses) == 8192 // 8
    pauses.clear()
    large = [bytes(512)] * 20_000
    assert list(responses.expanded(large, "", 512 * 20_000)) == large
    assert not pauses


def test_a_compression_bomb_is_not_unpacked(server: Server) -> None:
    bomb = gzip.compress(b"\0" * 200_000_000, 1)
    server.routes["/once"] = response(bomb, content_encoding="gzip")
    server.routes["/twice"] = response(gzip.compress(bomb), content_encoding="gzip, gzip")
    server.routes["/not"] = response(b"not gzip", content_encoding="gzip")
    tracemalloc.start()
    assert code_of(server.url("/once")) == "too_many_bytes"
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * LOOPBACK.max_bytes
    assert code_of(server.url("/twice")) == "bad_response"
    assert code_of(server.url("/not")) == "bad_response"


def test_a_tls_handshake_that_never_comes_ends_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:  # accepts in the kernel, says nothing
        assert ending(lambda: code_of(f"https://127.0.0.1:{listener.getsockname()[1]}/", HASTY)) == "timeout"


def test_a_connection_gets_its_own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[float] = []

    def refuse(addresses: object, port: int, timeout: float, check_open: object) -> None:
        given.append(timeout)
        raise TimeoutError("late")

    monkeypatch.setattr("text_image_similarity.fetch.backend.dial", refuse)
    assert code_of("http://127.0.0.1/", replace(PATIENT, limits=replace(LOOPBACK, connect_s=0.7))) == "timeout"
    assert given == [0.7]


def test_a_resolver_that_hangs_ends_with_the_row() -> None:
    never = threading.Event()

    def resolve(host: str, port: int) -> list[str]:
        never.wait()
        return []

    fetcher = Fetcher(HASTY, resolve=resolve)
    error = ending(lambda: failure(fetcher, "http://photos.test/"))
    assert str(error) == "dns_error: photos.test was not resolved in time"
    never.set()
    fetcher.close()


def test_closing_does_not_wait_for_a_resolver() -> None:
    never, asked = threading.Event(), threading.Event()

    def resolve(host: str, port: int) -> list[str]:
        asked.set()
        never.wait()
        return []

    fetcher = Fetcher(PATIENT, resolve=resolve)
    with ThreadPoolExecutor(1) as pool:
        row = pool.submit(failure, fetcher, "http://photos.test/")
        assert asked.wait(HANG_S)
        fetcher.close()
        assert row.result(HANG_S).code == "connect_error"
    never.set()


def test_a_refused_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert code_of(f"http://127.0.0.1:{port}/") == "connect_error"


def test_a_server_without_tls(server: Server) -> None:
    assert code_of(server.url("/x").replace("http:", "https:")) == "tls_error"


def test_names_are_resolved_checked_and_then_dialled(server: Server) -> None:
    server.routes["/x"] = response(b"picture")
    asked: list[str] = []

    def resolve(host: str, port: int) -> list[str]:
        asked.append(host)
        if host == "nowhere.test":
            raise RowError(ErrorCode.DNS_ERROR, "no such name")
        return [] if host == "empty.test" else ["127.0.0.1"]

    fetcher = Fetcher(PATIENT, resolve=resolve)
    assert fetcher.fetch(f"http://photos.test:{server.port}/x") == b"picture"
    assert f"Host: photos.test:{server.port}" in server.heads[0]
    assert failure(fetcher, "http://nowhere.test/").code == "dns_error"
    assert failure(fetcher, "http://empty.test/").code == "dns_error"
    assert asked == ["photos.test", "nowhere.test", "empty.test"]
    fetcher.close()


@pytest.mark.parametrize(
    ("raised", "code"),
    [
        (httpx.ConnectTimeout("t"), "timeout"),
        (httpx.ReadTimeout("t"), "timeout"),
        (httpx.ConnectError("refused"), "connect_error"),
        (httpx.ReadError("reset"), "bad_response"),
        (httpx.RemoteProtocolError("bad"), "bad_response"),
    ],
)
def test_an_injected_transport_needs_no_network(raised: Exception, code: str) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        raise raised

    assert failure(Fetcher(PATIENT, transport=httpx.MockTransport(answer)), "http://photos.test/a.jpg").code == code


def test_a_redirect_that_is_too_long_is_not_taken_apart() -> None:
    location = ("http://a" + "\u0315\u0300" * 5_000 + "/").encode()
    transport = httpx.MockTransport(lambda request: httpx.Response(302, headers=[(b"Location", location)]))
    said = failure(Fetcher(PATIENT, transport=transport), "http://photos.test/a.jpg")
    assert said.code == "redirect_error"
    assert "more than 8,192" in said.detail


def test_the_deadline_holds_for_an_injected_stream_too(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = stop_fetchers_clock(monkeypatch)

    def drops() -> Iterator[bytes]:
        while True:
            clock.move_on(2.0)
            yield b"x"

    transport = httpx.MockTransport(lambda request: httpx.Response(200, content=drops()))
    fetcher = Fetcher(replace(PATIENT, timeout_s=9.0), transport=transport)
    error = failure(fetcher, "http://photos.test/a.jpg")
    assert str(error) == "timeout: only 5 bytes arrived within 10.0 s"


def test_a_call_has_the_time_that_the_row_has_left(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = stop_fetchers_clock(monkeypatch)
    with stream.row_deadline(clock.now + 5.0):
        assert (stream.time_left(None), stream.time_left(7.0), stream.time_left(2.0)) == (5.0, 5.0, 2.0)
        clock.move_on(4.0)
        assert (stream.time_left(None), stream.time_left(2.0)) == (1.0, 1.0)
        clock.move_on(1.0)
        with pytest.raises(httpcore.ReadTimeout):
            stream.time_left(2.0)
    assert stream.time_left(2.0) == 2.0


def test_tls_faults_of_an_injected_transport_are_told_apart() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("certificate") from ssl.SSLError("expired")

    fetcher = Fetcher(PATIENT, transport=httpx.MockTransport(answer))
    assert failure(fetcher, "https://photos.test/a.jpg").code == "tls_error"


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("", "invalid_url"),
        ("   ", "invalid_url"),
        ("http://", "invalid_url"),
        ("http:///a.jpg", "invalid_url"),
        ("http://exa mple.org/", "invalid_url"),
        ("http://example.org:port/", "invalid_url"),
        ("http://[::1/", "invalid_url"),
        ("http://example.org/\x00a", "invalid_url"),
        ("ftp://example.org/a.jpg", "unsupported_scheme"),
        ("s3://bucket/a.jpg", "unsupported_scheme"),
        ("javascript:alert(1)", "unsupported_scheme"),
        ("file://elsewhere/a.jpg", "invalid_url"),
        ("data:image/png;base64", "invalid_url"),
        ("data:image/png;base64,@@@", "invalid_url"),
        ("data:,100%", "invalid_url"),
        ("data:,%zz", "invalid_url"),
        ("data:,", "empty_body"),
        ("no_such_file.jpg", "file_not_found"),
        ("no:such/file.jpg", "unsupported_scheme"),
        ("2024-01-01T12:30.jpg", "file_not_found"),
        ("file://[bad/a.png", "invalid_url"),
        ("a\x00b.jpg", "file_not_found"),
        ("x" * 5000, "file_not_found"),
        ("/dev/zero", "file_not_found"),
        (".", "file_not_found"),
    ],
)
def test_bad_references(url: str, code: str) -> None:
    assert code_of(url) == code


def test_local_references(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    path = tmp_path / "sub" / "ä b.png"
    path.write_bytes(b"picture")
    config = replace(PATIENT, base_dir=tmp_path)
    for url in ("sub/ä b.png", str(path), path.as_uri(), f" {path} ", f"file://localhost{path}"):
        assert fetch_once(url, config) == b"picture", url
    assert fetch_once("data:image/png;base64," + base64.b64encode(b"picture").decode()) == b"picture"
    assert fetch_once("DATA:image/png;BASE64," + base64.b64encode(b"picture").decode()) == b"picture"
    assert fetch_once("data:,a%20b") == b"a b"
    assert fetch_once("data:,%5C%ff\\x41%c3%a9é\\") == b"\\\xff\\x41" + "éé\\".encode()
    assert fetch_once("data:;base64, cGlj dHV%79\nZQ=%3d") == b"picture"


def test_one_thread_expands_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bombs for every thread that downloads would take every core from those that decode."""
    locked: list[bool] = []

    class Watched:
        eof, unconsumed_tail = True, b""

        def __init__(self, bits: int) -> None:
            self.eof = False

        def decompress(self, chunk: bytes, most: int) -> bytes:
            locked.append(responses._EXPANDING.locked())
            self.eof = True
            return chunk

    monkeypatch.setattr(zlib, "decompressobj", Watched)
    assert next(iter(responses.expanded([b"a", b"b"], "gzip", 10))) == b"a"
    assert locked == [True]
    assert not responses._EXPANDING.locked()


@pytest.mark.parametrize("piece", [3, 4, 5, 7, 64])
def test_percent_signs_are_decoded_piece_by_piece(monkeypatch: pytest.MonkeyPatch, piece: int) -> None:
    """What is done to megabytes at once keeps every other thread waiting for a quarter of a second."""
    monkeypatch.setattr(references, "_PIECE", piece)
    longest = 0

    class Watched:
        def search(self, text: bytes) -> None:
            nonlocal longest
            longest = max(longest, len(text))

    monkeypatch.setattr(references, "_NO_ESCAPE", Watched())
    sent = "a%41b%25%ff%5C\\é%%".replace("%%", "%20%21%22") * 20
    assert fetch_once(f"data:,{sent}") == unquote_to_bytes(sent)
    assert 0 < longest <= piece


@pytest.mark.parametrize("content", ["%41" * 300_000, "%" * 900_000, "x " * 450_000, ";base64," + "QUJD " * 180_000])
def test_a_data_url_takes_little_more_memory_than_its_text(content: str) -> None:
    url = "data:" + content if content.startswith(";") else "data:," + content
    tracemalloc.start()
    try:
        with contextlib.suppress(RowError):
            fetch_once(url)
        assert tracemalloc.get_traced_memory()[1] < 8 * len(url)
    finally:
        tracemalloc.stop()


def test_an_unknown_scheme_is_not_told_whole() -> None:
    with pytest.raises(RowError, match="is not http") as found:
        fetch_once("x" * 100_000 + "://host/")
    assert len(str(found.value)) < 200


def test_local_files_may_be_forbidden(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"picture")
    config = replace(PATIENT, limits=replace(LOOPBACK, allow_local_files=False))
    assert code_of(str(tmp_path / "a.png"), config) == "unsupported_scheme"
    assert code_of((tmp_path / "a.png").as_uri(), config) == "unsupported_scheme"


def test_caps_and_emptiness_hold_for_local_references(tmp_path: Path) -> None:
    (tmp_path / "big.png").write_bytes(b"x" * 11)
    (tmp_path / "empty.png").write_bytes(b"")
    config = replace(PATIENT, base_dir=tmp_path, limits=replace(LOOPBACK, max_bytes=10))
    assert code_of("big.png", config) == "too_many_bytes"
    assert code_of("empty.png", config) == "empty_body"
    assert code_of("data:;base64," + base64.b64encode(b"x" * 20).decode(), config) == "too_many_bytes"
    assert code_of("data:," + "x" * 11, config) == "too_many_bytes"
