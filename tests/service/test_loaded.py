"""Models that come and go while the service runs: asked for at run time, shared, unloaded beyond a budget, loaded again."""

from __future__ import annotations

import asyncio
import gc
import logging
import subprocess
import sys
import threading
import weakref
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import httpx
import pytest

from tests.support.clock import HANG_S
from tests.support.images import make_png
from tests.support.paths import ROOT
from tests.support.services import MINI, mini_settings, serving
from text_image_similarity import Config, Encoder, ModelNameError, Record, load_encoder, score_pairs
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


# ---- a budget


class Weighed(ColourEncoder):
    """Weighs 100 bytes, whatever it is of, and encodes nothing while it is held."""

    weight_bytes = 100
    __setattr__ = object.__setattr__

    def __init__(self) -> None:
        super().__init__()
        self.go, self.busy = threading.Event(), threading.Event()
        self.go.set()

    def encode_pixels(self, pixels: Sequence[Any]) -> Any:
        self.busy.set()
        assert self.go.wait(HANG_S)
        return super().encode_pixels(pixels)


class Shelf:
    """Loads `Weighed` encoders, and remembers them weakly.

    Attributes:
        made: The encoders of each model, in the order in which they were loaded.
    """

    def __init__(self) -> None:
        self.made: dict[str, list[weakref.ref[Weighed]]] = {}

    def load(self, config: Config) -> Weighed:
        encoder = Weighed()
        self.made.setdefault(str(config.model), []).append(weakref.ref(encoder))
        return encoder

    def newest(self, model: str) -> Weighed:
        encoder = self.made[model][-1]()
        assert encoder is not None
        return encoder

    def alive(self) -> list[str]:
        """Name the models that take memory."""
        return [model for model, encoders in self.made.items() for encoder in encoders if encoder() is not None]


def models(*names: str, **changes: Any) -> Settings:
    configs = {name: replace(MINI, model=name) for name in names}
    return mini_settings(**{"models": configs, "lazy": frozenset(names[1:]), **changes})


def loaded(running: LocalModelPool) -> list[str]:
    return [name for name, facts in running.models().items() if facts is not None]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(HANG_S):
        while not condition():
            await asyncio.sleep(0.001)


def test_the_least_recently_used_models_are_unloaded_and_their_memory_is_released() -> None:
    shelf = Shelf()

    async def check() -> None:
        async with started(models("a", "b", "c", "d", model_memory=300), shelf.load) as running:
            for name in ("b", "c", "b", "d"):
                await running.score(name, [RED], "cosine")
            await until(lambda: loaded(running) == ["a", "b", "d"])
            await until(lambda: shelf.alive() == ["a", "b", "d"])
            answer = await running.score("c", [RED], "cosine")  # it comes again
            assert [result.similarity for result in answer.results] == [1.0]
            await until(lambda: loaded(running) == ["a", "c", "d"])
            await until(lambda: shelf.alive() == ["a", "c", "d"])
            await running.serve_model(Config(model="e"))  # one that comes at run time counts like the others
            await until(lambda: shelf.alive() == ["a", "c", "e"])
            value = partial(value_of, running)
            assert [value("tis_model_loads_total", name) for name in "abcde"] == [1, 1, 2, 1, 1]
            assert [value("tis_model_unloads_total", name) for name in "abcde"] == [0, 1, 1, 1, 0]
            assert [value("tis_model_bytes", name) for name in "abcde"] == [100, 0, 100, 0, 100]
            assert [value("tis_queue_capacity", name) for name in "abc"] == [32, None, 32]

    asyncio.run(check())


def value_of(running: LocalModelPool, metric: str, model: str) -> float | None:
    return running._metrics.registry.get_sample_value(metric, {"model": model})


def test_a_model_goes_when_the_requests_that_need_it_have_ended() -> None:
    shelf = Shelf()

    async def check() -> None:
        async with started(models("a", "b", "c", model_memory=200), shelf.load) as running:
            await running.score("b", [RED], "cosine")
            encoder = shelf.newest("b")
            encoder.busy.clear()
            encoder.go.clear()
            held = asyncio.create_task(running.score("b", [Pair(make_png("red", (9, 9)), "red")], "cosine"))
            await until(encoder.busy.is_set)
            assert (await running.score("c", [RED], "cosine")).results[0].similarity == 1.0
            await until(lambda: loaded(running) == ["a", "b"])  # more recent, but needed by nobody
            held.cancel()  # its client left, but the model is at work
            await running.score("c", [RED], "cosine")
            assert "b" in loaded(running)
            encoder.go.set()
            del encoder, held
            await until(lambda: running._inflight.total() == 0)
            await running.score("c", [RED], "cosine")
            await until(lambda: loaded(running) == ["a", "c"])
            await until(lambda: shelf.alive() == ["a", "c"])

    asyncio.run(check())


def test_a_model_that_never_fits_is_served_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    shelf = Shelf()

    async def check() -> None:
        async with started(models("a", "b", model_memory=99), shelf.load) as running:
            for _ in range(3):
                assert (await running.score("b", [RED], "cosine")).results[0].similarity == 1.0
                await until(lambda: shelf.alive() == ["a"])

    with caplog.at_level(logging.WARNING, "text_image_similarity"):
        asyncio.run(check())
    assert [record.getMessage() for record in caplog.records] == [
        "the weights of a (0 MB) do not fit in --model-memory; the model is served anyway",
        "the weights of b (0 MB) do not fit in --model-memory next to a, which always stays loaded; the model is served anyway, and "
        "unloaded whenever no request needs it",
    ]


@pytest.mark.parametrize("room", [1, 2, 5])
def test_many_requests_at_once_across_models_all_succeed_and_leave_no_more_than_the_budget(room: int) -> None:
    shelf, names = Shelf(), ["a", "b", "c", "d", "e", "f"]
    colours = {colour: Pair(make_png(colour, (8, 8)), "yellow") for colour in ("red", "blue", "yellow")}
    given = models(*names, model_memory=100 * room, max_queue=10_000, max_inflight=10_000)

    async def check() -> None:
        async with started(given, shelf.load) as running:

            async def ask(number: int) -> None:
                await asyncio.sleep(0.0005 * number)
                answer = await running.score(names[number * 7 % 6], list(colours.values()), "cosine")
                found = [result.similarity for result in answer.results]
                assert found == pytest.approx([0.5**0.5, 0, 1], abs=1e-6)

            await asyncio.gather(*map(ask, range(300)))
            await until(lambda: len(loaded(running)) <= room)
            await until(lambda: sorted(shelf.alive()) == loaded(running))
            assert "a" in loaded(running)
            assert sum(map(len, shelf.made.values())) >= len(names)
            assert len(shelf.made["a"]) == 1

    gc.disable()  # memory must not wait for it
    try:
        asyncio.run(check())
    finally:
        gc.enable()


@pytest.mark.parametrize("backend", ["onnx", "torch"])
def test_real_weights_leave_memory_and_come_back_with_the_library_s_scores(backend: Literal["onnx", "torch"]) -> None:
    mini = replace(MINI, backend=backend, device="cpu")
    images = [make_png(colour, (40, 30)) for colour in ("red", "blue")]
    pairs = [Pair(image, caption) for image in images for caption in ("a red flag", "the sea")]
    urls = ["data:image/png;base64," + b64encode(pair.image).decode() for pair in pairs]  # type: ignore[arg-type]
    records = [Record(url, pair.caption) for url, pair in zip(urls, pairs, strict=True)]
    expected = [result.similarity for result in score_pairs(records, mini)]
    weights = load_encoder(mini).weight_bytes  # type: ignore[attr-defined]
    assert weights > 60e6
    names, towers = ["a", "b", "c"], list[weakref.ref[Any]]()
    given = mini_settings(
        models=dict.fromkeys(names, mini), lazy=frozenset(names[1:]), model_memory=round(2.5 * weights)
    )

    def load(config: Config) -> Encoder:
        encoder: Any = load_encoder(config)
        towers.append(weakref.ref(encoder.backend.image_session if backend == "onnx" else encoder.backend.image_tower))
        return encoder  # type: ignore[no-any-return]

    async def check() -> None:
        async with started(given, load) as running:
            for asked in (("b", "c", "a"), ("b",)):
                answers = await asyncio.gather(*(running.score(name, pairs, "cosine") for name in asked))
                for answer in answers:
                    found = [result.similarity for result in answer.results]
                    assert found == (expected if backend == "onnx" else pytest.approx(expected, abs=1e-6))
                await until(lambda: len(loaded(running)) == 2)
                await until(lambda: sum(tower() is not None for tower in towers) == 2)

    gc.disable()
    try:
        asyncio.run(check())
    finally:
        gc.enable()
    assert len(towers) in (3, 4)  # the second b is the first, or one that came back


UNLOADING = """
import asyncio, psutil
from dataclasses import replace
from tests.service.test_loaded import *

async def main():
    given = mini_settings(models=dict.fromkeys("abc", MINI), lazy=frozenset("bc"), model_memory=100_000_000)
    async with started(given, load_encoder) as running:
        print(psutil.Process().memory_info().rss >> 20)
        for name in "bcbc":
            await running.score(name, [RED], "cosine")
            await until(lambda: loaded(running) == ["a"])
            await asyncio.gather(*map(asyncio.wrap_future, running._models._closing))
            print(psutil.Process().memory_info().rss >> 20)

asyncio.run(main())
"""


@pytest.mark.extended
@pytest.mark.skipif(sys.platform != "linux", reason="other systems' C libraries return memory by themselves, or never")
def test_the_system_gets_the_memory_back() -> None:
    done = subprocess.run([sys.executable, "-c", UNLOADING], cwd=ROOT, capture_output=True, text=True, check=True)
    before, *after = (int(line) for line in done.stdout.split())
    assert len(after) == 4
    assert max(after) < before + 50, "a few MB more; without the return of free memory 60 to 100"
