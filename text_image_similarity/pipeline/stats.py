"""Counters of a run."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock

from ..records import ScoreResult


@dataclass(slots=True)
class RunStats:
    """Counters of a run so far, which may be read at any time.

    `captions_cut` counts scored rows whose caption is longer than the model reads; it is None if an engine cannot tell.

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

    def count(self, result: ScoreResult, *, cut: bool = False) -> None:
        """Count one finished row.

        Args:
            result: Result of the row.
            cut: Whether its caption was cut.
        """
        self.rows += 1
        if cut and result.code is None and self.captions_cut is not None:
            self.captions_cut += 1
        if result.code is None:
            self.scored += 1
        else:
            self.failures[result.code.value] += 1
