"""Limits on the time of a row, on concurrent requests to a host, and on retries of a failing host."""

from __future__ import annotations

import time
from collections.abc import Hashable
from dataclasses import dataclass, field
from threading import Condition, Event, RLock

from ..config import Limits
from ..errors import ErrorCode, RowError

LONGEST_RETRY_AFTER_S = 30.0  # longest `Retry-After` to wait for
FREE_RETRIES = 10.0  # retries that a host has before it has earned any
EARNED = 0.2  # share of a retry earned by each request
_REMEMBERED = 4096  # idle hosts to remember


class Clock:
    """The time spent on a row and on its current attempt; it pauses while the row waits for a host.

    Attributes:
        host: The host of the last request.
        patience: Seconds that the row may still wait because of a host's `Retry-After` to other rows.
        client: Owner of the row.
    """

    def __init__(self, limits: Limits, client: Hashable = None) -> None:
        self.client = client
        self._began = time.monotonic()
        self.row_end = self.end = self._began + limits.total_s
        self.host = ""
        self.patience = LONGEST_RETRY_AFTER_S

    def start_try(self, timeout_s: float) -> None:
        self._began = time.monotonic()
        self.end = min(self.row_end, self._began + timeout_s)

    def spent(self) -> float:
        """Return the seconds spent on the current attempt."""
        return time.monotonic() - self._began

    def stand_since(self, began: float) -> None:
        """Count the time since a moment as waiting for a host."""
        stood = time.monotonic() - began
        self._began, self.end, self.row_end = self._began + stood, self.end + stood, self.row_end + stood


@dataclass(slots=True)
class _Host:
    retries: float
    busy: int = 0
    waiting: int = 0  # rows that wait for a slot
    freed: Condition | None = None  # notified when a slot is free; created for the first row that waits
    ready_at: dict[Hashable, float] = field(default_factory=dict)  # for each client that received a `Retry-After`

    def is_awaited(self) -> bool:
        return bool(self.ready_at) and max(self.ready_at.values()) > time.monotonic()


class _Slot:
    """One of a host's slots, held during a block; as a generator, it would take three times as long."""

    __slots__ = ("_clock", "_host", "_hosts", "_known")

    def __init__(self, hosts: Hosts, host: str, clock: Clock) -> None:
        self._hosts, self._host, self._clock = hosts, host, clock

    def __enter__(self) -> None:
        self._known = self._hosts._enter(self._host, self._clock)

    def __exit__(self, *_: object) -> None:
        self._hosts._leave(self._host, self._known)


class Hosts:
    """Limits the concurrent requests to each host, and its retries; forgets idle hosts.

    Args:
        per_host: Maximum number of concurrent requests to a host.
        closing: Event that is set when the run ends.
        free_retries: Retries that a host has before it has earned any, 1 or more.
    """

    def __init__(self, per_host: int, closing: Event, free_retries: float = FREE_RETRIES) -> None:
        self._per_host = per_host
        self._closing = closing
        self._free = free_retries
        self._known: dict[str, _Host] = {}
        self._lock = RLock()
        self._patience = Condition(self._lock)  # for rows that wait until a certain time; nothing notifies them

    def slot(self, host: str, clock: Clock) -> _Slot:
        """Hold one of a host's slots during a block, after waiting until the host accepts requests."""
        return _Slot(self, host, clock)

    def _enter(self, host: str, clock: Clock) -> _Host:
        clock.host = host
        began = time.monotonic()
        with self._lock:
            while self._must_wait(self._known.get(host), clock):
                pass
            clock.stand_since(began)
            known = self._known.pop(host, None) or _Host(retries=self._free)
            self._known[host] = known  # moved to the end, as the most recently used
            known.busy += 1
            known.retries = min(self._free, known.retries + EARNED)
        return known

    def _leave(self, host: str, known: _Host) -> None:
        with self._lock:
            known.busy -= 1
            if known.freed is not None and known.waiting:
                known.freed.notify()  # only one row, because each one that wakes takes the interpreter from those that work
            else:
                self._forget(host, known)

    def _must_wait(self, known: _Host | None, clock: Clock) -> bool:
        """Wait for a short time, unless the run is closing; return False if there is nothing to wait for."""
        if self._closing.is_set():
            raise RowError(ErrorCode.CONNECT_ERROR, "the run was closed")
        if known is None:
            return False
        ready_at = known.ready_at.get(clock.client)
        if ready_at is not None and (pause := min(ready_at - (began := time.monotonic()), clock.patience)) > 0:
            self._patience.wait(min(pause, 0.1))
            clock.patience -= time.monotonic() - began
        elif known.busy >= self._per_host:
            known.freed = known.freed or Condition(self._lock)
            known.waiting += 1
            try:
                known.freed.wait(0.1)
            finally:
                known.waiting -= 1
        else:
            return False
        return True

    def _forget(self, host: str, known: _Host) -> None:
        if not known.busy and known.retries == self._free and not known.is_awaited():
            del self._known[host]
        elif len(self._known) > _REMEMBERED:
            idle = next((name for name, other in self._known.items() if not other.busy), host)
            if not self._known[idle].busy:
                del self._known[idle]

    def be_patient(self, host: str, seconds: float, client: Hashable = None) -> None:
        """Let a client's rows wait for a host, because the host sent one of them a `Retry-After`."""
        with self._lock:
            known = self._known.setdefault(host, _Host(retries=self._free))
            now = time.monotonic()
            known.ready_at = {other: at for other, at in known.ready_at.items() if at > now}
            known.ready_at[client] = max(known.ready_at.get(client, 0.0), now + seconds)

    def may_retry(self, host: str) -> bool:
        """Use one of a host's retries, and return whether one was left."""
        with self._lock:
            known = self._known.setdefault(host, _Host(retries=self._free))
            if known.retries < 1:
                return False
            known.retries -= 1
            return True
