"""A time limit for the reads of a block of code, which a service sets so that every client's query ends."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from math import inf

_END: ContextVar[float] = ContextVar("end", default=inf)  # of `time.monotonic`


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Limit the time for reading ledgers and stores during a block, in place of any outer limit; `inf` sets none.

    A read that begins or continues after the time is up raises a `TimeoutError`.
    """
    token = _END.set(time.monotonic() + seconds)
    try:
        yield
    finally:
        _END.reset(token)


def remaining() -> float:
    """Return how many seconds of `time_limit` remain; `inf` without a limit, and a negative number when the time is up."""
    return _END.get() - time.monotonic()


def check_time() -> None:
    """Raise a `TimeoutError` if the time of `time_limit` is up."""
    if is_up():
        raise TimeoutError("reading the catalogue took too long; use a simpler filter, or fewer facets and terms")


def is_up() -> bool:
    """Tell whether the time of `time_limit` is up."""
    return time.monotonic() > _END.get()
