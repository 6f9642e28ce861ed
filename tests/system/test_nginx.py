"""nginx with the configuration of deploy/, before two real services."""

from __future__ import annotations

import json
import os
import re
import socket
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import crossplane
import httpx
import pytest
import uvicorn
import yaml

from tests.support.clock import HANG_S
from tests.support.images import make_png
from tests.support.paths import ROOT
from tests.support.processes import Running, free_port, running, tool
from tests.support.server import Server, response
from tests.support.services import Process, process
from text_image_similarity import Config
from text_image_similarity.service import Settings, serve
from text_image_similarity.service.inference.local import LocalModelPool

SERVICE = ROOT / "deploy" / "service"
CONFIGURATION = (SERVICE / "nginx.conf").read_text(encoding="utf-8")
COMPOSE = yaml.safe_load((SERVICE / "compose.yaml").read_text(encoding="utf-8"))
MEBIBYTE = 1 << 20
PICTURE = "/v1/catalogs/shop/products/red%2F1%3F/image?size=64"


def directives(config: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the directives of a configuration, those in blocks included."""
    for directive in config:
        yield directive
        yield from directives(directive.get("block", []))


@pytest.fixture(scope="module")
def parsed() -> dict[str, list[list[str]]]:
    """nginx's directives: name -> the arguments of each."""
    payload = crossplane.parse(str(SERVICE / "nginx.conf"))
    assert payload["status"] == "ok", payload["errors"]
    found: dict[str, list[list[str]]] = {}
    for directive in directives(payload["config"][0]["parsed"]):
        found.setdefault(directive["directive"], []).append(directive["args"])
    return found


def test_its_limits_are_those_of_the_service(
    parsed: dict[str, list[list[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    (command,) = {tuple(COMPOSE["services"][name]["command"]) for name in ("scorer-1", "scorer-2")}
    limits = dict(pairwise(command))
    assert parsed["client_max_body_size"] == [[f"{limits['--max-body-mb']}m"]]
    (reading,) = parsed["proxy_read_timeout"][0]
    assert float(reading.removesuffix("s")) > float(limits["--request-timeout"])
    assert [server[0] for server in parsed["server"] if server] == ["scorer-1:8000", "scorer-2:8000"]
    (listen,) = parsed["listen"][0]
    assert COMPOSE["services"]["nginx"]["ports"] == [f"${{TEXT_IMAGE_SIMILARITY_ADDRESS:-127.0.0.1}}:{listen}:{listen}"]
    (connecting,) = parsed["proxy_connect_timeout"][0]
    (handing_on,) = parsed["proxy_next_upstream_timeout"][0]
    assert float(handing_on.removesuffix("s")) > float(connecting.removesuffix("s"))  # else a dead one's would not be
    assert "non_idempotent" in parsed["proxy_next_upstream"][0]
    assert "http_429" not in parsed["proxy_next_upstream"][0]
    kept: list[int] = []
    monkeypatch.setattr(LocalModelPool, "load", lambda pool: None)
    monkeypatch.setattr(uvicorn.Server, "run", lambda server, sockets: kept.append(server.config.timeout_keep_alive))
    serve(Settings(models={"mini": Config(model="mini")}), port=0)
    at_once = dict(parsed["limit_conn"])
    (folder,) = COMPOSE["services"]["nginx"]["tmpfs"]
    assert folder == "/tmp:size=1g"
    assert int(at_once["all_large_bodies"]) * int(limits["--max-body-mb"]) < 1000
    assert parsed["client_body_buffer_size"] == [["1m"]]  # what has up to six digits of bytes is not written there
    assert parsed["proxy_max_temp_file_size"] == [["0"]]
    (shut,) = parsed["keepalive_timeout"][0]
    assert float(shut.removesuffix("s")) < kept[0]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of products, one with a slash in its id."""
    folder = tmp_path_factory.mktemp("shop")
    for colour in ("red", "blue"):
        (folder / f"{colour}.png").write_bytes(make_png(colour))
    table = folder / "products.csv"
    table.write_text("id,name,image\nred/1?,Red square,red.png\nblue/1,Blue square,blue.png\n", encoding="utf-8")
    return table


@pytest.fixture(scope="module")
def replicas(shop: Path) -> Iterator[list[Process]]:
    with scorer(shop) as first, scorer(shop) as second:
        yield [first, second]


def scorer(shop: Path, port: int = 0) -> AbstractContextManager[Process]:
    """Run a service with mini and a catalogue, without the delay at its end: nginx must cope alone."""
    options = ("--model", "mini", "--drain-delay", "0", "--log-format", "json")
    catalog = ("--catalog", f"shop={shop}")
    return process(*options, *catalog, "--port", str(port), environment={"OMP_NUM_THREADS": "1"})


def port_of(replica: Process) -> int:
    return int(replica.url.rpartition(":")[2])


def running_nginx(folder: Path, ports: Sequence[int], **changes: str) -> AbstractContextManager[Running]:
    """Run nginx with its configuration, the names, paths and ports of which are those of here."""
    port = free_port()
    text = CONFIGURATION
    for old, new in {
        " /tmp/": f" {folder}/",
        "/dev/stdout": str(folder / "access.log"),
        "/dev/stderr": str(folder / "error.log"),
        "listen 8080;": f"listen 127.0.0.1:{port};",
        "server scorer-1:8000": f"server 127.0.0.1:{ports[0]}",
        "server scorer-2:8000": f"server 127.0.0.1:{ports[1]}",
        "worker_processes auto;": "worker_processes 1;",
        **changes,
    }.items():
        assert old in text, old
        text = text.replace(old, new)
    (folder / "nginx.conf").write_text(text, encoding="utf-8")
    as_root = "user root; " if os.geteuid() == 0 else ""  # else its workers could not write to this folder
    command = [tool("nginx"), "-p", str(folder), "-c", "nginx.conf", "-e", "error.log", "-g", f"{as_root}daemon off;"]
    return running(command, port, folder / "nginx.log", probe="/livez")


@pytest.fixture(scope="module")
def nginx(replicas: list[Process], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """nginx, with no limit on what one address may ask for."""
    ports = [port_of(replica) for replica in replicas]
    with running_nginx(tmp_path_factory.mktemp("nginx"), ports, **{"rate=20r/s": "rate=100000r/s"}) as found:
        yield found


def one_pair(number: int) -> dict[str, object]:
    """Return a request that takes no time."""
    return {"pairs": [{"image_url": "data:,hello", "caption": "a cat", "id": number}]}


def logged(request_id: str, lines: Iterable[str]) -> list[dict[str, object]]:
    """Return the lines about a request, which are written when it is over."""
    whole = [json.loads(line) for line in lines if line.endswith("\n")]
    return [found for found in whole if found.get("request_id") == request_id]


def access_log(nginx: Running) -> list[str]:
    return (nginx.log.parent / "access.log").read_text(encoding="utf-8").splitlines(keepends=True)


def test_ids_and_traces_are_passed_on(nginx: Running, replicas: list[Process]) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    headers = {"X-Request-Id": "from-the-client", "traceparent": f"00-{trace}-00f067aa0ba902b7-01"}
    answer = httpx.post(nginx.url("/v1/similarity"), json=one_pair(7), headers=headers)
    assert answer.json()["results"][0]["id"] == 7
    assert answer.headers["X-Request-Id"] == "from-the-client"
    (line,) = nginx.wait_for(
        lambda: logged("from-the-client", [line for replica in replicas for line in list(replica.lines)])
    )
    assert (line["trace_id"], line["route"], line["status"]) == (trace, "/v1/similarity", 200)
    made = httpx.post(nginx.url("/v1/similarity"), json=one_pair(8), headers={"X-Request-Id": 'a "quoted" one'})
    assert re.fullmatch(r"[0-9a-f]{32}", made.headers["X-Request-Id"])
    assert nginx.wait_for(lambda: logged(made.headers["X-Request-Id"], access_log(nginx)))
    (told,) = nginx.wait_for(lambda: logged("from-the-client", access_log(nginx)))
    assert (told["status"], told["path"]) == ("200", "/v1/similarity")


def test_large_bodies_are_refused_before_a_replica_sees_them(nginx: Running) -> None:
    url, json_type = nginx.url("/v1/similarity"), {"content-type": "application/json"}
    answer = httpx.post(url, content=b" " * 33 * MEBIBYTE, headers=json_type, timeout=30)
    assert (answer.status_code, answer.headers["content-type"]) == (413, "application/problem+json")
    assert (answer.json()["code"], answer.json()["status"]) == ("too_many_bytes", 413)
    assert answer.json()["request_id"] == answer.headers["X-Request-Id"]
    most = httpx.post(url, content=b" " * 32 * MEBIBYTE, headers=json_type, timeout=30)
    assert (most.status_code, most.json()["code"]) == (400, "invalid_json")  # the service's own answer


def test_a_head_that_the_service_accepts_passes(nginx: Running) -> None:
    """In whichever lines its 16 KiB are; longer ones are refused by nginx or by the service."""
    for lengths in ([15_500], [8_000, 7_500], [5_200] * 3, [150] * 90):
        headers = {f"x-{number}": "a" * length for number, length in enumerate(lengths)}
        assert httpx.get(nginx.url("/livez"), headers=headers).status_code == 200
    for lengths in ([8_200] * 2, [1] * 101, [16_000] * 4):
        headers = {f"x-{number}": "a" * length for number, length in enumerate(lengths)}
        assert httpx.get(nginx.url("/livez"), headers=headers).status_code in (400, 431)


def test_unfinished_heads_leave_room_for_others(parsed: dict[str, list[list[str]]]) -> None:
    """No limit of an address counts them, so there is room for many, each is small, and none stays for long."""
    (workers,), (files,) = parsed["worker_connections"][0], parsed["worker_rlimit_nofile"][0]
    assert int(workers) >= 16_384
    assert int(files) >= 2 * int(workers)
    assert parsed["client_header_timeout"] == [["5s"]]
    ((count, size),) = parsed["large_client_header_buffers"]
    assert int(count) * int(size.removesuffix("k")) * int(workers) <= 1 << 19  # 512 MiB, in KiB


def test_one_replica_s_metrics_are_not_passed_on(nginx: Running) -> None:
    assert [httpx.get(nginx.url(path)).status_code for path in ("/metrics", "/evaluator/metrics")] == [404, 404]
    assert httpx.get(nginx.url("/readyz")).json() == {"status": "ok"}


def test_searches_and_their_pictures_go_through_and_problems_are_not_kept(nginx: Running) -> None:
    found = httpx.post(nginx.url("/match-text"), json={"text": "a red square"})
    assert found.json()["matches"][0]["product"]["id"] == "red/1?"
    assert found.headers["Cache-Control"] == "no-store"
    found = httpx.post(nginx.url("/match-image"), files={"image": make_png("blue")}, data={"top_k": "1"})
    assert found.json()["matches"][0]["product"]["id"] == "blue/1"
    small = httpx.get(nginx.url(PICTURE))  # with %2F and %3F, as nginx must leave them
    assert (small.status_code, small.headers["content-type"]) == (200, "image/jpeg")
    assert small.headers.get_list("Cache-Control") == ["private, max-age=300"]
    again = httpx.get(nginx.url(PICTURE), headers={"If-None-Match": small.headers["ETag"]})
    assert (again.status_code, again.headers["Cache-Control"]) == (304, "private, max-age=300")
    page = httpx.get(nginx.url("/search"))
    assert page.headers["content-type"].startswith("text/html")
    assert page.headers.get_list("Cache-Control") == ["no-cache"]
    gone = httpx.get(nginx.url(PICTURE.replace("red", "green")))
    assert (gone.status_code, gone.json()["code"]) == (404, "unknown_product")
    assert gone.headers["Cache-Control"] == "no-store"
    large = httpx.post(nginx.url("/match-image"), files={"image": b" " * 33 * MEBIBYTE}, timeout=30)
    assert (large.status_code, large.json()["code"]) == (413, "too_many_bytes")
    assert large.headers["Cache-Control"] == "no-store"


def test_what_does_not_bear_to_be_done_twice_is_sent_once(tmp_path: Path) -> None:
    """Both replicas break off after they have heard what they should do."""
    once = [f"/v1/catalogs/shop:{action}" for action in ("reindex", "switch", "rollback")]
    again = ["/match-text", "/v1/catalogs/shop/match", "/v1/catalogs/shop/products:batch", "/v1/matches/1/events"]
    with Server() as first, Server() as second:
        for server in (first, second):
            server.routes |= {path: lambda connection, head: connection.close() for path in (*once, *again)}
            server.routes["/livez"] = response()
        with running_nginx(tmp_path, [first.port, second.port]) as broken:
            for path in (*once, *again):
                assert httpx.post(broken.url(path), json={}).status_code == 503
    sent = first.hits + second.hits
    assert {path: sent[path] for path in (*once, *again)} == dict.fromkeys(once, 1) | dict.fromkeys(again, 2)


def test_a_request_that_a_replica_dies_of_is_not_sent_to_the_other_one(tmp_path: Path) -> None:
    sent = threading.Barrier(2)

    def die(connection: socket.socket, head: str) -> None:
        sent.wait(HANG_S)
        connection.close()

    with Server() as first, Server() as second:
        for server in (first, second):
            server.routes = {"/match-text": die, "/livez": response()}
        shorter = {"proxy_next_upstream_timeout 2s": "proxy_next_upstream_timeout 100ms"}
        with running_nginx(tmp_path, [first.port, second.port], **shorter) as broken, ThreadPoolExecutor(1) as pool:
            answer = pool.submit(httpx.post, broken.url("/match-text"), json={}, timeout=HANG_S)
            broken.wait_for(lambda: first.hits["/match-text"] + second.hits["/match-text"])
            assert not threading.Event().wait(0.3)  # longer than a request may be handed on
            sent.wait(HANG_S)
            assert answer.result().status_code == 503
    assert first.hits["/match-text"] + second.hits["/match-text"] == 1


def test_an_address_has_so_many_connections(tmp_path: Path) -> None:
    asked, over = threading.Semaphore(0), threading.Event()

    def hold(connection: socket.socket, head: str) -> None:
        asked.release()
        over.wait(HANG_S)
        connection.sendall(response())

    with Server() as replica:
        replica.routes = {"/anything": hold, "/livez": response()}
        few = {"limit_conn connections 32": "limit_conn connections 2"}
        with running_nginx(tmp_path, [replica.port] * 2, **few) as limited, ThreadPoolExecutor(2) as pool:
            held = [pool.submit(httpx.get, limited.url("/anything"), timeout=HANG_S) for _ in range(2)]
            try:
                wait_for(asked, 2)
                refused = httpx.get(limited.url("/livez"))
            finally:
                over.set()
            assert [answer.result().status_code for answer in held] == [200, 200]
            assert limited.wait_for(lambda: httpx.get(limited.url("/livez")).status_code == 200)
    assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")


@pytest.mark.parametrize("limit", ["large_bodies 8", "all_large_bodies 28"])
@pytest.mark.parametrize("length", ["Content-Length: 1000000", "Transfer-Encoding: chunked"])
def test_so_many_large_bodies_arrive_at_a_time(limit: str, length: str, tmp_path: Path) -> None:
    few = {f"limit_conn {limit}": f"limit_conn {limit.partition(' ')[0]} 2"}
    with Server() as replica:
        replica.routes = {"/anything": response(), "/livez": response()}
        with running_nginx(tmp_path, [replica.port] * 2, **few) as limited:

            def post(size: int) -> int:
                return httpx.post(limited.url("/anything"), content=bytes(size), timeout=HANG_S).status_code

            assert post(1_000_000) == 200
            address = ("127.0.0.1", int(limited.url("").rpartition(":")[2].strip("/")))
            slow = [socket.create_connection(address) for _ in range(2)]
            for each in slow:
                each.sendall(f"POST /anything HTTP/1.1\r\nHost: localhost\r\n{length}\r\n\r\n".encode())
            assert limited.wait_for(lambda: post(1_000_000) == 429)
            assert post(999_999) == 200
            for each in slow:
                each.close()
            assert limited.wait_for(lambda: post(1_000_000) == 200)


def test_an_address_that_asks_too_much_hears_so(replicas: list[Process], tmp_path: Path) -> None:
    ports = [port_of(replica) for replica in replicas]
    with (
        running_nginx(tmp_path, ports, **{"burst=100": "burst=3"}) as limited,
        httpx.Client() as client,
        ThreadPoolExecutor(12) as at_once,  # one after another, they might be slower than the limit
    ):

        def twelve(method: str, path: str, **options: Any) -> list[httpx.Response]:
            asked = partial(client.request, method, limited.url(path), **options)
            return [each.result() for each in [at_once.submit(asked) for _ in range(12)]]

        answers = twelve("GET", "/v1/models")
        found = twelve("POST", "/match-text", json={"text": "red"})
        pages = twelve("GET", "/search")
        small = [client.get(limited.url(PICTURE)) for _ in range(12)]
        written = twelve("PUT", PICTURE, json={})  # a product whose id ends so
    assert {answer.status_code for answer in answers} == {200, 429}
    assert {answer.status_code for answer in found} >= {429}
    assert {answer.status_code for answer in pages} >= {429}
    assert {answer.status_code for answer in written} >= {429}
    assert {answer.status_code for answer in small} == {200}  # a page shows many of them
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert refused.headers["content-type"] == "application/problem+json"
    assert refused.headers["Retry-After"] == "1"
    assert refused.headers["Cache-Control"] == "no-store"
    assert refused.json()["code"] == "rate_limited"


@pytest.mark.extended
def test_no_request_fails_while_replicas_are_replaced(nginx: Running, replicas: list[Process], shop: Path) -> None:
    failures: list[object] = []
    answered, over = threading.Semaphore(0), threading.Event()

    def stream() -> None:
        number = 0
        with httpx.Client(timeout=30) as client:
            while not over.is_set():
                number += 1
                try:
                    answer = client.post(nginx.url("/v1/similarity"), json=one_pair(number))
                    if answer.status_code != 200 or answer.json()["results"][0]["id"] != number:
                        failures.append(answer.text)
                    answer = client.post(nginx.url("/match-text"), json={"text": "red"})
                    if answer.status_code != 200 or answer.json()["total"] != 2:
                        failures.append(answer.text)
                except httpx.TransportError as exc:
                    failures.append(exc)
                answered.release()

    threads = [threading.Thread(target=stream) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        wait_for(answered, 40)
        codes = [replicas[0].end()]
        wait_for(answered, answered._value + 40)
        with scorer(shop, port_of(replicas[0])) as fresh:
            codes.append(replicas[1].end())  # at once, when nginx has hardly heard of the other's return
            wait_for(answered, answered._value + 40)
            over.set()
            for thread in threads:
                thread.join(60)
            codes.append(fresh.end())
    finally:
        over.set()
        for thread in threads:
            thread.join(60)
    assert failures == []
    assert codes == [0, 0, 0]
    answer = httpx.post(nginx.url("/v1/similarity"), json=one_pair(0))
    assert (answer.status_code, answer.json()["code"]) == (503, "model_unavailable")
    assert answer.headers["Retry-After"]


def wait_for(counted: threading.Semaphore, times: int) -> None:
    for _ in range(times):
        assert counted.acquire(timeout=30)
