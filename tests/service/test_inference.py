"""The service behind its routes: batches, priorities, room, what nobody waits for, models that fail."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar
from unittest.mock import Mock

import httpx
import numpy as np
import pytest

from tests.support.clock import HANG_S
from tests.support.images import make_png
from tests.support.services import MINI, mini_settings
from text_image_similarity import (
    ConfigError,
    DeviceLostError,
    Encoder,
    ErrorCode,
    ModelUnavailableError,
    RowError,
    ScoreResult,
)
from text_image_similarity.encoders.testing import ColourEncoder
from text_image_similarity.service import Settings
from text_image_similarity.service.clients import current
from text_image_similarity.service.inference import batcher as batcher_module
from text_image_similarity.service.inference import loaded as loaded_module
from text_image_similarity.service.inference import local as local_module
from text_image_similarity.service.inference import model as served_module
from text_image_similarity.service.inference.batcher import Batcher
from text_image_similarity.service.inference.local import LocalModelPool
from text_image_similarity.service.inference.workers import ImageWorkers
from text_image_similarity.service.jobs import Item, Job, Pair
from text_image_similarity.service.problems import ProblemError
from text_image_similarity.service.telemetry.metrics import Metrics

T = TypeVar("T")


class Watched(ColourEncoder):
    """Tells what it encodes, and waits while it is told to."""

    __setattr__ = object.__setattr__

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []
        self.captions: list[str] = []
        self.go = threading.Event()
        self.go.set()
        self.busy = threading.Event()
        self.fault: Exception | None = None

    def encode_pixels(self, pixels: Sequence[Any]) -> Any:
        self.batches.append(len(pixels))
        self.busy.set()
        assert self.go.wait(HANG_S)
        if self.fault is not None:
            raise self.fault
        return super().encode_pixels(pixels)

    def encode_text(self, texts: Sequence[str]) -> Any:
        self.captions += texts
        return super().encode_text(texts)

    def hold(self) -> None:
        """Keep the next batch until `go` is set."""
        self.batches.clear()
        self.captions.clear()
        self.busy.clear()
        self.go.clear()


def settings(batch_size: int = 32, **changes: Any) -> Settings:
    return mini_settings(**{"models": {"mini": replace(MINI, batch_size=batch_size)}, "max_wait_s": 0.0, **changes})


@asynccontextmanager
async def pool(
    given: Settings, encoder: Encoder | None = None, handler: Callable[[httpx.Request], httpx.Response] | None = None
) -> AsyncIterator[LocalModelPool]:
    """Run a pool with one encoder for all models, and images from a function."""
    transport = httpx.MockTransport(handler or (lambda request: httpx.Response(404)))
    encoder = encoder or Watched()
    running = LocalModelPool(given, Metrics(), load=lambda config: encoder, transport=transport)
    await running.start()
    try:
        yield running
    finally:
        await running.close()


def pair(colour: str = "red", caption: str = "red", size: int = 16) -> Pair:
    """Return a pair whose image differs with its size."""
    return Pair(make_png(colour, (size, size)), caption)


@pytest.fixture
def deadlines(monkeypatch: pytest.MonkeyPatch) -> list[asyncio.Timeout]:
    """Return the deadlines that are set from here on, which a test may bring forward."""
    made: list[asyncio.Timeout] = []

    def timeout_at(when: float | None) -> asyncio.Timeout:
        made.append(asyncio.Timeout(when))
        return made[-1]

    monkeypatch.setattr(asyncio, "timeout_at", timeout_at)
    return made


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(HANG_S):
        while not condition():
            await asyncio.sleep(0.001)


def metric(running: LocalModelPool, name: str, **labels: str) -> float:
    return running._metrics.registry.get_sample_value(name, labels) or 0.0


def similarities(results: Sequence[Any]) -> list[float | None]:
    return [None if result.error else result.similarity for result in results]


# ---- batches


class Batches:
    """A batcher whose batches are kept, and held while `go` is not set."""

    def __init__(self, max_batch: int, max_wait_s: float) -> None:
        self.found: list[list[Item]] = []
        self.at: list[float] = []
        self.go = threading.Event()
        self.go.set()
        self.batcher = Batcher("test", self._work, max_batch, max_wait_s)

    def _work(self, items: list[Item]) -> None:
        self.at.append(time.monotonic())
        self.found.append(items)
        assert self.go.wait(HANG_S)

    def put(self, items: Sequence[Item]) -> None:
        self.batcher.announce(len(items), items[0].job.client)
        self.batcher.put(items)

    def wait_for(self, batches: int) -> None:
        end = time.monotonic() + HANG_S
        while len(self.found) < batches:
            assert time.monotonic() < end
            time.sleep(0.001)


def job(items: int, client: str | None = None) -> Job:
    token = current.set(client)
    try:
        return Job([(None, "red")] * items, None, lambda: None, lambda: None)
    finally:
        current.reset(token)


def test_the_oldest_requests_items_come_first_whenever_they_were_ready() -> None:
    batches = Batches(max_batch=2, max_wait_s=0)
    oldest, middle, youngest = jobs = job(2), job(1), job(2)
    for each in jobs:
        batches.batcher.enter(each)
    batches.go.clear()
    batches.put(job(1).items)
    batches.wait_for(1)  # and held
    for late in (youngest, oldest, middle):
        batches.put(late.items)
    assert batches.batcher.depth == 5
    batches.go.set()
    batches.wait_for(4)
    assert batches.found[1:] == [oldest.items, [middle.items[0], youngest.items[0]], [youngest.items[1]]]
    batches.batcher.close()


def test_clients_take_turns_in_batches() -> None:
    batches = Batches(max_batch=2, max_wait_s=0)
    jobs = job(4, "greedy"), job(4, "greedy"), job(1, "one"), job(2, "another")
    batches.go.clear()
    batches.put(job(1).items)
    batches.wait_for(1)  # and held
    for each in jobs:
        batches.batcher.enter(each)
        batches.put(each.items)
    assert [batches.batcher.depths().get(name, 0) for name in ("greedy", "one", "another")] == [8, 1, 2]
    batches.go.set()
    batches.wait_for(7)
    names = [item.job.client for batch in batches.found[1:] for item in batch]
    assert names == ["greedy", "one", "another", "greedy", "another", *["greedy"] * 6]
    assert batches.batcher.depths() == {}
    batches.batcher.close()


def test_a_batch_waits_for_what_is_on_its_way() -> None:
    batches = Batches(max_batch=3, max_wait_s=2 * HANG_S)
    first, second = job(1), job(2)
    batches.batcher.announce(3)
    batches.batcher.put(first.items)
    batches.batcher.put(second.items)  # the third: it is full
    batches.wait_for(1)
    assert batches.found == [[*first.items, *second.items]]
    batches.batcher.announce(1)
    batches.batcher.announce(-1)
    batches.put(job(1).items)
    batches.wait_for(2)  # nothing was on its way
    batches.batcher.close()


def test_a_batch_does_not_wait_for_ever() -> None:
    batches = Batches(max_batch=3, max_wait_s=0.2)
    began = time.monotonic()
    batches.batcher.announce(2)  # one of which never comes
    batches.batcher.put(job(1).items)
    batches.wait_for(1)
    assert batches.at[0] - began >= 0.2
    batches.batcher.close()


# ---- room


def test_a_full_queue_refuses_at_once_and_says_when_to_come_back() -> None:
    async def check() -> None:
        encoder = Watched()
        async with pool(settings(batch_size=1, max_queue=2), encoder) as running:
            encoder.hold()
            held = [asyncio.create_task(running.score("mini", [pair(size=8)], "cosine"))]
            await until(encoder.busy.is_set)
            held += [asyncio.create_task(running.score("mini", [pair(size=9 + i)], "cosine")) for i in range(2)]
            await until(lambda: told(running._models.find("mini")).depth == 2)
            with pytest.raises(ProblemError) as refused:
                await running.score("mini", [pair()], "cosine")
            assert (refused.value.code, refused.value.status, refused.value.reason) == ("queue_full", 429, "queue_full")
            assert 1 <= int(refused.value.headers["Retry-After"]) <= 60
            assert running.refusal() is not None
            assert told(running.unready()).status == 503
            encoder.go.set()
            for answer in await asyncio.gather(*held):
                assert similarities(answer.results) == [1.0]
            assert running.refusal() is running.unready() is None

    asyncio.run(check())


def test_no_client_has_all_the_room() -> None:
    async def check() -> None:
        encoder = Watched()

        async def ask(client: str, pairs: Sequence[Pair]) -> list[float | None]:
            current.set(client)
            return similarities((await running.score("mini", pairs, "cosine")).results)

        async with pool(settings(batch_size=1, max_queue=6, max_inflight=40), encoder) as running:
            encoder.hold()
            held = [asyncio.create_task(ask("greedy", [pair(size=8 + i) for i in range(20)]))]
            await until(encoder.busy.is_set)
            await until(lambda: told(running._models.find("mini")).depth == 19)
            with pytest.raises(ProblemError) as refused:
                await asyncio.create_task(ask("greedy", [pair()]))
            assert refused.value.reason == "inflight", "it has half of what may be in progress"
            assert running.unready() is None, "for one client's work"
            held += [asyncio.create_task(ask(f"modest {i % 2}", [pair(size=40 + i)])) for i in range(4)]
            await until(lambda: told(running._models.find("mini")).depth == 23)
            with pytest.raises(ProblemError) as refused:
                await asyncio.create_task(ask("modest 0", [pair()]))
            assert refused.value.reason == "queue_full", "its share is one of three"
            encoder.go.set()
            assert [len(found) for found in await asyncio.gather(*held)] == [20, 1, 1, 1, 1]

    asyncio.run(check())


def test_a_request_is_taken_whole_or_not_at_all() -> None:
    async def check() -> None:
        encoder = Watched()
        async with pool(settings(batch_size=4, max_queue=2), encoder) as running:
            answer = await running.score("mini", [pair(size=8 + i) for i in range(9)], "cosine")
            assert similarities(answer.results) == [1.0] * 9
            assert max(encoder.batches) <= 4

    asyncio.run(check())


def test_pairs_in_download_count_too() -> None:
    async def check() -> None:
        answered = threading.Event()

        def wait(request: httpx.Request) -> httpx.Response:
            assert answered.wait(HANG_S)
            return httpx.Response(200, content=make_png("red"))

        async with pool(settings(max_inflight=2), handler=wait) as running:
            pairs = [Pair(f"http://pictures.example/{i}.png", "red") for i in range(2)]
            first = asyncio.create_task(running.score("mini", pairs, "cosine"))
            await until(lambda: metric(running, "tis_inflight_pairs") == 2)
            with pytest.raises(ProblemError) as refused:
                await running.score("mini", [pair()], "cosine")
            assert refused.value.reason == told(running.refusal()).reason == "inflight"
            answered.set()
            assert similarities((await first).results) == [1.0, 1.0]
            assert metric(running, "tis_inflight_pairs") == 0

    asyncio.run(check())


# ---- what is done once, or not at all


def test_an_image_is_fetched_once_for_all_captions_of_a_request_and_encoded_once_for_all_requests() -> None:
    async def check() -> None:
        hits: list[str] = []

        def answer(request: httpx.Request) -> httpx.Response:
            hits.append(request.url.path)
            return httpx.Response(200, content=make_png("red"))

        encoder = Watched()
        async with pool(settings(), encoder, answer) as running:
            encoder.batches.clear()
            pairs = [Pair("http://pictures.example/a.png", caption) for caption in ("red", "blue", "yellow")]
            first = await running.score("mini", pairs, "cosine")
            assert similarities(first.results) == [1.0, 0.0, 0.70710677]
            assert (hits, encoder.batches) == (["/a.png"], [1])
            assert [span.stage for span in first.spans[2]] == ["fetch", "decode", "queue", "encode"]
            captions = list(encoder.captions)
            again = await running.score("mini", pairs, "cosine")
            assert again.results == first.results
            assert (len(hits), encoder.batches, encoder.captions) == (2, [1], captions)
            assert metric(running, "tis_cache_hits_total", kind="image", model="mini") == 1
            assert metric(running, "tis_cache_hits_total", kind="text", model="mini") == 3

    asyncio.run(check())


def test_as_many_threads_decode_as_the_process_may_use_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0}, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    workers = ImageWorkers(MINI)
    assert len(workers._decoding._threads) == 1
    workers.close()


def test_embeddings_are_kept_up_to_a_number_in_memory_and_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(served_module, "_FILE_ENTRIES", 4)
    config = replace(MINI, embedding_cache=tmp_path / "cache.db")

    async def score(sizes: Sequence[int]) -> list[int]:
        encoder = Watched()
        async with pool(settings(models={"mini": config}, cache_entries=4), encoder) as running:
            encoder.batches.clear()
            for size in sizes:
                await running.score("mini", [pair(size=size)], "cosine")
            return encoder.batches

    assert asyncio.run(score([8, 8, 9, 10])) == [1, 1, 1]
    assert asyncio.run(score([10, 9])) == [], "the file outlives the process"
    assert asyncio.run(score([11, 12, 13, 8])) == [1, 1, 1, 1], "the oldest are gone"


def test_work_of_clients_that_left_is_dropped() -> None:
    async def check() -> None:
        encoder = Watched()
        async with pool(settings(batch_size=1), encoder) as running:
            encoder.hold()
            stays = asyncio.create_task(running.score("mini", [pair(size=8)], "cosine"))
            await until(encoder.busy.is_set)
            leaves = asyncio.create_task(running.score("mini", [pair(size=9), pair(size=10)], "cosine"))
            await until(lambda: len(told(running._models.find("mini")).queue._waiting) == 2)
            leaves.cancel()
            await asyncio.wait([leaves])
            last = asyncio.create_task(running.score("mini", [pair(size=11)], "cosine"))
            encoder.go.set()
            assert similarities((await stays).results) == similarities((await last).results) == [1.0]
            assert encoder.batches == [1, 1], "two of four images"
            await until(lambda: metric(running, "tis_inflight_pairs") == 0)
            assert metric(running, "tis_pairs_total", model="mini", result="dropped", error_code="") == 2

    asyncio.run(check())


def test_what_is_not_done_in_time_is_answered_with_timeout_beside_what_is(deadlines: list[asyncio.Timeout]) -> None:
    async def check() -> None:
        released = threading.Event()

        def never(request: httpx.Request) -> httpx.Response:
            assert released.wait(HANG_S)
            return httpx.Response(404)

        async with pool(settings(request_timeout_s=600), handler=never) as running:
            pairs = [Pair("http://slow.example/a.png", "red"), pair()]
            asked = asyncio.create_task(running.score("mini", pairs, "cosine"))
            await until(lambda: metric(running, "tis_inflight_pairs") == 1)
            deadlines[-1].reschedule(asyncio.get_running_loop().time())
            late, done = (await asked).results
            released.set()
            assert (late.error, done.similarity) == (
                "timeout: the service did not finish within its limit of 600 s",
                1.0,
            )
            counted = {"model": "mini", "result": "failed", "error_code": "timeout"}
            await until(lambda: metric(running, "tis_inflight_pairs") == 0)
            assert (
                metric(running, "tis_pairs_total", **counted) == metric(running, "tis_score_count", model="mini") == 1
            )
            assert metric(running, "tis_pairs_total", **counted | {"result": "dropped", "error_code": ""}) == 0

    asyncio.run(check())


# ---- models


def test_one_bad_item_of_a_batch_fails_alone() -> None:
    class Choosy(Watched):
        def encode_pixels(self, pixels: Sequence[Any]) -> Any:
            if any(image[0, 0, 2] == 255 for image in pixels):
                raise ValueError("no blue")
            return super().encode_pixels(pixels)

    async def check() -> None:
        async with pool(settings(), Choosy()) as running:
            pairs = [pair("red"), pair("blue"), pair("green", "green"), pair("red", "")]
            found = (await running.score("mini", pairs, "cosine")).results
            assert similarities(found) == [1.0, None, 1.0, None]
            assert [result.code for result in found] == [None, "encoder_error", None, "empty_caption"]

    asyncio.run(check())


def test_a_lost_device_fails_requests_at_once_and_pairs_to_be_replaced() -> None:
    async def check() -> None:
        encoder = Watched()
        async with pool(settings(batch_size=1), encoder) as running:
            encoder.hold()
            encoder.fault = DeviceLostError("the GPU fell off the bus")
            waiting = [asyncio.create_task(running.score("mini", [pair(size=8 + i)], "cosine")) for i in range(2)]
            await until(lambda: encoder.busy.is_set() and told(running._models.find("mini")).depth == 1)
            assert running.dead() is None
            encoder.go.set()
            for task in waiting:
                with pytest.raises(ProblemError, match="fell off the bus") as lost:
                    await task
                assert (lost.value.code, lost.value.status) == ("model_unavailable", 503)
            assert told(running.dead()).status == told(running.unready()).status == 503
            await until(lambda: metric(running, "tis_inflight_pairs") == 0)
            assert len(encoder.batches) == 1, "it is not asked again"

    asyncio.run(check())


def told(found: T | None) -> T:
    assert found is not None
    return found


class Panic(BaseException):
    """What a library in Rust raises when it gives up."""


def test_an_error_nobody_foresaw_costs_its_items_and_no_thread(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def check() -> None:
        async with pool(settings()) as running:
            stages = told(running._models.find("mini"))._stages
            for step, fault in (
                ("encode_images", ValueError),
                ("load", ValueError),
                ("score", ValueError),
                ("load", Panic),
            ):
                with monkeypatch.context() as broken:
                    broken.setattr(stages, step, Mock(side_effect=fault("broken")))
                    (failed,) = (await running.score("mini", [pair()], "cosine")).results
                    assert failed.code == "encoder_error", step
                assert similarities((await running.score("mini", [pair()], "cosine")).results) == [1.0]
            await until(
                lambda: metric(running, "tis_inflight_pairs") == metric(running, "tis_queue_depth", model="mini") == 0
            )

    asyncio.run(check())
    assert caplog.text.count("please report it") == 4


def test_a_lazy_model_is_loaded_once_for_all_who_wait() -> None:
    loads: list[str] = []
    given = settings(models={"first": MINI, "second": replace(MINI, batch_size=2)}, lazy=frozenset({"second"}))

    def load(config: Any) -> Encoder:
        loads.append("second" if config.batch_size == 2 else "first")
        return Watched()

    async def check() -> None:
        running = LocalModelPool(given, Metrics(), load=load)
        await running.start()
        assert loads == ["first"]
        assert [facts is not None for facts in running.models().values()] == [True, False]
        impatient = asyncio.create_task(running.score("second", [pair()], "cosine"))
        await asyncio.sleep(0)
        impatient.cancel()
        answers = await asyncio.gather(*(running.score("second", [pair()], "cosine") for _ in range(5)))
        assert {answer.model for answer in answers} == {"second"}
        assert loads == ["first", "second"]
        await running.close()

    asyncio.run(check())


def test_a_lazy_model_that_cannot_be_loaded_is_not_tried_for_every_request(monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[str] = []
    given = settings(models={"first": MINI, "second": replace(MINI, batch_size=2)}, lazy=frozenset({"second"}))

    def load(config: Any) -> Encoder:
        if config.batch_size == 2:
            loads.append("second")
            raise ModelUnavailableError("the hub cannot be reached")
        return Watched()

    async def check() -> None:
        running = LocalModelPool(given, Metrics(), load=load)
        await running.start()
        for _ in range(3):
            with pytest.raises(ProblemError, match="cannot be reached") as problem:
                await running.score("second", [pair()], "cosine")
            assert (problem.value.status, problem.value.headers["Retry-After"]) == (503, "30")
        assert loads == ["second"]
        assert running.unready() is None, "the first model works"
        monkeypatch.setattr(loaded_module, "RELOAD_S", 0.0)
        with pytest.raises(ProblemError):
            await running.score("second", [pair()], "cosine")
        assert loads == ["second"] * 2
        await running.close()

    asyncio.run(check())


def test_a_model_that_does_not_work_is_not_served() -> None:
    class Broken(Watched):
        def encode_text(self, texts: Sequence[str]) -> Any:
            return super().encode_text(texts) * float("nan")

    running = LocalModelPool(settings(), Metrics(), load=lambda config: Broken())
    with pytest.raises(Exception, match="returns embeddings that are not finite"):
        running.load()
    asyncio.run(running.close())


def test_readiness_wants_a_recent_success_and_idle_models_prove_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_module, "_PROVEN_S", 0.05)
    monkeypatch.setattr(batcher_module, "IDLE_S", 0.01)

    async def check() -> None:
        encoder = Watched()
        async with pool(
            settings(splits={"mini": {"other": 1}}, models={"mini": MINI, "other": MINI}), encoder
        ) as running:
            proofs = len(encoder.batches)
            await until(lambda: len(encoder.batches) > proofs + 4)
            await until(lambda: running.unready() is None)
            encoder.hold()
            await until(lambda: running.unready() is not None)
            assert "has encoded nothing" in told(running.unready()).detail
            encoder.go.set()
            await until(lambda: running.unready() is None)
            assert metric(running, "tis_cache_lookups_total", kind="image", model="mini") == 0, "proofs are no requests"
            encoder.fault = DeviceLostError("the GPU fell off the bus")
            await until(lambda: running.dead() is not None)

    asyncio.run(check())


def test_hanging_downloads_are_no_sign_of_a_model_that_does_not_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batcher_module, "IDLE_S", 0.01)
    monkeypatch.setattr(local_module, "_PROVEN_S", 0.2)
    released = threading.Event()

    def hang(request: httpx.Request) -> httpx.Response:
        assert released.wait(HANG_S)
        return httpx.Response(404)

    async def check() -> None:
        encoder = Watched()
        async with pool(settings(max_inflight=2), encoder, handler=hang) as running:
            hanging = asyncio.create_task(running.score("mini", [Pair("http://slow.example/a", "red")] * 2, "cosine"))
            proofs = len(encoder.batches)
            await until(lambda: len(encoder.batches) >= proofs + 2)
            assert running.refusal() is not None
            await until(lambda: running.unready() is None)
            released.set()
            await hanging

    asyncio.run(check())


def test_one_request_leaves_downloads_to_others() -> None:
    released = threading.Event()

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.host != "quick.example":
            assert released.wait(HANG_S)
        return httpx.Response(200, content=make_png("red"))

    async def check() -> None:
        few = settings(models={"mini": replace(MINI, io_workers=20)})
        async with pool(few, handler=answer) as running:
            pairs = [Pair(f"http://slow{i}.example/a.png", "red") for i in range(64)]
            greedy = asyncio.create_task(running.score("mini", pairs, "cosine"))
            await until(lambda: metric(running, "tis_inflight_pairs") == 64)
            quick = await running.score("mini", [Pair("http://quick.example/a.png", "red")], "cosine")
            assert similarities(quick.results) == [1.0]
            assert not greedy.done()
            released.set()
            assert similarities((await greedy).results) == [1.0] * 64

    asyncio.run(check())


def test_a_caption_has_an_end() -> None:
    async def check() -> None:
        encoder = Watched()
        async with pool(settings(), encoder) as running:
            encoder.captions.clear()
            pairs = [pair(caption="red " * 2500), pair(caption="red " * 2501)]
            longest, longer = (await running.score("mini", pairs, "cosine")).results
            assert longest.similarity == 1.0
            reason = "the caption has 10,004 characters, but the service accepts at most 10,000"
            assert longer.error == f"too_many_bytes: {reason}"
            assert [len(caption) for caption in encoder.captions] == [10_000]

    asyncio.run(check())


def test_splits_share_requests_by_weight() -> None:
    given = settings(models={"old": MINI, "new": MINI}, splits={"fast": {"old": 3, "new": 1}, "all": {"new": 1}})

    async def check() -> None:
        async with pool(given) as running:
            chosen = [(await running.score("fast", [pair()], "cosine")).model for _ in range(200)]
            assert 20 < chosen.count("new") < 90
            assert {(await running.score("all", [pair()], "cosine")).model for _ in range(20)} == {"new"}
            with pytest.raises(ProblemError, match="served models: old, new, fast, all") as unknown:
                await running.score("mini", [pair()], "cosine")
            assert unknown.value.status == 404

    asyncio.run(check())


def test_embeddings_are_the_models_own() -> None:
    async def check() -> None:
        async with pool(settings()) as running:
            image, bad = (await running.embed_images("mini", [make_png("red"), "x"])).results
            text, empty = (await running.embed_texts("mini", ["blue", " "])).results
            assert np.asarray(image).tolist() == [1.0, 0.0, 0.0]
            assert np.asarray(text).tolist() == [0.0, 0.0, 1.0]
            assert isinstance(bad, RowError)
            assert isinstance(empty, RowError)
            assert (bad.code, empty.code) == ("unsupported_scheme", "empty_caption")

    asyncio.run(check())


def test_embeddings_that_are_not_done_in_time_or_fail_unexpectedly_are_errors(
    monkeypatch: pytest.MonkeyPatch, deadlines: list[asyncio.Timeout]
) -> None:
    async def check() -> None:
        released = threading.Event()

        def never(request: httpx.Request) -> httpx.Response:
            assert released.wait(HANG_S)
            return httpx.Response(404)

        async with pool(settings(request_timeout_s=600), handler=never) as running:
            images: list[str | bytes] = ["http://slow.example/a.png", make_png("red")]
            asked = asyncio.create_task(running.embed_images("mini", images))
            await until(lambda: metric(running, "tis_inflight_pairs") == 1)
            deadlines[-1].reschedule(asyncio.get_running_loop().time())
            late, done = (await asked).results
            released.set()
            assert str(late) == "timeout: the service did not finish within its limit of 600 s"
            assert np.asarray(done).tolist() == [1.0, 0.0, 0.0]
            await until(lambda: metric(running, "tis_inflight_pairs") == 0)
            monkeypatch.setattr(
                told(running._models.find("mini"))._stages, "encode_captions", Mock(side_effect=ValueError("broken"))
            )
            (failed,) = (await running.embed_texts("mini", ["green"])).results
            assert str(failed) == "encoder_error: ValueError: broken"

    asyncio.run(check())


def test_images_of_a_request_that_are_alike_are_decoded_once_however_they_came(monkeypatch: pytest.MonkeyPatch) -> None:
    async def check() -> None:
        async with pool(settings()) as running:
            stages = told(running._models.find("mini"))._stages
            load = Mock(side_effect=stages.load)
            monkeypatch.setattr(stages, "load", load)
            same = [Pair(make_png("red", (8, 8)), caption) for caption in ("red", "blue", "green")]
            assert similarities((await running.score("mini", same, "cosine")).results) == [1.0, 0.0, 0.0]
            assert load.call_count == 1

    asyncio.run(check())


def test_jobs_count_an_item_once() -> None:
    woken: list[int] = []
    released: list[int] = []
    one = Job([(b"", "red")] * 2, "cosine", lambda: woken.append(1), lambda: released.append(1))
    first, second = one.items
    for result in (0.5, 0.25):
        one.finish(first, ScoreResult(result))
    assert (first.score, len(released), woken) == (ScoreResult(0.5), 1, [])
    one.finish(second, ScoreResult(1.0))
    assert (len(released), len(woken)) == (2, 1)


# ---- settings


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"models": {}}, "at least one model"),
        ({"models": {"/models/clip": MINI}}, "NAME=MODEL"),
        ({"lazy": frozenset({"maxi"})}, "'maxi'"),
        ({"splits": {"fast": {"maxi": 1}}}, "maxi"),
        ({"splits": {"fast": {"mini": -1}}}, "of at least 0"),
        ({"splits": {"fast": {"mini": 0}}}, "no model with a weight above 0"),
        ({"max_queue": 0}, "max_queue"),
        ({"max_wait_s": -1}, "max_wait_s"),
        ({"request_timeout_s": 0}, "request_timeout_s"),
        ({"api_keys": (" ",)}, "API key"),
    ],
)
def test_wrong_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        mini_settings(**changes)


def test_settings_travel_and_keep_their_secrets() -> None:
    import pickle

    given = mini_settings(api_keys=("secret",))
    assert pickle.loads(pickle.dumps(given)) == given
    assert "secret" not in repr(given)
    assert not given.models["mini"].limits.allow_local_files


def test_room_is_counted_while_what_waits_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    class Taken(Counter[object]):
        """Its last item is taken by another thread as soon as somebody has looked at it."""

        def __getitem__(self, client: object) -> int:
            found = super().__getitem__(client)
            self.clear()
            return found

    batcher = Batcher("test", lambda items: None, 4, 0.0)
    try:
        monkeypatch.setattr(batcher, "_depths", Taken({"a client": 1}))
        assert batcher.has_room("a client", 4)
        assert not batcher.has_room("a client", 1)
    finally:
        batcher.close()


def test_a_download_that_fails_waits_for_no_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageWorkers, "decode_fetched", Mock(side_effect=AssertionError("there is nothing to decode")))

    async def run() -> None:
        async with pool(settings()) as running:
            found = await running.score("mini", [Pair("https://example.org/missing.jpg", "red")] * 2, "cosine")
            assert [result.code for result in found.results] == [ErrorCode.HTTP_4XX] * 2

    asyncio.run(asyncio.wait_for(run(), HANG_S))
