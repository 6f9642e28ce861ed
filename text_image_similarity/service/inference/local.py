"""The pool whose models run in this process."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import httpx

from ...config import Config, ScoreKind
from ...encoders import Encoder, SeveralEncoders, as_preparing, calibrations_of, load_encoder
from ...errors import RowError
from ...pipeline import Outcome
from ...records import ScoreResult
from ...system import return_free_memory
from ..clients import current
from ..jobs import Answer, ImageInput, Inputs, Item, Job, Pair, timeout_error
from ..pool import InFlight, choose_model, find_model
from ..problems import ProblemError, count_of
from ..settings import ENSEMBLE, Settings
from ..telemetry.metrics import Metrics
from .loaded import RELOAD_S, LoadedModels, on_daemon
from .model import ServedModel
from .workers import ImageWorkers

if TYPE_CHECKING:
    from ...metrics import Calibration

logger = logging.getLogger("text_image_similarity")

_PROVEN_S = 60.0  # how long a success proves that a model works; an idle model tests itself more often
_STUCK_S = 300.0  # a model without any success for this long, even in self-tests, is not expected to recover
_CLOSING_S = 3.0  # longest time that closing waits for the models


class LocalModelPool:
    """Models in this process, with limits on the work that they accept.

    Args:
        settings: Settings of the service.
        metrics: Metrics to record to.
        load: Function that loads a model, for tests.
        transport: Transport for HTTP requests for images, for tests; None means the network.
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
        self._workers: ImageWorkers | None = None
        self._models = LoadedModels(self._load, metrics, settings.default, settings.model_memory)
        self._calibrations: tuple[Calibration, ...] = ()  # calibrations of an ensemble of probabilities
        self._together: SeveralEncoders | None = None  # the ensemble, whose models are loaded before it and stay loaded
        self._unproven: set[str] = set()  # models that were requested at run time and are being loaded
        self._inflight = InFlight(settings.max_inflight)
        metrics.inflight.set_function(self._inflight.total)

    def load(self) -> None:
        """Load the models that are needed at the start, and block meanwhile.

        Raises:
            ConfigError, ModelError: A model cannot be loaded.
        """
        if self._workers is None:
            self._workers = ImageWorkers(self._settings.models[self._settings.default], self._transport)
        if self._settings.ensemble is not None:
            served = [config.model for config in self._settings.models.values()]
            self._calibrations = calibrations_of(served, self._settings.ensemble)
        for name in self._settings.models:
            if name not in self._settings.lazy:
                self._models.load(name)
        if self._settings.ensemble is not None:
            self._models.load(ENSEMBLE)

    async def start(self) -> None:
        """See `ModelPool`."""
        await on_daemon(self.load)

    async def close(self) -> None:
        """See `ModelPool`; this does not wait long for a stuck model."""
        with suppress(TimeoutError):
            await asyncio.wait_for(on_daemon(self._close), _CLOSING_S)
        self._workers = None
        self._models.clear()

    async def score(
        self, model: str | None, pairs: Sequence[Pair], kind: ScoreKind, *, within_s: float | None = None
    ) -> Answer[ScoreResult]:
        """See `ModelPool`; `within_s` is the remaining part of `request_timeout_s`; None means all of it."""
        name, items = await self._run(model, [(pair.image, pair.caption) for pair in pairs], kind, within_s)
        late = ScoreResult.failed(timeout_error(self._settings.request_timeout_s))
        results = [late if item.score is None else item.score for item in items]
        for result in results:
            if result is late:
                self._metrics.count_pair(name, late, None)
        return Answer(name, results, [item.spans for item in items])

    async def embed_images(
        self, model: str | None, images: Sequence[ImageInput], *, within_s: float | None = None
    ) -> Answer[Outcome]:
        """See `ModelPool`, and `score`."""
        return await self._embed(model, [(image, None) for image in images], within_s)

    async def embed_texts(
        self, model: str | None, captions: Sequence[str], *, within_s: float | None = None
    ) -> Answer[Outcome]:
        """See `ModelPool`, and `score`."""
        return await self._embed(model, [(None, caption) for caption in captions], within_s)

    async def _embed(self, model: str | None, inputs: Inputs, within_s: float | None) -> Answer[Outcome]:
        name, items = await self._run(model, inputs, None, within_s)
        late = timeout_error(self._settings.request_timeout_s)
        results = [late if (found := item.embedding) is None else self._unit(name, found) for item in items]
        return Answer(name, results, [item.spans for item in items])

    async def _run(
        self, model: str | None, inputs: Inputs, kind: ScoreKind | None, within_s: float | None
    ) -> tuple[str, list[Item]]:
        """Process a request with a model; return the model's name and the items, some of which may be unfinished."""
        loop = asyncio.get_running_loop()
        end = loop.time() + (self._settings.request_timeout_s if within_s is None else within_s)
        name = choose_model(self._settings, model)
        client = current.get()
        self._enter(name, client, len(inputs))
        try:
            served = await self._models.get(name, end)
            if (refused := self._queue_problem(served)) is not None:
                raise refused
        except BaseException:
            self._leave(name, client, len(inputs))
            raise
        done = loop.create_future()
        job = Job(inputs, kind, lambda: _resolve(loop, done), lambda: self._leave(name, client, 1))
        served.submit(job)
        del served  # the model may be unloaded before this continues
        try:
            async with asyncio.timeout_at(end):
                await done
        except TimeoutError:  # finished items still get their results
            job.timed_out = True
        finally:
            job.gone = True
            items, job.items = job.items, []  # items refer to the job and its images
        if job.problem is not None:
            raise ProblemError("model_unavailable", f"{name}: {job.problem}", retry_after_s=RELOAD_S)
        return name, items

    def encoder(self, model: str) -> Encoder | None:
        """See `ModelPool`."""
        served = self._models.find(model)
        return None if served is None else served.encoder

    def refusal(self) -> ProblemError | None:
        """See `ModelPool`; a request is refused if the client may use no more of the pool, or of any loaded model's queue."""
        if (problem := self._inflight.problem(current.get())) is not None:
            return problem
        refusals = [self._queue_problem(served) for served in self._models]
        return refusals[0] if refusals and all(refusals) else None

    def unready(self) -> ProblemError | None:
        """See `ModelPool`."""
        if not len(self._models):
            return ProblemError("model_unavailable", "no model is loaded yet", retry_after_s=5)
        if (dead := self.dead()) is not None:
            return dead
        for served in self._models:
            if time.monotonic() - served.succeeded > _PROVEN_S:
                return ProblemError(
                    "model_unavailable", f"{served.name} has encoded nothing for {_PROVEN_S:.0f} s", retry_after_s=10
                )
            if served.queue.depth_with(max(1, self._settings.max_queue // 2)) >= 0.9 * self._settings.max_queue:
                return ProblemError("busy", _waiting(served), retry_after_s=1)
        return None

    def dead(self) -> ProblemError | None:
        """See `ModelPool`."""
        for served in self._models:
            if served.problem is not None:
                return ProblemError("model_unavailable", f"{served.name}: {served.problem}")
            if time.monotonic() - served.succeeded > _STUCK_S:
                return ProblemError("model_unavailable", f"{served.name} has encoded nothing for {_STUCK_S:.0f} s")
        return None

    def models(self) -> Mapping[str, Mapping[str, Any] | None]:
        """See `ModelPool`."""
        names = self._settings.names
        found = {name: self._models.find(name) for name in names if name not in self._settings.splits}
        return {name: None if served is None else served.facts for name, served in found.items()}

    async def serve_model(self, config: Config) -> str:
        """See `ModelPool`."""
        name = find_model(self._settings.models, self.models(), config)
        if name is None:
            self._settings, name = self._settings.with_model(config)
            self._unproven.add(name)
        self._models.need(name, 1)
        try:
            await self._models.get(name, None)
        except ProblemError:
            if name in self._unproven:  # forget a mistyped name
                self._settings = self._settings.without_model(name)
                self._models.forget_failure(name)
            raise
        finally:
            self._unproven.discard(name)
            self._models.release(name, 1)
        return name

    def _load(self, name: str) -> ServedModel:
        config = self._settings.models.get(name)
        encoder: Encoder
        if config is not None:
            encoder = self._load_encoder(config)
        else:
            encoder = self._together = SeveralEncoders(
                tuple(as_preparing(served.encoder) for served in self._models), self._calibrations
            )
        assert self._workers is not None, "the pool is closed"
        served = ServedModel(name, self._settings, encoder, self._workers, self._metrics)
        return_free_memory()  # loading takes more memory than the model itself
        return served

    def _unit(self, name: str, outcome: Outcome) -> Outcome:
        """Return an embedding, scaled to length 1 if it is the concatenated embedding of an ensemble."""
        if name != ENSEMBLE or self._together is None or isinstance(outcome, RowError):
            return outcome
        return self._together.unit(outcome)

    def _enter(self, name: str, client: str | None, pairs: int) -> None:
        """Reserve places and a model for a whole request, or raise a `ProblemError`."""
        self._inflight.enter(client, pairs)
        self._models.need(name, pairs)

    def _leave(self, name: str, client: str | None, pairs: int) -> None:
        self._inflight.leave(client, pairs)
        self._models.release(name, pairs)

    def _queue_problem(self, served: ServedModel) -> ProblemError | None:
        client = current.get()
        if served.queue.has_room(client, self._settings.max_queue):
            return None
        return ProblemError("queue_full", _waiting(served), retry_after_s=served.backlog_s(client), reason="queue_full")

    def _close(self) -> None:
        if self._workers is not None:
            self._workers.close()
        for served in self._models:
            served.close()


def _waiting(served: ServedModel) -> str:
    return f"{count_of(served.depth, 'pair is', 'pairs are')} waiting for {served.name}"


def _resolve(loop: asyncio.AbstractEventLoop, done: asyncio.Future[None]) -> None:
    """Set the result of a future of an event loop, from any thread."""

    def finish() -> None:
        if not done.done():
            done.set_result(None)

    with suppress(RuntimeError):  # the loop is closed, and nothing waits
        loop.call_soon_threadsafe(finish)
