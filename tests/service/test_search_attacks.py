"""What clients of a search service try: other tenants' products, the shop's secrets, odd ids, slow hosts and races."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import replace
from functools import wraps
from pathlib import Path, PureWindowsPath
from threading import Event, Semaphore
from time import sleep
from types import SimpleNamespace
from typing import Any, cast

import httpx
import numpy as np
import pytest

from tests.search.test_generations import DimEncoder
from tests.service.test_hostile import status, told
from tests.service.test_http import problem
from tests.service.test_search import FIELDS, KEYS, by, ids, products
from tests.support.clock import HANG_S, wait_for
from tests.support.images import inline, make_png
from tests.support.server import Server, response
from tests.support.services import MINI, app_of, base64_pair, mini_settings, serving
from tests.support.shop import CountingEncoder, product, shop
from text_image_similarity import Config, ConfigError, DatabaseError, Limits, RowError, UsageError
from text_image_similarity.cli.main import make_parser
from text_image_similarity.cli.options import config_of
from text_image_similarity.decode import decode
from text_image_similarity.decode.isolation import module_path
from text_image_similarity.encoders.testing import ColourEncoder
from text_image_similarity.search import AddReport, Field, Match, Matches, Product, Query, Term, open_catalog
from text_image_similarity.search.filters import And, Compare, Filter, Not, OneOf, Or
from text_image_similarity.search.ledger import Ledger
from text_image_similarity.search.match_log import LogEntry, open_match_log
from text_image_similarity.service import create_app
from text_image_similarity.service.clients import current
from text_image_similarity.service.http import catalog_routes
from text_image_similarity.service.http.access import check_keys
from text_image_similarity.service.http.connections import MOST_FIELDS
from text_image_similarity.service.http.exchange import OutgoingAnswer, Room
from text_image_similarity.service.http.queries import write_matches
from text_image_similarity.service.inference.local import LocalModelPool
from text_image_similarity.service.jobs import Call, ClientLeftError
from text_image_similarity.service.keys import ApiKey
from text_image_similarity.service.problems import ProblemError
from text_image_similarity.service.search import catalog as serving_catalog
from text_image_similarity.service.search import scans as scanning
from text_image_similarity.service.search import thumbnails as small_images
from text_image_similarity.service.search import upkeep as upkeep_of
from text_image_similarity.service.search.results import Results, key_of
from text_image_similarity.service.search.scans import Scans
from text_image_similarity.service.search.threads import Threads
from text_image_similarity.service.search.thumbnails import Thumbnails
from text_image_similarity.service.search.upkeep import Upkeep
from text_image_similarity.service.shares import FairQueue
from text_image_similarity.service.telemetry.metrics import Metrics

SHOP = "/v1/catalogs/shop"
TENANTS = (*KEYS, ApiKey("best", name="best", role="write", where='shop = "best"'))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("attacked")
    for name in ("shop", "second"):
        with open_catalog(folder / f"{name}.catalog", fields=FIELDS, encoder=ColourEncoder()) as catalog:
            catalog.add(products(folder))
            lost = str(folder / "private" / "lost.png")
            catalog.add(Product("lost", "Lost", lost, fields={"shop": "acme"}))
    return folder


@pytest.fixture(scope="module")
def service(place: Path) -> Iterator[httpx.Client]:
    catalogs = {name: str(place / f"{name}.catalog") for name in ("shop", "second")}
    with serving(app_of(mini_settings(catalogs=catalogs, api_keys=TENANTS), ColourEncoder())) as client:
        yield client


def in_a_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    @wraps(test)
    def run(*given: Any, **named: Any) -> None:
        asyncio.run(test(*given, **named))

    return run


def raw(service: httpx.Client, method: str, path: str, body: bytes = b"", key: str = "writer") -> tuple[int, Any]:
    """Send a path as it is, without a client that tidies it up; return the status and what is answered."""
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nX-API-Key: {key}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    answer = told(service.base_url, head.encode() + body)
    content = answer.partition(b"\r\n\r\n")[2]
    return status(answer), json.loads(content) if content.startswith(b"{") else content


# ---- what a key sees


def test_where_the_shops_images_are_is_told_to_nobody_who_only_searches(service: httpx.Client) -> None:
    for key in ("reader", "writer"):
        asked: list[httpx.Response] = [
            service.get(f"{SHOP}/facets", params={"field": ["shop", "_error"]}, headers=by(key)),
            service.post("/match-text", json={"text": "a", "facets": ["_error"]}, headers=by(key)),
            *(
                service.post(f"{SHOP}/match", json={"queries": [{}, query]}, headers=by(key))
                for query in ({"facets": ["_error"]}, {"sort": "_error"}, {"sort": "-_error", "top_k": 1})
            ),
        ]
        for answer in asked:
            if key == "reader":
                problem(answer, 403, "forbidden")
                assert "private" not in answer.text
            else:
                assert answer.status_code == 200
    found = service.post(
        "/match-text", json={"text": "a", "where": "_error exists", "sort": "price"}, headers=by("reader")
    )
    assert ids(found) == ["lost"]


def test_a_filter_that_a_catalogue_cannot_use_lets_nothing_start(place: Path) -> None:
    keys = (ApiKey("k", name="acme", where='tenant = "acme"', catalogs=("shop",)),)
    with open_catalog(place / "shop.catalog") as catalog:
        served: Any = SimpleNamespace(name="shop", catalog=catalog)
        with pytest.raises(ConfigError, match=r"'acme' does not fit the catalogue shop: .*'tenant'"):
            check_keys(keys, served)
        served.name = "second"
        check_keys(keys, served)  # which the key does not see
    with pytest.raises(ConfigError, match="admin"):
        ApiKey("k", name="acme", role="admin", where='shop = "acme"')


@pytest.mark.parametrize("replicas", [0, 1, 2])
@in_a_loop
async def test_what_belongs_to_another_tenant_meanwhile_is_not_overwritten(tmp_path: Path, replicas: int) -> None:
    """Two tenants add one id at a time: whoever comes second is refused, although nothing was there when it came.

    The first one's images are slow, which keeps nobody else out.
    """
    going, began = Event(), Event()

    class Slow(CountingEncoder):
        def encode_pixels(self, pixels: Any) -> Any:
            began.set()
            assert going.wait(HANG_S)
            return super().encode_pixels(pixels)

    async def check(products: Any, deleted: Any) -> None:
        with database.exclusive("check", wait=False) as free:
            assert not free  # so nobody in another process can look now, and write afterwards
        if any(other.get(product.id) for product in products):
            raise ProblemError("unknown_product", "there is no product 'new'")

    with shop(tmp_path / "c" if replicas else ":memory:", Slow()) as one, shop(tmp_path / "c") as second:
        other = second if replicas == 2 else one
        database = other.searcher._session.ledger.database
        upkeeps = [Upkeep(SimpleNamespace(name="c", catalog=each)) for each in {one: 0, other: 0}]  # type: ignore[arg-type]
        writing = asyncio.create_task(upkeeps[0].write([product("new", "red")], [], check))
        assert await asyncio.to_thread(began.wait, HANG_S)
        late = upkeeps[-1].write([Product("new", "second")], ["none"], check)
        assert (await asyncio.wait_for(late, HANG_S))["added"] == 1
        going.set()
        with pytest.raises(ProblemError, match="unknown_product"):
            await writing
        found = other.get("new")
        assert found is not None
        assert found.name == "second"
        with database.exclusive("check", wait=False) as free:
            assert free
        for upkeep in upkeeps:
            await upkeep.close()


@in_a_loop
async def test_a_client_whose_images_are_slow_keeps_no_other_from_writing() -> None:
    going, began, order = Event(), Event(), []

    class Slow:
        checking, end_additions = nullcontext, staticmethod(lambda: None)

        def add(self, products: list[str], check: Any, *, ends: Any) -> AddReport:
            if products[0] == "slow0":
                began.set()
                assert going.wait(HANG_S)
            order.append(products[0])
            return AddReport(added=1)

    def write(client: str, product: Any) -> asyncio.Task[Any]:
        current.set(client)  # of the task that begins here
        return asyncio.create_task(upkeep.write([product], [], None))

    upkeep = Upkeep(SimpleNamespace(name="c", catalog=SimpleNamespace(searcher=Slow())))  # type: ignore[arg-type]
    tasks = [write("slow", f"slow{number}") for number in range(8)]
    assert await asyncio.to_thread(began.wait, HANG_S)
    with pytest.raises(ProblemError, match="8 of them with this key"):
        await write("slow", "more than half of the room")
    for number in range(10):
        assert (await asyncio.wait_for(write("other", f"other{number}"), HANG_S))["added"] == 1
    tasks += [write("second", "x") for _ in range(8)]
    tasks += [write("one more", "y")]  # which has no other
    with pytest.raises(ProblemError, match="17 requests are waiting to write"):
        await write("one more", "z")
    await asyncio.wait_for(asyncio.gather(*tasks[8:]), HANG_S)
    tasks[7].cancel()  # a request that is gone, unlike its write
    going.set()
    await asyncio.wait_for(asyncio.gather(*tasks[:7]), HANG_S)
    await asyncio.to_thread(wait_for, lambda: not upkeep._asked)
    assert [name for name in order if name.startswith("slow")] == [f"slow{number}" for number in range(8)]
    await upkeep.close()


@in_a_loop
async def test_slow_writes_let_others_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four keys, or any number, whose images never stop coming hold no place for long, and their writes stay in order."""
    going = Event()
    written: list[str] = []

    class Endless:
        checking, end_additions = nullcontext, staticmethod(lambda: None)

        def add(self, products: list[str], check: Any, *, ends: Any) -> AddReport:
            began.release()
            while products[0].startswith("slow") and not going.is_set():
                if products[0].startswith("slow0") and ends():
                    return AddReport()  # with nothing done
                sleep(0.001)
            written.extend(products)
            return AddReport(added=len(products))

    def write(client: str, *products: Any) -> asyncio.Task[Any]:
        current.set(client)  # of the task that begins here
        return asyncio.create_task(upkeep.write(products, [], None))

    monkeypatch.setattr(upkeep_of, "_TURN_S", 0.0)
    began = Semaphore(0)
    upkeep = Upkeep(SimpleNamespace(name="c", catalog=SimpleNamespace(searcher=Endless())))  # type: ignore[arg-type]
    slow = [write(f"slow{key}", *(f"slow{key}/{number}" for number in range(3))) for key in range(4)]
    slow += [write("slow0", "slow0/next")]
    for _ in range(4):
        assert await asyncio.to_thread(began.acquire, timeout=HANG_S)
    assert (await asyncio.wait_for(write("fast", "fast"), HANG_S))["added"] == 1
    assert not any(task.done() for task in slow)
    going.set()
    assert [each["added"] for each in await asyncio.wait_for(asyncio.gather(*slow), HANG_S)] == [3, 3, 3, 3, 1]
    assert [name for name in written if "slow0" in name] == ["slow0/0", "slow0/1", "slow0/2", "slow0/next"]
    await upkeep.close()


@pytest.mark.parametrize("interrupted", [False, True])
@in_a_loop
async def test_an_interrupted_write_has_the_same_result(interrupted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    turns: list[int] = []
    monkeypatch.setattr("text_image_similarity.search.ingest._BATCH", 2)
    monkeypatch.setattr(upkeep_of, "_TURN_S", 0.0)
    monkeypatch.setattr(FairQueue, "keeps_waiting", lambda *_: interrupted)
    given = [product(f"{number}", "red") for number in range(6)]
    wrong = [Product(f"w{number}", "x", fields={"nothing": number}) for number in range(3)]
    given = [
        wrong[0],
        *given[:3],
        wrong[1],
        *given[3:],
        Product("bare", "no image"),
        replace(given[0], name="new"),
        wrong[2],
    ]
    with shop(":memory:") as catalog:
        add = catalog.searcher.add

        def counted(_: Any, *given: Any, **how: Any) -> Any:
            turns.append(1)
            return add(*given, **how)

        monkeypatch.setattr(type(catalog.searcher), "add", counted)
        catalog.add([Product("gone", "x")])
        upkeep = Upkeep(SimpleNamespace(name="c", catalog=catalog))  # type: ignore[arg-type]
        found = await asyncio.wait_for(upkeep.write(given, ["gone"], None), HANG_S)
        assert (found["added"] + found["updated"], found["deleted"], found["failures"]) == (8, 1, {})
        assert [reason.count("nothing") for reason in found["refused"]] == [1, 1, 1]
        assert {each.id for each in catalog.products()} == {*"012345", "bare"}
        assert catalog.get("0").name == "new"  # type: ignore[union-attr]
        assert (len(turns) > 2) == interrupted
        await upkeep.close()


@in_a_loop
async def test_an_interrupted_write_does_not_outlive_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    begun = Event()

    class Endless:
        checking, end_additions = nullcontext, staticmethod(lambda: None)

        def add(self, products: list[str], check: Any, *, ends: Any) -> AddReport:
            begun.set()
            while not ends():
                sleep(0.001)
            return AddReport(added=1)

    monkeypatch.setattr(upkeep_of, "_TURN_S", 0.0)
    monkeypatch.setattr(upkeep_of, "AT_ONCE", 1)
    upkeep = Upkeep(SimpleNamespace(name="c", catalog=SimpleNamespace(searcher=Endless())))  # type: ignore[arg-type]
    current.set("one")
    tasks = [asyncio.create_task(upkeep.write(["x"] * 10**5, [], None))]  # type: ignore[list-item]
    current.set("two")
    tasks += [asyncio.create_task(upkeep.write(["y"] * 10**5, [], None))]  # type: ignore[list-item]
    assert await asyncio.to_thread(begun.wait, HANG_S)
    await asyncio.wait_for(upkeep.close(), HANG_S)
    for task in tasks:
        with pytest.raises(ProblemError, match="the service is shutting down"):
            await asyncio.wait_for(task, HANG_S)


@in_a_loop
async def test_a_write_ends_after_its_transaction_when_the_service_ends() -> None:
    began = Event()

    class Long:
        checking, end_additions = nullcontext, staticmethod(lambda: None)

        def add(self, products: list[str], check: Any, *, ends: Any) -> AddReport:
            began.set()
            wait_for(ends)
            return AddReport(added=1)

    upkeep = Upkeep(SimpleNamespace(name="c", catalog=SimpleNamespace(searcher=Long())))  # type: ignore[arg-type]
    task = asyncio.create_task(upkeep.write(["x"] * 1000, [], None))  # type: ignore[list-item]
    await asyncio.to_thread(began.wait, HANG_S)
    await upkeep.close()
    with pytest.raises(ProblemError, match="the service is shutting down"):
        await task


@in_a_loop
async def test_a_write_that_has_not_begun_when_its_request_ends_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    going, order = Event(), []

    class Slow:
        checking, end_additions = nullcontext, staticmethod(lambda: None)

        def add(self, products: list[str], check: Any, *, ends: Any) -> AddReport:
            assert going.wait(HANG_S)
            order.append(products[0])
            return AddReport(added=1)

    monkeypatch.setattr(upkeep_of, "_LONGEST_S", 0.1)
    current.set("slow")
    upkeep = Upkeep(SimpleNamespace(name="c", catalog=SimpleNamespace(searcher=Slow())))  # type: ignore[arg-type]
    writes = [upkeep.write([name], [], None) for name in ("begun", "waiting")]  # type: ignore[list-item]
    found = await asyncio.gather(*writes, return_exceptions=True)
    assert [getattr(each, "code", each) for each in found] == ["catalog_unavailable"] * 2
    going.set()
    await asyncio.wait_for(upkeep.close(), HANG_S)
    assert order == ["begun"]


@in_a_loop
async def test_readings_keep_no_check_of_a_write_waiting() -> None:
    """It would end the write halfway."""
    going = Event()
    served = serving_catalog.ServedCatalog("c", "c", mini_settings(), cast(Any, None), cast(Any, None))
    reading = []
    for client in ("reader", "another"):
        current.set(client)
        reading += [asyncio.create_task(served.call(going.wait, HANG_S)) for _ in range(4)]
    try:
        assert await asyncio.wait_for(served.call(lambda: 1, writes=True), HANG_S / 4) == 1
        assert not any(task.done() for task in reading)
    finally:
        going.set()
        await asyncio.gather(*reading)
        await served.close()


def test_the_checks_of_writes_are_not_readings(service: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    call = serving_catalog.ServedCatalog.call

    async def note(self: Any, work: Any, *given: Any, writes: bool = False) -> Any:
        seen.append(writes)
        return await call(self, work, *given, writes=writes)

    monkeypatch.setattr(serving_catalog.ServedCatalog, "call", note)
    body = {"name": "x", "fields": {"shop": "best"}}
    assert service.put(f"{SHOP}/products/checked", json=body, headers=by("best")).status_code == 200
    assert service.put(f"{SHOP}/products/checked", json=body, headers=by("best")).status_code == 200
    assert service.delete(f"{SHOP}/products/checked", headers=by("best")).status_code == 204
    assert len(seen) >= 4
    assert all(seen)


def test_tenants_that_race_for_an_id_get_one_owner(service: httpx.Client) -> None:
    for number in range(5):
        answers = [
            service.put(f"{SHOP}/products/race-{number}", json={"fields": {"shop": shop}}, headers=by(shop)).status_code
            for shop in ("acme", "best")
        ]
        assert answers == [200, 404]
        found = service.get(f"{SHOP}/products/race-{number}", headers=by("writer")).json()
        assert found["fields"]["shop"] == "acme"
        assert service.delete(f"{SHOP}/products/race-{number}", headers=by("best")).status_code == 404
        assert service.delete(f"{SHOP}/products/race-{number}", headers=by("acme")).status_code == 204


@in_a_loop
async def test_a_model_on_a_host_that_only_the_catalogue_names_is_not_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("text_image_similarity.encoders.load.model_folder", PureWindowsPath)
    with shop(tmp_path / "c") as catalog:
        live = catalog.generations[0]
        generation = replace(live, identity=replace(live.identity, model=r"\\evil\share\m"))
    served = serving_catalog.ServedCatalog("c", str(tmp_path / "c"), mini_settings(), cast(Any, None), cast(Any, None))
    with pytest.raises(ProblemError, match="network share"):
        await served._model(generation)
    await served.close()


# ---- ids and paths


@pytest.mark.parametrize(
    "id", ["a/image", "a/similar", "a:batch", ":switch", "image", "n\0l", "q?x", "#", "é", "//", "..", "😀"]
)
def test_any_id_is_written_read_and_removed(service: httpx.Client, id: str) -> None:
    path = f"{SHOP}/products/" + "".join(f"%{byte:02X}" for byte in id.encode())
    assert raw(service, "PUT", path, b'{"name": "odd"}')[0] == 200
    found, answer = raw(service, "GET", path)
    assert (found, answer["id"], answer["name"]) == (200, id, "odd")
    for part, code in (("/image", 404), ("/similar", 422)):
        assert repr(id)[1:-1] in raw(service, "GET", path + part)[1]["detail"]
        assert raw(service, "GET", path + part)[0] == code
    assert raw(service, "DELETE", path)[0] == 204
    assert raw(service, "GET", path)[0] == 404


def test_ids_that_no_product_can_have_are_refused(service: httpx.Client) -> None:
    for id in ("", "%20", "x" * 1001):
        for method in ("PUT", "DELETE", "GET"):
            assert raw(service, method, f"{SHOP}/products/{id}", b"{}")[0] in (404, 422)


def test_no_spelling_of_a_path_gets_around_the_keys(service: httpx.Client) -> None:
    paths = [
        *(
            "/match-text",
            "/match-text/",
            "//match-text",
            "/match%2Dtext",
            "/Match-Text",
            "/v1//catalogs",
            "/V1/catalogs",
        ),
        *(SHOP, f"{SHOP}/", f"{SHOP}%2Fmatch", f"{SHOP}:switch", f"{SHOP}%3Aswitch", f"{SHOP}/products%3Abatch"),
        *("/health/../v1/catalogs", "/docs/../match-text", "/./v1/catalogs", "/static/..%2fv1/catalogs"),
    ]
    for method in ("GET", "HEAD", "OPTIONS", "POST", "PUT", "DELETE", "PATCH"):
        for path in paths:
            assert raw(service, method, path, b"{}", key="nobody")[0] in (401, 404, 405)


# ---- the log


def test_an_entry_is_of_a_search_and_in_the_log_of_a_catalogue_that_its_key_sees(
    place: Path, service: httpx.Client
) -> None:
    logs = [open_match_log(place / f"{name}.catalog") for name in ("shop", "second")]
    with closing(logs[0]), closing(logs[1]):

        def of(request_id: str) -> list[tuple[str, str, int]]:
            return [
                (each.catalog, each.route, each.status)
                for log in logs
                for each in log.latest(50)
                if each.request_id == request_id
            ]

        headers = {**by("writer"), "X-Request-Id": "a-write"}
        path = f"{SHOP}/products/x%2Fsimilar"
        assert service.put(path, json={"name": "x"}, headers=headers).status_code == 200
        assert service.delete(path, headers=headers).status_code == 204
        problem(service.get("/match-text", headers=headers), 405, "method_not_allowed")
        headers = {**by("other"), "X-Request-Id": "refused"}
        problem(service.post("/match-text", json={"text": ""}, headers=headers), 422, "invalid_request")
        problem(service.post(f"{SHOP}/match", json={"queries": [{}]}, headers=headers), 404, "unknown_catalog")
        wait_for(lambda: len(of("refused")) == 2)
        assert {name for name, _, _ in of("refused")} == {"second"}
        assert of("a-write") == []


def test_a_stranger_without_a_key_writes_nothing_into_the_log(place: Path, service: httpx.Client) -> None:
    """However the request is refused; the same request with a key is logged."""
    foreign = {"Sec-Fetch-Site": "cross-site"}
    for headers in (foreign, {"Host": "evil.example"}, {"X-API-Key": "wrong"}, {}):
        headers = {**headers, "X-Request-Id": "a-stranger"}
        problem(service.post("/match-text", json={"text": "red"}, headers=headers), 401, "unauthorized")
    headers = {**by("writer"), **foreign, "X-Request-Id": "known"}
    problem(service.post("/match-text", json={"text": "red"}, headers=headers), 403, "forbidden")
    with closing(open_match_log(place / "shop.catalog")) as log:
        wait_for(lambda: "known" in {each.request_id for each in log.latest(50)})
        assert "a-stranger" not in {each.request_id for each in log.latest(50)}


def test_an_early_refusal_is_logged_for_its_client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its entries count towards the limits of its address."""
    with open_catalog(tmp_path / "c", fields=FIELDS, encoder=ColourEncoder()) as catalog:
        catalog.add(Product("a", "a"))
    app = app_of(mini_settings(catalogs={"c": str(tmp_path / "c")}), ColourEncoder())
    clients: list[str] = []
    with serving(app) as client:
        (writer,) = app.state.journal.writers

        def put(entry: LogEntry, *, size: int, client: str) -> bool:
            clients.append(client)
            return True

        monkeypatch.setattr(writer, "put", put)
        headers = {"Sec-Fetch-Site": "cross-site"}
        problem(client.post("/match-text", json={"text": "red"}, headers=headers), 403, "forbidden")
    assert clients == ["127.0.0.1"]


def test_what_no_search_needs_is_neither_taken_nor_kept(place: Path, service: httpx.Client) -> None:
    """Cursors are not signed, and an entry of a refused request costs its client nothing."""
    long = {"page": "A" * 40_000, "sort": "A" * 300, "facets": ["A" * 300]}
    for name, value in long.items():
        problem(
            service.post("/match-text", json={"text": "red", name: value}, headers=by("writer")), 422, "invalid_request"
        )
    cursors = ["A" * 30_000, "B" * 30_000, None]
    keys = [key_of(Query("red", after=after), 1, 1) for after in cursors]
    assert len(set(keys)) == 3
    assert len(keys[0][2]) == 64  # a digest that no client can find two queries for
    assert max(len(repr(key)) for key in keys) < 500
    with closing(open_match_log(place / "shop.catalog")) as log:

        def entry(request_id: str) -> LogEntry | None:
            return next((each for each in log.latest(50) if each.request_id == request_id), None)

        for length in (100, 20_000):
            headers = {**by("writer"), "X-Request-Id": f"id-{length}"}
            where = {"or": [{"shop": f"{number:090}"} for number in range(length // 100)]}
            body = {"queries": [{"terms": ["red"], "where": where, "after": "no cursor"}]}
            problem(service.post(f"{SHOP}/match", json=body, headers=headers), 422, "invalid_request")
            wait_for(lambda: entry(f"id-{length}") is not None)  # noqa: B023 - waited for in this turn
        kept, left_out = entry("id-100"), entry("id-20000")
    assert kept is not None
    assert left_out is not None
    assert "left_out" not in str(kept.where)
    assert "characters" in str(left_out.where)
    assert len(str(left_out.as_dict())) < 2000


def test_an_event_that_is_lost_is_not_acknowledged(tmp_path: Path) -> None:
    with open_catalog(tmp_path / "c", fields=FIELDS, encoder=ColourEncoder()) as catalog:
        catalog.add(Product("a", "a"))
    app = app_of(mini_settings(catalogs={"c": str(tmp_path / "c")}), ColourEncoder())
    with serving(app) as client:
        found = client.post("/v1/catalogs/c/match", json={"queries": [{}]}).json()["results"][0]["match_id"]
        (writer,) = app.state.journal.writers
        writer.close()
        event = {"kind": "click", "product": "a"}
        problem(client.post(f"/v1/matches/{found}/events", json=event), 503, "log_unavailable")


# ---- what is slow, long, or breaks


def test_slow_hosts_of_images_keep_no_search_waiting(service: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    going = Event()

    def wait(self: Thumbnails, reference: str, size: int) -> bytes:
        assert going.wait(HANG_S)
        return b"JPEG"

    monkeypatch.setattr(Thumbnails, "_load", wait)

    async def attack() -> None:
        async with httpx.AsyncClient(base_url=service.base_url, timeout=HANG_S, trust_env=False) as client:
            paths = [
                f"/v1/catalogs/{name}/products/red%2F1/image?size={size}"
                for name in ("shop", "second")
                for size in range(64, 84)
            ]
            waiting = [asyncio.create_task(client.get(path, headers=by("reader"))) for path in paths]
            try:
                for text in ("red", "blue", "green"):
                    answer = await client.post("/match-text", json={"text": text}, headers=by("acme"))
                    assert answer.status_code == 200
                assert not any(task.done() for task in waiting)
            finally:
                going.set()
            assert {answer.content for answer in await asyncio.gather(*waiting)} == {b"JPEG"}

    asyncio.run(attack())


def test_a_product_shows_no_file_that_has_become_a_link_out_of_its_folder(tmp_path: Path) -> None:
    own, private = tmp_path / "own", tmp_path / "private.png"
    own.mkdir()
    private.write_bytes(make_png("blue"))
    for name in ("kept", "gone"):
        (own / f"{name}.png").write_bytes(make_png("red"))
    table = own / "products.csv"
    table.write_text("id,name,image\nkept,,kept.png\ngone,,gone.png\n")
    with open_catalog(tmp_path / "c", fields=[], encoder=ColourEncoder()) as catalog:
        catalog.add_table(table)
    settings = mini_settings(catalogs={"c": str(tmp_path / "c"), "t": str(table)})
    with serving(app_of(settings, ColourEncoder())) as client:
        (own / "gone.png").unlink()
        (own / "gone.png").symlink_to(private)
        for name in "ct":
            path = f"/v1/catalogs/{name}/products"
            assert client.get(f"{path}/kept/image").headers["content-type"] == "image/jpeg"
            problem(client.get(f"{path}/gone/image"), 404, "not_found")


def test_a_url_has_no_more_parameters_than_allowed(service: httpx.Client) -> None:
    """They are counted before they are parsed, whatever the route; parsing 8,000 takes 15 ms of the event loop."""
    for path in ("/livez", "/nowhere", f"{SHOP}/facets", "/"):
        refused = service.get(path + "?" + "a&" * MOST_FIELDS, headers=by("reader"))
        problem(refused, 422, "invalid_request")
        assert "parameters" in refused.json()["detail"]
    assert service.get("/livez?" + "a&" * (MOST_FIELDS - 1)).status_code == 200


def test_pages_of_other_sites_use_nothing(service: httpx.Client) -> None:
    """Not even an image, whose size would tell which products there are; a link to the service is followed."""
    paths = (f"{SHOP}/products/red%2F1/image", SHOP, "/health", "/search", "/livez", "/nowhere")
    for path in paths:
        for mode, dest in (("no-cors", "image"), ("cors", "empty"), ("navigate", "iframe")):
            headers = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": mode, "Sec-Fetch-Dest": dest}
            refused = service.get(path, headers=by("reader") | headers)
            problem(refused, 403, "forbidden")
            assert refused.headers.get_list("cross-origin-resource-policy") == ["same-origin"]
        follow = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
        for headers in (
            {},
            follow,
            {"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors"},
            {"Sec-Fetch-Site": "none"},
        ):
            answer = service.get(path, headers=by("reader") | headers)
            assert answer.status_code == (404 if path == "/nowhere" else 200)
            assert answer.headers.get_list("cross-origin-resource-policy") == ["same-origin"]


@in_a_loop
async def test_long_references_are_not_kept(tmp_path: Path) -> None:
    settings = mini_settings()
    small = Thumbnails(settings.models["mini"], HANG_S, str)
    reference = "data:image/png;base64," + "A" * 1_000_000
    assert await small.get(reference, 64) is None
    good = "data:image/png;base64," + base64_pair(make_png("red"), "")["image_base64"]
    assert await small.get(good, 64) is not None
    for kept in (small._made, small._failed):
        ((digest, size),) = kept
        assert (len(digest), size) == (32, 64)
    small.close()


@in_a_loop
async def test_images_of_products_are_decoded_where_a_crash_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(small_images, "decode", lambda *given, **named: pytest.fail("decoded in this process"))
    small = Thumbnails(Config(isolate_decoder=True), HANG_S, str)
    try:
        red = await small.get(inline("red"), 64)
        assert red is not None
        assert np.asarray(decode(red.content, Limits()))[0, 0, 0] > 250
        assert await small.get("data:image/png;base64,AAAA", 64) is None
    finally:
        small.close()
    assert small._isolated is not None
    with pytest.raises(RowError, match="closed"):
        small._isolated.decode(make_png("red"))


@in_a_loop
async def test_images_that_take_for_ever_keep_no_other_client_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    going, loaded = Event(), []

    def load(self: Thumbnails, reference: str, size: int) -> bytes:
        loaded.append(reference)
        assert reference == "quick" or going.wait(HANG_S)
        return reference.encode()

    monkeypatch.setattr(Thumbnails, "_load", load)
    small = Thumbnails(Config(), HANG_S, str)
    current.set("attacker")
    slow = [asyncio.create_task(small.get(f"slow {number}", 64)) for number in range(128)]
    await asyncio.sleep(0)
    try:
        with pytest.raises(ProblemError, match="too many images"):
            await small.get("one more", 64)
        current.set("somebody")
        quick = await small.get("quick", 64)
        assert quick is not None
        assert quick.content == b"quick"
        assert sorted(loaded) == ["quick", "slow 0", "slow 1"]
    finally:
        going.set()
        small.close()
        for task in slow:
            task.cancel()


@in_a_loop
async def test_an_image_that_takes_too_long_is_a_problem_and_dropped_where_it_has_not_begun(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    going, loaded, ended = Event(), [], Semaphore(0)

    def load(self: Thumbnails, reference: str, size: int) -> bytes:
        loaded.append(reference)
        assert going.wait(HANG_S)
        return b"JPEG"

    async def get(reference: str) -> object:
        try:
            return await small.get(reference, 64)
        except ProblemError as problem:
            return problem.code, problem.detail

    monkeypatch.setattr(Thumbnails, "_load", load)
    small = Thumbnails(Config(), 0.05, str)
    current.set("somebody")
    try:
        late = ("catalog_unavailable", "the image was not read within the service's limit of 0.05 s")
        assert set(await asyncio.gather(*map(get, "abc"))) == {late}
        small._timeout_s = HANG_S
        waits = asyncio.create_task(small.get("d", 64))
        small._turns.put("somebody", ended.release)
        await asyncio.sleep(0)
        going.set()
        assert await waits is not None
        await asyncio.to_thread(ended.acquire)
        assert sorted(loaded) == ["a", "b", "d"]
    finally:
        going.set()
        small.close()


@in_a_loop
async def test_an_image_is_read_for_a_request_that_comes_when_the_one_before_has_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Thumbnails, "_load", lambda *_: b"JPEG")
    small = Thumbnails(Config(), HANG_S, str)
    turns: list[Callable[[], None]] = []
    monkeypatch.setattr(small._turns, "put", lambda _, turn: turns.append(turn))
    first = asyncio.create_task(small.get("a", 64))
    await asyncio.sleep(0.01)
    first.cancel()
    await asyncio.wait([first])
    turns.pop()()  # finds that no request waits; `_make` has not seen this yet
    second = asyncio.create_task(small.get("a", 64))
    while not turns and not second.done():
        await asyncio.sleep(0.01)
    for turn in turns:
        turn()
    assert (made := await second) is not None
    assert made.content == b"JPEG"
    small.close()


@in_a_loop
async def test_an_image_that_is_being_read_keeps_no_service_from_ending(monkeypatch: pytest.MonkeyPatch) -> None:
    going, begun = Event(), Event()

    def load(self: Thumbnails, reference: str, size: int) -> bytes:
        begun.set()
        assert going.wait(HANG_S)
        return b"JPEG"

    monkeypatch.setattr(Thumbnails, "_load", load)
    small = Thumbnails(Config(), HANG_S, str)
    waits = asyncio.create_task(small.get("slow", 64))
    await asyncio.to_thread(begun.wait, HANG_S)
    try:
        small.close()  # or this would not return
        assert all(thread.daemon for thread in threading.enumerate() if thread.name.startswith("thumbnails"))
    finally:
        going.set()
        waits.cancel()


def test_answers_with_long_texts_take_more_room_in_the_cache(tmp_path: Path) -> None:
    with open_catalog(":memory:", fields=[Field("note")], encoder=ColourEncoder()) as catalog:
        catalog.add(
            [Product(str(n), "n" * 90_000, description="d" * 90_000, fields={"note": "f" * 9000}) for n in range(10)]
        )
        results, query = Results(most_bytes=3_000_000), Query(top_k=10)
        found = write_matches(cast("Any", SimpleNamespace(name="shop")), catalog.match(query), 1 << 22)
        assert found is not None
        keys = [key_of(query, 1, version) for version in range(3)]
        for key in keys:
            results.put(key, found)
        assert [results.get(key) is not None for key in keys] == [False, False, True]


def as_it_is(found: Any) -> Any:
    return found


def asked_for(name: object, query: Query = Query()) -> Any:  # noqa: B008
    return SimpleNamespace(generation=SimpleNamespace(number=1), name=name, query=query, where=query.where)


@in_a_loop
async def test_a_request_of_many_heavy_queries_lets_others_in_between_and_ends_when_nobody_waits() -> None:
    turns, began = Semaphore(0), Semaphore(0)
    passes: list[tuple[list[Any], list[Any], list[Any]]] = []

    class Searcher:
        def answer(self, asked: list[Any], texts: Any, images: Any, most: None) -> list[Any]:
            passes.append(([one.name for one in asked], list(texts), list(images)))
            began.release()
            assert turns.acquire(timeout=HANG_S)
            return [one.name for one in asked]

    async def next_pass() -> None:
        assert await asyncio.to_thread(began.acquire, timeout=HANG_S)

    scans = Scans("c", Searcher())  # type: ignore[arg-type]
    query = Query([Term("red"), Term(image=b"a"), Term("blue")], fusion="rrf")
    texts: Any = list(range(20))
    images: Any = list("abcdefghij")
    heavy = asyncio.create_task(scans.answer([asked_for(n, query) for n in range(10)], texts, images, as_it_is))
    await next_pass()
    light: asyncio.Task[Any] = asyncio.create_task(scans.answer([asked_for("light")], [], [], as_it_is))
    await asyncio.sleep(0)
    turns.release(2)
    answered: list[Any] = await asyncio.wait_for(light, HANG_S)
    assert answered == ["light"]
    await next_pass()
    await next_pass()
    heavy.cancel()
    turns.release(100)
    await asyncio.to_thread(scans.close)
    first = ([0, 1], [0, 1, 2, 3], ["a", "b"])
    # Whether the light one has a pass of its own depends on which of the two the loop sees first.
    assert passes[0] == first
    assert "light" in passes[1][0]
    served = [[name for name in names if name != "light"] for names, *_ in passes]
    assert [name for names in served for name in names] == list(range(sum(map(len, served))))
    assert len(passes) == 3
    assert all(len(names) <= 2 for names in served)


def long_filter(conditions: int) -> Filter:
    return And(tuple(Compare("price", "ne", number) for number in range(conditions)))


@in_a_loop
async def test_clients_search_in_turn_by_what_their_searches_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scanning, "_MOST_WAITING", 8)
    turns, passes = Semaphore(0), []

    class Searcher:
        def answer(self, asked: list[Any], texts: Any, images: Any, most: None) -> list[Any]:
            passes.append([one.name for one in asked])
            assert turns.acquire(timeout=HANG_S)
            return [one.name for one in asked]

    def search(client: str, name: str, query: Query) -> asyncio.Task[Any]:
        current.set(client)  # of the task that begins here
        return asyncio.create_task(scans.answer([asked_for(name, query)], [], [], as_it_is))

    scans = Scans("c", Searcher())  # type: ignore[arg-type]
    usual, costly = Query("red"), Query(where=long_filter(250))
    tasks = [search("heavy", "a0", costly)]
    await asyncio.to_thread(wait_for, lambda: passes)
    tasks += [search("heavy", f"a{number}", costly) for number in range(1, 5)]
    tasks += [search("light", name, usual) for name in "xy"]
    await asyncio.sleep(0)
    with pytest.raises(ProblemError, match="searches are waiting"):
        await asyncio.wait_for(search("heavy", "more than half of the room", usual), HANG_S)
    turns.release(100)
    await asyncio.wait_for(asyncio.gather(*tasks), HANG_S)
    assert passes == [["a0"], ["x", "y"], ["a1"], ["a2"], ["a3"], ["a4"]]
    await asyncio.to_thread(scans.close)
    with pytest.raises(ProblemError, match="shutting down"):
        await asyncio.wait_for(search("light", "late", usual), HANG_S)


@in_a_loop
async def test_long_filters_are_searched_for_in_passes_of_their_own() -> None:
    passes: list[int] = []

    class Searcher:
        def answer(self, asked: list[Any], texts: Any, images: Any, most: None) -> list[Any]:
            passes.append(len(asked))
            return [one.name for one in asked]

    named = Not(Or((OneOf("name", tuple(map(str, range(1000)))), Compare("name", "eq", "a"))))
    scans = Scans("c", Searcher())  # type: ignore[arg-type]
    for query, expected in (
        (Query("red"), [64]),
        (Query("red", where=long_filter(250)), [32, 32]),
        (Query("red", where=named), [8] * 8),
        (Query(where=long_filter(60)), [4] * 16),
        (Query("red", sort="price", where=long_filter(60)), [4] * 16),
        (Query(facets=["shop", "price"], where=long_filter(60)), [1] * 64),
        (
            Query(facets=["shop"] * 32, where=long_filter(60)),
            [2] * 32,
        ),  # a facet that is asked for twice is counted once
        (Query(group=True, where=long_filter(60)), [1] * 64),  # a list of groups is read in parts
    ):
        passes.clear()
        await scans.answer([asked_for(number, query) for number in range(64)], [], [], as_it_is)
        assert passes == expected
    scans.close()


def test_a_facet_with_a_value_for_each_product_does_not_make_an_answer_long(tmp_path: Path) -> None:
    with shop(tmp_path / "c") as catalog:
        catalog.add(Product(f"{number:04}", fields={"kind": "odd" if number % 2 else "even"}) for number in range(1100))
    with serving(app_of(mini_settings(catalogs={"c": str(tmp_path / "c")}), ColourEncoder())) as client:
        queries = {"queries": [{"facets": ["_id", "kind"]}]}
        (found,) = client.post("/v1/catalogs/c/match", json=queries).json()["results"]
        assert (found["total"], len(found["facets"]["_id"])) == (1100, 1000)
        assert {each["value"]: each["count"] for each in found["facets"]["kind"]} == {"even": 550, "odd": 550}


@in_a_loop
async def test_a_panic_of_several_searches_ends_none_of_those_to_come() -> None:
    class PanicError(BaseException):
        pass

    going, began = Event(), Event()

    class Searcher:
        def answer(self, asked: list[Any], texts: Any, images: Any, most: None) -> list[Any]:
            began.set()
            assert going.wait(HANG_S)
            if len(asked) > 1:
                raise PanicError
            return [asked[0].name]

    scans = Scans("c", Searcher())  # type: ignore[arg-type]
    one: Any = [asked_for(name) for name in "abc"]
    first = asyncio.create_task(scans.answer(one[:1], [], [], as_it_is))
    await asyncio.to_thread(began.wait, HANG_S)
    others = [asyncio.create_task(scans.answer([each], [], [], as_it_is)) for each in one[1:]]
    await asyncio.sleep(0)
    going.set()
    found: list[Any] = await asyncio.wait_for(asyncio.gather(first, *others), HANG_S)
    assert found == [["a"], ["b"], ["c"]]
    scans.close()


@in_a_loop
async def test_a_query_that_cannot_be_answered_does_not_part_all_the_others() -> None:
    going, began, passes = Event(), Event(), []

    class Searcher:
        def answer(self, asked: list[Any], texts: Any, images: Any, most: None) -> list[Any]:
            began.set()
            assert going.wait(HANG_S)
            passes.append(len(asked))
            if any(one.name == 17 for one in asked):
                raise UsageError("the product 'gone' does not exist")
            return [one.name for one in asked]

    scans = Scans("c", Searcher())  # type: ignore[arg-type]
    asked: Any = [[asked_for(name)] for name in range(33)]
    first = asyncio.create_task(scans.answer(asked[0], [], [], as_it_is))
    await asyncio.to_thread(began.wait, HANG_S)
    others = [asyncio.create_task(scans.answer(each, [], [], as_it_is)) for each in asked[1:]]
    await asyncio.sleep(0)
    going.set()
    found: list[Any] = await asyncio.gather(first, *others, return_exceptions=True)
    assert [each for each in found if not isinstance(each, list)] == [found[17]]
    assert isinstance(found[17], UsageError)
    assert [each for number, each in enumerate(found) if number != 17] == [[n] for n in range(33) if n != 17]
    assert passes == [1, 32, 16, 16, 8, 4, 2, 1, 1, 2, 4, 8]
    scans.close()


def test_a_database_that_does_not_answer_keeps_no_client_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_catalog(tmp_path / "c", fields=FIELDS, encoder=ColourEncoder()) as catalog:
        catalog.add(Product("a", "a"))
    app = app_of(mini_settings(catalogs={"c": str(tmp_path / "c")}, request_timeout_s=0.2), ColourEncoder())
    going = Event()
    with serving(app) as client:
        searcher = app.state.catalogs["c"].catalog.searcher
        monkeypatch.setattr(searcher, "live", lambda: going.wait(HANG_S))
        try:
            answer = client.post("/v1/catalogs/c/match", json={"queries": [{}]})
            problem(answer, 503, "catalog_unavailable")
        finally:
            going.set()


@in_a_loop
async def test_one_reindex_runs_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[Any] = []
    written: list[bytes] = []

    async def execute(*command: str, **_: Any) -> Any:
        await asyncio.sleep(0)
        commands.append(command)
        return SimpleNamespace(
            returncode=None,
            stdin=SimpleNamespace(write=written.append, close=lambda: None),
            stderr=asyncio.StreamReader(),
            wait=asyncio.Event().wait,
            terminate=lambda: None,
        )

    monkeypatch.setattr(asyncio, "create_subprocess_exec", execute)
    config = Config(proxy="http://me:secret@proxy.example:3128")
    served: Any = SimpleNamespace(name="c", place="c.catalog", log_place="c.catalog", config=config)
    upkeep = Upkeep(served)
    found = await asyncio.gather(*(upkeep.start_reindex("-mini") for _ in range(3)), return_exceptions=True)
    assert [getattr(each, "code", None) for each in found] == [None, "conflict", "conflict"]
    (command,) = commands
    assert "secret" not in str(command)  # which everybody on the machine can read
    assert [json.loads(each) for each in written] == [upkeep_of.reindex_arguments("c.catalog", "-mini", config)]
    assert upkeep._following is not None
    upkeep._following.cancel()


@in_a_loop
async def test_a_reindex_may_write_lines_of_any_length(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    program = "import sys; sys.stderr.write('x' * 300_000 + '\\nthe reason\\n'); sys.exit(3)"
    monkeypatch.setattr(upkeep_of, "_COMMAND", (sys.executable, "-c", program))
    served: Any = SimpleNamespace(name="c", place="c.catalog", log_place="c.catalog", config=Config())
    upkeep = Upkeep(served)
    await upkeep.start_reindex("mini")
    assert upkeep._following is not None
    await asyncio.wait_for(upkeep._following, HANG_S)
    assert upkeep._state == {"model": "mini", "state": "failed", "detail": "the reason"}
    assert "reindexing c ended with exit code 3: xxx" in caplog.text
    assert len(caplog.text) < 2000


def test_a_reindex_takes_no_code_from_the_working_folder(tmp_path: Path) -> None:
    for name in ("json", "numpy", "text_image_similarity"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('code of a stranger')")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(module_path())}
    done = subprocess.run(
        upkeep_of._COMMAND,
        cwd=tmp_path,
        env=environment,
        input='["--version"]',
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_reindex_has_the_settings_of_the_service() -> None:
    limits = Limits(
        total_s=7.5,
        max_pixels=25_000_000,
        max_bytes=60 << 20,
        allow_networks=("10.1.0.0/16",),
        allow_ports=(81, 444),
        allow_local_files=False,
    )
    config = Config(
        model="mini",
        device="cpu",
        batch_size=7,
        timeout_s=3.5,
        retries=1,
        io_workers=9,
        isolate_decoder=True,
        proxy="http://me:secret@proxy.example:3128",
        ca_file="ca.pem",
        headers_file="headers.json",
        embedding_cache="redis://cache.example/0",
        limits=limits,
    )
    options = make_parser()[0].parse_args(upkeep_of.reindex_arguments("c.catalog", "-mini", config))
    assert (options.catalog, options.model) == ("c.catalog", "-mini")  # which no client can make another option
    # The products are the operator's own, as large as `catalog add` takes them.
    local = replace(limits, allow_local_files=True, max_pixels=50_000_000)
    assert replace(config_of(options), model="mini") == replace(config, limits=local)
    plain = make_parser()[0].parse_args(upkeep_of.reindex_arguments("c", "mini", Config(model="mini")))
    assert config_of(plain) == Config(model="mini")


def test_what_others_drop_is_closed_and_keeps_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving_catalog, "_LOOK_EVERY_S", 0.01)
    with shop(tmp_path / "c") as other:
        other.add(product("r", "red"))
        settings, metrics = mini_settings(catalogs={"c": str(tmp_path / "c")}, request_timeout_s=5), Metrics()
        encoders = {"dim": DimEncoder()}
        load: Any = lambda config: encoders.get(config.model, ColourEncoder())  # noqa: E731
        app = create_app(settings, pool=LocalModelPool(settings, metrics, load=load), metrics=metrics)
        with serving(app) as client:
            session = app.state.catalogs["c"].catalog.searcher._session
            assert client.post("/match-text", json={"text": "red"}).json()["generation"] == 1
            assert session.held == {1}
            other.reindex("dim", encoder=DimEncoder())
            other.switch()
            other.drop()
            assert client.post("/match-text", json={"text": "red"}).json()["generation"] == 2
            monkeypatch.setattr(app.state.catalogs["c"], "_timeout_s", 0.0)
            wait_for(lambda: session.held == {2})


def test_no_failure_tells_clients_where_the_databases_are(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    place, log = tmp_path / "private" / "c", tmp_path / "private" / "log.sqlite"
    with shop(place) as catalog:
        catalog.add(product("r", "red"))
    settings = mini_settings(
        catalogs={"c": str(place)}, match_log="required", log_place=str(log), request_timeout_s=0.5
    )
    with serving(app_of(settings, ColourEncoder())) as client:
        found = client.post("/match-text", json={"text": "red"}).json()["match_id"]
        with closing(sqlite3.connect(log, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")  # such as an export that does not end
            late = client.post("/match-text", json={"text": "red"})
            problem(late, 503, "log_unavailable")
        wait_for(lambda: client.post("/match-text", json={"text": "red"}).status_code == 200, HANG_S)
        for path in (place / "catalog.sqlite", log):
            with closing(sqlite3.connect(path)) as other, other:
                for table in ("generation", "entry"):
                    if other.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (table,)).fetchone():
                        other.execute(f"ALTER TABLE {table} RENAME TO gone")
        answers = [
            client.get("/v1/catalogs"),
            client.get("/v1/catalogs/c/facets", params={"field": "kind"}),
            client.post("/v1/catalogs/c/match", json={"queries": [{}]}),
            client.post(f"/v1/matches/{found}/events", json={"kind": "click", "product": "r"}),
        ]
    for answer in (late, *answers):
        assert answer.status_code == 503
        assert not any(word in answer.text for word in ("private", str(tmp_path), "sqlite", "no such table"))
    assert all(name in caplog.text for name in ("catalog.sqlite", "log.sqlite"))


def test_a_database_that_hangs_holds_up_nobody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a server that is stopped does; more requests wait for it than there are threads."""
    for name in ("dead", "well"):
        with shop(tmp_path / name) as catalog:
            catalog.add(product("r", "red"))
    places = {name: str(tmp_path / name) for name in ("dead", "well")}
    keys = (ApiKey("writer", name="w", role="write"),)
    app = app_of(mini_settings(catalogs=places, api_keys=keys, request_timeout_s=8), ColourEncoder())
    going = Event()
    monkeypatch.setattr(catalog_routes, "_PROBED_S", 0.1)
    monkeypatch.setattr(upkeep_of, "_LONGEST_S", 0.1)

    def hang(*_: object, **__: object) -> Any:
        assert going.wait(HANG_S)
        raise DatabaseError("it is gone")

    async def attack(base_url: httpx.URL) -> None:
        async with httpx.AsyncClient(
            base_url=base_url, timeout=HANG_S, trust_env=False, headers=by("writer")
        ) as client:
            dead = "/v1/catalogs/dead"
            asked = [
                asyncio.create_task(client.request(method, path, json=body))
                for method, path, body in 20
                * [
                    ("POST", f"{dead}/match", {"queries": [{}]}),
                    ("GET", f"{dead}/facets?field=kind", None),
                    ("GET", f"{dead}/products/r", None),
                    ("GET", "/health", None),
                ]
                + 3 * [("PUT", f"{dead}/products/r", {})]
            ]
            for query in range(5):
                queries = {"queries": [{"terms": ["red"], "top_k": query + 1}]}
                assert (await client.post("/v1/catalogs/well/match", json=queries)).status_code == 200
                assert (await client.get("/v1/catalogs/well/facets", params={"field": "kind"})).status_code == 200
                assert (await client.get("/livez")).status_code == 200
            answers = await asyncio.gather(*asked)
        assert {answer.status_code for answer in answers} == {503}
        assert {answer.json().get("code") for answer in answers} == {"catalog_unavailable", None}  # /health has none

    with serving(app) as client:
        session = app.state.catalogs["dead"].catalog.searcher._session
        with monkeypatch.context() as stopped:
            stopped.setattr(session.ledger.database, "read", hang)
            stopped.setattr(session.ledger.database, "write", hang)
            try:
                asyncio.run(attack(client.base_url))
            finally:
                going.set()
        found = client.post("/v1/catalogs/dead/match", json={"queries": [{}]}, headers=by("writer"))
        assert found.status_code == 200


def test_no_image_of_a_query_or_a_product_is_fetched_from_this_machine(tmp_path: Path) -> None:
    """As the fetcher's guard has it; here with every route that takes a reference, and with none that is read later."""
    with shop(tmp_path / "c"):
        pass
    models = {"mini": replace(MINI, limits=Limits())}
    settings = mini_settings(
        models=models, catalogs={"c": str(tmp_path / "c")}, api_keys=(ApiKey("w", name="w", role="write"),)
    )
    with Server() as host, serving(app_of(settings, ColourEncoder())) as client:
        client.headers.update(by("w"))
        host.routes["/x"] = response(make_png("red"))
        for name in ("127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "2130706433", "0x7f.1", "a:b@127.0.0.1"):
            url = f"http://{name}:{host.port}/x"
            problem(client.post("/match-image", json={"image_url": url}), 422, "invalid_request")
            queries = {"queries": [{"terms": [{"image_url": url}]}, {}]}
            term, _ = client.post("/v1/catalogs/c/match", json=queries).json()["results"]
            assert term["error"]["code"] in ("blocked_address", "invalid_url")
            put = client.put("/v1/catalogs/c/products/p", json={"images": [url]}).json()
            products = {"products": [{"id": "q", "images": [url]}]}
            batch = client.post("/v1/catalogs/c/products:batch", json=products).json()
            assert set() != {*put["failures"], *batch["failures"]} <= {"blocked_address", "invalid_url"}
            for id in "pq":
                problem(client.get(f"/v1/catalogs/c/products/{id}/image"), 404, "not_found")
        assert host.connections == 0


@in_a_loop
async def test_a_client_that_asks_much_leaves_threads_of_a_catalogue_to_the_others() -> None:
    threads, ends = Threads("shop", 2, HANG_S), Semaphore(0)
    ended: list[str] = []

    async def ask(client: str, work: Callable[..., object], *given: object) -> None:
        current.set(client)
        await threads.run(work, *given)
        ended.append(client)

    held = (ends.acquire, True, HANG_S)
    asked = [asyncio.create_task(ask("bad", *held)) for _ in range(20)]
    await asyncio.sleep(0)
    await asyncio.create_task(ask("good", int))
    assert ended == ["good"]  # the second thread is theirs
    asked.append(asyncio.create_task(ask("good", *held)))
    await asyncio.sleep(0)
    waiting = asyncio.create_task(ask("third", int))  # beside two held threads and 19 more of one client's
    await asyncio.sleep(0)
    ends.release(2)
    await asyncio.wait_for(waiting, HANG_S / 2)
    threads.close()
    ends.release(len(asked))
    done, _ = await asyncio.wait(asked, timeout=HANG_S)
    assert len(done) == len(asked)  # what had not begun is cancelled


def test_an_answer_that_is_too_long_is_refused(place: Path) -> None:
    settings = mini_settings(catalogs={"shop": str(place / "shop.catalog")}, max_body_bytes=1500)
    with serving(app_of(settings, ColourEncoder())) as client:
        one = client.post(f"{SHOP}/match", json={"queries": [{"terms": ["red"], "top_k": 1}]})
        assert one.status_code == 200
        assert len(one.json()["results"][0]["matches"]) == 1
        many = client.post(f"{SHOP}/match", json={"queries": [{"terms": ["red"], "top_k": 1000}] * 20})
        assert (many.status_code, many.json()["code"]) == (413, "too_many_bytes")
        assert many.json()["detail"].endswith("; request a smaller top_k, or fewer facets or queries")
        for top_k, status_ in ((1, 200), (1000, 413)):
            words = client.post("/match-text", json={"text": "red", "top_k": top_k})
            similar = client.get(f"{SHOP}/products/red%2F1/similar?top_k={top_k}")
            assert (words.status_code, similar.status_code) == (status_, status_)
        assert words.json()["detail"].endswith("; request a smaller top_k, or fewer facets")
        assert similar.json()["detail"].endswith("; request a smaller top_k")


SEVERAL, ASK_FOR_MORE = "send several requests", ", or ask for a higher --max-pairs on the service"


@pytest.mark.parametrize(
    ("path", "body", "on_list", "on_body"),
    [
        ("/v1/similarity", {"pairs": [{}] * 65}, SEVERAL + ASK_FOR_MORE, "send fewer pairs at a time"),
        (
            "/v1/embeddings",
            {"input": ["a"] * 65},
            f"{SEVERAL} (LangChain: chunk_size){ASK_FOR_MORE}",
            "send fewer inputs at a time",
        ),
        (f"{SHOP}/match", {"queries": [{}] * 65}, SEVERAL + ASK_FOR_MORE, "send fewer queries at a time"),
        (f"{SHOP}/products:batch", {"delete": ["a"] * 1001}, SEVERAL, "send fewer products at a time"),
        ("/evaluator/v1/evaluation/batch", {"evaluations": [{}] * 10_001}, SEVERAL, "send fewer evaluations at a time"),
        ("/match-text", {"text": "a", "facets": ["a"] * 65}, "send a shorter list", "send a shorter body"),
        ("/match-image", {"facets": ["a"] * 65}, "send a shorter list", "send a smaller image"),
        ("/v1/matches/a/events", {"kind": ["a"] * 65}, "send a shorter list", "send a shorter body"),
    ],
)
def test_the_advice_for_what_is_too_large_fits_the_route(
    place: Path, path: str, body: dict[str, Any], on_list: str, on_body: str
) -> None:
    settings = mini_settings(catalogs={"shop": str(place / "shop.catalog")}, max_body_bytes=50_000)
    with serving(app_of(settings, ColourEncoder())) as client:
        refused = client.post(path, json=body)
        assert refused.status_code == 422
        assert refused.json()["detail"].partition("per request; ")[2] == on_list
        too_long = client.post(path, content=b"[" + b" " * 50_000, headers={"Content-Type": "application/json"})
        assert too_long.status_code == 413
        assert too_long.json()["detail"] == f"a request may have at most 50,000 bytes; {on_body}"


def test_an_answer_that_is_too_long_is_not_written_to_its_end(place: Path) -> None:
    looked: list[int] = []

    class Watched(tuple[Match, ...]):
        def __iter__(self) -> Iterator[Match]:
            for number, each in enumerate(super().__iter__()):
                looked.append(number)
                yield each

    with open_catalog(place / "shop.catalog", encoder=ColourEncoder()) as catalog:
        found = catalog.match(Query("red", top_k=3, facets=["shop"]))
        served = cast("Any", SimpleNamespace(name="shop"))
        whole = write_matches(served, found, 1 << 20)
        assert whole is not None
        most = len(whole.json)
        many = replace(found, matches=Watched(found.matches * 1000))
        assert write_matches(served, many, most) is None
        assert len(looked) < 10
        values: dict[Any, int] = {f"value {number}": number for number in range(500)}
        assert (
            write_matches(served, replace(found, facets={str(number): values for number in range(9)}), 50_000) is None
        )


def test_only_the_products_of_a_page_are_read_and_only_as_many_as_an_answer_can_have(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def count(self: Ledger, numbers: Sequence[int], *rest: Any) -> dict[int, Product]:
        read.extend(numbers)
        return by_number(self, numbers, *rest)

    by_number, read = Ledger.by_number, list[int]()
    with shop() as catalog:
        catalog.add(Product(f"{number:03}", "red boots", description="d" * 1000, group="g") for number in range(300))
        monkeypatch.setattr(Ledger, "by_number", count)
        monkeypatch.setattr(Ledger, "browse", None)
        for query, shown in (
            (Query(top_k=5), 5),
            (Query(top_k=5, group=True), 1),
            (Query(top_k=5, sort="price", group=True), 1),
            (Query("red", fusion="rrf", top_k=5), 5),
        ):
            assert len(catalog.match(query)) == len(read) == shown
            read.clear()
        searcher = catalog.searcher
        asked = [searcher.check(Query(top_k=top_k), searcher.live()) for top_k in (300, 9, 300)]
        found = searcher.answer(asked, [], [], 10_000)
        for length, expected in ((None, 20), (9, 9), (None, 20)):
            matches = next(found)
            assert (len(matches) if isinstance(matches, Matches) else matches) == length
            assert len(read) == expected
            read.clear()


@in_a_loop
async def test_results_are_written_before_the_next_ones_are_read_and_one_that_is_too_long_ends_its_request() -> None:
    going, began, done = Event(), Event(), list[Any]()

    class Searcher:
        def answer(self, asked: list[Any], texts: Any, images: Any, most: int) -> Iterator[Any]:
            began.set()
            assert going.wait(HANG_S)
            assert most == 1000
            for one in asked:
                done.append(one.name)
                yield one.name

    def write(found: Any) -> Any:
        done.append(f"{found} written")
        if found == "a1":
            raise ProblemError("too_many_bytes", "too long")
        return found

    scans = Scans("c", Searcher(), 1000)  # type: ignore[arg-type]
    requests = [[asked_for(f"{name}{number}") for number in range(3)] for name in "0ab"]
    first = asyncio.create_task(scans.answer(requests[0], [], [], write))
    await asyncio.to_thread(began.wait, HANG_S)
    others = [asyncio.create_task(scans.answer(each, [], [], write)) for each in requests[1:]]
    await asyncio.sleep(0)
    going.set()
    found: list[Any] = await asyncio.gather(first, *others, return_exceptions=True)
    assert (found[0], found[2]) == (["00", "01", "02"], ["b0", "b1", "b2"])
    assert isinstance(found[1], ProblemError)
    names = ["00", "01", "02", "a0", "a1", "b0", "b1", "b2"]
    assert done == [each for name in names for each in (name, f"{name} written")]
    scans.close()


@in_a_loop
async def test_a_pass_that_takes_long_lets_others_in() -> None:
    seconds, going, began, passes = iter(range(10**6)), Event(), Event(), list[list[Any]]()

    class Searcher:
        def answer(self, asked: list[Any], texts: list[Any], images: Any, most: None) -> Iterator[Any]:
            began.set()
            assert going.wait(HANG_S)
            passes.append([])
            for one, text in zip(asked, texts, strict=True):
                passes[-1].append((one.name, text))
                yield one.name

    def search(client: str, names: str) -> asyncio.Task[Any]:
        current.set(client)  # of the task that begins here
        asked, texts = [asked_for(name, Query("red")) for name in names], cast("Any", list(names.upper()))
        return asyncio.create_task(scans.answer(asked, texts, [], as_it_is))

    scans = Scans("c", Searcher(), clock=lambda: next(seconds))  # type: ignore[arg-type]  # a second for each query
    slow = search("slow", "abc")
    await asyncio.to_thread(began.wait, HANG_S)
    quick = search("quick", "z")
    await asyncio.sleep(0)
    going.set()
    assert list(await asyncio.wait_for(asyncio.gather(slow, quick), HANG_S)) == [["a", "b", "c"], ["z"]]
    assert passes == [[("a", "A")], [("z", "Z")], [("b", "B")], [("c", "C")]]
    scans.close()


def test_the_memory_of_unread_answers_is_limited_for_each_client() -> None:
    room = Room(1000)
    replies = [OutgoingAnswer(room, cast("Any", None), Call("an id"), closing=False, log=None) for _ in range(5)]
    for reply in replies:
        reply.client = "a"
    for reply in replies[:4]:
        reply.count(600)
        reply.count(400)
    with pytest.raises(ProblemError, match="not been read yet") as refused:
        replies[4].count(1)
    assert refused.value.code == "queue_full"
    replies[0].end()
    with pytest.raises(ClientLeftError):
        replies[0].count(1)  # the response to a search whose client has left
    replies[4].count(1)
    assert room.held == {"a": 3001}
    for reply in replies[1:]:
        reply.end()
    assert not room.held


def test_answers_are_counted_while_they_are_made(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[int] = []

    def count(self: OutgoingAnswer, size: int) -> None:
        counted.append(size)
        if len(counted) > 5:
            raise ProblemError("queue_full", "no room", retry_after_s=1)

    monkeypatch.setattr(OutgoingAnswer, "count", count)
    with serving(app_of(mini_settings(catalogs={"shop": str(place / "shop.catalog")}), ColourEncoder())) as client:
        queries = [{"terms": ["red"], "top_k": top_k} for top_k in (1, 2)]
        for number in (2, 4):  # the second time, from the cache
            answer = client.post(f"{SHOP}/match", json={"queries": queries})
            assert answer.status_code == 200
            assert len(counted) == number
            assert sum(counted[-2:]) > len(answer.content) - 200
        refused = client.post(f"{SHOP}/match", json={"queries": [*queries, {"terms": ["blue"]}]})
        problem(refused, 429, "queue_full")
