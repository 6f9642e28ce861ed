"""A time limit for the reads of a block of code, which a service sets so that no client's query runs on for ever."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from math import inf

_STEPS = 100_000  # of SQLite's machine, a few milliseconds, between which the time is checked
_END: ContextVar[float] = ContextVar("end", default=inf)  # of `time.monotonic`


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Limit the time for reading ledgers and stores during a block, instead of the limit around it; `inf` lifts that.

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
    if _is_up():
        raise TimeoutError("reading the catalogue took too long; use a simpler filter, or fewer facets and terms")


@contextmanager
def interrupting(file: sqlite3.Connection) -> Iterator[None]:
    """Interrupt the statements of an SQLite connection during a block when the time of `time_limit` is up."""
    if _END.get() == inf:
        yield
        return
    check_time()
    file.set_progress_handler(_is_up, _STEPS)
    try:
        yield
    except sqlite3.OperationalError as exc:
        if exc.sqlite_errorcode == sqlite3.SQLITE_INTERRUPT:
            check_time()
        raise
    finally:
        file.set_progress_handler(None, 0)


def _is_up() -> bool:
    return time.monotonic() > _END.get()
