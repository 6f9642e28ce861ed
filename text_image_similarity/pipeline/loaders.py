"""Threads that load pictures ahead of the encoder.

Not a ThreadPoolExecutor: a process that ends with a run unfinished would wait there for every queued download. These
threads are daemons, and a closed pool drops what it has not started.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from threading import Event, Thread
from typing import Generic, TypeVar

Item = TypeVar("Item")
Loaded = TypeVar("Loaded")


class Loaders(Generic[Item, Loaded]):
    """A fixed number of threads that turn items into what `load` returns; `load` must not raise."""

    def __init__(self, count: int, load: Callable[[Item], Loaded]) -> None:
        self._load = load
        self._closed = Event()
        self._queue: SimpleQueue[tuple[Future[Loaded], Item] | None] = SimpleQueue()
        self._threads = [Thread(target=self._work, name=f"score-io-{i}", daemon=True) for i in range(count)]
        for thread in self._threads:
            thread.start()

    def submit(self, item: Item) -> Future[Loaded]:
        """Queue an item and return where its result will be."""
        future: Future[Loaded] = Future()
        self._queue.put((future, item))
        return future

    def close(self) -> None:
        """Drop what has not started and wait for what has."""
        self._closed.set()
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while (job := self._queue.get()) is not None:
            future, item = job
            if self._closed.is_set():
                future.cancel()
            else:
                try:
                    future.set_result(self._load(item))
                except BaseException as exc:  # a panic of a native library: told where the result is asked for
                    future.set_exception(exc)
            del job, future, item  # what was loaded is not kept until there is more to load
