"""How long a row may take, and how many rows may ask one host at a time."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition, Event

from ..errors import ErrorCode, RowError


class Clock:
    """A row's time and its current try's; it stands still while the row waits for a place at a host."""

    def __init__(self, total_s: float) -> None:
        self._began = time.monotonic()
        self.row_end = self.end = self._began + total_s

    def start_try(self, timeout_s: float) -> None:
        self._began = time.monotonic()
        self.end = min(self.row_end, self._began + timeout_s)

    def spent(self) -> float:
        """Return the seconds of the current try."""
        return time.monotonic() - self._began

    @contextmanager
    def standing(self) -> Iterator[None]:
        began = time.monotonic()
        yield
        stood = time.monotonic() - began
        self._began, self.end, self.row_end = self._began + stood, self.end + stood, self.row_end + stood


class Hosts:
    """Holds the requests to each host down to a number at a time; forgets a host that nobody asks."""

    def __init__(self, per_host: int, closing: Event) -> None:
        self._per_host = per_host
        self._closing = closing
        self._busy: Counter[str] = Counter()
        self._freed = Condition()

    @contextmanager
    def slot(self, host: str, clock: Clock) -> Iterator[None]:
        """Take one of a host's places for the time of a block."""
        with clock.standing(), self._freed:
            while self._busy[host] >= self._per_host:
                self._freed.wait(0.1)  # not longer, to see that the run is closing
                if self._closing.is_set():
                    raise RowError(ErrorCode.CONNECT_ERROR, "the run was closed")
            self._busy[host] += 1
        try:
            yield
        finally:
            with self._freed:
                self._busy[host] -= 1
                if not self._busy[host]:
                    del self._busy[host]
                self._freed.notify_all()
