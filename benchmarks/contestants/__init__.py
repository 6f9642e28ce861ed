"""The contestants: this package and its peers, each with its documented defaults and with its best settings.

A contestant's module has `load(**options)`, which loads the model and returns a function from rows to their cosines.
All score the same files with the same random ViT-B/32 in FP32 on the CPU, except where the setting says otherwise.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import version
from typing import Any

from ..inputs import PHOTOS, Row, read_rows, warm
from ..meter import Meter

Score = Callable[[list[Row]], "Iterable[float] | Timed"]

BATCH = 32
REFERENCE = "transformers-pillow"


@dataclass(frozen=True, slots=True)
class Timed:
    """Scores of a contestant that must load or prepare in between, so that it takes its own time.

    Args:
        scores: One for each row, or a single one, their mean, where a contestant gives no more.
        seconds, cpu_seconds: As of `Meter`.
    """

    scores: list[float]
    seconds: float
    cpu_seconds: float


@dataclass(frozen=True, slots=True)
class Contestant:
    """One line of the table.

    Args:
        name: What `--only` takes.
        label: The library.
        setting: What of it is used.
        module: The module in this package with its `load`.
        options: What `load` gets.
        distributions: Packages whose versions are written down.
        environment: Which interpreter runs it: "" is this one, else the one of `--<environment>-python`.
    """

    name: str
    label: str
    setting: str
    module: str
    options: dict[str, Any] = field(default_factory=dict)
    distributions: tuple[str, ...] = ("torch", "transformers")
    environment: str = ""

    @property
    def ours(self) -> bool:
        """Whether this is the package itself, not a peer."""
        return self.module.startswith("ours")


def measure(module: str, options: dict[str, Any], distributions: Sequence[str], pairs: int) -> dict[str, Any]:
    """Load a contestant, warm it with one batch that is not scored again, and time it on `pairs` rows."""
    rows = read_rows("pairs.csv", pairs)
    spare = read_rows("pairs.csv", BATCH, skip=PHOTOS - BATCH)
    warm([*rows, *spare])
    began = time.perf_counter()
    score: Score = import_module(f"{__name__}.{module}").load(**options)
    load_seconds = time.perf_counter() - began
    _run(score, spare)
    timed = _run(score, rows)
    if len(timed.scores) not in (1, pairs):
        raise RuntimeError(f"{len(timed.scores)} scores for {pairs} rows")
    return {
        "pairs": pairs,
        "seconds": timed.seconds,
        "cpu_seconds": timed.cpu_seconds,
        "load_seconds": load_seconds,
        "versions": {name: version(name) for name in distributions},
        "scores": [round(score, 8) for score in timed.scores],
    }


def batches(rows: list[Row], size: int) -> list[list[Row]]:
    """Cut rows into batches."""
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def by_length(score: Callable[[list[Row]], list[float]]) -> Score:
    """Score rows with captions of similar length together, and return results in the original order."""

    def ordered(rows: list[Row]) -> list[float]:
        order = sorted(range(len(rows)), key=lambda i: len(rows[i].caption))
        found = dict(zip(order, score([rows[i] for i in order]), strict=True))
        return [found[i] for i in range(len(rows))]

    return ordered


def _run(score: Score, rows: list[Row]) -> Timed:
    with Meter() as meter:
        found = score(rows)
        scores = [] if isinstance(found, Timed) else [float(value) for value in found]
    return found if isinstance(found, Timed) else Timed(scores, meter.seconds, meter.cpu_seconds)
