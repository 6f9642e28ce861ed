"""The pool whose models are Ray Serve deployments, which a gateway sees as handles and as reports of replicas."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from ...config import Config, ScoreKind
from ...encoders import Encoder
from ...errors import RowError
from ...pipeline import Outcome
from ...records import ScoreResult
from ..clients import current
from ..jobs import Answer, ImageInput, Pair, ResultT, timeout_error
from ..pool import InFlight, choose_model, find_model
from ..problems import ProblemError
from ..settings import Settings
from ..telemetry.metrics import Metrics

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle

logger = logging.getLogger("text_image_similarity")

_TRIES = 3  # replicas that may die while they handle a request before the request is refused
_GRACE_S = 1.0  # time after a request's timeout in which a replica may still send the results so far
_LOOK_EVERY_S = 1.0
_LOOK_S = 5.0  # time limit for the reports of all replicas of a deployment
_FRESH_S = 15.0  # how long a report is valid


@dataclass(frozen=True, slots=True)
class Report:
    """A replica's report on itself.

    Args:
        replica: Name of the replica.
        unready: Reason why the replica should get no requests, or None.
        facts: Facts about the replica's model.
        families: Metric families of the replica.
    """

    replica: str
    unready: ProblemError | None
    facts: Mapping[str, Any] | None
    families: list[Metric] = field(repr=False)


class RayModelPool:
    """A pool of models in other processes; a request that is lost with a replica is sent to another one.

    Args:
        settings: Settings of the service.
        models: Handle of each model's deployment, by the model's name.
        peers: Handle of all gateways, including this one.
        metrics: Metrics of this gateway, which include those that other replicas report.
    """

    def __init__(
        self,
        settings: Settings,
        models: Mapping[str, DeploymentHandle[Any]],
        peers: DeploymentHandle[Any],
        metrics: ClusterMetrics,
    ) -> None:
        self._settings, self._metrics = settings, metrics
        self._models, self._peers = models, peers
        self._inflight = InFlight(settings.max_inflight)
        self._known: dict[str, tuple[float, list[Report]]] = {}  # reports by deployment, with the time of arrival
        self._watching: asyncio.Task[None] | None = None
        metrics.inflight.set_function(self._inflight.total)

    async def start(self) -> None:
        """See `ModelPool`; models start by themselves."""
        self._watching = asyncio.create_task(self._watch())

    async def close(self) -> None:
        """See `ModelPool`."""
        if self._watching is not None:
            self._watching.cancel()
            with suppress(asyncio.CancelledError):
                await self._watching

    async def score(self, model: str | None, pairs: Sequence[Pair], kind: ScoreKind) -> Answer[ScoreResult]:
        """See `ModelPool`."""
        return await self._answer(model, ScoreResult.failed, "score", list(pairs), kind)

    async def embed_images(self, model: str | None, images: Sequence[ImageInput]) -> Answer[Outcome]:
        """See `ModelPool`."""
        return await self._answer(model, lambda error: error, "embed_images", list(images))

    async def embed_texts(self, model: str | None, captions: Sequence[str]) -> Answer[Outcome]:
        """See `ModelPool`."""
        return await self._answer(model, lambda error: error, "embed_texts", list(captions))

    def encoder(self, model: str) -> Encoder | None:
        """See `ModelPool`; models are in other processes."""
        return None

    def refusal(self) -> ProblemError | None:
        """See `ModelPool`; this checks only whether the gateway has room."""
        return self._inflight.problem(current.get())

    def unready(self) -> ProblemError | None:
        """See `ModelPool`; every model needs a replica that is ready."""
        for name, handle in self._models.items():
            problems = [report.unready for report in self._reports(handle)]
            if all(problems):
                return problems[0] if problems else ProblemError("model_unavailable", f"no replica of {name} responds")
        return None

    def dead(self) -> ProblemError | None:
        """Return None, because Ray replaces the replicas of models, and a new gateway would find the same ones."""
        return None

    def models(self) -> Mapping[str, Mapping[str, Any] | None]:
        """See `ModelPool`."""
        found = {name: self._reports(handle) for name, handle in self._models.items()}
        return {name: reports[0].facts if reports else None for name, reports in found.items()}

    async def serve_model(self, config: Config) -> str:
        """See `ModelPool`; only finds a served model, because deployments cannot be added at run time."""
        if (name := find_model(self._settings.models, self.models(), config)) is None:
            revision = "" if config.revision is None else f" (revision {config.revision})"
            raise ProblemError(
                "model_unavailable",
                f"{config.model}{revision} is not served here, and on Ray Serve models cannot be added at run time: add it to the "
                "service's argument `models`, as `--model` does for a service without Ray",
            )
        return name

    async def _answer(
        self, model: str | None, fail: Callable[[RowError], ResultT], method: str, items: list[Any], *more: Any
    ) -> Answer[ResultT]:
        """Let a replica process a request; `fail` converts the timeout error into an item's result."""
        name, client = choose_model(self._settings, model), current.get()
        timeout_s = self._settings.request_timeout_s
        self._inflight.enter(client, len(items))
        try:
            async with asyncio.timeout(timeout_s + _GRACE_S):
                answer: Answer[ResultT] | ProblemError = await self._call(name, method, items, *more)
        except TimeoutError:
            return Answer(name, [fail(timeout_error(timeout_s)) for _ in items], [[] for _ in items])
        finally:
            self._inflight.leave(client, len(items))
        if isinstance(answer, ProblemError):
            raise answer
        return answer

    async def _call(self, name: str, method: str, *arguments: Any) -> Any:
        """Call a replica, and another one if the first is lost; scoring a pair twice does no harm."""
        from ray.exceptions import ObjectLostError, RayActorError
        from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

        end = time.monotonic() + self._settings.request_timeout_s
        for _ in range(_TRIES):
            within_s = max(end - time.monotonic(), 0.0)
            response = getattr(self._models[name], method).remote(*arguments, within_s, current.get())
            try:
                return await response
            except asyncio.CancelledError:
                with suppress(Exception):  # any outcome in the meantime
                    response.cancel()
                raise
            except BackPressureError as exc:
                return ProblemError("queue_full", f"{name}: {exc.message}", retry_after_s=1, reason="queue_full")
            except DeploymentUnavailableError as exc:
                return ProblemError("model_unavailable", f"{name}: {exc.message}", retry_after_s=30)
            except (RayActorError, ObjectLostError) as exc:
                logger.warning("a replica of %s died while it handled a request: %s", name, type(exc).__name__)
        return ProblemError(
            "model_unavailable", f"{_TRIES} replicas of {name} died while they handled this request", retry_after_s=5
        )

    def _reports(self, handle: DeploymentHandle[Any]) -> list[Report]:
        learned, reports = self._known.get(handle.deployment_name, (0.0, []))
        return reports if time.monotonic() - learned < _FRESH_S else []

    async def _watch(self) -> None:
        """Collect the reports of all replicas periodically."""
        handles = [*self._models.values(), self._peers]
        while True:
            await asyncio.gather(*map(self._update_reports, handles))
            reports = [report for handle in handles for report in self._reports(handle)]
            self._metrics.others = [report for report in reports if report.replica != self._metrics.replica]
            await asyncio.sleep(_LOOK_EVERY_S)

    async def _update_reports(self, handle: DeploymentHandle[Any]) -> None:
        if (reports := await _collect_reports(handle)) is not None:
            self._known[handle.deployment_name] = time.monotonic(), reports


async def _collect_reports(handle: DeploymentHandle[Any]) -> list[Report] | None:
    """Return the reports of a deployment's replicas; None if the reports cannot be collected now."""
    from ray.serve.exceptions import DeploymentUnavailableError

    try:
        answers = await handle.broadcast("report").results_async(timeout_s=_LOOK_S, return_exceptions=True)
    except DeploymentUnavailableError:
        return []  # the deployment has no replica
    except Exception:  # the next attempt may succeed
        logger.warning("the replicas of %s did not report", handle.deployment_name, exc_info=True)
        return None
    return [report for report in answers if isinstance(report, Report)]


class ClusterMetrics(Metrics):
    """The metrics of a gateway and the reported metrics of all other replicas, each with the label `replica`.

    Args:
        replica: Name of the gateway.
    """

    def __init__(self, replica: str) -> None:
        super().__init__()
        self.replica = replica
        self.others: list[Report] = []

    def write(self) -> bytes:
        """Return the metrics of all replicas in Prometheus' text format."""
        whole: dict[str, Metric] = {}
        for replica, families in (
            (self.replica, list(self.registry.collect())),
            *((report.replica, report.families) for report in self.others),
        ):
            for family in families:
                into = whole.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                into.samples += [s._replace(labels={**s.labels, "replica": replica}) for s in family.samples]
        registry = CollectorRegistry()
        registry.register(_Collected(whole.values()))
        return generate_latest(registry)


class _Collected(Collector):
    """A Prometheus collector that returns metrics collected earlier."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families
