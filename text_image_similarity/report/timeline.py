"""When how many rows were done: a few hundred points, however long a run takes."""

from __future__ import annotations

import time
from collections.abc import Callable

_MOST = 400


class Timeline:
    """Notes the progress of a run for the report's throughput chart.

    Args:
        every_s: Seconds between two points at first; whenever there are too many, every other one is dropped and the
            distance doubles.
        clock: Tells seconds, for tests.
    """

    def __init__(self, every_s: float = 0.5, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._every, self._clock = every_s, clock
        self._began = self._due = 0.0
        self._points: list[tuple[float, int]] = []
        self._last: tuple[float, int] | None = None

    def note(self, done: int) -> None:
        """Take note of the rows done by now; to be called before the first row and after every row."""
        now = self._clock()
        if self._last is None:
            self._began = self._due = now
        self._last = (now - self._began, done)
        if now >= self._due:
            self._points.append(self._last)
            self._due = now + self._every
            if len(self._points) >= _MOST:
                self._points = self._points[::2]
                self._every *= 2

    def points(self) -> list[list[float]]:
        """Return [seconds since the first call, rows done] points, the last call's among them."""
        ends = [self._last] if self._last is not None and self._last != self._points[-1] else []
        return [[round(seconds, 3), done] for seconds, done in (*self._points, *ends)]
