"""Prometheus metrics of the service: names, labels and buckets.

No label holds values that clients choose freely, such as URLs, hosts or captions.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from typing import Literal, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from ...embeddings import Event
from ...errors import ErrorCode
from ...records import ScoreResult
from ...system import package_version
from ..problems import Reason

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_PAIRS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_SHARE = 0.05  # share of the time that rendering metrics may take
_BURST_S = 1.0  # seconds whose share a burst may use: about twenty renderings, with a few models
_COSINES = tuple(round(-0.2 + 0.05 * step, 2) for step in range(25))  # -0.2 .. 1


class Metrics:
    """The metrics of one service, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter(
            "tis_requests", "Requests by route and status.", ("route", "method", "status"), registry=registry
        )
        self.request_seconds = Histogram(
            "tis_request_duration_seconds",
            "Time from a request's arrival to the end of its response.",
            ("route",),
            buckets=SECONDS,
            registry=registry,
        )
        self._pairs = Counter(
            "tis_pairs",
            "Pairs by result: scored, failed (with the error's code) or dropped because the client had left.",
            ("model", "result", "error_code"),
            registry=registry,
        )
        self._stage_seconds = Histogram(
            "tis_stage_duration_seconds",
            "Duration of a stage: fetching or decoding an image, a pair's wait in the queue, or encoding a batch.",
            ("stage", "model"),
            buckets=SECONDS,
            registry=registry,
        )
        self._batch = Histogram("tis_batch_size", "Pairs per batch.", ("model",), buckets=_PAIRS, registry=registry)
        self._depth = Gauge("tis_queue_depth", "Pairs waiting for a model.", ("model",), registry=registry)
        self._capacity = Gauge(
            "tis_queue_capacity",
            "Number of waiting pairs at which requests are refused.",
            ("model",),
            registry=registry,
        )
        self.rejected = Counter(
            "tis_queue_rejected", "Requests refused because the service was full.", ("reason",), registry=registry
        )
        self.inflight = Gauge("tis_inflight_pairs", "Pairs accepted but not finished.", registry=registry)
        self._count_memory(registry)
        self._score = Histogram(
            "tis_score", "Cosines of scored pairs.", ("model",), buckets=_COSINES, registry=registry
        )
        self.ready = Gauge("tis_ready", "Whether the service is ready, as in /readyz.", registry=registry)
        build = Gauge(
            "tis_build_info", "Versions of the service and of Python.", ("version", "python"), registry=registry
        )
        build.labels(package_version(), platform.python_version()).set(1)
        for reason in get_args(Reason):
            self.rejected.labels(reason)  # a rate needs an initial 0
        self._rendered, self._due = b"", 0.0

    def _count_memory(self, registry: CollectorRegistry) -> None:
        """Create the metrics of embeddings and models in memory."""
        self._lookups = Counter(
            "tis_cache_lookups", "Lookups in the embedding cache.", ("kind", "model"), registry=registry
        )
        self._hits = Counter(
            "tis_cache_hits", "Embeddings found in the embedding cache.", ("kind", "model"), registry=registry
        )
        self._shared_failures = Counter(
            "tis_shared_cache_failures",
            "Failed requests to an embedding cache in Redis.",
            ("model",),
            registry=registry,
        )
        self._shared_off = Gauge(
            "tis_shared_cache_off",
            "Whether an embedding cache in Redis is temporarily not used because of failures.",
            ("model",),
            registry=registry,
        )
        self._loads = Counter(
            "tis_model_loads", "Number of times that a model was loaded.", ("model",), registry=registry
        )
        self._unloads = Counter(
            "tis_model_unloads",
            "Number of times that a model was unloaded to free memory.",
            ("model",),
            registry=registry,
        )
        self._weights = Gauge(
            "tis_model_bytes",
            "Bytes of a model's weights in memory, 0 if it is unloaded.",
            ("model",),
            registry=registry,
        )

    def watch(self, model: str, depth: Callable[[], int], capacity: int) -> None:
        """Export the metrics of a model and its queue from now on."""
        self._depth.labels(model).set_function(depth)
        self._capacity.labels(model).set(capacity)
        for stage in ("fetch", "decode", "queue", "encode"):
            self._stage_seconds.labels(stage, model)
        for kind in ("image", "text"):
            self._lookups.labels(kind, model)
            self._hits.labels(kind, model)
        self._shared_failures.labels(model)
        self._shared_off.labels(model)
        self._pairs.labels(model, "scored", "")
        for code in (ErrorCode.ENCODER_ERROR, ErrorCode.NON_FINITE):  # otherwise, an alert would miss the first event
            self._pairs.labels(model, "failed", code.value)

    def count_load(self, model: str, weight_bytes: int) -> None:
        """Count the loading of a model."""
        self._loads.labels(model).inc()
        self._unloads.labels(model)
        self._weights.labels(model).set(weight_bytes)

    def count_unload(self, model: str) -> None:
        """Count the unloading of a model, and forget its queue."""
        self._unloads.labels(model).inc()
        self._weights.labels(model).set(0)
        self._depth.labels(model).set_function(int)  # otherwise the gauge would keep the model until garbage collection
        for gauge in (self._depth, self._capacity, self._shared_off):
            gauge.remove(model)

    def observe_stage(self, model: str, stage: str, seconds: float) -> None:
        """Record the time of a stage."""
        self._stage_seconds.labels(stage, model).observe(max(seconds, 0.0))

    def observe_batch(self, model: str, pairs: int) -> None:
        """Record the size of a batch."""
        self._batch.labels(model).observe(pairs)

    def count_lookup(self, model: str, kind: Literal["image", "text"], *, found: bool) -> None:
        """Count a lookup in the embedding cache."""
        self._lookups.labels(kind, model).inc()
        if found:
            self._hits.labels(kind, model).inc()

    def count_shared_cache(self, model: str, event: Event) -> None:
        """Count an event of an embedding cache in Redis."""
        if event == "failure":
            self._shared_failures.labels(model).inc()
        else:
            self._shared_off.labels(model).set(event == "off")

    def count_pair(self, model: str, result: ScoreResult, cosine: float | None) -> None:
        """Count a finished pair."""
        if result.code is None:
            self._pairs.labels(model, "scored", "").inc()
        else:
            self._pairs.labels(model, "failed", result.code.value).inc()
        if cosine is not None:
            self._score.labels(model).observe(cosine)

    def count_dropped(self, model: str, pairs: int) -> None:
        """Count pairs that were dropped because the client had left."""
        self._pairs.labels(model, "dropped", "").inc(pairs)

    def render(self) -> bytes:
        """Return all metrics in Prometheus' text format; calls in quick succession get the last result again."""
        now = time.monotonic()
        due = max(self._due, now - _BURST_S)
        if due <= now or not self._rendered:
            self._rendered = self.write()
            self._due = due + (time.monotonic() - now) / _SHARE
        return self._rendered

    def write(self) -> bytes:
        """Return all metrics in Prometheus' text format, newly rendered."""
        return generate_latest(self.registry)
