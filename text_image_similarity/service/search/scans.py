"""Combine the searches that arrive while others run into one matrix product. Clients take turns."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import chain
from math import inf
from threading import Condition, Thread

from ...errors import RowError
from ...pipeline import Outcome
from ...search import Matches, Searcher
from ...search.answer import Checked
from ...search.filters import And, Filter, Not, OneOf, Or
from ...search.time_limit import time_limit
from ...system import forget_failure
from ..clients import current
from ..jobs import ClientLeftError
from ..problems import ProblemError, count_of
from ..shares import Client, Turns
from .results import Written

logger = logging.getLogger("text_image_similarity")

Answers = list[Written | RowError]
Write = Callable[[Matches | RowError | None], Written | RowError]
_MOST = 64  # maximum cost of a pass, in typical queries
_QUERY_S = 0.005  # time of a typical query; time beyond the estimate is charged to the client afterwards
_PASS_S = 0.5  # time after which the remaining queries of a pass are queued again
_MOST_WAITING = 256
_CHUNKS = 5  # number of reads for a list of groups and their counts


@dataclass(slots=True, eq=False)
class _Scan:
    """The queries of one request that are not answered yet, with the embeddings of their texts and images."""

    client: Client
    write: Write
    asked: Sequence[Checked]
    texts: Sequence[Outcome]
    images: Sequence[Outcome]
    cost: int = 0  # estimated cost in typical queries, set when the scan is queued
    spent: float = 0.0  # seconds spent on the scan since it was queued
    alone: bool = False  # whether each of its queries must have a pass of its own, because a pass took too long
    until: float = inf  # the time until which a request waits for the scan; -inf once the request has ended
    found: Answers = field(default_factory=list)  # of the first queries, which are no longer in `asked`
    done: Future[Answers] = field(default_factory=Future)

    @property
    def size(self) -> int:
        """The cost that the scan adds to a pass."""
        return _MOST if self.alone else self.cost

    def of_a_pass(self) -> tuple[Sequence[Checked], Sequence[Outcome], Sequence[Outcome]]:
        """Return the queries that the next pass answers, with their embeddings."""
        texts, images = _contents(asked := self.asked[:1] if self.alone else self.asked)
        return asked, self.texts[:texts], self.images[:images]

    def take(self, found: Matches | RowError | None) -> None:
        """Store the results of the next query, as JSON."""
        self.found.append(self.write(found))
        texts, images = _contents(self.asked[:1])
        self.asked, self.texts, self.images = self.asked[1:], self.texts[texts:], self.images[images:]


class _Line:
    """The queue of waiting scans. Clients take turns by cost; safe to share between threads."""

    def __init__(self) -> None:
        self._turns, self._count, self._closed = Turns(), 0, False
        self._waiting: list[tuple[float, int, Client, _Scan]] = []  # a heap
        self._changed = Condition()

    def __len__(self) -> int:
        return len(self._waiting)

    def is_full(self, client: Client) -> bool:
        """Tell whether no more scans of a client may wait; a client other than None may use half of the queue."""
        with self._changed:
            own = 0 if client is None else sum(client == each[2] for each in self._waiting)
            return len(self._waiting) >= _MOST_WAITING or own >= _MOST_WAITING // 2

    def put(self, scan: _Scan, *, again: bool = False) -> None:
        """Queue a client's scan, or with `again` its remaining queries, whose estimated cost is charged once more.

        Raises:
            ProblemError: `draining`, once the queue is closed.
        """
        if again:
            self.settle(scan)
        scan.cost = sum(map(_cost, scan.asked))
        with self._changed:
            if self._closed and not again:
                raise ProblemError("draining", "the service is shutting down", retry_after_s=1)
            self._count += 1
            heappush(self._waiting, (self._turns.begin(scan.client, scan.cost), self._count, scan.client, scan))
            self._changed.notify()

    def settle(self, scan: _Scan) -> None:
        """Charge the client of a scan for what its answers have really cost."""
        estimate = scan.cost - sum(map(_cost, scan.asked))
        with self._changed:
            self._turns.debit(scan.client, scan.spent / _QUERY_S - estimate, self._waiting)
        scan.spent = 0.0

    def take(self) -> list[_Scan]:
        """Wait for scans, and return the next ones to combine; an empty list once the queue is closed and empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            taken: list[_Scan] = []
            cost = 0
            while self._waiting and (not taken or cost + self._waiting[0][3].size <= _MOST):
                due, _, _, scan = heappop(self._waiting)
                self._turns.reach(due)
                cost += scan.size
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
        searcher: Searcher of the catalogue.
        most: Maximum number of characters of a query's products; None for any number.
        timeout_s: Longest time for a request, in seconds. One query may read the catalogue for a third of this time,
            because all other queries wait meanwhile.
        clock: Function that returns seconds, for tests.
    """

    def __init__(
        self,
        name: str,
        searcher: Searcher,
        most: int | None = None,
        *,
        timeout_s: float = inf,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._searcher, self._most, self._clock = searcher, most, clock
        self._timeout_s, self._longest_s = timeout_s, timeout_s / 3
        self._waiting = _Line()
        self._thread = Thread(target=self._run, name=f"search-{name}", daemon=True)
        self._thread.start()

    @property
    def depth(self) -> int:
        """Number of requests that wait for a search."""
        return len(self._waiting)

    async def answer(
        self, asked: Sequence[Checked], texts: Sequence[Outcome], images: Sequence[Outcome], write: Write
    ) -> Answers:
        """Answer the queries of a request; see `Searcher.answer`.

        The results of each query are given to `write`, on the thread that searches, before the next ones are read.

        Raises:
            ProblemError: `queue_full`, `draining`, or from `write`.
            UsageError, DatabaseError: As from `Searcher.answer`.
            TimeoutError: A query takes too long.
        """
        client = current.get()
        if self._waiting.is_full(client):
            detail = f"{count_of(self.depth, 'search is', 'searches are')} waiting"
            raise ProblemError("queue_full", detail, retry_after_s=1, reason="queue_full")
        found: Answers = []
        for part in _passes(asked, texts, images):  # other requests get a turn between passes
            scan = _Scan(client, write, *part, until=self._clock() + self._timeout_s)
            self._waiting.put(scan)
            try:
                answers = await asyncio.wrap_future(scan.done)
                found += answers
            except asyncio.CancelledError:
                scan.done.add_done_callback(forget_failure)  # the scan may still fail
                raise
            finally:
                scan.until = -inf  # a scan that is queued again can no longer be cancelled
        return found

    def close(self) -> None:
        """End the thread when all waiting requests are answered."""
        self._waiting.close()
        self._thread.join()

    def _run(self) -> None:
        while self._serve(self._waiting.take()):
            pass  # no query is kept in memory while the thread waits for the next ones

    def _serve(self, taken: Sequence[_Scan]) -> bool:
        """Answer scans, and return whether there were any."""
        by_generation: dict[int, list[_Scan]] = defaultdict(list)
        for scan in taken:
            by_generation[scan.asked[0].generation.number].append(scan)
        for group in by_generation.values():
            self._search(group, self._clock())
            for scan in group:
                if scan.done.done():
                    self._waiting.settle(scan)
        return bool(taken)

    def _begin(self, scan: _Scan) -> bool:
        """Mark a scan as running, or let it fail if its time has passed; return whether a request waits for it."""
        if not scan.done.running() and not scan.done.set_running_or_notify_cancel():
            return False
        if self._clock() > scan.until:
            scan.done.set_exception(TimeoutError())
            return False
        return True

    def _search(self, scans: Sequence[_Scan], started: float) -> None:
        """Answer scans of one generation together; if that fails, answer each half, as one scan may be the cause."""
        scans = [scan for scan in scans if self._begin(scan)]
        try:
            if scans:
                self._pass(scans, started)
        except BaseException as exc:  # a panic of a native library is not an Exception
            scans = [scan for scan in scans if not scan.done.done()]
            late = isinstance(exc, TimeoutError) or self._clock() > started + _PASS_S
            if len(scans) == 1 and (not late or scans[0].alone or len(scans[0].asked) == 1):
                scans[0].done.set_exception(exc)
                return
            if late:  # halves could take as long again
                for scan in scans:
                    scan.alone = True
                self._put_back(scans)
                return
            logger.debug("repeating %d searches in two halves, because they failed together: %s", len(scans), exc)
            middle = len(scans) // 2
            self._search(scans[:middle], started)
            self._search(scans[middle:], started)

    def _put_back(self, scans: Sequence[_Scan]) -> None:
        for scan in scans:
            self._waiting.put(scan, again=True)

    def _pass(self, scans: Sequence[_Scan], started: float) -> None:
        """Answer scans; if one of them fails, or too much time has passed since `started`, queue the others again."""
        before, began = self._clock(), False
        try:
            with time_limit(self._longest_s):
                columns = zip(*(scan.of_a_pass() for scan in scans), strict=True)
                asked, texts, images = (list(chain.from_iterable(column)) for column in columns)
                answers = iter(self._searcher.answer(asked, texts, images, self._most))
        finally:
            together, total = self._clock() - before, sum(scan.cost for scan in scans)
            for scan in scans:
                scan.spent += together * scan.cost / total
        for place, scan in enumerate(scans):
            while scan.asked:
                if began and (scan.alone or self._clock() > started + _PASS_S):
                    self._put_back(scans[place:])
                    return
                began, since = True, self._clock()
                try:
                    with time_limit(self._longest_s):
                        scan.take(next(answers))
                except (ProblemError, ClientLeftError, TimeoutError) as exc:
                    scan.done.set_exception(exc)
                    self._put_back(scans[place + 1 :])
                    return
                finally:
                    scan.spent += self._clock() - since
            scan.done.set_result(scan.found)


def _passes(
    asked: Sequence[Checked], texts: Sequence[Outcome], images: Sequence[Outcome]
) -> Iterator[tuple[Sequence[Checked], Sequence[Outcome], Sequence[Outcome]]]:
    """Yield the queries of a request in passes that cost at most `_MOST` typical queries or have only one query."""
    costs = [_cost(one) for one in asked]
    start = text = image = 0
    while start < len(asked):
        end, cost = start + 1, costs[start]
        while end < len(asked) and cost + costs[end] <= _MOST:
            cost += costs[end]
            end += 1
        more_texts, more_images = _contents(asked[start:end])
        yield asked[start:end], texts[text : text + more_texts], images[image : image + more_images]
        start, text, image = end, text + more_texts, image + more_images


def _contents(asked: Sequence[Checked]) -> tuple[int, int]:
    """Return how many texts and images queries have."""
    parts = [term for one in asked for term in one.query.parts]
    return sum(term.text is not None for term in parts), sum(term.image is not None for term in parts)


def _cost(one: Checked) -> int:
    """Return the approximate cost of a query in typical queries, as measured with 50,000 products."""
    query = one.query
    lists = 6 * (1 + len(query.parts)) if query.fusion == "rrf" else 0
    everything = 32 if query.min_similarity is not None else 0
    counts = 2 * len(set(query.facets)) + 4 * query.group
    return 1 + lists + everything + counts + query.top_k // 100 + _cost_of_filter(one)


def _cost_of_filter(one: Checked) -> int:
    """Return the approximate cost of a query's filter; each read of SQL checks every product against each condition."""
    query = one.query
    conditions, values = _size(one.where)
    if query.parts and query.sort is None and query.min_similarity is None:
        return values // 128
    reads = 2 + len(set(query.facets)) + _CHUNKS * query.group
    return (64 * conditions + values) * reads // 512


def _size(where: Filter | None) -> tuple[int, int]:
    """Return the number of conditions in a filter, and the number of their values."""
    if isinstance(where, Not):
        return _size(where.part)
    if isinstance(where, (And, Or)):
        conditions, values = zip(*map(_size, where.parts), strict=True)
        return sum(conditions), sum(values)
    return int(where is not None), len(where.values) if isinstance(where, OneOf) else int(where is not None)
