"""The threads that fetch and decode, shared by the models of a service."""

from __future__ import annotations

import asyncio
import logging
import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from threading import BoundedSemaphore, Lock, Thread
from typing import TypeVar

import httpx

from ...config import Config
from ...errors import ErrorCode, RowError
from ...fetch import Fetcher
from ...pipeline import Loaders

logger = logging.getLogger("text_image_similarity")

Task = Callable[[], None]
T = TypeVar("T")


class Threads:
    """Many threads that wait for the network, and as many as there are processors that decode.

    Args:
        config: How pictures are fetched; `io_workers` is the number of fetching threads.
        transport: Where http requests go, for tests; None is the network.
    """

    def __init__(self, config: Config, transport: httpx.BaseTransport | None = None) -> None:
        self._per_host = config.limits.per_host
        self._lock = Lock()
        self._hosts: dict[str, int] = {}  # tasks that have a thread, or are next to get one
        self._later: dict[str, deque[Task]] = {}
        decoders = _processors()
        self._room = BoundedSemaphore(4 * decoders)
        self._fetcher = Fetcher(config, transport=transport)
        self._fetching: Loaders = Loaders(config.io_workers)
        self._decoding: Loaders = Loaders(decoders)

    def fetch(self, reference: str, task: Task) -> None:
        """Queue the download of a reference. What waits for a slow host takes no thread from what asks others."""
        host = "".join(reference[:300].split("/", 3)[2:3]).lower()  # or nearly so; the fetcher knows
        with self._lock:
            if self._hosts.get(host, 0) >= self._per_host:
                self._later.setdefault(host, deque()).append(task)
                return
            self._hosts[host] = self._hosts.get(host, 0) + 1
        self._fetching.submit(partial(self._fetch, host, task))

    def _fetch(self, host: str, task: Task) -> None:
        try:
            task()
        finally:
            if (later := self._next(host)) is not None:
                self._fetching.submit(partial(self._fetch, host, later))

    def _next(self, host: str) -> Task | None:
        with self._lock:
            if (waiting := self._later.get(host)) is not None:
                task = waiting.popleft()
                if not waiting:
                    del self._later[host]
                return task
            self._hosts[host] -= 1
            if not self._hosts[host]:
                del self._hosts[host]
            return None

    def decode(self, task: Task) -> None:
        """Queue something that keeps a processor busy."""
        self._decoding.submit(task)

    def decode_fetched(self, task: Task) -> None:
        """Queue it with what was downloaded for it; wait while much of that waits already."""
        self._room.acquire()
        self._decoding.submit(partial(self._decode, task))

    def _decode(self, task: Task) -> None:
        try:
            task()
        finally:
            self._room.release()

    def read(self, reference: str) -> bytes | RowError:
        """Return what a reference points to, or what went wrong; never raises."""
        try:
            return self._fetcher.fetch(reference)
        except RowError as error:
            if error.code is ErrorCode.BLOCKED_ADDRESS:  # what names stand for inside is not told outside
                return RowError(error.code, "the address is not a public one")
            return error
        except Exception as exc:  # a row's fault must stay a row's
            logger.debug("a picture could not be fetched", exc_info=True)
            return RowError(ErrorCode.BAD_RESPONSE, f"{type(exc).__name__}: {exc}")

    def close(self) -> None:
        """Stop downloads, drop what has not started, wait for the rest."""
        self._fetcher.close()
        self._fetching.close()
        self._decoding.close()


def _processors() -> int:
    """Return how many processors are ours: a container sees all of the machine's, and is told by OMP_NUM_THREADS."""
    told = os.environ.get("OMP_NUM_THREADS", "")
    return int(told) if told.isdecimal() and int(told) else os.cpu_count() or 1


async def on_daemon(function: Callable[[], T]) -> T:
    """Run a function on a thread that a process does not wait for when it ends."""
    done: Future[T] = Future()
    done.set_running_or_notify_cancel()  # who stops waiting does not stop the function

    def run() -> None:
        try:
            done.set_result(function())
        except BaseException as exc:
            done.set_exception(exc)

    Thread(target=run, name="service", daemon=True).start()
    return await asyncio.wrap_future(done)
