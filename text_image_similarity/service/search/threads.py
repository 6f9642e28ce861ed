"""Threads of one catalogue or log: a database that does not answer holds up nothing else, and nobody for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from ...system import settle
from ..clients import current
from ..problems import ProblemError
from ..shares import FairQueue

T = TypeVar("T")


class Threads:
    """Some threads that wait for a database, for clients in turn; one client leaves a thread to the others.

    Args:
        name: Whose they are, as messages call it.
        most: How many there are.
        timeout_s: How long to wait for what they do, the time before it begins included.
    """

    def __init__(self, name: str, most: int, timeout_s: float) -> None:
        self._name, self._timeout_s = name, timeout_s
        self._executor = ThreadPoolExecutor(most, f"wait-{name}")
        self._turns = FairQueue(lambda _, task: self._executor.submit(task), most, most_of_one=max(1, most - 1))
        self._asked: set[Future[Any]] = set()

    async def run(self, work: Callable[..., T], *given: Any) -> T:
        """Do something on a thread. What takes too long goes on there, unless it has not begun.

        Raises:
            ProblemError: `catalog_unavailable`: it takes too long.
        """
        done: Future[T] = Future()
        self._asked.add(done)
        self._turns.put(current.get(), partial(_run, done, partial(work, *given)))
        try:
            async with asyncio.timeout(self._timeout_s):
                return await asyncio.wrap_future(done)
        except TimeoutError as exc:
            detail = f"{self._name}: not answered within the service's {self._timeout_s:g} s"
            raise ProblemError("catalog_unavailable", detail, retry_after_s=1) from exc
        finally:
            self._asked.discard(done)

    def close(self) -> None:
        """End the threads when they have done what they do."""
        self._executor.shutdown(wait=False, cancel_futures=True)
        for done in tuple(self._asked):
            done.cancel()


def _run(done: Future[T], work: Callable[[], T]) -> None:
    if done.set_running_or_notify_cancel():  # else nobody waits for it any more
        settle(done, work)
