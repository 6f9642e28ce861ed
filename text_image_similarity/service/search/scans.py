"""Searches that wait while another one is under way go together: one product of matrices, not many."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import SimpleQueue
from threading import Thread

from ...errors import RowError
from ...pipeline import Outcome
from ...search import Matches, Searcher
from ...search.answer import Checked
from ..problems import ProblemError

logger = logging.getLogger("text_image_similarity")

Answers = list[Matches | RowError]
_MOST = 64  # usual queries of one pass, or fewer that cost more
_MOST_WAITING = 256


@dataclass(slots=True, eq=False)
class _Scan:
    """The queries of one request, with what the model made of their texts and images."""

    asked: Sequence[Checked]
    texts: Sequence[Outcome]
    images: Sequence[Outcome]
    done: Future[Answers] = field(default_factory=Future)


class Scans:
    """One thread that searches a catalogue.

    Args:
        name: The catalogue's.
        searcher: What it searches with.
    """

    def __init__(self, name: str, searcher: Searcher) -> None:
        self._searcher = searcher
        self._waiting: SimpleQueue[_Scan | None] = SimpleQueue()
        self._thread = Thread(target=self._run, name=f"search-{name}", daemon=True)
        self._thread.start()

    @property
    def depth(self) -> int:
        """How many requests wait."""
        return self._waiting.qsize()

    async def answer(self, asked: Sequence[Checked], texts: Sequence[Outcome], images: Sequence[Outcome]) -> Answers:
        """Answer the queries of a request; see `Searcher.answer`.

        Raises:
            ProblemError: `queue_full`.
            UsageError, DatabaseError: As `Searcher.answer` does.
        """
        if self.depth >= _MOST_WAITING:
            raise ProblemError("queue_full", f"{self.depth} searches wait", retry_after_s=1, reason="queue_full")
        found: Answers = []
        for scan in _passes(asked, texts, images):  # others have their turn between two of them
            self._waiting.put(scan)
            answers = await asyncio.wrap_future(scan.done)
            found += answers
        return found

    def close(self) -> None:
        """End the thread after the pass in progress; who waits is told that the service is about to end."""
        self._waiting.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (first := self._waiting.get()) is not None:
            taken, ends = self._take(first)
            by_generation: dict[int, list[_Scan]] = defaultdict(list)
            for scan in taken:
                if scan.done.set_running_or_notify_cancel():  # else nobody waits for it any more
                    by_generation[scan.asked[0].generation.number].append(scan)
            for group in by_generation.values():
                self._search(group)
            if ends:
                break
        while not self._waiting.empty():
            if (left := self._waiting.get()) is not None and left.done.set_running_or_notify_cancel():
                left.done.set_exception(ProblemError("draining", "the service is about to end", retry_after_s=1))

    def _take(self, first: _Scan) -> tuple[list[_Scan], bool]:
        """Return what goes together with a scan, and whether the thread is to end afterwards."""
        taken = [first]
        while sum(_cost(one) for scan in taken for one in scan.asked) < _MOST and not self._waiting.empty():
            scan = self._waiting.get()
            if scan is None:
                return taken, True
            taken.append(scan)
        return taken, False

    def _search(self, scans: Sequence[_Scan]) -> None:
        """Answer scans of one generation together; if that fails, half of them at a time: it may be the fault of one of them."""
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
            logger.debug("%d searches are repeated in two parts: %s", len(scans), exc)
            middle = len(scans) // 2
            self._search(scans[:middle])
            self._search(scans[middle:])
            return
        start = 0
        for scan in scans:
            scan.done.set_result(found[start : start + len(scan.asked)])
            start += len(scan.asked)


def _passes(asked: Sequence[Checked], texts: Sequence[Outcome], images: Sequence[Outcome]) -> Iterator[_Scan]:
    """Yield the queries of a request in passes that take no longer than some usual queries, or have one query."""
    start = text = image = 0
    while start < len(asked):
        end, cost = start + 1, _cost(asked[start])
        while end < len(asked) and cost + _cost(asked[end]) <= _MOST:
            cost += _cost(asked[end])
            end += 1
        parts = [term for one in asked[start:end] for term in one.query.parts]
        next_text = text + sum(term.text is not None for term in parts)
        next_image = image + sum(term.image is not None for term in parts)
        yield _Scan(asked[start:end], texts[text:next_text], images[image:next_image])
        start, text, image = end, next_text, next_image


def _cost(one: Checked) -> int:
    """Return about how long a query takes, in usual ones, as measured with 50,000 products."""
    query = one.query
    lists = 6 * (1 + len(query.parts)) if query.fusion == "rrf" else 0
    everything = 32 if query.min_similarity is not None else 0
    return 1 + lists + everything + 2 * len(query.facets) + 4 * query.group + query.top_k // 100
