"""Counters of a run."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock

from ..records import ScoreResult


@dataclass(slots=True)
class RunStats:
    """Counters of a run so far, which may be read at any time.

    Rows are counted a batch at a time, before the batch is yielded.

    `captions_cut` counts the captions with a score that are longer than the model can read, also if a row of a table
    has several captions; None if an engine cannot tell.

    Seconds of stages are summed over threads, so fetching and decoding may exceed wall-clock time.
    """

    rows: int = 0
    scored: int = 0
    captions_cut: int | None = 0
    failures: Counter[str] = field(default_factory=Counter)
    seconds: Counter[str] = field(default_factory=Counter)
    lock: Lock = field(default_factory=Lock)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the time that a block takes to a stage."""
        began = time.perf_counter()
        try:
            yield
        finally:
            with self.lock:
                self.seconds[stage] += time.perf_counter() - began  # type: ignore[assignment]  # a Counter of floats

    def spent(self) -> Counter[str]:
        """Return the seconds so far, by stage."""
        with self.lock:
            return Counter(self.seconds)

    def count(self, results: Sequence[ScoreResult], *, cut: int = 0) -> None:
        """Count finished rows.

        Args:
            results: Results of the rows.
            cut: How many of the results with a score have a caption that was cut.
        """
        failed = [result.code.value for result in results if result.error is not None and result.code is not None]
        self.rows += len(results)
        self.scored += len(results) - len(failed)
        self.failures.update(failed)
        if self.captions_cut is not None:
            self.captions_cut += cut
