"""Threads that load images ahead of the encoder.

This is not a ThreadPoolExecutor, which would make a process that ends during a run wait for every queued download.
These threads are daemons, and a closed pool drops the tasks that it has not started.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, closing
from functools import partial
from queue import SimpleQueue
from threading import Event, Lock, Thread, current_thread
from typing import Any, TypeVar
from weakref import finalize

from ..errors import UsageError
from ..system import settle

Result = TypeVar("Result")
_Queue = SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None]


class Loaders:
    """A fixed number of threads that start tasks in order; safe to share between threads.

    Args:
        count: Number of threads.
        name: Prefix of the threads' names.
    """

    def __init__(self, count: int, *, name: str = "score-io") -> None:
        self._lock = Lock()
        self._closed = Event()
        self._queue: _Queue = SimpleQueue()
        work = partial(
            _work, self._queue, self._closed
        )  # without `self`, so that an abandoned pool is garbage collected
        self._threads = [Thread(target=work, name=f"{name}-{i}", daemon=True) for i in range(count)]
        for thread in self._threads:
            thread.start()
        finalize(self, _end, self._queue, count).atexit = False

    def submit(self, task: Callable[[], Result]) -> Future[Result]:
        """Queue a task and return a future for its result, cancelled if the pool is closed before the task starts."""
        future: Future[Result] = Future()
        with self._lock:
            if self._closed.is_set():
                future.cancel()
            else:
                self._queue.put((future, task))
        return future

    def close(self, *, wait: bool = True) -> None:
        """Drop tasks that have not started and, unless `wait` is False, wait for those that have."""
        with self._lock:
            self._closed.set()
            _end(self._queue, len(self._threads))
        for thread in self._threads if wait else ():
            if thread is not current_thread():  # if the garbage collector closes the pool
                thread.join()


def in_one_process(results: Iterable[Result]) -> Iterator[Result]:
    """Yield results that other threads produce, as long as this is the process in which they run.

    Raises:
        UsageError: This process was forked from that one; a fork copies no threads, and would wait forever.
    """
    getpid = os.getpid
    process = getpid()
    for result in results:
        yield result
        if getpid() != process:
            raise UsageError(
                "this call was started before a fork, which does not copy threads; start it in this process"
            )


def closing_after(session: AbstractContextManager[object], results: Generator[Result]) -> Generator[Result]:
    """Yield results and close the session that produces them, even if the caller stops early."""
    with session, closing(results):
        yield from results


def close_in(process: int, close: Callable[[], None]) -> None:
    """Close a resource in the process that opened it; a forked process leaves it open."""
    if process == os.getpid():
        close()


def _work(queue: _Queue, closed: Event) -> None:
    while (job := queue.get()) is not None:
        future, task = job
        if closed.is_set():
            future.cancel()
        if future.set_running_or_notify_cancel():
            settle(future, task)
        del job, future, task  # do not keep the result until there is more to load


def _end(queue: _Queue, threads: int) -> None:
    for _ in range(threads):
        queue.put(None)
