"""Batch searches: those that wait while another one runs become one matrix product. Clients take turns."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from heapq import heappop, heappush
from threading import Condition, Thread

from ...errors import RowError
from ...pipeline import Outcome
from ...search import Matches, Searcher
from ...search.answer import Checked
from ...search.filters import And, Filter, Not, OneOf, Or
from ..clients import current
from ..problems import ProblemError
from ..shares import Client, Turns

logger = logging.getLogger("text_image_similarity")

Answers = list[Matches | RowError]
_MOST = 64  # maximum cost of a pass, in typical queries
_MOST_WAITING = 256


@dataclass(slots=True, eq=False)
class _Scan:
    """The queries of one request, with the embeddings of their texts and images."""

    asked: Sequence[Checked]
    texts: Sequence[Outcome]
    images: Sequence[Outcome]
    cost: int  # cost in typical queries
    done: Future[Answers] = field(default_factory=Future)


class _Line:
    """The queue of waiting scans. Clients take turns by cost; safe to share between threads."""

    def __init__(self) -> None:
        self._turns, self._count, self._closed = Turns(), 0, False
        self._waiting: list[tuple[float, int, Client, _Scan]] = []  # a heap
        self._changed = Condition()

    def __len__(self) -> int:
        return len(self._waiting)

    def is_full(self, client: Client) -> bool:
        """Tell whether no more scans of a client may wait; a known client may use half of the queue."""
        with self._changed:
            own = 0 if client is None else sum(client == each[2] for each in self._waiting)
            return len(self._waiting) >= _MOST_WAITING or own >= _MOST_WAITING // 2

    def put(self, client: Client, scan: _Scan) -> None:
        """Queue a client's scan.

        Raises:
            ProblemError: `draining`, once the queue is closed.
        """
        with self._changed:
            if self._closed:
                raise ProblemError("draining", "the service is shutting down", retry_after_s=1)
            self._count += 1
            heappush(self._waiting, (self._turns.begin(client, scan.cost), self._count, client, scan))
            self._changed.notify()

    def take(self) -> list[_Scan]:
        """Wait for scans, and return the next ones to combine; empty once the queue is closed and empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            taken: list[_Scan] = []
            cost = 0
            while self._waiting and (not taken or cost + self._waiting[0][3].cost <= _MOST):
                due, _, _, scan = heappop(self._waiting)
                self._turns.reach(due)
                cost += scan.cost
                taken.append(scan)
            return taken

    def close(self) -> None:
        """Make `take` return once the queue is empty."""
        with self._changed:
            self._closed = True
            self._changed.notify()


class Scans:
    """A thread that searches a catalogue.

    Args:
        name: Name of the catalogue.
        searcher: Searcher to use.
    """

    def __init__(self, name: str, searcher: Searcher) -> None:
        self._searcher = searcher
        self._waiting = _Line()
        self._thread = Thread(target=self._run, name=f"search-{name}", daemon=True)
        self._thread.start()

    @property
    def depth(self) -> int:
        """Number of requests that wait."""
        return len(self._waiting)

    async def answer(self, asked: Sequence[Checked], texts: Sequence[Outcome], images: Sequence[Outcome]) -> Answers:
        """Answer the queries of a request; see `Searcher.answer`.

        Raises:
            ProblemError: `queue_full`, `draining`.
            UsageError, DatabaseError: As from `Searcher.answer`.
        """
        client = current.get()
        if self._waiting.is_full(client):
            raise ProblemError("queue_full", f"{self.depth} searches are waiting", retry_after_s=1, reason="queue_full")
        found: Answers = []
        for scan in _passes(asked, texts, images):  # other requests get a turn between passes
            self._waiting.put(client, scan)
            answers = await asyncio.wrap_future(scan.done)
            found += answers
        return found

    def close(self) -> None:
        """End the thread when all waiting requests are answered."""
        self._waiting.close()
        self._thread.join()

    def _run(self) -> None:
        while taken := self._waiting.take():
            by_generation: dict[int, list[_Scan]] = defaultdict(list)
            for scan in taken:
                if scan.done.set_running_or_notify_cancel():  # otherwise, no request is waiting for it
                    by_generation[scan.asked[0].generation.number].append(scan)
            for group in by_generation.values():
                self._search(group)

    def _search(self, scans: Sequence[_Scan]) -> None:
        """Answer scans of one generation together; if that fails, in halves, because one of them may be the cause."""
        try:
            found = self._searcher.answer(
                [one for scan in scans for one in scan.asked],
                [outcome for scan in scans for outcome in scan.texts],
                [outcome for scan in scans for outcome in scan.images],
            )
        except BaseException as exc:  # a panic of a native library is not an Exception
            if len(scans) == 1:
                scans[0].done.set_exception(exc)
                return
            logger.debug("repeating %d searches in two halves, because they failed together: %s", len(scans), exc)
            middle = len(scans) // 2
            self._search(scans[:middle])
            self._search(scans[middle:])
            return
        start = 0
        for scan in scans:
            scan.done.set_result(found[start : start + len(scan.asked)])
            start += len(scan.asked)


def _passes(asked: Sequence[Checked], texts: Sequence[Outcome], images: Sequence[Outcome]) -> Iterator[_Scan]:
    """Yield the queries of a request in passes that cost at most `_MOST` typical queries or have only one query."""
    costs = [_cost(one) for one in asked]
    start = text = image = 0
    while start < len(asked):
        end, cost = start + 1, costs[start]
        while end < len(asked) and cost + costs[end] <= _MOST:
            cost += costs[end]
            end += 1
        parts = [term for one in asked[start:end] for term in one.query.parts]
        next_text = text + sum(term.text is not None for term in parts)
        next_image = image + sum(term.image is not None for term in parts)
        yield _Scan(asked[start:end], texts[text:next_text], images[image:next_image], cost)
        start, text, image = end, next_text, next_image


def _cost(one: Checked) -> int:
    """Return the approximate cost of a query in typical queries, as measured with 50,000 products."""
    query = one.query
    lists = 6 * (1 + len(query.parts)) if query.fusion == "rrf" else 0
    everything = 32 if query.min_similarity is not None else 0
    return 1 + lists + everything + 2 * len(query.facets) + 4 * query.group + query.top_k // 100 + _cost_of_filter(one)


def _cost_of_filter(one: Checked) -> int:
    """Return the approximate cost of a query's filter: SQL checks every product for each condition and facet."""
    query = one.query
    conditions, values = _size(one.where)
    if query.parts and query.sort is None and query.min_similarity is None:
        return values // 128
    return (conditions // 4 + values // 256) * (2 + len(query.facets)) // 2


def _size(where: Filter | None) -> tuple[int, int]:
    """Return the number of conditions in a filter, and the number of their values."""
    if isinstance(where, Not):
        return _size(where.part)
    if isinstance(where, (And, Or)):
        conditions, values = zip(*map(_size, where.parts), strict=True)
        return sum(conditions), sum(values)
    return int(where is not None), len(where.values) if isinstance(where, OneOf) else int(where is not None)
