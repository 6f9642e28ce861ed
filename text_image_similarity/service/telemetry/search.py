"""Prometheus metrics of catalogues: searches, cached results, and the match log."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from .metrics import SECONDS


class SearchMetrics:
    """The metrics of the catalogues of a service.

    Args:
        registry: Registry of the service's other metrics.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._searches = Histogram(
            "tis_search_duration_seconds",
            "Duration of a stage of a match request: encoding its terms, or searching.",
            ("stage", "catalog"),
            buckets=SECONDS,
            registry=registry,
        )
        self.matches = Counter(
            "tis_matches",
            "Queries by result: found, empty, failed or refused.",
            ("catalog", "result"),
            registry=registry,
        )
        self._scan_depth = Gauge(
            "tis_search_queue_depth", "Requests waiting for a search.", ("catalog",), registry=registry
        )
        self._results = Counter(
            "tis_result_cache_lookups",
            "Lookups in the cache of results.",
            ("catalog", "result"),
            registry=registry,
        )
        self._log_depth = Gauge(
            "tis_match_log_depth", "Entries waiting to be written.", ("catalog",), registry=registry
        )
        self.log_entries = Counter(
            "tis_match_log_entries",
            "Entries of the match log: written or lost.",
            ("catalog", "result"),
            registry=registry,
        )

    def watch_catalog(self, catalog: str, depth: Callable[[], int]) -> None:
        """Export the metrics of a catalogue from now on."""
        self._scan_depth.labels(catalog).set_function(depth)
        for stage in ("encode", "search"):
            self._searches.labels(stage, catalog)
        for result in ("found", "empty", "failed", "refused"):
            self.matches.labels(catalog, result)
        for result in ("hit", "miss"):
            self._results.labels(catalog, result)

    def watch_log(self, catalog: str, depth: Callable[[], int]) -> None:
        """Export the metrics of a catalogue's match log from now on."""
        self._log_depth.labels(catalog).set_function(depth)
        for result in ("written", "lost"):
            self.log_entries.labels(catalog, result)

    def observe_search(self, catalog: str, stage: str, seconds: float) -> None:
        """Record the time of a stage of a match request."""
        self._searches.labels(stage, catalog).observe(max(seconds, 0.0))

    def count_result(self, catalog: str, *, found: bool) -> None:
        """Count a lookup in the cache of results."""
        self._results.labels(catalog, "hit" if found else "miss").inc()
