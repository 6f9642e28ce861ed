"""The threads that fetch and decode, shared by the models of a service."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from functools import partial
from threading import BoundedSemaphore, Lock

import httpx

from ...config import Config
from ...errors import ErrorCode, RowError
from ...fetch import Fetcher
from ...pipeline import Loaders
from ...system import usable_cores
from ..jobs import ImageInput

logger = logging.getLogger("text_image_similarity")

Task = Callable[[], None]


class ImageWorkers:
    """Many threads that wait for the network, and one for each usable core that decode.

    Args:
        config: How images are fetched; `io_workers` is the number of fetching threads.
        transport: Where http requests go, for tests; None is the network.
    """

    def __init__(self, config: Config, transport: httpx.BaseTransport | None = None) -> None:
        self._per_host = config.limits.per_host
        self._lock = Lock()
        self._hosts: dict[str, int] = {}  # tasks that have a thread, or are next to get one
        self._later: dict[str, deque[Task]] = {}
        decoders = usable_cores()
        self._room = BoundedSemaphore(4 * decoders)
        self._fetcher = Fetcher(config, transport=transport)
        self._fetching: Loaders = Loaders(config.io_workers)
        self._decoding: Loaders = Loaders(decoders)

    def fetch(self, reference: str, task: Task) -> None:
        """Queue the download of a reference. Those that wait for a slow host take no thread from other hosts' downloads."""
        host = "".join(reference[:300].split("/", 3)[2:3]).lower()  # roughly; the fetcher parses it
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
        """Queue a task that keeps a core busy."""
        self._decoding.submit(task)

    def decode_fetched(self, task: Task) -> None:
        """Queue a decode that holds downloaded bytes; blocks while too many are queued."""
        self._room.acquire()
        self._decoding.submit(partial(self._decode, task))

    def _decode(self, task: Task) -> None:
        try:
            task()
        finally:
            self._room.release()

    def read(self, image: ImageInput) -> bytes | RowError:
        """Return an image's encoded bytes, or the error that prevents it; never raises."""
        try:
            return self._fetcher.fetch(image)
        except RowError as error:
            if error.code is ErrorCode.BLOCKED_ADDRESS:  # do not reveal what names stand for inside
                return RowError(error.code, "the address is not a public one")
            return error
        except Exception as exc:  # a row's fault must stay a row's
            logger.debug("an image could not be fetched", exc_info=True)
            return RowError(ErrorCode.BAD_RESPONSE, f"{type(exc).__name__}: {exc}")

    def close(self) -> None:
        """Stop downloads, drop what has not started, wait for the rest."""
        self._fetcher.close()
        self._fetching.close()
        self._decoding.close()
