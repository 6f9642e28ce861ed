"""A clock that tests turn by hand, and the time after which a wait is taken for a hang."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any, TypeVar

import pytest

from text_image_similarity.fetch import backend, dial, fetcher, pacing, stream
from text_image_similarity.system import call_within

T = TypeVar("T")

HANG_S = 300.0  # ten times what the slowest start or answer takes on a busy machine


class FakeClock:
    """Stands still but for what a test, or a wait that is passed over, moves it on.

    Attributes:
        now: Seconds since some moment.
        waits: The waits that were passed over, in seconds.

    Args:
        monkeypatch: Takes the clock away at the end of the test.
        modules: Those that ask this clock when they say `time.monotonic()`.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *modules: ModuleType) -> None:
        self.now = 1000.0
        self.waits: list[float] = []
        self._lock = threading.Lock()
        self._monkeypatch = monkeypatch
        for module in modules:
            monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: self.now))

    def move_on(self, seconds: float) -> None:
        with self._lock:
            self.now += seconds

    def pass_over(self, waited_for: threading.Condition | threading.Event) -> None:
        """Move on, instead of waiting, whenever something is waited for; as if nothing had happened meanwhile."""
        self._monkeypatch.setattr(waited_for, "wait", self.wait)

    def wait(self, seconds: float) -> bool:
        self.waits.append(seconds)
        self.move_on(seconds)
        return False


def stop_fetchers_clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    return FakeClock(monkeypatch, dial, fetcher, pacing, stream, backend)


def ending(function: Callable[[], T]) -> T:
    """Return what a function returns or raise what it raises, having seen that it does not hang."""
    return call_within(HANG_S, function, name="test")


def wait_for(condition: Callable[[], Any], seconds: float = HANG_S) -> Any:
    """Return what a condition gives as soon as it is true."""
    end = time.monotonic() + seconds
    pause = threading.Event()
    while not (found := condition()):
        assert time.monotonic() < end, "it did not come true in time"
        pause.wait(0.05)
    return found
