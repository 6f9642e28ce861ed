"""The service before clients that mean it harm, mostly over raw sockets: it refuses them, and goes on for the others."""

from __future__ import annotations

import asyncio
import gc
import json
import random
import re
import socket
import threading
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import httpx
import psutil
import pytest

from benchmarks.attacks import WORST, long_texts
from tests.support.clock import HANG_S
from tests.support.images import make_png
from tests.support.server import Server, exchange, response
from tests.support.services import MINI, Process, app_of, base64_pair, mini_settings, process, serving
from text_image_similarity.encoders.testing import ColourEncoder
from text_image_similarity.service.inference.local import LocalModelPool
from text_image_similarity.service.jobs import Item, Job, Pair
from text_image_similarity.service.telemetry.metrics import Metrics

MIB = 1 << 20
POST = b"POST /v1/similarity HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
JSON = {"content-type": "application/json"}
KEYS = ["first-key", "schlüssel"]


@pytest.fixture(scope="module")
def running() -> Iterator[Process]:
    """A service that any client may use, and that gives up a request after some seconds."""
    options = ["--model", "mini", "--limit", "allow_private_addresses=true", "--retries", "0", "--timeout", "1"]
    with process(*options, "--request-timeout", "8", "--drain-delay", "0", "--max-bytes", "20971520") as found:
        yield found
        assert found.end() == 0
        assert "Traceback" not in "".join(found.lines)


@pytest.fixture
def client(running: Process) -> Iterator[httpx.Client]:
    """Its client; whatever was done to the service, it works afterwards and has not grown much."""
    with httpx.Client(base_url=running.url, timeout=HANG_S, trust_env=False) as found:
        before = memory(running)
        yield found
        assert found.get("/readyz").status_code == 200
        answer = found.post("/v1/similarity", json={"pairs": [base64_pair(make_png("red"), "a red square")]})
        assert answer.json()["results"][0]["error"] is None
        assert memory(running) - before < 200 * MIB


def memory(running: Process) -> int:
    return int(psutil.Process(running.popen.pid).memory_info().rss)


def connect(url: str | httpx.URL) -> socket.socket:
    parts = httpx.URL(url)
    return socket.create_connection((parts.host, parts.port), timeout=HANG_S)


def told(url: str | httpx.URL, *pieces: bytes) -> bytes:
    """Send pieces for as long as they are taken, and return all that comes back until the service hangs up."""
    with connect(url) as connection:
        return exchange(connection, pieces)[1]


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1]) if answer else 0


def problem(answer: httpx.Response, status: int, code: str) -> None:
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), answer.text
    assert answer.json()["code"] == code


# ---- bodies


@pytest.mark.parametrize("item", [b"0", b"{}", b"[]", b'"a"', b'{"a":{}}'])
@pytest.mark.parametrize(
    ("route", "member"),
    [("/v1/similarity", b"pairs"), ("/v1/embeddings", b"input"), ("/evaluator/v1/evaluation/batch", b"evaluations")],
)
def test_a_body_of_millions_of_parts_is_refused_unseen(
    client: httpx.Client, route: str, member: bytes, item: bytes
) -> None:
    body = b'{"' + member + b'":[' + (item + b",") * (16 * MIB // (len(item) + 1)) + item + b"]}"
    answer = client.post(route, content=body, headers=JSON)
    problem(answer, 422, "invalid_request")
    assert answer.json()["detail"] == "the body has more than 100,000 commas and brackets"


def test_what_is_complained_about_has_an_end(client: httpx.Client) -> None:
    pair: dict[str, Any] = {"image_url": "http://x", "caption": "x"}
    bodies: list[dict[str, Any]] = [
        {"pairs": [{}] * 20_000},
        {"pairs": [pair], **dict.fromkeys(map(str, range(20_000)), 0)},
        {"pairs": [pair | dict.fromkeys(map(str, range(20_000)), 0)]},
        {"pairs": [pair | {"x" * 100_000: 0}]},
        {"pairs": [pair | dict.fromkeys(map(str, range(90)), 0)] * 64},
    ]
    for body in bodies:
        answer = client.post("/v1/similarity", json=body)
        problem(answer, 422, "invalid_request")
        assert len(answer.content) < 10_000


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 10_000 + b"]" * 10_000,
        b'{"pairs":' * 10_000 + b"1" + b"}" * 10_000,
        b'{"pairs":[' + b"[" * 50_000,
        b"",
        b"\xff\xfe{}",
        b'{"pairs":[{"image_url":"http://x","caption":"a","id":NaN}]}',
        b'{"pairs":[{"image_url":"http://x","caption":"a","id":' + b"9" * 5000 + b"}]}",
        b'{"pairs":[{"image_url":"http://x","caption":"a","id":"\\ud800"}]}',
        b'{"pairs":[{"image_url":"http://x","caption":"\\uDCff","id":1}]}',
        b'{"pairs":[{"image_url":"\xed\xa0\x80","caption":"a"}]}',
        random.Random(5).randbytes(8 * MIB).replace(b",", b" ").replace(b"[", b" ").replace(b"{", b" "),
    ],
    ids=lambda body: repr(body[:20]),
)
def test_what_is_no_json_is_refused(client: httpx.Client, body: bytes) -> None:
    problem(client.post("/v1/similarity", content=body, headers=JSON), 400, "invalid_json")


def test_an_escaped_pair_of_surrogates_is_a_character(client: httpx.Client) -> None:
    body = b'{"pairs":[{"image_url":"data:,","caption":"\\ud83d\\ude00","id":"\\ud83d\\ude00"}]}'
    assert client.post("/v1/similarity", content=body, headers=JSON).json()["results"][0]["id"] == "\N{GRINNING FACE}"


def test_a_reference_of_a_whole_body_costs_one_pair(client: httpx.Client) -> None:
    long = 15 * MIB
    for reference, code in [
        ("data:," + "%" * long, "invalid_url"),
        ("data:," + "%41" * (long // 3), "not_an_image"),
        ("data:;base64," + "A " * (long // 2), "not_an_image"),
        ("http://" + "a" * long, "invalid_url"),
        ("http://127.0.0.1/" + "a" * long, "invalid_url"),
        ("a" * long + ":b", "unsupported_scheme"),
        ("a" * long, "unsupported_scheme"),
    ]:
        good = base64_pair(make_png("red"), "a red square")
        pairs = [{"image_url": reference, "caption": "a"}, good]
        results = client.post("/v1/similarity", json={"pairs": pairs}).json()["results"]
        assert results[0]["error"]["code"] == code, (reference[:20], results[0])
        assert len(results[0]["error"]["detail"]) < 500
        assert results[1]["error"] is None


@pytest.mark.parametrize("worst", WORST)
def test_a_megabyte_in_any_text_keeps_nobody_waiting(client: httpx.Client, running: Process, worst: str) -> None:
    """What takes time by the square of a text would stop the service for minutes, and `/livez` with it."""
    bodies = list(long_texts(worst))
    longest, over = 0.0, threading.Event()

    def watch() -> None:
        nonlocal longest
        with httpx.Client(base_url=running.url, timeout=HANG_S, trust_env=False) as other:
            while True:
                began = time.monotonic()
                assert other.get("/livez").status_code == 200
                longest = max(longest, time.monotonic() - began)
                if over.wait(0.01):
                    break

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        answers = [client.post(route, json=body) for route, body in bodies]
    finally:
        over.set()
        watching.join()
    assert [answer.status_code < 500 for answer in answers] == [True] * len(bodies)
    if answers[0].status_code == 413:  # a few megabytes of escapes, as JSON has them
        assert (answers[0].json()["code"], json.dumps(worst)[1] == "\\") == ("too_many_bytes", True)
    else:
        assert all(result["error"] for result in answers[0].json()["results"])
    assert 0 < longest < 5


def test_odd_forms_are_refused(client: httpx.Client, running: Process) -> None:
    part = b'--b\r\nContent-Disposition: form-data; name="%b"%b\r\n\r\n'
    for content, expected in [
        (part % (b"image", b'; filename="x"') + b"\r" * (15 * MIB) + b"\r\n" + part % (b"caption", b"") + b"a\r\n--b--", 200),
        (part % (b"image", b'; filename="x"') + b"\r\n--" * (3 * MIB), 422),
        (part % (b"image", b'; filename="x"') + part % (b"caption", b"") + b"a" * (15 * MIB) + b"\r\n--b--", 422),
        ((part % (b"image", b'; filename="x"') + b"\r\n") * 10_000, 422),
        ((part % (b"x", b"") + b"\r\n") * 100_000, 422),
        (b"--b\r\n" + b"X: y\r\n" * (4 * MIB), 422),
        (b"--b\r\nX: " + b"y" * (30 * MIB), 422),
        (b"\r\n" * (15 * MIB), 422),
        (b"junk", 422),
        (b"", 422),
    ]:  # fmt: skip
        headers = {"content-type": "multipart/form-data; boundary=b"}
        answer = client.post("/v1/similarity/upload", content=content, headers=headers)
        assert answer.status_code == expected, (content[:60], answer.text)


@pytest.mark.parametrize("charset", ["punycode", "undefined", "utf-16", "idna", "unicode_escape", "nonsense", "\xff"])
def test_a_form_cannot_choose_how_its_texts_are_decoded(client: httpx.Client, charset: str) -> None:
    """Two megabytes would keep Python's `punycode` busy, and everybody waiting, for minutes; `undefined` always raises."""
    part = b'--b\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n'
    content = part % (b"caption", b"a-" + b"b" * 1_000_000) + part % (b"text", b"a-" + b"b" * 1_000_000) + b"--b--"
    for path in ("/v1/similarity/upload", "/match-image"):
        kind = f"multipart/form-data; boundary=b; charset={charset}".encode("latin-1")
        answer = client.post(path, content=content, headers={b"content-type": kind})
        problem(answer, 415, "unsupported_media_type")
    slow = {"content-type": "multipart/form-data; boundary=b" + ";" * 15_000}
    problem(client.post("/v1/similarity/upload", content=content, headers=slow), 415, "unsupported_media_type")
    headers = {"content-type": 'multipart/form-data; charset="UTF-8"; boundary=b'}
    body = part % (b"caption", "a red café".encode()) + b"--b--"
    assert "/image" in client.post("/v1/similarity/upload", content=body, headers=headers).json()["detail"]


@pytest.mark.slow
def test_a_length_that_is_a_lie_is_found_out(client: httpx.Client, running: Process) -> None:
    body = json.dumps({"pairs": [{"image_url": "data:,", "caption": "a"}]}).encode()
    length = b"Content-Length: %d\r\n"
    short = told(running.url, POST + length % (len(body) - 5) + b"\r\n" + body)
    assert set(re.findall(rb"HTTP/1.1 (\d+)", short)) == {b"400"}  # no JSON, then no request
    with connect(running.url) as connection:
        connection.sendall(POST + length % (len(body) + 5) + b"\r\n" + body)
        assert status(connection.recv(MIB)) == 408  # after --request-timeout
    for lie in (b"-5", b"+5", b"5, 5", b"0x5", b"99999999999999999999999", b"5\r\nContent-Length: 6", b"\xb2"):
        assert status(told(running.url, POST + b"Content-Length: " + lie + b"\r\n\r\n" + body)) == 400, lie
    both = POST + length % 3 + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\n{\r\n0\r\n\r\n"
    assert status(told(running.url, both)) == 400
    with connect(running.url) as connection:
        connection.sendall(POST + length % (33 * MIB) + b"\r\n")
        assert status(connection.recv(MIB)) == 413


def test_an_endless_body_ends(client: httpx.Client, running: Process) -> None:
    chunked = POST + b"Transfer-Encoding: chunked\r\n\r\n"
    chunk = b"40000\r\n" + b" " * 0x40000 + b"\r\n"
    with connect(running.url) as connection:
        connection.sendall(chunked)
        for _ in range(129):  # a little more than 32 MiB
            connection.sendall(chunk)
        assert status(connection.recv(MIB)) == 413


@pytest.mark.slow
def test_many_slow_bodies_keep_nobody_out(client: httpx.Client, running: Process) -> None:
    with ExitStack() as stack:
        slow = [stack.enter_context(connect(running.url)) for _ in range(40)]  # 1.3 GB, if it came
        for number, connection in enumerate(slow):
            size = b"Content-Length: %d\r\n\r\n" % (32 * MIB) if number % 2 else b"Transfer-Encoding: chunked\r\n\r\n"
            connection.sendall(POST + size)
        answer = client.post("/v1/similarity", json={"pairs": [base64_pair(make_png("red"), "a red square")]})
        assert answer.status_code == 200
        assert {status(connection.recv(MIB)) for connection in slow} == {408}


# ---- connections


def test_idle_connections_keep_nobody_out(client: httpx.Client, running: Process) -> None:
    with ExitStack() as stack:
        idle = [stack.enter_context(connect(running.url)) for _ in range(500)]
        for connection in idle[::2]:
            connection.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\nX: ")
        assert client.get("/livez").status_code == 200


@pytest.mark.skipif(not hasattr(psutil.Process, "rlimit"), reason="the limit of another process is set on Linux alone")
def test_a_service_that_has_run_out_of_files_recovers(client: httpx.Client, running: Process) -> None:
    found = psutil.Process(running.popen.pid)
    before = found.rlimit(psutil.RLIMIT_NOFILE)
    try:
        found.rlimit(psutil.RLIMIT_NOFILE, (found.num_fds() + 10, before[1]))
        for connection in [connect(running.url) for _ in range(50)]:
            connection.close()
    finally:
        found.rlimit(psutil.RLIMIT_NOFILE, before)
    assert client.get("/livez").status_code == 200


# ---- paths and methods


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"GET //v1/models", 404),
        (b"GET /v1//models", 404),
        (b"GET /v1/models/", 404),
        (b"GET /./v1/models", 404),
        (b"GET /page/../v1/models", 404),
        (b"GET /page/%2e%2e/app.py", 404),
        (b"GET /page/..%2fapp.py", 404),
        (b"GET /page/%2fetc/passwd", 404),
        (b"GET /%2e%2e/%2e%2e/etc/passwd", 404),
        (b"GET /%ff%00", 404),
        (b"GET /V1/models", 404),
        (b"GET /%76%31/models", 200),
        (b"GET /v1/models?x=" + b"y" * 1000, 200),
        (b"GET http://elsewhere/v1/models", 421),
        (b"GET /\xff", 400),
        (b"GET v1/models", 400),
        (b"OPTIONS *", 404),
        (b"OPTIONS /v1/similarity", 405),
        (b"PUT /v1/similarity", 405),
        (b"DELETE /v1/models", 405),
        (b"TRACE /livez", 405),
        (b"CONNECT x:1", 400),
        (b"BREW /v1/similarity", 400),
        (b"HEAD /v1/similarity", 405),
    ],
)
def test_odd_paths_and_methods(running: Process, line: bytes, expected: int) -> None:
    answer = told(running.url, line + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert status(answer) == expected, answer
    assert (b"\r\nallow: " in answer) == (expected == 405)
    assert answer.endswith(b"\r\n\r\n") == line.startswith(b"HEAD")


def test_other_protocols_are_not_spoken(client: httpx.Client, running: Process) -> None:
    upgrade = b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade, close\r\nUpgrade: %b\r\nSec-WebSocket-Version: 13\r\n\r\n"
    for protocol in (b"websocket", b"h2c"):
        assert status(told(running.url, upgrade % protocol)) == 200  # as if it had not been asked for
    for greeting in (
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01",
        bytes(99),
    ):
        assert status(told(running.url, greeting)) == 400


# ---- keys


def test_keys_are_compared_whole_and_told_nobody() -> None:
    environment = {"TEXT_IMAGE_SIMILARITY_API_KEYS": ",".join([*KEYS, *(f"key-{n}" for n in range(1000))])}
    with process("--model", "mini", "--drain-delay", "0", "--log-format", "json", environment=environment) as keyed:

        def asked(*fields: tuple[str, bytes], path: bytes = b"/v1/models") -> int:
            lines = [
                name.encode() + b": " + value
                for name, value in (("Host", b"localhost"), ("Connection", b"close"), *fields)
            ]
            return status(told(keyed.url, b"\r\n".join([b"GET " + path + b" HTTP/1.1", *lines, b"", b""])))

        good = [key.encode() for key in [*KEYS, "key-0", "key-999"]]
        for key in good:
            assert asked(("X-API-Key", key)) == asked(("Authorization", b"Bearer " + key)) == 200
        wrong = [b"", b" ", b"first", b"first-key-", b"FIRST-KEY", b",", b"first-key,key-1", b"\xff", b"x" * 10_000]
        for key in wrong:
            assert asked(("X-API-Key", key)) == asked(("Authorization", b"Bearer " + key)) == 401, key
            assert asked(("Authorization", b"Basic " + b64encode(b"user:" + key))) == 401
        assert asked(("Authorization", b"first-key")) == asked(("Cookie", b"first-key")) == 401
        assert asked(path=b"/v1/models?api_key=first-key") == 401
        for path in (b"/v1/nothing", b"//livez", b"/livez/", b"/%2fpage/x", b"/pages/x", b"/docs/../v1/models"):
            assert asked(path=path) == 401, path
        assert asked(path=b"/livez") == asked(path=b"/%6civez") == asked(path=b"/docs") == 200
        with connect(keyed.url) as connection:
            connection.sendall(POST + b"Content-Length: %d\r\n\r\n" % (32 * MIB))
            assert status(connection.recv(MIB)) == 401, "before the body"
        assert keyed.end() == 0
        lines = "".join(keyed.lines)
        assert not any(key in lines for key in (*KEYS, "key-0", "key-999"))


# ---- work of clients that left, and hosts that do not answer


def test_what_a_client_that_left_had_asked_for_is_dropped(
    client: httpx.Client, running: Process, server: Server
) -> None:
    server.routes["/slow"] = server.hang
    pairs = [{"image_url": server.url(f"/slow?{n}"), "caption": "a"} for n in range(30)]
    body = json.dumps({"pairs": pairs}).encode()

    def dropped() -> float:
        found = re.search(r'tis_pairs_total\{.*result="dropped"\} (\S+)', client.get("/metrics").text)
        return float(found[1]) if found else 0.0

    before = dropped()
    with connect(running.url) as connection:
        connection.sendall(POST + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        server.wait_for("/slow", 8)
    end = time.monotonic() + HANG_S
    while dropped() - before < 30:
        assert time.monotonic() < end
    assert sum(server.hits.values()) == 8, "nobody waited for the other 22"
    assert "tis_inflight_pairs 0.0" in client.get("/metrics").text


def test_a_host_that_does_not_answer_keeps_no_other_waiting(server: Server) -> None:
    config = replace(MINI, io_workers=20, timeout_s=600.0, limits=replace(MINI.limits, total_s=600.0))
    settings = mini_settings(models={"mini": config}, request_timeout_s=600.0)
    with serving(app_of(settings, ColourEncoder())) as client, Server() as slow:
        slow.routes["/slow"] = slow.hang
        server.routes["/red"] = response(make_png("red"))
        body = json.dumps(
            {"pairs": [{"image_url": slow.url(f"/slow?{n}"), "caption": "red"} for n in range(64)]}
        ).encode()
        with connect(client.base_url) as connection:
            connection.sendall(POST + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            slow.wait_for("/slow", 8)
            url = server.url("/red").replace("127.0.0.1", "localhost")
            answer = client.post("/v1/similarity", json={"pairs": [{"image_url": url, "caption": "red"}]})
            assert answer.json()["results"][0]["similarity"] == 1.0


def test_downloads_wait_for_the_decoder(server: Server) -> None:
    class Slow(ColourEncoder):
        __setattr__ = object.__setattr__
        go = threading.Event()

        def prepare(self, image: Any) -> Any:
            assert self.go.wait(HANG_S)
            return super().prepare(image)

    encoder = Slow()
    encoder.go.set()
    room = 2  # half of the threads, each of which waits until its image is decoded
    settings = mini_settings(models={"mini": replace(MINI, io_workers=4, limits=replace(MINI.limits, per_host=4))})
    server.routes["/red"] = response(make_png("red"))
    with serving(app_of(settings, encoder)) as client:
        encoder.go.clear()
        pairs = [{"image_url": server.url(f"/red?{n}"), "caption": "red"} for n in range(64)]
        found: list[httpx.Response] = []
        asking = threading.Thread(target=lambda: found.append(client.post("/v1/similarity", json={"pairs": pairs})))
        asking.start()
        server.wait_for("/red", room)
        asking.join(0.3)
        assert sum(server.hits.values()) <= room
        encoder.go.set()
        asking.join(HANG_S)
        assert [result["similarity"] for result in found[0].json()["results"]] == [1.0] * 64


@pytest.mark.slow
def test_what_was_asked_does_not_wait_for_a_garbage_collection() -> None:
    image, broken = make_png("red"), make_png("red", (64, 64))[:80]
    url = "data:;base64," + b64encode(broken).decode()
    pairs = [Pair(image, "red"), Pair(broken, "red"), Pair("http://x/1", "red"), Pair(image, " "), Pair(url, "red")]

    async def left_behind() -> list[object]:
        settings = mini_settings()
        transport = httpx.MockTransport(lambda request: httpx.Response(404))
        running = LocalModelPool(settings, Metrics(), load=lambda config: ColourEncoder(), transport=transport)
        await running.start()
        try:
            answer = await running.score("mini", pairs, "cosine")
            assert len(answer.results) == 5
            del answer
            await running.embed_images("mini", [image, broken])
            gc.collect()
            gc.disable()
            await running.score("mini", pairs, "cosine")
            await running.score("mini", pairs[:1], "cosine")  # the threads let go of the last one
            gc.set_debug(gc.DEBUG_SAVEALL)
            gc.collect()
            return [found for found in gc.garbage if isinstance(found, (Item, Job))]
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()
            await running.close()

    assert asyncio.run(left_behind()) == []
