"""The sections of the benchmark: each module has a `SECTION` with its jobs and its table."""

from __future__ import annotations

from importlib import import_module

from ..results import Section

NAMES = (
    "peers",
    "mini",
    "forms",
    "isolation",
    "stages",
    "network",
    "reuse",
    "search",
    "matching",
    "drift",
    "downloads",
    "growth",
    "rows",
    "feeders",
    "gpu",
    "engines",
    "service",
    "overload",
    "hostile",
    "liveness",
    "restarts",
    "startup",
)


def all_sections() -> list[Section]:
    """Return the sections in the order of the page."""
    return [import_module(f"{__name__}.{name}").SECTION for name in NAMES]
