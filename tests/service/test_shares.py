"""Clients take turns: the scheduler with work and a clock that a test makes up."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from time import sleep
from typing import Any

import pytest

from tests.support.clock import HANG_S
from tests.support.images import make_png
from tests.support.services import app_of, base64_pair, mini_settings, serving
from text_image_similarity.encoders.testing import ColourEncoder
from text_image_similarity.service.clients import SERVICE, current
from text_image_similarity.service.http import bodies
from text_image_similarity.service.http.json_bodies import finish_in_turns
from text_image_similarity.service.http.shared_value import SharedValue
from text_image_similarity.service.problems import ProblemError
from text_image_similarity.service.shares import Client, FairQueue, OneByOne, Patience, Turns, measured


class Threads:
    """Threads that run when they are told, and a clock that tasks move on."""

    def __init__(self, count: int, **options: float | None) -> None:
        self.now = 0.0
        self.ready: list[tuple[Client, Callable[[], None]]] = []
        self.done: list[Client] = []
        self.timers: list[tuple[float, Callable[[], None]]] = []
        given = dict(clock=lambda: self.now, later=lambda s, task: self.timers.append((s, task)), **options)
        self.queue = FairQueue(lambda client, run: self.ready.append((client, run)), count, **given)  # type: ignore[arg-type]

    def put(self, client: Client, tasks: int, seconds: float) -> None:
        def task() -> None:
            self.now += seconds
            self.done.append(client)

        for _ in range(tasks):
            self.queue.put(client, task)

    def run(self, tasks: int) -> list[Client]:
        """Finish so many, in the order they were started; return whose they were."""
        before = len(self.done)
        for _ in range(tasks):
            self.ready.pop(0)[1]()
        return self.done[before:]

    @property
    def running(self) -> list[Client]:
        return [client for client, _ in self.ready]


def test_clients_pay_for_the_time_that_their_work_takes() -> None:
    threads = Threads(1)
    threads.put("large", 10, seconds=1.0)
    threads.put("small", 40, seconds=0.1)
    found = threads.run(22)
    assert found.count("large") == 2  # a second each, and ten small ones of a tenth between
    assert found[1:11] == ["small"] * 10


def test_who_was_idle_has_saved_up_nothing() -> None:
    threads = Threads(1)
    threads.put("early", 60, seconds=1.0)
    threads.run(50)
    threads.put("late", 10, seconds=1.0)
    found = threads.run(12)
    assert 5 <= found.count("late") <= 7


def test_nobody_takes_more_than_a_share_of_the_threads() -> None:
    threads = Threads(4, most_of_one=2)
    threads.put("greedy", 10, seconds=1.0)
    assert threads.running == ["greedy", "greedy"]
    threads.put("other", 1, seconds=1.0)
    assert threads.running == ["greedy", "greedy", "other"]
    threads.put(None, 4, seconds=1.0)
    assert threads.running == ["greedy", "greedy", "other", None]


def test_long_tasks_leave_half_of_the_threads_and_short_ones_take_all() -> None:
    threads = Threads(2, long_s=0.03)
    threads.put("long", 8, seconds=1.0)
    threads.put("short", 1, seconds=0.01)
    assert threads.running == ["long", "long"]  # nobody knows yet
    threads.run(1)
    assert threads.running == ["long", "short"]
    threads.run(2)
    assert threads.running == ["long", "long"], "the others have been away for a second"
    threads.put("short", 4, seconds=0.01)
    threads.run(1)
    assert threads.running == ["long", "short"]
    threads.run(1)
    assert "short" in threads.running, "a thread is kept for the others"
    threads = Threads(2, long_s=0.03)
    threads.put("short", 6, seconds=0.01)
    threads.run(3)
    assert threads.running == ["short", "short"]


def test_long_tasks_pause_for_the_shares_of_the_others() -> None:
    threads = Threads(2, long_s=0.03)
    threads.put("long", 8, seconds=0.5)
    for number in range(8):
        threads.put(f"short {number}", 1, seconds=0.0)
    threads.run(2)
    (pause, go_on), *_ = threads.timers
    assert pause == pytest.approx(0.5 * 7 / 2)  # then it has a ninth of two threads
    threads.run(len(threads.ready))
    while threads.ready:
        threads.run(1)
    assert threads.done.count("long") == 2, "the others are done, and it pauses"
    go_on()
    assert set(threads.running) == {"long"}
    alone = Threads(2, long_s=0.03)
    alone.put("long", 8, seconds=0.5)
    alone.run(6)
    assert alone.timers == [], "nobody else is there"


def test_a_task_that_fails_costs_no_thread() -> None:
    def fail() -> None:
        raise RuntimeError

    threads = Threads(1)
    threads.queue.put("a", fail)
    threads.put("b", 1, seconds=1.0)
    with pytest.raises(RuntimeError):
        threads.run(1)
    assert threads.run(1) == ["b"]
    assert threads.queue.is_idle


def test_clients_that_owe_nothing_are_forgotten() -> None:
    turns = Turns()
    for client in range(3000):
        turns.reach(turns.begin(client, 1.0))
    assert len(turns._ends) <= 1001


def test_one_after_the_other_by_what_each_costs_and_who_gives_up_is_passed_over() -> None:
    async def run() -> list[str]:
        one, found = OneByOne(), list[str]()

        async def go(client: str, cost: float) -> None:
            async with one.turn(client, cost):
                found.append(client)
                await asyncio.sleep(0)
                assert found[-1] == client  # nobody else was let in meanwhile

        async with one.turn("first", 1):
            tasks = [asyncio.create_task(go(name, cost)) for name, cost in [("large", 10)] * 5 + [("small", 1)] * 5]
            await asyncio.sleep(0)
            tasks[1].cancel()
        await asyncio.sleep(0)
        tasks[2].cancel()  # some are let in by now
        await asyncio.wait(tasks)
        async with asyncio.timeout(1), one.turn("last", 1):
            return found

    found = asyncio.run(run())
    assert found[:7] == ["large", *["small"] * 5, "large"]
    assert found.count("large") == 3


def test_what_cost_more_than_was_said_is_paid_for_also_by_what_waits_already() -> None:
    async def run() -> list[str]:
        one, found = OneByOne(), list[str]()

        async def go(client: str, real: float) -> None:
            async with one.turn(client, 1) as pay:
                found.append(client)
                pay(real)

        async with one.turn("first", 1):
            tasks = [asyncio.create_task(go(*each)) for each in [("heavy", 10)] * 3 + [("light", 0.5)] * 8]
            await asyncio.sleep(0)
        await asyncio.wait(tasks)
        return found

    assert asyncio.run(run()) == ["heavy", *["light"] * 8, "heavy", "heavy"]


def test_a_long_body_costs_the_time_that_reading_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    def steps(fails: bool) -> Iterator[None]:
        for _ in range(3):
            sleep(0.01)
            yield
        if fails:
            raise ProblemError("invalid_json", "no")

    told: list[float] = []
    for fails in (False, True):
        with suppress(ProblemError):
            asyncio.run(finish_in_turns(steps(fails), told.append))  # type: ignore[arg-type]
        assert told.pop() >= 0.03
    paid: list[float] = []
    monkeypatch.setattr(Turns, "debit", lambda self, client, more, waiting: paid.append(more))
    monkeypatch.setattr(bodies, "_BYTE_S", 0.0)
    with serving(app_of(mini_settings(), ColourEncoder())) as client:
        pair = {"image_url": "nothing", "caption": "c" * (1 << 17)}
        assert client.post("/v1/similarity", json={"pairs": [pair]}).status_code == 200
    assert [more > 0 for more in paid] == [True]


def test_refusals_take_a_small_share_of_the_time_while_others_are_served() -> None:
    now = 100.0
    patience = Patience(lambda: now)
    assert [patience.pause_s("bad", 0.01) for _ in range(20)] == [0.0] * 20  # alone it may ask for whatever it likes
    now += 100
    spent = 0.0
    while now < 220:
        patience.note_served("good")
        assert patience.pause_s("good", 0.0) == 0.0
        now += patience.pause_s("bad", 0.01)
        now += 0.01
        spent += 0.01
    assert 0.5 < spent < 1.2  # a twentieth of 20 s, after a burst
    assert patience.pause_s("another", 0.01) == 0.0
    for _ in range(1000):
        longest = patience.pause_s("bad", 1.0)
    assert longest == 5.0
    now += 10
    assert patience.pause_s("bad", 1.0) == 0.0  # nobody has been served for a while


def test_the_service_lets_who_is_refused_or_needs_no_key_wait_and_notes_who_is_served(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    costs: list[float] = []
    served: list[Client] = []
    pair = base64_pair(make_png("red"), "a red square")
    bodies: list[dict[str, Any]] = [{"pairs": [pair]}, {"pairs": []}, {"pears": "a" * 1_000_000}]

    def pause_s(self: Patience, client: Client, took: float) -> float:
        costs.append(took)
        return 0.0

    monkeypatch.setattr(Patience, "pause_s", pause_s)
    monkeypatch.setattr(Patience, "note_served", lambda self, client: served.append(client))
    with serving(app_of(mini_settings(), ColourEncoder())) as client:
        for body in bodies:
            client.post("/v1/similarity", json=body)
        client.get("/nothing")
        assert client.get("/v1/models").status_code == 200
        for path in ("/livez", "/metrics", "/openapi.json"):
            assert client.get(path).status_code == 200
    small, large, nothing, *pages = costs
    assert (len(served), small < 2 * nothing, large > 2 * small) == (1, True, True)
    assert pages == [nothing] * 3


def test_an_internal_error_waits_as_a_refusal_does(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[Client] = []

    def pause_s(self: Patience, client: Client, took: float) -> float:
        waited.append(client)
        return 0.0

    async def fail(*given: Any) -> Any:
        raise RuntimeError("a bug")

    app = app_of(mini_settings(), ColourEncoder())
    monkeypatch.setattr(Patience, "pause_s", pause_s)
    monkeypatch.setattr(app.state.pool, "score", fail)
    with serving(app) as client:
        body = {"pairs": [base64_pair(make_png("red"), "a red square")]}
        assert client.post("/v1/similarity", json=body).status_code == 500
    assert len(waited) == 1


@pytest.mark.parametrize("leaves", [True, False])
def test_a_request_that_was_left_makes_no_work(monkeypatch: pytest.MonkeyPatch, leaves: bool) -> None:
    asked: list[Any] = []
    app = app_of(mini_settings(), ColourEncoder())

    async def score(*given: Any) -> Any:
        asked.append(given)
        raise ProblemError("queue_full", "for this test")

    monkeypatch.setattr(app.state.pool, "score", score)
    body = json.dumps({"pairs": [base64_pair(make_png("red"), "a red square")]}).encode()
    messages: list[Any] = [{"type": "http.request", "body": body}, *[{"type": "http.disconnect"}] * leaves]

    async def receive() -> Any:
        if not messages:
            await asyncio.Event().wait()
        return messages.pop(0)

    async def send(message: Any) -> None:
        assert not leaves, "nobody is there"

    headers = [(b"content-type", b"application/json"), (b"host", b"localhost")]
    scope = {"type": "http", "method": "POST", "path": "/v1/similarity", "query_string": b"", "headers": headers}
    asyncio.run(app({**scope, "client": ("127.0.0.1", 1)}, receive, send))
    assert len(asked) == (not leaves)


def test_who_needs_no_key_pays_for_the_time_that_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    paid: list[float] = []

    def charge(self: Patience, client: Client, took_s: float) -> float:
        paid.append(took_s)
        return 0.0

    monkeypatch.setattr(Patience, "charge", charge)
    clock = [0.0]
    monkeypatch.setattr("time.thread_time", lambda: clock[0])
    app = app_of(mini_settings(), ColourEncoder())

    def render() -> bytes:
        clock[0] += 0.05
        return b""

    monkeypatch.setattr(app.state.metrics, "render", render)
    with serving(app) as client:
        for path in ("/livez", "/metrics"):
            assert client.get(path).status_code == 200
    (first, quick), (also_first, slow) = paid[:2], paid[2:]
    assert first == also_first > 0
    assert (first + quick, also_first + slow) == pytest.approx((0.0, 0.05))


def test_a_measured_coroutine_is_cancelled_and_fails_as_usual() -> None:
    took: list[float] = []

    async def work(seconds: float, problem: Exception | None) -> int:
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            took.append(-1.0)
            raise
        if problem is not None:
            raise problem
        return 7

    async def run() -> None:
        assert await measured(work(0.1, None), took.append) == 7
        with pytest.raises(ZeroDivisionError):
            await measured(work(0.0, ZeroDivisionError()), took.append)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await measured(work(HANG_S, None), took.append)

    asyncio.run(run())
    first, second, cancelled, third = took
    assert cancelled == -1.0
    assert max(first, second, third) < 0.05, "waits are not counted"


def test_a_shared_value_is_read_once_a_second_and_by_one_request_at_a_time() -> None:
    now, reads = 0.0, []
    may_end = asyncio.Event()

    async def read() -> int:
        reads.append(now)
        await may_end.wait()
        if len(reads) == 2:
            raise ZeroDivisionError
        return len(reads)

    async def run() -> None:
        nonlocal now
        shared: SharedValue[int] = SharedValue(lambda: now)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(shared.get(read), 0.01)
        now = 5.0
        waiting = [asyncio.create_task(shared.get(read)) for _ in range(3)]
        await asyncio.sleep(0)
        may_end.set()
        assert await asyncio.gather(*waiting) == [1, 1, 1]
        for later in (5.1, 5.9):
            now = later
            with pytest.raises(ZeroDivisionError):
                await shared.get(read)
        now = 7.0
        assert [await shared.get(read) for _ in range(3)] == [3, 3, 3]

    asyncio.run(run())
    assert reads == [0.0, 5.1, 7.0]


def test_a_shared_reading_does_not_wait_behind_the_work_of_whoever_asked_first() -> None:
    threads = Threads(1)
    threads.put("busy", 3, seconds=1.0)

    async def read() -> None:
        threads.put(current.get(), 1, seconds=0.1)

    async def run() -> None:
        current.set("busy")
        await SharedValue[None]().get(read)
        assert current.get() == "busy"

    asyncio.run(run())
    assert threads.run(4) == ["busy", SERVICE, "busy", "busy"]
