"""The backend whose models are in this process."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from threading import Lock
from typing import Any

import httpx

from ...config import Config, ScoreKind
from ...encoders import Encoder, load_encoder
from ...records import ScoreResult
from ..jobs import Answer, Ask, Job, late
from ..pool import choose, crowded
from ..problems import ProblemError
from ..settings import Settings
from ..telemetry.metrics import Metrics
from .model import ServedModel
from .workers import Threads, on_daemon

logger = logging.getLogger("text_image_similarity")

_PROVEN_S = 60.0  # how long a success counts; an idle model proves itself more often
_STUCK_S = 300.0  # a model that had work and no success for so long is not expected to recover
_LOAD_AGAIN_S = 30.0  # after a model could not be loaded
_CLOSING_S = 3.0


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
        self._transport = transport
        self._threads: Threads | None = None
        self._loaded: dict[str, ServedModel] = {}
        self._loading: dict[str, asyncio.Task[None]] = {}
        self._failed: dict[str, tuple[float, Exception]] = {}
        self._inflight = 0
        self._lock = Lock()
        metrics.inflight.set_function(lambda: self._inflight)

    def load(self) -> None:
        """Load the models that are to be there from the start, and wait for them.

        Raises:
            ConfigError, ModelError: One of them cannot be loaded.
        """
        if self._threads is None:
            self._threads = Threads(self._settings.models[self._settings.default], self._transport)
        for name in self._settings.models:
            if name not in self._settings.lazy and name not in self._loaded:
                self._loaded[name] = self._load(name)

    async def start(self) -> None:
        """See `Backend`."""
        await on_daemon(self.load)

    async def close(self) -> None:
        """See `Backend`; what hangs is not waited for."""
        with suppress(TimeoutError):
            await asyncio.wait_for(on_daemon(self._close), _CLOSING_S)
        self._threads, self._loaded = None, {}

    async def run(
        self, model: str | None, asks: Sequence[Ask], kind: ScoreKind, *, within_s: float | None = None
    ) -> Answer:
        """See `Backend`; `within_s` is what is left of `request_timeout_s`, where some of it is spent already."""
        timeout_s = self._settings.request_timeout_s
        loop = asyncio.get_running_loop()
        end = loop.time() + (timeout_s if within_s is None else within_s)
        name = choose(self._settings, model)
        self._enter(len(asks))
        try:
            served = await self._served(name, end)
            if (refused := self._queue_full(served)) is not None:
                raise refused
        except BaseException:
            self._leave(len(asks))
            raise
        done = loop.create_future()
        job = Job(asks, kind, lambda: _tell(loop, done), lambda: self._leave(1))
        served.submit(job)
        try:
            async with asyncio.timeout_at(end):
                await done
        except TimeoutError:  # what is done is answered
            job.late = True
        finally:
            job.gone = True
            items, job.items = job.items, []  # which know the job: their pictures would wait for a garbage collection
        if job.problem is not None:
            raise ProblemError("model_unavailable", f"{served.name}: {job.problem}", retry_after_s=_LOAD_AGAIN_S)
        results = [late(item.ask, timeout_s) if item.result is None else item.result for item in items]
        for item, result in zip(items, results, strict=True):
            if item.result is None and isinstance(result, ScoreResult):
                self._metrics.pair(served.name, result, None)
        return Answer(served.name, results, [item.marks for item in items])

    def refusal(self) -> ProblemError | None:
        """See `Backend`: whether no model, or nothing at all, has room."""
        if self._inflight >= self._settings.max_inflight:
            return crowded(self._inflight)
        refusals = [self._queue_full(served) for served in self._loaded.values()]
        return refusals[0] if refusals and all(refusals) else None

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

    async def _served(self, name: str, end: float) -> ServedModel:
        """Return a model, which is loaded if it is not; requests wait for it together, until a time of the loop's."""
        if (served := self._loaded.get(name)) is not None:
            return served
        if name not in self._loading and not self._failed_lately(name):
            self._loading[name] = asyncio.create_task(self._load_later(name))
        if (loading := self._loading.get(name)) is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(end):
                    await asyncio.shield(loading)  # also for the others who wait
        if (served := self._loaded.get(name)) is not None:
            return served
        if name in self._loading:
            raise ProblemError("model_unavailable", f"{name} is still being loaded", retry_after_s=_LOAD_AGAIN_S)
        _, problem = self._failed[name]
        raise ProblemError("model_unavailable", f"{name}: {problem}", retry_after_s=_LOAD_AGAIN_S)

    def _failed_lately(self, name: str) -> bool:
        return name in self._failed and time.monotonic() - self._failed[name][0] < _LOAD_AGAIN_S

    async def _load_later(self, name: str) -> None:
        try:
            self._loaded[name] = await on_daemon(lambda: self._load(name))
        except Exception as exc:  # a full disk is no reason to try again at once either
            logger.error("%s cannot be loaded: %s", name, exc)
            self._failed[name] = (time.monotonic(), exc)
        finally:
            del self._loading[name]

    def _load(self, name: str) -> ServedModel:
        encoder = self._load_encoder(self._settings.models[name])
        assert self._threads is not None, "the backend is closed"
        return ServedModel(name, self._settings, encoder, self._threads, self._metrics)

    def _enter(self, pairs: int) -> None:
        """Make room for a request, whole, or refuse it."""
        with self._lock:
            if self._inflight >= self._settings.max_inflight:
                raise crowded(self._inflight)
            self._inflight += pairs

    def _leave(self, pairs: int) -> None:
        with self._lock:
            self._inflight -= pairs

    def _queue_full(self, served: ServedModel) -> ProblemError | None:
        if served.depth < self._settings.max_queue:
            return None
        detail = f"{served.depth} pairs wait for {served.name}"
        return ProblemError("queue_full", detail, retry_after_s=served.backlog_s, reason="queue_full")

    def _close(self) -> None:
        if self._threads is not None:
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
