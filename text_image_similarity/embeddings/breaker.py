"""A circuit breaker: after repeated failures, a resource is not used for a while and then probed in the background."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Lock

from ..system import call_within, start_daemon

_MOST_FAILURES = 3  # consecutive failures
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 5.0, 60.0
_START_S = 1.0  # wait for the first probe


class CircuitBreaker:
    """Decides whether a resource may be used. Safe to share between threads.

    After three consecutive failures, the resource is not used for 5 s. Then a probe on its own thread allows its use
    again or doubles the pause, up to 60 s.

    Args:
        probe: Function that raises an exception if the resource still fails.
        tell: Function that is called at each change of state: with the reason when use is stopped, with None when it is
            allowed again.
    """

    def __init__(self, probe: Callable[[], object], tell: Callable[[Exception | None], None]) -> None:
        self._probe, self._tell = probe, tell
        self._lock = Lock()
        self._failures = 0
        self._pause, self._next_probe = _FIRST_PAUSE_S, 0.0
        self._off = self._probing = False

    @property
    def off(self) -> bool:
        """Whether the resource is currently not used."""
        return self._off

    def begin(self) -> None:
        """Probe once, waiting for at most a second, and stop using the resource if the probe fails."""
        try:
            call_within(_START_S, self._probe, name="cache-probe")
        except Exception as exc:
            self._close_off(exc)

    def allows(self) -> bool:
        """Tell whether the resource may be used now; start a probe if one is due."""
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
        except Exception:  # the state is unchanged, so there is no need to report it again
            with self._lock:
                self._pause = min(2 * self._pause, _LONGEST_PAUSE_S)
                self._next_probe = time.monotonic() + self._pause
                self._probing = False
            return
        with self._lock:
            self._off = self._probing = False
            self._failures = 0
        self._tell(None)
