"""Models that come and go while the service runs: asked for at run time, shared, unloaded beyond a budget, loaded again."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.clock import HANG_S
from tests.support.images import make_png
from tests.support.services import MINI, mini_settings, serving
from text_image_similarity import Config, Encoder, ModelNameError
from text_image_similarity.encoders.testing import ColourEncoder
from text_image_similarity.service import Settings, create_app
from text_image_similarity.service.inference.local import LocalModelPool
from text_image_similarity.service.jobs import Pair
from text_image_similarity.service.problems import ProblemError
from text_image_similarity.service.telemetry.metrics import Metrics

RED = Pair(make_png("red", (16, 16)), "red")


@asynccontextmanager
async def started(given: Settings, load: Callable[[Config], Encoder]) -> AsyncIterator[LocalModelPool]:
    running = LocalModelPool(
        given, Metrics(), load=load, transport=httpx.MockTransport(lambda request: httpx.Response(404))
    )
    await running.start()
    try:
        yield running
    finally:
        await running.close()


# ---- at run time


def test_a_model_comes_at_run_time_and_requests_name_it_like_any_other() -> None:
    loads: list[Config] = []

    def load(config: Config) -> Encoder:
        loads.append(config)
        return ColourEncoder()

    async def check() -> None:
        async with started(mini_settings(), load) as running:
            name = await running.serve_model(Config(model="shop/one"))
            assert (name, list(running.models())) == ("shop/one", ["mini", "shop/one"])
            assert running.models()[name] is not None
            answer = await running.score(name, [RED], "cosine")
            assert (answer.model, [result.similarity for result in answer.results]) == (name, [1.0])
            assert (await running.score(None, [RED], "cosine")).model == "mini"
        assert [str(config.model) for config in loads] == ["mini", "shop/one"]
        assert not loads[1].limits.allow_local_files, "a service never reads local files"

    asyncio.run(check())


def test_a_model_that_is_served_already_is_shared(tmp_path: Path) -> None:
    folder = tmp_path / "shop model"
    folder.mkdir()
    given = mini_settings(models={"mini": MINI, "b32": replace(MINI, model="fast"), "own": replace(MINI, model=folder)})

    async def check() -> None:
        async with started(given, lambda config: ColourEncoder()) as running:
            for model, revision, name in (
                ("mini", None, "mini"),
                ("openai/clip-vit-base-patch32", None, "b32"),
                ("openai/clip-vit-base-patch32", "3d74acf9a28c67741b2f4f2ea7635f0aaf6f0268", "b32"),
                (folder / ".." / folder.name, None, "own"),
                ("openai/clip-vit-base-patch32", "other", "openai/clip-vit-base-patch32"),
                ("colour", None, "mini"),  # what the one that is loaded says of itself
            ):
                assert await running.serve_model(Config(model=model, revision=revision, batch_size=7)) == name
            assert list(running.models()) == ["mini", "b32", "own", "openai/clip-vit-base-patch32"]

    asyncio.run(check())


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("shop/one", "shop/one"),
        ("fast", "fast-2"),  # a split's
        ("/srv/models/Schuhe & Taschen", "Schuhe-Taschen"),
        ("./own", "own"),
        ("/srv/模型", "model"),
        ("a" * 300, "a" * 90),
    ],
)
def test_a_models_name_is_made_from_its_own(model: str, name: str) -> None:
    given = mini_settings(splits={"fast": {"mini": 1}})
    more, found = given.with_model(Config(model=model))
    assert found == name
    assert list(more.models) == ["mini", name]
    again, second = more.with_model(Config(model=model, revision="2"))
    assert second == (f"{name}-2" if name != "fast-2" else "fast-3")
    assert list(again.without_model(name).models) == ["mini", second]


def test_others_answer_while_a_model_is_loaded_once_for_all_who_ask() -> None:
    go, loads = threading.Event(), list[str]()

    def load(config: Config) -> Encoder:
        loads.append(str(config.model))
        if config.model == "shop/slow":
            assert go.wait(HANG_S)
        return ColourEncoder()

    async def check() -> None:
        async with started(mini_settings(), load) as running:
            asked = [asyncio.create_task(running.serve_model(Config(model="shop/slow"))) for _ in range(3)]
            await asyncio.sleep(0)
            assert running.models() == {"mini": running.models()["mini"], "shop/slow": None}
            assert (await running.score(None, [RED], "cosine")).results[0].similarity == 1.0
            asked[0].cancel()  # which ends no one else's wait
            go.set()
            assert await asyncio.gather(*asked[1:]) == ["shop/slow"] * 2
        assert loads == ["mini", "shop/slow"]

    asyncio.run(check())


def test_a_model_that_cannot_be_loaded_is_not_served_and_may_be_asked_for_again() -> None:
    faults = [ModelNameError("there is no such folder")]

    def load(config: Config) -> Encoder:
        if config.model == "shop/one" and faults:
            raise faults.pop()
        return ColourEncoder()

    async def check() -> None:
        async with started(mini_settings(), load) as running:
            asked = [running.serve_model(Config(model="shop/one")) for _ in range(2)]
            for problem in await asyncio.gather(*asked, return_exceptions=True):
                assert isinstance(problem, ProblemError)
                assert (problem.code, problem.detail) == ("model_unavailable", "shop/one: there is no such folder")
            assert list(running.models()) == ["mini"]
            with pytest.raises(ProblemError, match="unknown_model"):
                await running.score("shop/one", [RED], "cosine")
            assert await running.serve_model(Config(model="shop/one")) == "shop/one"
            assert (await running.score("shop/one", [RED], "cosine")).results[0].similarity == 1.0

    asyncio.run(check())


def test_the_list_of_models_shows_one_that_came() -> None:
    settings = mini_settings()
    pool = LocalModelPool(settings, Metrics(), load=lambda config: ColourEncoder())
    with serving(create_app(settings, pool=pool)) as client:
        asyncio.run(pool.serve_model(Config(model="shop/one")))
        found: list[dict[str, Any]] = client.get("/v1/models").json()["data"]
    assert [(model["id"], model["loaded"], model["default"]) for model in found] == [
        ("mini", True, True),
        ("shop/one", True, False),
    ]
