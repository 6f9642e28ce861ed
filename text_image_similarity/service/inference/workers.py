"""The threads that fetch and decode, shared by the models of a service."""

from __future__ import annotations

import logging
from functools import partial
from threading import Event, Lock

import httpx

from ...config import Config
from ...errors import ErrorCode, RowError
from ...fetch import Fetcher
from ...pipeline import Loaders
from ...system import usable_cores
from ..jobs import ImageInput
from ..shares import Client, FairQueue, Task

_HOSTS = 1000  # hosts whose queues are kept
_LOOK_S = 1.0  # interval at which a thread that waits for a decode checks whether the service is stopping
_LONG_S = 0.03  # about the time to decode a photo of 4 megapixels

logger = logging.getLogger("text_image_similarity")


class ImageWorkers:
    """Many threads that wait for the network, and one decoding thread per usable core.

    Args:
        config: Settings for fetching images; `io_workers` is the number of fetching threads.
        transport: Transport for HTTP requests, for tests; None means the network.
    """

    def __init__(self, config: Config, transport: httpx.BaseTransport | None = None) -> None:
        self._per_host = config.limits.per_host
        self._lock, self._closed = Lock(), False
        self._hosts: dict[str, FairQueue] = {}
        decoders = usable_cores()
        self._fetcher = Fetcher(config, transport=transport)
        self._fetching: Loaders = Loaders(config.io_workers)
        self._decoding: Loaders = Loaders(decoders)
        half = max(1, config.io_workers // 2)
        self._downloads = FairQueue(
            lambda client, task: self._fetching.submit(task), config.io_workers, most_of_one=half
        )
        self._decodes = FairQueue(lambda client, task: self._decoding.submit(task), decoders, long_s=_LONG_S)

    def fetch(self, client: Client, reference: str, task: Task) -> None:
        """Queue the download of a reference. Downloads from a slow host do not take threads from other hosts."""
        host = "".join(reference[:300].split("/", 3)[2:3]).lower()  # approximate; the fetcher parses it properly
        with self._lock:
            if len(self._hosts) > _HOSTS:
                self._hosts = {name: queue for name, queue in self._hosts.items() if not queue.is_idle}
            if host not in self._hosts:
                self._hosts[host] = FairQueue(self._downloads.put, self._per_host)
            self._hosts[host].put(client, task)

    def decode(self, client: Client, task: Task) -> None:
        """Queue a task that keeps a core busy."""
        self._decodes.put(client, task)

    def decode_fetched(self, client: Client, task: Task) -> None:
        """Queue the decode of a download and wait for its end, so that no more wait than there are fetching threads."""
        done = Event()
        self._decodes.put(client, partial(_run_and_tell, task, done))
        while not (done.wait(_LOOK_S) or self._closed):
            pass

    def read(self, image: ImageInput, client: Client = None) -> bytes | RowError:
        """Return an image's encoded bytes, or the error that says why they cannot be read; never raise."""
        try:
            return self._fetcher.fetch(image, client)
        except RowError as error:
            return error.without_address()
        except Exception as exc:  # an error of one row must not affect others
            logger.debug("an image could not be fetched", exc_info=True)
            return RowError(ErrorCode.BAD_RESPONSE, f"{type(exc).__name__}: {exc}")

    def close(self) -> None:
        """Stop downloads, drop tasks that have not started, and wait for the rest."""
        self._closed = True
        self._fetcher.close()
        self._fetching.close()
        self._decoding.close()


def _run_and_tell(task: Task, done: Event) -> None:
    try:
        task()
    finally:
        done.set()
