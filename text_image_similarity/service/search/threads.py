"""Threads of one catalogue or match log, so that an unresponsive database delays only the requests that need it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from ...search.time_limit import Deadline, time_limit
from ...system import forget_failure, settle
from ..clients import current
from ..problems import ProblemError
from ..shares import FairQueue

_MOST_WAITING_OF_ONE = 128  # tasks of one client
T = TypeVar("T")


class Threads:
    """Threads that wait for a database, for clients in turn; a single client always leaves one thread for the others.

    Args:
        name: Name of the catalogue or log in messages.
        most: Number of threads.
        timeout_s: Longest time to wait for a task, in seconds, including the time before it begins.
    """

    def __init__(self, name: str, most: int, timeout_s: float) -> None:
        self._name, self._timeout_s = name, timeout_s
        self._executor = ThreadPoolExecutor(most, f"wait-{name}")
        self._turns = FairQueue(lambda _, task: self._executor.submit(task), most, most_of_one=max(1, most - 1))
        self._asked: set[Future[Any]] = set()

    async def run(self, work: Callable[..., T], *given: Any, begun: bool = False) -> T:
        """Run a task on a thread.

        If the task takes too long or the request is cancelled, a task that has not begun never begins, and the database
        reads of one that has begun are interrupted.

        Args:
            work: The task.
            given: Its arguments.
            begun: Whether the task continues a request. Such a task is not refused, because earlier work would be lost.

        Raises:
            ProblemError: `queue_full`, if too many tasks of the client are waiting; `catalog_unavailable`, if the task
                takes too long.
        """
        client, done, until = current.get(), Future[T](), Deadline(time.monotonic() + self._timeout_s)
        if client is not None and not begun and self._turns.depth_of(client) >= _MOST_WAITING_OF_ONE:
            detail = f"{_MOST_WAITING_OF_ONE} reads of this client are waiting for {self._name}"
            raise ProblemError("queue_full", detail, retry_after_s=1, reason="queue_full")

        def work_in_time() -> T:
            with time_limit(until):
                return work(*given)

        task = partial(run_if_awaited, done, work_in_time)
        self._asked.add(done)
        self._turns.put(client, task)
        try:
            async with asyncio.timeout(self._timeout_s):
                return await asyncio.wrap_future(done)
        except asyncio.CancelledError:
            done.add_done_callback(forget_failure)  # the task may still fail
            raise
        except TimeoutError as exc:
            done.add_done_callback(forget_failure)
            detail = f"{self._name} did not respond within the service's limit of {self._timeout_s:g} s"
            raise ProblemError("catalog_unavailable", detail, retry_after_s=1) from exc
        finally:
            until.end()
            self._asked.discard(done)
            if done.cancelled():
                self._turns.withdraw(client, task)  # so that it takes no memory until its turn

    def close(self) -> None:
        """End the threads when they have finished their current tasks; tasks that have not begun are cancelled."""
        self._executor.shutdown(wait=False, cancel_futures=True)
        for done in tuple(self._asked):
            done.cancel()


def run_if_awaited(done: Future[T], work: Callable[[], T]) -> None:
    """Run a task and settle its future, unless the future was cancelled before."""
    if done.set_running_or_notify_cancel():  # otherwise, no request is waiting for the task
        settle(done, work)
