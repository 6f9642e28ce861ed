"""A circuit breaker: what fails again and again is left aside for a while, and tried again where nobody waits for it."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Lock

from ..system import call_within, start_daemon

_MOST_FAILURES = 3  # in a row
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 5.0, 60.0
_START_S = 1.0  # for the first probe


class CircuitBreaker:
    """Says whether something may be used. Safe to share between threads.

    Three failures in a row close it off for 5 s. Then one probe, on a thread of its own, opens it again or doubles the
    pause, up to 60 s.

    Args:
        probe: Raises if it still fails.
        tell: Called at each change of state: with what happened when it is closed off, with None when it is opened again.
    """

    def __init__(self, probe: Callable[[], object], tell: Callable[[Exception | None], None]) -> None:
        self._probe, self._tell = probe, tell
        self._lock = Lock()
        self._failures = 0
        self._pause, self._next_probe = _FIRST_PAUSE_S, 0.0
        self._off = self._probing = False

    @property
    def off(self) -> bool:
        """Whether it is closed off."""
        return self._off

    def begin(self) -> None:
        """Probe once, and wait for that a second at most."""
        try:
            call_within(_START_S, self._probe, name="cache-probe")
        except Exception as exc:
            self._close_off(exc)

    def allows(self) -> bool:
        """Say whether it may be used now; begins a probe if one is due."""
        if not self._off:
            return True
        with self._lock:
            due = self._off and not self._probing and time.monotonic() >= self._next_probe
            self._probing = self._probing or due
        if due:
            start_daemon(self._probe_again, name="cache-probe")
        return False

    def succeed(self) -> None:
        """Count a success."""
        self._failures = 0

    def fail(self, exc: Exception) -> None:
        """Count a failure."""
        with self._lock:
            self._failures += 1
            if self._off or self._failures < _MOST_FAILURES:
                return
        self._close_off(exc)

    def _close_off(self, exc: Exception) -> None:
        with self._lock:
            if self._off:
                return
            self._off = True
            self._pause = _FIRST_PAUSE_S
            self._next_probe = time.monotonic() + self._pause
        self._tell(exc)

    def _probe_again(self) -> None:
        try:
            self._probe()
        except Exception:  # still the same: nobody needs to hear it again
            with self._lock:
                self._pause = min(2 * self._pause, _LONGEST_PAUSE_S)
                self._next_probe = time.monotonic() + self._pause
                self._probing = False
            return
        with self._lock:
            self._off = self._probing = False
            self._failures = 0
        self._tell(None)
