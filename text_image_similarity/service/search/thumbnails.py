"""Thumbnails of product images, which are fetched and decoded within the service's limits and encoded as JPEG."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from threading import Lock

from PIL import Image

from ...config import Config
from ...decode import IsolatedDecoder, decode
from ...errors import RowError
from ...fetch import Fetcher
from ...pipeline import Loaders
from ...report import small_jpeg
from ...system import forget_frames, settle
from ..clients import current
from ..problems import ProblemError
from ..shares import FairQueue

_AT_ONCE = 4  # thumbnails created at a time
_AT_ONCE_OF_ONE = 2  # thumbnails created at a time for one client
_DECODERS = 3  # processes; the images of one client always leave one for the others
_MOST_BYTES = 64 << 20
_MOST_WAITING = 256
_MOST_WAITING_OF_ONE = 128
_FAILED_S = 60.0  # seconds before an image that could not be read is tried again


class _NobodyWaitsError(Exception):
    """No request was waiting for a thumbnail when its turn came."""


_Key = tuple[bytes, int]  # size, and digest of the reference, because a `data:` URL may be long


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A small JPEG of a product's image.

    Args:
        content: The JPEG file.
        etag: ETag of the content.
    """

    content: bytes
    etag: str


@dataclass(slots=True, eq=False)
class _Making:
    """A thumbnail that is being created for one client, and the number of requests that wait for it."""

    reference: str
    key: _Key
    client: str | None
    waiting: int = 0
    given_up: bool = False
    task: asyncio.Task[Thumbnail | None] | None = None


class Thumbnails:
    """Creates thumbnails of a catalogue's products, and keeps those that were used most recently in memory.

    Args:
        config: Settings for fetching and decoding. Local files are also read, because only the operator's own products
            can refer to them.
        timeout_s: Longest wait of a request, in seconds.
        check_file: Function that raises a `RowError` if a reference leads to a file that may not be read.
    """

    def __init__(self, config: Config, timeout_s: float, check_file: Callable[[str], object]) -> None:
        self._check_file = check_file
        self._config = replace(config, retries=0, limits=replace(config.limits, allow_local_files=True))
        self._fetcher = Fetcher(self._config)
        self._timeout_s = timeout_s
        self._threads = Loaders(_AT_ONCE, name="thumbnails")  # slow hosts delay nothing else
        self._turns = FairQueue(lambda client, task: self._threads.submit(task), _AT_ONCE, most_of_one=_AT_ONCE_OF_ONE)
        self._isolated: IsolatedDecoder | None = None  # started for the first image
        self._starting = Lock()
        self._made: OrderedDict[_Key, Thumbnail] = OrderedDict()
        self._making: dict[tuple[str | None, _Key], _Making] = {}
        self._failed: OrderedDict[_Key, float] = OrderedDict()
        self._held = 0

    async def get(self, reference: str, size: int) -> Thumbnail | None:
        """Return a thumbnail whose longer side has at most `size` pixels; None if the image cannot be read.

        Raises:
            ProblemError: `queue_full`, or `catalog_unavailable` if reading the image takes too long.
        """
        key = (sha256(reference.encode()).digest(), size)
        if (made := self._made.get(key)) is not None:
            self._made.move_to_end(key)
            return made
        if time.monotonic() - self._failed.get(key, -_FAILED_S) < _FAILED_S:
            return None
        try:
            async with asyncio.timeout(self._timeout_s):
                while True:
                    making = self._begin(reference, key)
                    made = await self._wait(making)
                    if not making.given_up:  # it may have been given up just before this request began to wait
                        return made
        except TimeoutError as exc:
            detail = f"the image was not read within the service's limit of {self._timeout_s:g} s"
            raise ProblemError("catalog_unavailable", detail, retry_after_s=2) from exc

    def close(self) -> None:
        """Close connections, end the decoder's processes, and let the threads end by themselves."""
        self._fetcher.close()
        self._threads.close(wait=False)
        with self._starting:
            if self._isolated is not None:
                self._isolated.close()

    async def _wait(self, making: _Making) -> Thumbnail | None:
        making.waiting += 1
        try:
            assert making.task is not None
            return await asyncio.shield(making.task)  # other requests may be waiting for the image too
        finally:
            making.waiting -= 1

    def _begin(self, reference: str, key: _Key) -> _Making:
        """Return the thumbnail in progress for the current client, starting it if necessary."""
        client = current.get()
        if (making := self._making.get((client, key))) is not None:
            return making
        of_one = sum(known == client for known, _ in self._making)
        if len(self._making) >= _MOST_WAITING or (client is not None and of_one >= _MOST_WAITING_OF_ONE):
            raise ProblemError("queue_full", "too many images are being read", retry_after_s=2, reason="queue_full")
        making = self._making[client, key] = _Making(reference, key, client)
        making.task = asyncio.create_task(self._make(making))
        return making

    async def _make(self, making: _Making) -> Thumbnail | None:
        key = making.key
        done: Future[bytes] = Future()
        self._turns.put(making.client, partial(self._load_in_turn, making, done))
        try:
            content = await asyncio.wrap_future(done)
        except RowError as error:
            forget_frames(error)  # which hold the image
            self._failed[key] = time.monotonic()
            while len(self._failed) > 10_000:
                self._failed.popitem(last=False)
            return None
        except _NobodyWaitsError:
            making.given_up = True
            return None
        finally:
            del self._making[making.client, key]
        if (known := self._made.get(key)) is not None:  # created for another client in the meantime
            return known
        made = Thumbnail(content, f'"{sha256(content).hexdigest()[:32]}"')
        self._made[key] = made
        self._held += len(content)
        while self._held > _MOST_BYTES:
            _, oldest = self._made.popitem(last=False)
            self._held -= len(oldest.content)
        return made

    def _load_in_turn(self, making: _Making, done: Future[bytes]) -> None:
        def load() -> bytes:
            known = self._made.get(making.key)
            if not making.waiting:
                raise _NobodyWaitsError
            return self._load(making.reference, making.key[1]) if known is None else known.content

        if done.set_running_or_notify_cancel():
            settle(done, load)

    def _load(self, reference: str, size: int) -> bytes:
        self._check_file(reference)
        image = self._decode(self._fetcher.fetch(reference), size)
        return small_jpeg(image, side=size)

    def _decode(self, content: bytes, size: int) -> Image.Image:
        limits = self._config.limits
        if not self._config.isolate_decoder:
            return decode(content, limits, shorter_side=size)
        with self._starting:
            if self._isolated is None:
                self._isolated = IsolatedDecoder(limits, workers=_DECODERS)
        return self._isolated.decode(content, shorter_side=size)
