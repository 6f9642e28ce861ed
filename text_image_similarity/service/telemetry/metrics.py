"""What Prometheus reads: the names, labels and buckets of the service's metrics.

No label holds anything that clients choose freely, such as a URL, a host or a caption.
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
_SHARE = 0.05  # of the time, which may go into what Prometheus reads
_BURST_S = 1.0  # of it: some twenty times at once, with a few models
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
            "Time from a request's first byte to its answer's last.",
            ("route",),
            buckets=SECONDS,
            registry=registry,
        )
        self._pairs = Counter(
            "tis_pairs",
            "Pairs by result: scored, failed (with the error's code) or dropped, because nobody waited any more.",
            ("model", "result", "error_code"),
            registry=registry,
        )
        self._stage_seconds = Histogram(
            "tis_stage_duration_seconds",
            "Time of an image's fetch and decode, of a pair's wait in the queue, and of a batch's encoding.",
            ("stage", "model"),
            buckets=SECONDS,
            registry=registry,
        )
        self._batch = Histogram("tis_batch_size", "Pairs of a batch.", ("model",), buckets=_PAIRS, registry=registry)
        self._depth = Gauge("tis_queue_depth", "Pairs that wait for a model.", ("model",), registry=registry)
        self._capacity = Gauge(
            "tis_queue_capacity", "Waiting pairs from which on requests are refused.", ("model",), registry=registry
        )
        self.rejected = Counter(
            "tis_queue_rejected", "Requests that were refused for want of room.", ("reason",), registry=registry
        )
        self.inflight = Gauge("tis_inflight_pairs", "Pairs accepted and not finished.", registry=registry)
        self._count_memory(registry)
        self._score = Histogram(
            "tis_score", "Cosines of scored pairs.", ("model",), buckets=_COSINES, registry=registry
        )
        self.ready = Gauge("tis_ready", "Whether /readyz says yes.", registry=registry)
        build = Gauge("tis_build_info", "What runs here.", ("version", "python"), registry=registry)
        build.labels(package_version(), platform.python_version()).set(1)
        for reason in get_args(Reason):
            self.rejected.labels(reason)  # a rate needs the 0 before the first one
        self._rendered, self._due = b"", 0.0

    def _count_memory(self, registry: CollectorRegistry) -> None:
        """Make the metrics of what is kept: embeddings and models."""
        self._lookups = Counter(
            "tis_cache_lookups", "Embeddings looked for among those known.", ("kind", "model"), registry=registry
        )
        self._hits = Counter(
            "tis_cache_hits", "Embeddings found among those known.", ("kind", "model"), registry=registry
        )
        self._shared_failures = Counter(
            "tis_shared_cache_failures",
            "Failed tries to use an embedding cache in Redis.",
            ("model",),
            registry=registry,
        )
        self._shared_off = Gauge(
            "tis_shared_cache_off",
            "Whether an embedding cache in Redis is left aside because it failed.",
            ("model",),
            registry=registry,
        )
        self._loads = Counter("tis_model_loads", "Times that a model was loaded.", ("model",), registry=registry)
        self._unloads = Counter(
            "tis_model_unloads", "Times that a model was unloaded for want of room.", ("model",), registry=registry
        )
        self._weights = Gauge(
            "tis_model_bytes",
            "Bytes of a model's weights in memory, 0 if it is unloaded.",
            ("model",),
            registry=registry,
        )

    def watch(self, model: str, depth: Callable[[], int], capacity: int) -> None:
        """Show a model from now on, with its queue."""
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
        for code in (ErrorCode.ENCODER_ERROR, ErrorCode.NON_FINITE):  # an alert must see the first one, too
            self._pairs.labels(model, "failed", code.value)

    def count_load(self, model: str, weight_bytes: int) -> None:
        """Count a model that was loaded."""
        self._loads.labels(model).inc()
        self._unloads.labels(model)
        self._weights.labels(model).set(weight_bytes)

    def count_unload(self, model: str) -> None:
        """Count a model that was unloaded, and forget its queue."""
        self._unloads.labels(model).inc()
        self._weights.labels(model).set(0)
        self._depth.labels(model).set_function(int)  # else it keeps the model until a garbage collection
        for gauge in (self._depth, self._capacity, self._shared_off):
            gauge.remove(model)

    def observe_stage(self, model: str, stage: str, seconds: float) -> None:
        """Count the time of a stage."""
        self._stage_seconds.labels(stage, model).observe(max(seconds, 0.0))

    def observe_batch(self, model: str, pairs: int) -> None:
        """Count a batch."""
        self._batch.labels(model).observe(pairs)

    def count_lookup(self, model: str, kind: Literal["image", "text"], *, found: bool) -> None:
        """Count a look into the embedding cache."""
        self._lookups.labels(kind, model).inc()
        if found:
            self._hits.labels(kind, model).inc()

    def count_shared_cache(self, model: str, event: Event) -> None:
        """Count what happens to an embedding cache in Redis."""
        if event == "failure":
            self._shared_failures.labels(model).inc()
        else:
            self._shared_off.labels(model).set(event == "off")

    def count_pair(self, model: str, result: ScoreResult, cosine: float | None) -> None:
        """Count an answered pair."""
        if result.code is None:
            self._pairs.labels(model, "scored", "").inc()
        else:
            self._pairs.labels(model, "failed", result.code.value).inc()
        if cosine is not None:
            self._score.labels(model).observe(cosine)

    def count_dropped(self, model: str, pairs: int) -> None:
        """Count pairs that nobody waited for any more."""
        self._pairs.labels(model, "dropped", "").inc(pairs)

    def render(self) -> bytes:
        """Return everything in Prometheus' text format; who asks too often gets what was written last, milliseconds ago."""
        now = time.monotonic()
        due = max(self._due, now - _BURST_S)
        if due <= now or not self._rendered:
            self._rendered = self.write()
            self._due = due + (time.monotonic() - now) / _SHARE
        return self._rendered

    def write(self) -> bytes:
        """Write everything in Prometheus' text format."""
        return generate_latest(self.registry)
