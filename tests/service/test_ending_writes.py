"""Writes whose images hang do not outlive the end of the service, and leave only whole products."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from threading import Event, Thread
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from tests.service.test_http import problem
from tests.service.test_search import FIELDS, KEYS, by
from tests.service.test_search_attacks import in_a_loop
from tests.support.clock import HANG_S, wait_for
from tests.support.images import inline
from tests.support.server import Server
from tests.support.services import app_of, mini_settings
from text_image_similarity import Config, Limits, UsageError
from text_image_similarity.encoders.testing import ColourEncoder
from text_image_similarity.search import Product, open_catalog
from text_image_similarity.service.clients import current
from text_image_similarity.service.http.server import _Server
from text_image_similarity.service.problems import ProblemError
from text_image_similarity.service.search.upkeep import Upkeep

SOON_S = 5.0  # far less than the 25 s that an image may take


@in_a_loop
async def test_downloads_end_with_the_service_and_what_is_written_is_whole(tmp_path: Path) -> None:
    config = Config(limits=Limits(allow_private_addresses=True))
    with (
        Server() as host,
        open_catalog(tmp_path / "c", fields=FIELDS, config=config, encoder=ColourEncoder()) as catalog,
    ):
        host.routes["/hung"] = host.hang
        upkeep = Upkeep(SimpleNamespace(name="c", catalog=catalog))  # type: ignore[arg-type]
        hung = Product("hung", images=[inline("red"), host.url("/hung")])
        given = [Product("whole", images=inline("red")), hung, Product("late", images=inline("blue"))]
        current.set("one")
        writes = [asyncio.create_task(upkeep.write(each, [], None)) for each in (given, given[:1])]
        await asyncio.to_thread(host.wait_for, "/hung", 1)
        began = time.monotonic()
        await upkeep.end()
        for write in writes:
            with pytest.raises(ProblemError, match="the service is shutting down") as ended:
                await asyncio.wait_for(write, SOON_S)
            assert (ended.value.code, ended.value.status) == ("catalog_unavailable", 503)
        assert time.monotonic() - began < SOON_S
        with pytest.raises(ProblemError, match="the service is shutting down"):
            await asyncio.wait_for(upkeep.write(given[:1], [], None), SOON_S)
        written = {each.id: each for each in catalog.products()}
        assert "hung" not in written
        assert set(written) <= {"whole", "late"}
        assert not list(catalog.failures())
        with pytest.raises(UsageError):
            catalog.add(given[2])
        await asyncio.wait_for(upkeep.close(), SOON_S)


@in_a_loop
async def test_what_a_closed_model_refuses_is_not_the_fault_of_the_request() -> None:
    began = Event()

    class Encoding:
        checking, end_additions = nullcontext, staticmethod(lambda: None)

        def add(self, products: list[str], check: Any, *, ends: Any) -> None:
            began.set()
            wait_for(ends)
            raise UsageError("this Scorer is closed; create a new one")

    upkeep = Upkeep(SimpleNamespace(name="c", catalog=SimpleNamespace(searcher=Encoding())))  # type: ignore[arg-type]
    task = asyncio.create_task(upkeep.write([Product("a")], [], None))
    await asyncio.to_thread(began.wait, HANG_S)
    await upkeep.end()
    with pytest.raises(ProblemError, match="the service is shutting down"):
        await task
    await upkeep.close()


@contextmanager
def ending(app: FastAPI) -> Iterator[tuple[httpx.Client, Any]]:
    """Serve an application on a thread as `serve` does; yield a client and the server, which must end."""
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_config=None, timeout_graceful_shutdown=round(HANG_S))
    server: Any = _Server(config, app, 0.0)
    server.capture_signals = nullcontext  # they belong to the main thread
    thread = Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=HANG_S, trust_env=False) as client:
        yield client, server
    thread.join(HANG_S)
    assert not thread.is_alive()


def test_a_write_whose_images_hang_is_answered_when_the_service_ends(tmp_path: Path) -> None:
    with open_catalog(tmp_path / "shop", fields=FIELDS, encoder=ColourEncoder()):
        pass
    settings = mini_settings(catalogs={"shop": str(tmp_path / "shop")}, api_keys=KEYS[:4], request_timeout_s=0.5)
    with (
        Server() as host,
        ThreadPoolExecutor(1) as threads,
        ending(app_of(settings, ColourEncoder())) as (client, server),
    ):
        host.routes["/hung"] = host.hang
        body = {"products": [{"id": "hung", "images": [host.url("/hung")]}]}
        post = threads.submit(client.post, "/v1/catalogs/shop/products:batch", json=body, headers=by("writer"))
        host.wait_for("/hung", 1)
        began = time.monotonic()
        server.should_exit = True
        problem(post.result(HANG_S), 503, "catalog_unavailable")
        assert time.monotonic() - began < SOON_S
    assert time.monotonic() - began < 2 * SOON_S
    with open_catalog(tmp_path / "shop", encoder=ColourEncoder()) as catalog:
        assert len(catalog) == 0
