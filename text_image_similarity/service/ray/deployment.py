"""The service on Ray Serve: an HTTP gateway, and a deployment for each model, scaled separately.

    Ray's HTTP proxy -> Gateway: Gate -> routes -> RayModelPool -> Ray's router -> ModelReplica: LocalModelPool

Clients see only the gateway, which behaves like the plain service. This module needs the extras `ray` and `serve`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ...config import ScoreKind
from ...system import require
from ..settings import Settings

if TYPE_CHECKING:
    from fastapi import FastAPI
    from ray.serve import Application
    from ray.serve.handle import DeploymentHandle
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from ...pipeline import Outcome
    from ...records import ScoreResult
    from ..jobs import Answer, ImageInput, Pair, ResultT
    from ..problems import ProblemError
    from .arguments import Plan, Replicas
    from .pool import Report

logger = logging.getLogger("text_image_similarity")

GATEWAY = "gateway"  # names of deployments
MODEL = "model-{}"
_HEALTH_EVERY_S = 5.0
_HEALTH_S = 15.0  # time limit of a health check's response
_REFUSED = 256  # requests at a gateway in addition to those in progress: probes, and requests that are being refused


def build(args: dict[str, Any]) -> Application:
    """Return the service as a Ray Serve application.

    Args:
        args: `models`: a list of names such as `fast,accurate`, or a mapping of names to models, or to mappings of a
            `model` and its own arguments. For all models: fields of `Config` (such as `device`, `batch_size`,
            `timeout_s`, `limits`) and of `Replicas` (such as `num_gpus`, `max_replicas`). For the service: fields of
            `Settings` (such as `splits`, `max_queue`, `api_keys`). `gateway`: a mapping of fields of `Replicas`.
            `log_format`: `text` or `json`.

    Raises:
        ConfigError: An argument is unknown or wrong, or an extra is missing.
    """
    require("the service on Ray", "ray", "fastapi", "prometheus_client", extra="ray,serve")
    from ray import serve

    from .arguments import read_arguments

    plan = read_arguments(args)
    settings = plan.settings
    # With so high a limit, requests wait in a replica, where clients take turns, and not in Ray's queues.
    all_pairs = settings.max_inflight * (plan.gateway.max_replicas or plan.gateway.min_replicas)
    models = {}
    for name, replicas in plan.models.items():
        batch = settings.models[name].batch_size
        deployment = serve.deployment(
            name=MODEL.format(name.replace("/", "-")),
            max_ongoing_requests=replicas.max_ongoing_requests or all_pairs,
            **_make_options(plan, replicas, batch),
        )
        own = replace(settings, models={name: settings.models[name]}, splits={})
        models[name] = deployment(ModelReplica).bind(own)
    deployment = serve.deployment(
        name=GATEWAY,
        max_ongoing_requests=settings.max_inflight + _REFUSED,
        backpressure_config={"status_code": 429, "retry_after_s": 1},
        **_make_options(plan, plan.gateway, 64),
    )
    return deployment(serve.ingress()(Gateway)).bind(settings, models)


def _make_options(plan: Plan, replicas: Replicas, target: float) -> dict[str, Any]:
    """Return a deployment's options: number and resources of replicas, and health checks."""
    return {
        "autoscaling_config": {
            "min_replicas": replicas.min_replicas,
            "max_replicas": replicas.max_replicas or replicas.min_replicas,
            "target_ongoing_requests": replicas.target_ongoing_requests or target,
        },
        "ray_actor_options": {"num_cpus": replicas.num_cpus, "num_gpus": replicas.num_gpus},
        "max_queued_requests": replicas.max_queued_requests,
        "health_check_period_s": _HEALTH_EVERY_S,
        "health_check_timeout_s": _HEALTH_S,
        "graceful_shutdown_timeout_s": plan.settings.request_timeout_s + 10,
        "logging_config": {"encoding": plan.log_format.upper(), "enable_access_log": False},
    }


class ModelReplica:
    """A process with one model. It may be killed at any time: its files stay intact, and its decoders end with it.

    Args:
        settings: Settings of the service, with only this model.

    Raises:
        ConfigError, ModelError: The model cannot be loaded.
    """

    async def __init__(self, settings: Settings) -> None:  # type: ignore[misc]  # Ray awaits it
        from ..inference.local import LocalModelPool
        from ..telemetry.metrics import Metrics

        _log_with_ray()
        self._name = _get_replica_name()
        self._metrics = Metrics()
        self._pool = LocalModelPool(settings, self._metrics)
        await self._pool.start()

    async def score(
        self, pairs: Sequence[Pair], kind: ScoreKind, within_s: float, client: str | None
    ) -> Answer[ScoreResult] | ProblemError:
        """Score a client's pairs within the remaining time; a refusal is returned, not raised."""
        return await self._answer(client, self._pool.score(None, pairs, kind, within_s=within_s))

    async def embed_images(
        self, images: Sequence[ImageInput], within_s: float, client: str | None
    ) -> Answer[Outcome] | ProblemError:
        """Embed a client's images within the remaining time; a refusal is returned, not raised."""
        return await self._answer(client, self._pool.embed_images(None, images, within_s=within_s))

    async def embed_texts(
        self, captions: Sequence[str], within_s: float, client: str | None
    ) -> Answer[Outcome] | ProblemError:
        """Embed a client's captions within the remaining time; a refusal is returned, not raised."""
        return await self._answer(client, self._pool.embed_texts(None, captions, within_s=within_s))

    async def _answer(self, client: str | None, work: Awaitable[Answer[ResultT]]) -> Answer[ResultT] | ProblemError:
        from ..clients import current
        from ..problems import ProblemError

        current.set(client)  # clients take turns here, as in one process
        try:
            return await work
        except ProblemError as problem:
            if self._pool.dead() is not None:
                # This replica would refuse requests faster than others respond, and so attract all of them until Ray
                # considers it unhealthy. Once it is gone, the gateways send its requests to other replicas.
                logger.critical("%s exits, so that Ray replaces it: %s", self._name, problem.detail)
                logging.shutdown()
                os._exit(1)
            return problem

    async def report(self) -> Report:
        """Return the replica's readiness, its model's facts, and its metrics."""
        from .pool import Report

        families = [
            family
            for family in self._metrics.registry.collect()
            if family.name.startswith("process_") or any("model" in sample.labels for sample in family.samples)
        ]
        facts = next(iter(self._pool.models().values()))
        return Report(self._name, self._pool.unready(), facts, families)

    async def check_health(self) -> None:
        """Raise an error if Ray should replace this replica."""
        if (problem := self._pool.dead()) is not None:
            raise RuntimeError(problem.detail)


class Gateway:
    """The HTTP process: the plain service with a `RayModelPool`.

    Args:
        settings: Settings of the service.
        models: Handle of each model's deployment, by the model's name.
    """

    def __init__(self, settings: Settings, models: Mapping[str, DeploymentHandle[Any]]) -> None:
        from ray import serve

        from .arguments import apply_environment
        from .pool import ClusterMetrics, RayModelPool

        _log_with_ray()
        context = serve.get_replica_context()
        # From the gateway's own environment, so that no key passes through Ray.
        self._settings = settings = apply_environment(settings, os.environ)
        self._metrics = ClusterMetrics(_get_replica_name())
        peers = serve.get_deployment_handle(context.deployment, context.app_name)
        self._pool = RayModelPool(settings, models, peers, self._metrics)

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Return the service as an ASGI application; called by Ray."""
        from ..http.app import create_app

        app = create_app(self._settings, pool=self._pool, metrics=self._metrics)
        app.add_middleware(_OneRequestId)
        return app

    async def report(self) -> Report:
        """Return this gateway's metrics, for another gateway, which collects the metrics of all replicas."""
        from .pool import Report

        unready = self._pool.unready()
        self._metrics.ready.set(unready is None)
        return Report(self._metrics.replica, unready, None, list(self._metrics.registry.collect()))


class _OneRequestId:
    """Leaves `X-Request-Id` to Ray's proxy, which adds it to every response, and to the request if the client did not.

    Args:
        app: The application of the service.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_without(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [header for header in message["headers"] if header[0] != b"x-request-id"]
            await send(message)

        await self._app(scope, receive, send_without)


def _get_replica_name() -> str:
    from ray import serve

    context = serve.get_replica_context()
    return f"{context.deployment}#{context.replica_tag}"


def _log_with_ray() -> None:
    """Add our messages to the replica's log, which Ray keeps."""
    logger.parent = logging.getLogger("ray.serve")
    logger.setLevel(logging.INFO)
