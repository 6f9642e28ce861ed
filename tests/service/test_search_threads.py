"""What a request of a search service asks for is read and checked on threads, and refused first if it is too long."""

from __future__ import annotations

import asyncio
import socket
import threading
from base64 import b64encode
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from time import sleep
from typing import Any

import httpx
import pytest
from fastapi.routing import APIRoute

from tests.service.test_http import problem
from tests.service.test_search import FIELDS, KEYS, by, products
from tests.support.clock import HANG_S
from tests.support.images import make_png
from tests.support.services import app_of, mini_settings, serving
from text_image_similarity.encoders.testing import ColourEncoder
from text_image_similarity.search import open_catalog
from text_image_similarity.search.time_limit import check_time
from text_image_similarity.service.clients import current
from text_image_similarity.service.http import access, catalog_routes, queries
from text_image_similarity.service.http.access import check_length
from text_image_similarity.service.keys import ApiKey
from text_image_similarity.service.problems import ProblemError
from text_image_similarity.service.search import catalog as serving_catalog
from text_image_similarity.service.search import journal
from text_image_similarity.service.search import threads as waiting_threads
from text_image_similarity.service.search.threads import Threads

SHOP = "/v1/catalogs/shop"
BEST = ApiKey("best", name="best", role="write", where='shop = "best"')


def serving_shop(folder: Path, **settings: Any) -> AbstractContextManager[httpx.Client]:
    """Serve a catalogue of the shop's products."""
    with open_catalog(folder / "shop.catalog", fields=FIELDS, encoder=ColourEncoder()) as catalog:
        catalog.add(products(folder))
    catalogs = {"shop": str(folder / "shop.catalog")}
    return serving(app_of(mini_settings(catalogs=catalogs, **settings), ColourEncoder()))


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with serving_shop(tmp_path_factory.mktemp("threads"), api_keys=(*KEYS[:4], BEST)) as client:
        yield client


def noting(monkeypatch: pytest.MonkeyPatch, module: Any, name: str) -> list[str]:
    """Note the names of the threads that call a function."""
    seen: list[str] = []
    function = getattr(module, name)

    def note(*given: Any) -> Any:
        seen.append(threading.current_thread().name)
        return function(*given)

    monkeypatch.setattr(module, name, note)
    return seen


def test_filters_are_parsed_on_threads(service: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = noting(monkeypatch, access, "parse_filter")
    where = {"where": "price > 0"}
    asked: dict[str, dict[str, Any]] = {
        "/match-text": {"json": {"text": "red", **where}},
        "/match-image": {"data": where, "files": {"image": make_png("red")}},
        f"{SHOP}/match": {"json": {"queries": [where, where]}},
        f"{SHOP}/products/red%2F1/similar": {"params": where},
        f"{SHOP}/facets": {"params": {**where, "field": "shop"}},
    }
    for path, given in asked.items():
        method = "GET" if "params" in given else "POST"
        answer = service.request(method, path, headers=by("reader"), **given)
        assert answer.status_code == 200, answer.text
        assert seen
        assert {name.partition("_")[0] for name in seen} == {"wait-shop"}
        seen.clear()


def test_products_are_checked_on_threads(service: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = [noting(monkeypatch, *each) for each in ((access, "stored_values"), (access, "normal_form"))]
    calls.append(noting(monkeypatch, catalog_routes, "read_product"))
    body = {"products": [{"id": "new", "fields": {"shop": "best"}}]}
    assert service.post(f"{SHOP}/products:batch", json=body, headers=by("best")).status_code == 200
    assert service.post(f"{SHOP}/products:batch", json={"delete": ["new"]}, headers=by("best")).status_code == 200
    for seen in calls:
        assert seen
        assert {name.partition("_")[0] for name in seen} == {"wait-shop"}


def test_work_that_grows_with_an_image_is_done_on_threads(
    service: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = [
        noting(monkeypatch, *each) for each in ((serving_catalog, "key_of"), (journal, "_query"), (journal, "sha256"))
    ]
    image = b64encode(make_png("red") + bytes(3 << 16)).decode()
    for body in ({"image_base64": image}, {"image_url": f"data:;base64,{image}"}):
        assert service.post("/match-image", json=body, headers=by("reader")).status_code == 200
    upload = {"image": make_png("red") + bytes(3 << 16)}
    assert service.post("/match-image", files=upload, headers=by("reader")).status_code == 200
    for seen in calls:
        assert seen
        assert {name.partition("_")[0] for name in seen} == {"wait-shop"}


@pytest.mark.parametrize("where", ["price > 0" + 2000 * " ", {"price": {"in": [1] * 900}}, {"note": "x" * 2000}])
def test_the_filters_of_a_request_are_limited_together(
    service: httpx.Client, monkeypatch: pytest.MonkeyPatch, where: object
) -> None:
    seen = noting(monkeypatch, access, "parse_filter")
    queries = {"queries": [{"where": where}] * 40}
    detail = problem(service.post(f"{SHOP}/match", json=queries, headers=by("reader")), 422, "invalid_request")[
        "detail"
    ]
    assert "the filters of a request may be at most 65,536 characters long in total" in detail
    long = {"or": [where] * 40}
    if not isinstance(where, str):
        for body in ({"text": "red", "where": long}, {"image_url": "http://x", "where": long}):
            path = "/match-text" if "text" in body else "/match-image"
            answer = problem(service.post(path, json=body, headers=by("reader")), 422, "invalid_request")
            assert "characters long in total" in answer["detail"]
    assert not seen


def test_a_long_filter_is_not_measured_to_its_end() -> None:
    class Unread(list[object]):
        def __iter__(self) -> Iterator[object]:
            raise AssertionError

    for where in ({"price": Unread([1] * 32_769)}, {"or": ["x" * 65_536, Unread([1])]}):
        with pytest.raises(ProblemError, match="at most 65,536 characters"):
            check_length([where])
    for count in (100, 3000):  # whole numbers of 1,000 digits
        with pytest.raises(ProblemError, match="at most 65,536 characters"):
            check_length([{"price": [10**1000] * count}])
    deep: object = 1
    for _ in range(5000):
        deep = [deep]
    check_length([{"price": deep}, "price > 0", None, {"price": list(range(10_000))}])


# ---- reads of clients that have left, or that wait


class Reading:
    """A read that takes as long as its request may."""

    def __init__(self) -> None:
        self.began, self.ended = threading.Event(), threading.Event()

    def __call__(self, *_: object) -> None:
        self.began.set()
        try:
            while True:
                check_time()
                sleep(0.001)
        finally:
            self.ended.set()


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    folder = tmp_path_factory.mktemp("patient")
    with serving_shop(folder, request_timeout_s=2 * HANG_S, max_body_bytes=100_000) as client:
        yield client


READS = {
    "/v1/catalogs": "/v1/catalogs",
    "/v1/catalogs/{catalog}": SHOP,
    "/v1/catalogs/{catalog}/facets": f"{SHOP}/facets?field=shop",
    "/v1/catalogs/{catalog}/products/{id:path}": f"{SHOP}/products/red%2F1",
    "/v1/catalogs/{catalog}/products/{id:path}/image": f"{SHOP}/products/red%2F1/image",
    "/v1/catalogs/{catalog}/products/{id:path}/similar": f"{SHOP}/products/red%2F1/similar",
}


@pytest.mark.parametrize("route", [*READS, "/match-text"])
def test_reads_end_when_their_client_leaves(patient: httpx.Client, monkeypatch: pytest.MonkeyPatch, route: str) -> None:
    reading = Reading()
    for module, name in ((access, "bound"), (catalog_routes, "bound"), (queries, "bound")):
        monkeypatch.setattr(module, name, reading)
    body = b"" if route in READS else b'{"text": "red"}'
    head = f"{'POST' if body else 'GET'} {READS.get(route, route)} HTTP/1.1\r\nHost: localhost\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection((patient.base_url.host, patient.base_url.port)) as connection:
        connection.sendall(head.encode() + body)
        assert reading.began.wait(HANG_S)
    assert reading.ended.wait(HANG_S)


def test_a_body_of_a_get_that_is_too_long_is_refused_while_it_reads(
    patient: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading = Reading()
    monkeypatch.setattr(catalog_routes, "bound", reading)
    head = b"GET /v1/catalogs HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    with socket.create_connection((patient.base_url.host, patient.base_url.port)) as connection:
        connection.sendall(head)
        assert reading.began.wait(HANG_S)
        connection.sendall(b"30000\r\n" + bytes(0x30000) + b"\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 413 ")
    assert reading.ended.wait(HANG_S)


def test_all_routes_that_read_a_catalogue_are_known_here() -> None:
    routers = (catalog_routes.about, catalog_routes.products, catalog_routes.similar)
    routes = [route for router in routers for route in router.routes if isinstance(route, APIRoute)]
    assert sorted(route.path for route in routes if "GET" in (route.methods or ())) == sorted(READS)


def test_the_reads_of_a_client_that_wait_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting_threads, "_MOST_WAITING_OF_ONE", 3)
    threads, reading, ran = Threads("shop", 2, HANG_S), Reading(), list[int]()

    async def run() -> None:
        current.set("one")
        asked = [asyncio.create_task(threads.run(reading))]  # the other thread is for other clients
        await asyncio.to_thread(reading.began.wait, HANG_S)
        asked += [asyncio.create_task(threads.run(ran.append, number)) for number in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(ProblemError, match="3 reads of this client are waiting") as refused:
            await threads.run(ran.append, 3)
        assert (refused.value.code, refused.value.status, refused.value.headers) == (
            "queue_full",
            429,
            {"Retry-After": "1"},
        )
        continued = asyncio.create_task(threads.run(ran.append, 4, begun=True))
        await asyncio.sleep(0)
        current.set("two")
        await threads.run(ran.append, 5)
        current.set("one")
        for task in asked[1:]:
            task.cancel()
        await asyncio.wait(asked[1:])
        assert threads._turns.depth_of("one") == 1  # what was cancelled takes neither memory nor room
        asked[0].cancel()
        await continued
        await threads.run(ran.append, 6)

    asyncio.run(run())
    threads.close()
    assert reading.ended.is_set()
    assert ran == [5, 4, 6]
