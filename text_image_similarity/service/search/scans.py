"""Searches that wait while another one is under way go together: one product of matrices, not many."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Sequence
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
_MOST = 64  # queries of one pass
_MOST_WAITING = 256


@dataclass(slots=True, eq=False)
class _Scan:
    """The queries of one request, with what the model made of their texts and pictures."""

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
        scan = _Scan(asked, texts, images)
        self._waiting.put(scan)
        return await asyncio.wrap_future(scan.done)

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
        while sum(len(scan.asked) for scan in taken) < _MOST and not self._waiting.empty():
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
