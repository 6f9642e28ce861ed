"""The backend whose models are in this process."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from threading import Lock
from typing import Any

import httpx

from ..config import Config, ScoreKind
from ..encoders import Encoder, load_encoder
from ..errors import ConfigError, ModelError
from .backend import choose, crowded
from .metrics import Metrics
from .problems import ProblemError
from .served import ServedModel
from .settings import Settings
from .threads import Threads
from .work import Answer, Ask, Job, late

logger = logging.getLogger("text_image_similarity")

_PROBE_EVERY_S = 10.0  # an idle model proves that it works this often
_PROVEN_S = 60.0  # how long a success counts
_STUCK_S = 300.0  # a model that had work and no success for so long is not expected to recover
_LOAD_AGAIN_S = 30.0  # after a model could not be loaded


class LocalBackend:
    """Models in this process, behind a limit on what they take on.

    Args:
        settings: Those of the service.
        metrics: Told what happens.
        load: Loads a model; for tests.
        transport: Where http requests for pictures go, for tests; None is the network.
    """

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        *,
        load: Callable[[Config], Encoder] = load_encoder,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._settings, self._metrics, self._load_encoder = settings, metrics, load
        self._threads = Threads(settings.models[settings.default], transport)
        self._loaded: dict[str, ServedModel] = {}
        self._loading: dict[str, asyncio.Task[None]] = {}
        self._failed: dict[str, tuple[float, ModelError | ConfigError]] = {}
        self._inflight = 0
        self._lock = Lock()
        metrics.inflight.set_function(lambda: self._inflight)
        self._probing: asyncio.Task[None] | None = None

    def load(self) -> None:
        """Load the models that are to be there from the start, and wait for them.

        Raises:
            ConfigError, ModelError: One of them cannot be loaded.
        """
        for name in self._settings.models:
            if name not in self._settings.lazy and name not in self._loaded:
                self._loaded[name] = self._load(name)

    async def start(self) -> None:
        """See `Backend`."""
        await asyncio.to_thread(self.load)
        self._probing = asyncio.create_task(self._probe_for_ever())

    async def close(self) -> None:
        """See `Backend`."""
        if self._probing is not None:
            self._probing.cancel()
            with suppress(asyncio.CancelledError):
                await self._probing
        await asyncio.to_thread(self._close)

    async def run(
        self, model: str | None, asks: Sequence[Ask], kind: ScoreKind, *, within_s: float | None = None
    ) -> Answer:
        """See `Backend`; `within_s` is what is left of `request_timeout_s`, where some of it is spent already."""
        timeout_s = self._settings.request_timeout_s
        served = await self._served(choose(self._settings, model))
        self._admit(served, len(asks))
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        job = Job(asks, kind, lambda: _tell(loop, done), self._release)
        served.submit(job)
        try:
            await asyncio.wait_for(done, timeout_s if within_s is None else within_s)
        except TimeoutError:
            pass  # what is done is answered
        finally:
            job.gone = True
            items, job.items = job.items, []  # which know the job: their pictures would wait for a garbage collection
        if job.problem is not None:
            raise ProblemError("model_unavailable", f"{served.name}: {job.problem}", retry_after_s=_LOAD_AGAIN_S)
        results = [late(item.ask, timeout_s) if item.result is None else item.result for item in items]
        return Answer(served.name, results, [item.marks for item in items])

    def refusal(self) -> ProblemError | None:
        """See `Backend`: whether no model, or nothing at all, has room."""
        if self._inflight >= self._settings.max_inflight:
            return crowded(self._inflight)
        if len(self._loaded) < len(self._settings.models):
            return None  # the request may be for another model
        refusals = [self._queue_full(served) for served in self._loaded.values()]
        return refusals[0] if all(refusals) else None

    def unready(self) -> ProblemError | None:
        """See `Backend`."""
        if not self._loaded:
            return ProblemError("model_unavailable", "no model is loaded yet", retry_after_s=5)
        if (dead := self.dead()) is not None:
            return dead
        for served in self._loaded.values():
            if time.monotonic() - served.succeeded > _PROVEN_S:
                return ProblemError(
                    "model_unavailable", f"{served.name} has encoded nothing for {_PROVEN_S:.0f} s", retry_after_s=10
                )
            if served.depth >= 0.9 * self._settings.max_queue:
                return ProblemError("busy", f"{served.depth} pairs wait for {served.name}", retry_after_s=1)
        return None

    def dead(self) -> ProblemError | None:
        """See `Backend`."""
        for served in self._loaded.values():
            if served.problem is not None:
                return ProblemError("model_unavailable", f"{served.name}: {served.problem}")
            if time.monotonic() - served.succeeded > _STUCK_S:
                return ProblemError("model_unavailable", f"{served.name} has encoded nothing for {_STUCK_S:.0f} s")
        return None

    def models(self) -> Mapping[str, Mapping[str, Any] | None]:
        """See `Backend`."""
        return {name: self._loaded[name].facts if name in self._loaded else None for name in self._settings.models}

    async def _served(self, name: str) -> ServedModel:
        """Return a model, which is loaded if it is not; requests wait for it together."""
        if (served := self._loaded.get(name)) is not None:
            return served
        if name not in self._loading and not self._failed_lately(name):
            self._loading[name] = asyncio.create_task(self._load_later(name))
        if (loading := self._loading.get(name)) is not None:
            await asyncio.shield(loading)  # also for the others who wait
        if (served := self._loaded.get(name)) is not None:
            return served
        _, problem = self._failed[name]
        raise ProblemError("model_unavailable", f"{name}: {problem}", retry_after_s=_LOAD_AGAIN_S)

    def _failed_lately(self, name: str) -> bool:
        return name in self._failed and time.monotonic() - self._failed[name][0] < _LOAD_AGAIN_S

    async def _load_later(self, name: str) -> None:
        try:
            self._loaded[name] = await asyncio.to_thread(self._load, name)
        except (ModelError, ConfigError) as exc:
            logger.error("%s cannot be loaded: %s", name, exc)
            self._failed[name] = (time.monotonic(), exc)
        finally:
            del self._loading[name]

    def _load(self, name: str) -> ServedModel:
        encoder = self._load_encoder(self._settings.models[name])
        return ServedModel(name, self._settings, encoder, self._threads, self._metrics)

    def _admit(self, served: ServedModel, pairs: int) -> None:
        """Make room for a request, whole, or refuse it."""
        refused = self._queue_full(served)
        with self._lock:
            if refused is None and self._inflight >= self._settings.max_inflight:
                refused = crowded(self._inflight)
            if refused is None:
                self._inflight += pairs
        if refused is not None:
            raise refused

    def _release(self) -> None:
        with self._lock:
            self._inflight -= 1

    def _queue_full(self, served: ServedModel) -> ProblemError | None:
        if served.depth < self._settings.max_queue:
            return None
        detail = f"{served.depth} pairs wait for {served.name}"
        return ProblemError("queue_full", detail, retry_after_s=served.backlog_s, reason="queue_full")

    async def _probe_for_ever(self) -> None:
        """Keep idle models proving that they work."""
        while True:
            await asyncio.sleep(_PROBE_EVERY_S / 2)
            for served in list(self._loaded.values()):
                if time.monotonic() - served.succeeded > _PROBE_EVERY_S:
                    with suppress(ProblemError):
                        await self.run(served.name, [Ask(_noise(), "a picture of noise")], "cosine")

    def _close(self) -> None:
        self._threads.close()
        for served in self._loaded.values():
            served.close()


def _tell(loop: asyncio.AbstractEventLoop, done: asyncio.Future[None]) -> None:
    """Finish a future of a loop, from any thread."""

    def finish() -> None:
        if not done.done():
            done.set_result(None)

    with suppress(RuntimeError):  # the loop is closed, and nobody waits
        loop.call_soon_threadsafe(finish)


def _noise() -> str:
    """Return a picture that no cache knows: 8x8 random pixels, as a BMP."""
    side = 8
    pixels = os.urandom(3 * side * side)
    header = b"BM" + (54 + len(pixels)).to_bytes(4, "little") + bytes(4) + (54).to_bytes(4, "little")
    header += (40).to_bytes(4, "little") + side.to_bytes(4, "little") * 2 + b"\x01\x00\x18\x00" + bytes(24)
    return "data:image/bmp;base64," + b64encode(header + pixels).decode()
