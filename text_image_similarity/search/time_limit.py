"""A time limit for the reads of a block of code, which a service sets so that every client's query ends."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from math import inf


@dataclass(slots=True, eq=False)
class Deadline:
    """The time when reads must end, in seconds of `time.monotonic`; any thread may change it while they run."""

    at: float

    def end(self) -> None:
        """End the reads now."""
        self.at = time.monotonic()


_NEVER = Deadline(inf)
_END: ContextVar[Deadline] = ContextVar("end", default=_NEVER)


@contextmanager
def time_limit(limit: float | Deadline) -> Iterator[None]:
    """Limit the time for reading ledgers and stores during a block, in place of any outer limit.

    A read that begins or continues after the time is up raises a `TimeoutError`.

    Args:
        limit: A number of seconds, `inf` for no limit, or a deadline.
    """
    token = _END.set(limit if isinstance(limit, Deadline) else Deadline(time.monotonic() + limit))
    try:
        yield
    finally:
        _END.reset(token)


def remaining() -> float:
    """Return how many seconds of `time_limit` remain; `inf` without a limit, and a negative number when the time is up."""
    return _END.get().at - time.monotonic()


def check_time() -> None:
    """Raise a `TimeoutError` if the time of `time_limit` is up."""
    if is_up():
        raise TimeoutError("reading the catalogue took too long; use a simpler filter, or fewer facets and terms")


def is_up() -> bool:
    """Tell whether the time of `time_limit` is up."""
    return time.monotonic() > _END.get().at
