"""A value that requests share for a moment, because reading it takes time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from contextvars import Context
from math import inf
from typing import Any, Generic, TypeVar

from ..clients import SERVICE, current

T = TypeVar("T")

_LASTS_S = 1.0


class SharedValue(Generic[T]):
    """A value that is read at most once a second, by one request at a time, and that all other requests share.

    Reads run on behalf of the service itself, so they do not wait behind other work of the client that needs the value.

    Args:
        clock: Function that returns seconds, for tests.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._began = clock, -inf
        self._reading: asyncio.Task[T] | None = None

    async def get(self, read: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Return the value, or raise the exception with which the last read failed."""
        now = self._clock()
        if self._reading is None or (self._reading.done() and now >= self._began + _LASTS_S):
            own = Context()
            own.run(current.set, SERVICE)
            self._reading, self._began = asyncio.create_task(read(), context=own), now
        return await asyncio.shield(self._reading)  # a request that gives up does not end the read for the others
