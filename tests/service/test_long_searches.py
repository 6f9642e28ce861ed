"""A search that takes longer than expected is paid for by its client, and one that takes too long is interrupted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from tests.search.ledger.test_sqlite import LONG, VERSION
from tests.service.test_http import problem
from tests.service.test_search import FIELDS
from tests.service.test_search_attacks import as_it_is, asked_for, in_a_loop
from tests.support.clock import HANG_S, wait_for
from tests.support.services import app_of, mini_settings, serving
from text_image_similarity import UsageError
from text_image_similarity.encoders.testing import ColourEncoder
from text_image_similarity.search import Product, Query, open_catalog
from text_image_similarity.search.ledger import SqliteDatabase
from text_image_similarity.service.clients import current
from text_image_similarity.service.search.scans import Scans


class Searching:
    """A searcher that holds its first pass until it may go on, and does something for each query."""

    def __init__(self, work: Callable[[str], object]) -> None:
        self.going, self.began, self.passes, self.work = Event(), Event(), list[list[str]](), work
        self.together: Callable[[list[Any]], object] = lambda asked: None

    def answer(self, asked: list[Any], texts: Any, images: Any, most: None) -> Iterator[Any]:
        self.began.set()
        assert self.going.wait(HANG_S)
        self.passes.append([one.name for one in asked])
        self.together(asked)
        return self._each(asked)

    def _each(self, asked: list[Any]) -> Iterator[Any]:
        for one in asked:
            self.work(one.name)
            yield one.name


def search(scans: Scans, client: str, name: str, query: Query = Query("red")) -> asyncio.Task[Any]:  # noqa: B008
    current.set(client)  # of the task that begins here
    return asyncio.create_task(scans.answer([asked_for(name, query)], [], [], as_it_is))


@in_a_loop
async def test_who_searches_longer_than_was_expected_pays_afterwards() -> None:
    now = 0.0

    def work(name: str) -> None:
        nonlocal now
        now += 0.4 if name[0] == "h" else 0.001

    searcher = Searching(work)
    scans = Scans("c", searcher, clock=lambda: now)  # type: ignore[arg-type]
    large = Query(
        "red", fusion="rrf", facets=[f"field{number}" for number in range(20)]
    )  # two of these are more than a pass
    tasks = [search(scans, "heavy", "h0", large)]
    await asyncio.to_thread(searcher.began.wait, HANG_S)
    tasks += [search(scans, "heavy", f"h{number}", large) for number in range(1, 4)]
    tasks += [search(scans, "light", f"l{number}", large) for number in range(5)]
    await asyncio.sleep(0)
    searcher.going.set()
    await asyncio.wait_for(asyncio.gather(*tasks), HANG_S)
    found = [name for names in searcher.passes for name in names]
    assert found.index("h1") > found.index("l1")
    assert found.index("h2") > found.index("l3")
    await asyncio.to_thread(scans.close)


@pytest.mark.parametrize("together", [False, True])
@in_a_loop
async def test_a_query_that_reads_for_too_long_ends_alone(tmp_path: Path, together: bool) -> None:
    database = SqliteDatabase(tmp_path / "a.sqlite", ())

    def read(name: str) -> object:
        return database.read(LONG if name == "b" else VERSION)

    searcher = Searching(lambda name: None if together else read(name))
    if together:
        searcher.together = lambda asked: [read(one.name) for one in asked]
    scans = Scans("c", searcher, timeout_s=1.0)  # type: ignore[arg-type]
    tasks = [search(scans, "x", "first")]
    await asyncio.to_thread(searcher.began.wait, HANG_S)
    tasks += [search(scans, name, name) for name in "abcd"]
    await asyncio.sleep(0)
    searcher.going.set()
    found = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), HANG_S)
    assert isinstance(found.pop(2), TimeoutError)
    assert found == [["first"], ["a"], ["c"], ["d"]]
    alone = [["a"], ["b"], ["c"], ["d"]] if together else [["c", "d"]]
    assert searcher.passes == [["first"], ["a", "b", "c", "d"], *alone]
    await asyncio.to_thread(scans.close)
    database.close()


@in_a_loop
async def test_searches_after_one_that_took_too_long_wait_for_their_turn_again() -> None:
    now, worked, arrived = 0.0, list[str](), Event()

    def work(name: str) -> None:
        nonlocal now
        worked.append(name)
        if name[0] == "h":
            assert arrived.wait(HANG_S)
            now += 11
            raise TimeoutError

    searcher = Searching(work)
    scans = Scans("c", searcher, timeout_s=30.0, clock=lambda: now)  # type: ignore[arg-type]
    tasks = [search(scans, "x", "first")]
    await asyncio.to_thread(searcher.began.wait, HANG_S)
    tasks += [search(scans, "heavy", f"h{number}") for number in range(6)]
    await asyncio.sleep(0)
    searcher.going.set()
    await asyncio.to_thread(wait_for, lambda: "h0" in worked)
    tasks.append(search(scans, "light", "light"))
    tasks[2].cancel()  # h1, which runs with the others, so that its scan cannot be cancelled
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    arrived.set()
    found = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), HANG_S)
    assert found[-1] == ["light"]
    # After 30 s, no request waits for those that are left.
    assert worked == ["first", "h0", "light", "h2", "h3"]
    assert all(isinstance(each, TimeoutError) for each in [found[1], *found[3:7]])
    await asyncio.to_thread(scans.close)


@in_a_loop
async def test_halves_of_searches_that_fail_slowly_wait_for_their_turn_again() -> None:
    now = 0.0

    def fail(asked: list[Any]) -> None:
        nonlocal now
        now += 1
        if len(asked) > 1:
            raise UsageError("the product 'gone' does not exist")

    searcher = Searching(lambda name: None)
    searcher.together = fail
    scans = Scans("c", searcher, clock=lambda: now)  # type: ignore[arg-type]
    tasks = [search(scans, "x", "first")]
    await asyncio.to_thread(searcher.began.wait, HANG_S)
    tasks += [search(scans, name, name) for name in "abcd"]
    await asyncio.sleep(0)
    searcher.going.set()
    assert await asyncio.wait_for(asyncio.gather(*tasks), HANG_S) == [["first"], ["a"], ["b"], ["c"], ["d"]]
    assert searcher.passes == [["first"], ["a", "b", "c", "d"], ["a"], ["b"], ["c"], ["d"]]
    await asyncio.to_thread(scans.close)


@in_a_loop
async def test_many_queries_of_a_request_that_take_too_long_together_are_answered_one_by_one() -> None:
    def slow(asked: list[Any]) -> None:
        if len(asked) > 1:
            raise TimeoutError

    searcher = Searching(lambda name: None)
    searcher.together = slow
    searcher.going.set()
    scans = Scans("c", searcher, timeout_s=30.0)  # type: ignore[arg-type]
    asked = [asked_for(name, Query("red")) for name in "abc"]
    texts: list[Any] = ["red"] * 3
    found: list[Any] = await asyncio.wait_for(scans.answer(asked, texts, [], as_it_is), HANG_S)
    assert found == ["a", "b", "c"]
    assert searcher.passes == [["a", "b", "c"], ["a"], ["b"], ["c"]]
    await asyncio.to_thread(scans.close)


@in_a_loop
async def test_a_search_whose_request_has_ended_is_dropped() -> None:
    now = 0.0
    searcher = Searching(lambda name: None)
    scans = Scans("c", searcher, timeout_s=30.0, clock=lambda: now)  # type: ignore[arg-type]
    tasks = [search(scans, "x", "first")]
    await asyncio.to_thread(searcher.began.wait, HANG_S)
    tasks.append(search(scans, "y", "late"))
    await asyncio.sleep(0)
    now = 31.0
    searcher.going.set()
    found = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), HANG_S)
    assert isinstance(found[1], TimeoutError)
    assert searcher.passes == [["first"]]
    await asyncio.to_thread(scans.close)


def test_a_long_statement_is_answered_as_a_timeout_and_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_catalog(tmp_path / "c", fields=FIELDS, encoder=ColourEncoder()) as catalog:
        catalog.add(Product("a", "a"))
    ended = Event()

    def slow(self: SqliteDatabase, sql: str, values: Any = ()) -> Any:
        if "count(*)" not in sql:
            return read(self, sql, values)
        try:
            return read(self, LONG)
        except TimeoutError:
            ended.set()
            raise

    read = SqliteDatabase.read
    with serving(
        app_of(mini_settings(catalogs={"c": str(tmp_path / "c")}, request_timeout_s=0.6), ColourEncoder())
    ) as client:
        monkeypatch.setattr(SqliteDatabase, "read", slow)
        for path in ("/v1/catalogs/c/facets?field=shop", None):
            answer = client.get(path) if path else client.post("/v1/catalogs/c/match", json={"queries": [{}]})
            said = problem(answer, 503, "catalog_unavailable")["detail"]
            assert path or "use a simpler filter" in said
            assert ended.wait(2), "the statement is interrupted, not only left"
            ended.clear()
