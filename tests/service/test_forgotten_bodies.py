"""No body outlives its request: neither a refused nor an abandoned one waits for Python's garbage collector.

The collector is off during these tests, so that only reference counts free memory, and the scopes of all requests are
kept, as idle connections keep them.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import tracemalloc
import weakref
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from fastapi import FastAPI

from tests.support.clock import HANG_S
from tests.support.images import inline
from tests.support.services import app_of, mini_settings, serving
from tests.support.shop import CountingEncoder
from text_image_similarity.errors import DatabaseError
from text_image_similarity.search import Field, Product, Searcher, open_catalog
from text_image_similarity.search.match_log import LogEntry, LogWriter
from text_image_similarity.service.http import queries as queries_of
from text_image_similarity.service.http import search_routes
from text_image_similarity.service.keys import ApiKey
from text_image_similarity.service.problems import ProblemError
from text_image_similarity.service.search.threads import Threads
from text_image_similarity.system import forget_frames, settle

LENGTH = 1 << 20
TIMES = 6
BIG = "\N{GRINNING FACE}" + "A" * (LENGTH // 4)  # a megabyte in memory
PNG = inline("red")
KEY = ApiKey("boss", name="boss", role="admin")
SHOP = "/v1/catalogs/shop"
PAIR = {"image_base64": BIG, "caption": "x"}
MATCH = {"image_base64": BIG}


def queries(*terms: Any, **more: Any) -> dict[str, Any]:
    return {"queries": [{"terms": list(terms), **more}]}


REQUESTS: dict[str, tuple[str, str, Any, int]] = {
    "scored": ("POST", "/v1/similarity", {"pairs": [PAIR]}, 200),
    "scored URL": ("POST", "/v1/similarity", {"pairs": [{"image_url": "data:," + BIG, "caption": "x"}]}, 200),
    "long caption": ("POST", "/v1/similarity", {"pairs": [{"image_url": PNG, "caption": BIG}]}, 200),
    "unknown model": ("POST", "/v1/similarity", {"model": "nope", "pairs": [PAIR]}, 404),
    "schema": ("POST", "/v1/similarity", {"pairs": [{**PAIR, "zz": 1}]}, 422),
    "too many pairs": ("POST", "/v1/similarity", {"pairs": [PAIR] + [1] * 64}, 422),
    "not JSON": ("POST", "/v1/similarity", b'{"pairs": ["' + BIG.encode() + b'"', 400),
    "twice": ("POST", "/v1/similarity", b'{"a": 1, "a": "' + BIG.encode() + b'"}', 422),
    "depth": ("POST", "/v1/similarity", {"pairs": BIG}, 422),
    "embedded": ("POST", "/v1/embeddings", {"input": [PNG], "user": BIG, "modality": "image"}, 200),
    "embed model": ("POST", "/v1/embeddings", {"model": "nope", "input": [BIG]}, 404),
    "embed input": ("POST", "/v1/embeddings", {"input": [BIG]}, 422),
    "embed image": ("POST", "/v1/embeddings", {"input": [BIG], "modality": "image"}, 422),
    "embed dimensions": ("POST", "/v1/embeddings", {"input": ["x"], "user": BIG, "dimensions": 99}, 422),
    "text": ("POST", "/match-text", {"text": BIG}, 422),
    "text filter": ("POST", "/match-text", {"text": "x", "where": BIG}, 422),
    "image": ("POST", "/match-image", MATCH, 422),
    "image schema": ("POST", "/match-image", {**MATCH, "zz": 1}, 422),
    "image filter": ("POST", "/match-image", {**MATCH, "where": "nofield = 1"}, 422),
    "image cursor": ("POST", "/match-image", {**MATCH, "page": "abc"}, 422),
    "image facet": ("POST", "/match-image", {**MATCH, "facets": ["nofield"]}, 422),
    "no catalogue": ("POST", "/v1/catalogs/nope/match", queries(MATCH), 404),
    "match": ("POST", f"{SHOP}/match", queries(MATCH), 200),
    "match text": ("POST", f"{SHOP}/match", queries(BIG), 422),
    "match product": ("POST", f"{SHOP}/match", queries(MATCH, {"product": "nope"}), 422),
    "match cursor": ("POST", f"{SHOP}/match", queries(MATCH, after="abc"), 422),
    "match both": ("POST", f"{SHOP}/match", queries({**MATCH, "text": "x"}), 422),
    "match sort": ("POST", f"{SHOP}/match", queries(MATCH, sort="nofield"), 422),
    "match vector": ("POST", f"{SHOP}/match", queries(MATCH, {"vector": [1.0]}), 422),
    "put": ("PUT", f"{SHOP}/products/a", {"name": "a", "images": ["data:," + BIG]}, 200),
    "put schema": ("PUT", f"{SHOP}/products/a", {"name": "a", "images": ["data:," + BIG], "zz": 1}, 422),
    "put path": ("PUT", f"{SHOP}/products/a", {"name": "a", "images": [BIG]}, 422),
    "put value": ("PUT", f"{SHOP}/products/a", {"images": ["data:," + BIG], "fields": {"nofield": 1}}, 422),
    "batch": ("POST", f"{SHOP}/products:batch", {"products": [{"id": "b", "images": ["data:," + BIG]}]}, 200),
    "batch path": ("POST", f"{SHOP}/products:batch", {"products": [{"id": "b", "images": [BIG]}]}, 422),
    "delete": ("POST", f"{SHOP}/products:batch", {"delete": [BIG]}, 422),
    "reindex": ("POST", f"{SHOP}:reindex", {"model": BIG}, 422),
    "event": ("POST", "/v1/matches/x/events", {"kind": "click", "product": BIG}, 422),
    "event id": ("POST", f"/v1/matches/{'0' * 32}/events", {"kind": "click", "product": BIG}, 422),
    "single": ("POST", "/evaluator/v1/evaluation/single", {"image_input": BIG, "text_prompt": "x"}, 200),
    "single model": (
        "POST",
        "/evaluator/v1/evaluation/single",
        {"image_input": BIG, "text_prompt": "x", "model_config_name": "nope"},
        404,
    ),
    "evaluations": (
        "POST",
        "/evaluator/v1/evaluation/batch",
        {"evaluations": [{"image_input": BIG, "text_prompt": "x"}]},
        200,
    ),
    "evaluations model": (
        "POST",
        "/evaluator/v1/evaluation/batch",
        {"evaluations": [{"image_input": BIG, "text_prompt": "x", "model_config_name": "nope"}]},
        200,
    ),
    "media type": ("POST", "/v1/similarity", {"media": {"pairs": [PAIR]}}, 415),
    "no such path": ("POST", "/nope", {"pairs": [PAIR]}, 404),
    "method": ("PUT", "/v1/similarity", {"pairs": [PAIR]}, 405),
}


class WaitingEncoder(CountingEncoder):
    """An encoder that waits until it may go on."""

    def __init__(self) -> None:
        super().__init__()
        self.may_go_on = Event()
        self.may_go_on.set()

    def encode_pixels(self, pixels: Any) -> Any:
        assert self.may_go_on.wait(HANG_S)
        return super().encode_pixels(pixels)

    def encode_text(self, texts: Any) -> Any:
        assert self.may_go_on.wait(HANG_S)
        return super().encode_text(texts)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("forgotten") / "shop.catalog"
    with open_catalog(place, fields=[Field("shop")], encoder=CountingEncoder()) as catalog:  # type: ignore[arg-type]
        catalog.add([Product("red", "a red thing", PNG)])
    return place


@dataclass
class Service:
    """A service in the loop of this thread.

    Args:
        app: The application.
        encoder: Its encoder.
        runner: What runs its loop.
    """

    app: FastAPI
    encoder: WaitingEncoder
    runner: asyncio.Runner


@pytest.fixture(scope="module")
def service(place: Path) -> Iterator[Service]:
    encoder = WaitingEncoder()
    settings = mini_settings(catalogs={"shop": str(place)}, api_keys=(KEY,), cache_entries=1)
    app = app_of(settings, encoder)  # type: ignore[arg-type]
    gc.freeze()  # what is there already takes half a second to look through
    with asyncio.Runner() as runner:
        lifespan = app.router.lifespan_context(app)
        runner.run(lifespan.__aenter__())
        yield Service(app, encoder, runner)
        runner.run(lifespan.__aexit__(None, None, None))


@contextmanager
def collector_off() -> Iterator[None]:
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        yield
    finally:
        tracemalloc.stop()
        gc.enable()


async def left_by(ask: Callable[[], Awaitable[None]]) -> float:
    """Send a request again and again, and return how much of a body each one leaves in memory."""
    with collector_off():
        await ask()  # threads may keep the last task that they had, so one body may stay
        await asyncio.sleep(0.02)
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(TIMES):
            await ask()
        await asyncio.sleep(0.02)
        after, _ = tracemalloc.get_traced_memory()
    return (after - before) / TIMES / LENGTH


def scope_of(app: FastAPI, method: str, path: str, media: str, size: int) -> dict[str, Any]:
    headers = {"host": "a", "content-type": media, "content-length": str(size), "x-api-key": KEY.key}
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
        "state": {},
    }


async def send_request(
    app: FastAPI, scope: dict[str, Any], body: bytes, leaves_after: float | None = None, *, cut: bool = False
) -> tuple[int, bytes]:
    """Send a request, and return its status and response; with a number of seconds, the client leaves after them."""
    messages: list[dict[str, Any]] = [{"type": "http.request", "body": body, "more_body": cut}]
    status, answer = 0, b""

    async def receive() -> Any:
        if messages:
            return messages.pop()
        if leaves_after is None:
            await asyncio.Event().wait()
        await asyncio.sleep(leaves_after or 0)
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        nonlocal status, answer
        status, answer = message.get("status", status), answer + message.get("body", b"")

    await app(scope, receive, send)
    return status, answer


def form(**files: str) -> tuple[str, bytes]:
    parts = [
        f'--x\r\nContent-Disposition: form-data; name="{name.rstrip("_")}"{"; filename=a" if name == "image" else ""}'
        f"\r\n\r\n{text}\r\n"
        for name, text in files.items()
    ]
    return "multipart/form-data; boundary=x", ("".join(parts) + "--x--\r\n").encode()


FORMS = {
    "uploaded": ("/v1/similarity/upload", form(image=BIG, caption="x"), 200),
    "upload model": ("/v1/similarity/upload", form(image=BIG, caption="x", model="nope"), 404),
    "upload caption": ("/v1/similarity/upload", form(image=BIG), 422),
    "upload twice": ("/v1/similarity/upload", form(image=BIG, caption="x", caption_="x"), 422),
    "upload long": ("/v1/similarity/upload", form(image="x", caption=BIG), 200),
    "match": ("/match-image", form(image=BIG), 422),
    "match field": ("/match-image", form(image=BIG, zz="1"), 422),
    "match cursor": ("/match-image", form(image=BIG, page="abc"), 422),
    "match both": ("/match-image", form(image=BIG, image_url=PNG), 422),
}


def all_requests() -> list[Any]:
    found = []
    for name, (method, path, value, status) in REQUESTS.items():
        media = "text/plain" if name == "media type" else "application/json"
        found.append((f"JSON: {name}", method, path, media, value, status))
    found += [(f"form: {name}", "POST", path, *given, status) for name, (path, given, status) in FORMS.items()]
    return [pytest.param(*each[1:], id=each[0]) for each in found]


def encoded(value: Any) -> bytes:
    return value if isinstance(value, bytes) else json.dumps(value, ensure_ascii=False).encode()


@pytest.mark.parametrize(("method", "path", "media", "value", "status"), all_requests())
def test_no_body_outlives_its_response(
    service: Service, method: str, path: str, media: str, value: Any, status: int
) -> None:
    scopes: list[dict[str, Any]] = []

    async def ask() -> None:
        body = encoded(value)
        scopes.append(scope_of(service.app, method, path, media, len(body)))
        got, answer = await send_request(service.app, scopes[-1], body)
        assert got == status, answer[:500]

    assert service.runner.run(left_by(ask)) < 0.5


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("/v1/similarity", {"pairs": [PAIR]}),
        ("/v1/similarity", {"pairs": [{"image_url": PNG, "caption": "x", "id": BIG}]}),
        ("/v1/embeddings", {"input": ["x"], "user": BIG}),
        ("/v1/embeddings", {"input": [PNG, BIG], "modality": "image"}),
        ("/match-image", {"image_url": PNG, "page": "AAAA" * 2000, "text": "x"}),
        ("/match-image", MATCH),
        (f"{SHOP}/match", queries(MATCH, "x")),
        (f"{SHOP}/products:batch", {"products": [{"id": "b", "images": [PNG, "data:," + BIG]}]}),
        ("/evaluator/v1/evaluation/single", {"image_input": BIG, "text_prompt": "x"}),
        ("/evaluator/v1/evaluation/batch", {"evaluations": [{"image_input": BIG, "text_prompt": "x"}]}),
        ("/v1/similarity/upload", form(image=BIG, caption="x")),
        ("/match-image", form(image=BIG, text="x")),
    ],
    ids=lambda given: given if isinstance(given, str) else "",
)
@pytest.mark.parametrize(
    ("leaves_after", "waits", "cut"),
    [(0, False, False), (0, False, True), (0.01, False, False), (0.02, True, False)],
    ids=["at once", "halfway", "at work", "waiting"],
)
def test_no_body_outlives_a_client_that_left(
    service: Service, path: str, value: Any, leaves_after: float, waits: bool, cut: bool
) -> None:
    media, body = value if isinstance(value, tuple) else ("application/json", encoded(value))
    scopes: list[dict[str, Any]] = []

    async def ask() -> None:
        scopes.append(scope_of(service.app, "POST", path, media, len(body)))
        if waits:
            service.encoder.may_go_on.clear()
        await send_request(service.app, scopes[-1], bytes(bytearray(body)), leaves_after, cut=cut)
        service.encoder.may_go_on.set()
        await asyncio.sleep(0.02)

    assert service.runner.run(left_by(ask)) < 0.5


def broken(*_: Any) -> Any:
    raise ZeroDivisionError


def too_long(*_: Any) -> Any:
    raise ProblemError("too_many_bytes", "too long")


def unwritten(*_: Any, **__: Any) -> Any:
    raise DatabaseError("the disk is full")


@pytest.mark.parametrize(
    ("where", "does", "status"),
    [
        ((search_routes, "check_length"), broken, 500),
        ((search_routes, "query_of"), broken, 500),
        ((queries_of, "write_matches"), broken, 500),
        ((queries_of, "write_matches"), too_long, 413),
        ((LogWriter, "write"), unwritten, 503),
        ((Searcher, "live"), unwritten, 503),
    ],
    ids=["a bug in a route", "a bug on a thread", "a bug in a search", "a long response", "no log", "no database"],
)
def test_no_body_outlives_a_failure(
    service: Service,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    where: tuple[Any, str],
    does: Any,
    status: int,
) -> None:
    body = encoded(queries({"image_base64": PNG.partition(",")[2] + " " * LENGTH}))
    scopes: list[dict[str, Any]] = []
    journal = service.app.state.journal
    monkeypatch.setattr(journal, "_settings", replace(journal._settings, match_log="required"))
    monkeypatch.setattr(*where, does)
    caplog.set_level(logging.CRITICAL, "text_image_similarity")  # the records that are captured hold the tracebacks

    async def ask() -> None:
        scopes.append(scope_of(service.app, "POST", f"{SHOP}/match", "application/json", len(body)))
        got, answer = await send_request(service.app, scopes[-1], bytes(bytearray(body)))
        assert got == status, answer

    assert service.runner.run(left_by(ask)) < 0.5


def test_the_collector_runs_after_as_many_refused_bodies_as_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    collected: list[None] = []
    monkeypatch.setattr(gc, "collect", lambda: collected.append(None))
    with serving(app_of(mini_settings(max_body_bytes=100_000), CountingEncoder())) as client:  # type: ignore[arg-type]
        for number in range(1, 31):
            long = {"model": "nope", "pairs": [{"image_base64": "A" * 80_000, "caption": "x"}]}
            assert client.post("/v1/similarity", json=long).status_code == 404
            assert client.post("/v1/similarity", json={"pairs": [{"image_url": PNG, "caption": "x" * 9000}]}).is_success
            assert len(collected) == number // 10, number


def test_entries_that_wait_for_the_match_log_share_the_products_of_the_response(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    put: list[tuple[LogEntry, int, str]] = []

    def keep(self: LogWriter, record: LogEntry, *, size: int, client: str) -> bool:
        put.append((record, size, client))
        return True

    monkeypatch.setattr(LogWriter, "put", keep)
    long = {"terms": ["x" * 1000], "where": {"shop": [f"{number:0100}" for number in range(50)]}}
    for asked in ({"top_k": 1000}, {"top_k": 1000}, long):
        body = encoded({"queries": [asked]})
        scope = scope_of(service.app, "POST", f"{SHOP}/match", "application/json", len(body))
        status, _ = service.runner.run(send_request(service.app, scope, body))
        assert status == 200
    (first, size, client), (second, also, _), (_, larger, _) = put
    assert client.startswith("key ")
    assert size == also < larger - 16 * 6000
    shown: Any = first.results
    assert [*shown] == [each._asdict() for each in shown._shown] == list(first.as_dict()["results"])
    assert size > 2000 + 300 * len(shown) > 2000
    assert (shown[0], len(shown[1:])) == (shown._shown[0]._asdict(), len(shown) - 1)
    assert second.results._shown is shown._shown  # type: ignore[attr-defined]


class Content:
    """What a task is given."""


def test_a_future_with_an_exception_is_no_cycle() -> None:
    def fail(content: Content) -> None:
        raise ZeroDivisionError

    gc.disable()
    try:
        content, future = Content(), Future[None]()
        left = weakref.ref(content)
        settle(future, partial(fail, content))
        assert isinstance(future.exception(), ZeroDivisionError)
        del content, future
        assert left() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("late", [False, True], ids=["it was left", "its time is up"])
def test_a_task_that_fails_when_nobody_waits_any_more_leaves_nothing(late: bool) -> None:
    async def run() -> None:
        threads, may_fail, content = Threads("this", 1, 0.05 if late else HANG_S), Event(), Content()
        left = weakref.ref(content)

        def fail(content: Content) -> None:
            may_fail.wait(HANG_S)
            raise ZeroDivisionError

        task = asyncio.create_task(threads.run(fail, content))
        del content
        await asyncio.sleep(0.02)
        if not late:
            task.cancel()
        with pytest.raises(ProblemError if late else asyncio.CancelledError) as ended:
            await task
        forget_frames(ended.value)
        del task, ended
        may_fail.set()
        await threads.run(list)
        assert left() is None
        threads.close()

    gc.collect()
    gc.disable()
    try:
        asyncio.run(run())
    finally:
        gc.enable()
