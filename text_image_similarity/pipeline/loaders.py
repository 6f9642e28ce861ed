"""Threads that load images ahead of the encoder.

The pool here is not a ThreadPoolExecutor, which would make a process that ends during a run wait for every queued
download. These threads are daemons, and a closed pool drops the tasks that it has not started.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator
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
_Task = tuple[Future[Any], Callable[[], Any]]


class _Queue:
    """A queue of tasks, taken from owners in turn; each thread that is to end gets None instead of a task."""

    def __init__(self) -> None:
        self._tickets: SimpleQueue[bool] = SimpleQueue()  # waits without holding the lock
        self._lock = Lock()
        self._tasks: dict[Hashable, deque[_Task]] = {}  # the first owner is next

    def put(self, owner: Hashable, task: _Task) -> None:
        with self._lock:
            self._tasks.setdefault(owner, deque()).append(task)
        self._tickets.put(True)

    def end(self, threads: int) -> None:
        for _ in range(threads):
            self._tickets.put(False)

    def get(self) -> _Task | None:
        if not self._tickets.get():
            return None
        with self._lock:
            owner = next(iter(self._tasks))
            tasks = self._tasks.pop(owner)
            task = tasks.popleft()
            if tasks:
                self._tasks[owner] = tasks  # at the end of the line
        return task


class Loaders:
    """A fixed number of threads that start tasks in order, with owners in turn; safe to share between threads.

    Args:
        count: Number of threads.
        name: Prefix of the threads' names.
    """

    def __init__(self, count: int, *, name: str = "score-io") -> None:
        self._lock = Lock()
        self._closed = Event()
        self._queue = _Queue()
        work = partial(
            _work, self._queue, self._closed
        )  # without `self`, so that an abandoned pool is garbage collected
        self._threads = [Thread(target=work, name=f"{name}-{i}", daemon=True) for i in range(count)]
        for thread in self._threads:
            thread.start()
        finalize(self, self._queue.end, count).atexit = False

    def submit(self, task: Callable[[], Result], owner: Hashable = None) -> Future[Result]:
        """Queue a task and return a future for its result, cancelled if the pool is closed before the task starts.

        Args:
            task: The task.
            owner: The call that the task belongs to: if several calls share the pool, no slow one keeps the others
                waiting.
        """
        future: Future[Result] = Future()
        with self._lock:
            if self._closed.is_set():
                future.cancel()
            else:
                self._queue.put(owner, (future, task))
        return future

    def close(self, *, wait: bool = True) -> None:
        """Drop tasks that have not started and, unless `wait` is False, wait for those that have."""
        with self._lock:
            self._closed.set()
            self._queue.end(len(self._threads))
        for thread in self._threads if wait else ():
            if thread is not current_thread():  # if the garbage collector closes the pool
                thread.join()


def in_one_process(results: Iterable[Result]) -> Iterator[Result]:
    """Yield results that other threads produce, as long as this is the process in which they run.

    Raises:
        UsageError: This process was forked from the one with the threads, which a fork lacks, so it would wait forever.
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
