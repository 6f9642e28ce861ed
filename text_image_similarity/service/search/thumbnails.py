"""Small pictures of products: fetched and decoded under the service's own limits, and encoded again by us."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from hashlib import sha256

from ...config import Config
from ...decode import decode
from ...errors import RowError
from ...fetch import Fetcher
from ...report import small_jpeg
from ..problems import ProblemError

_AT_ONCE = 4
_MOST_BYTES = 64 << 20
_MOST_WAITING = 256
_FAILED_S = 60.0  # how long a picture that failed is not tried again
_Key = tuple[bytes, int]  # the reference's digest, because a `data:` URL is long, and the size


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A small picture.

    Args:
        content: A JPEG.
        etag: Stands for it.
    """

    content: bytes
    etag: str


class Thumbnails:
    """Makes small pictures of what a catalogue's products refer to, and keeps the latest in memory.

    Args:
        config: How pictures are fetched. Local files are read besides: only the operator's own products can refer to some.
    """

    def __init__(self, config: Config) -> None:
        self._config = replace(config, retries=0, limits=replace(config.limits, allow_local_files=True))
        self._fetcher = Fetcher(self._config)
        self._threads = ThreadPoolExecutor(_AT_ONCE, "thumbnails")  # slow hosts keep nothing else waiting
        self._made: OrderedDict[_Key, Thumbnail] = OrderedDict()
        self._making: dict[_Key, asyncio.Task[Thumbnail | None]] = {}
        self._failed: OrderedDict[_Key, float] = OrderedDict()
        self._held = 0

    async def get(self, reference: str, size: int) -> Thumbnail | None:
        """Return a picture whose longer side has at most so many pixels; None if it cannot be read.

        Raises:
            ProblemError: `queue_full`.
        """
        key = (sha256(reference.encode()).digest(), size)
        if (made := self._made.get(key)) is not None:
            self._made.move_to_end(key)
            return made
        if time.monotonic() - self._failed.get(key, -_FAILED_S) < _FAILED_S:
            return None
        if key not in self._making:
            if len(self._making) >= _MOST_WAITING:
                raise ProblemError(
                    "queue_full", "too many pictures are being read", retry_after_s=2, reason="queue_full"
                )
            self._making[key] = asyncio.create_task(self._make(key, reference))
        return await asyncio.shield(self._making[key])  # also for the others who wait

    def close(self) -> None:
        """Close connections, and end the threads."""
        self._fetcher.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _make(self, key: _Key, reference: str) -> Thumbnail | None:
        try:
            content = await asyncio.get_running_loop().run_in_executor(self._threads, self._load, reference, key[1])
        except RowError:
            self._failed[key] = time.monotonic()
            while len(self._failed) > 10_000:
                self._failed.popitem(last=False)
            return None
        finally:
            del self._making[key]
        made = Thumbnail(content, f'"{sha256(content).hexdigest()[:32]}"')
        self._made[key] = made
        self._held += len(content)
        while self._held > _MOST_BYTES:
            _, oldest = self._made.popitem(last=False)
            self._held -= len(oldest.content)
        return made

    def _load(self, reference: str, size: int) -> bytes:
        image = decode(self._fetcher.fetch(reference), self._config.limits, shorter_side=size)
        return small_jpeg(image, side=size)
