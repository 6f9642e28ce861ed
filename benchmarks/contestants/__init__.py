"""The contestants: this package and its peers, each with both its documented defaults and its best settings.

A contestant's module has a function `load(**options)`, which loads the model and returns a function that maps rows to
cosines. All score the same files with the same random ViT-B/32 in FP32 on the CPU, unless the setting says otherwise.
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
    """The scores of a contestant that measures its own time, because it must prepare something before the clock starts.

    Args:
        scores: One for each row; or only their mean, if the contestant returns no more than that.
        seconds, cpu_seconds: As measured by `Meter`.
    """

    scores: list[float]
    seconds: float
    cpu_seconds: float


@dataclass(frozen=True, slots=True)
class Contestant:
    """One row of the table.

    Args:
        name: The name for `--only`.
        label: The name of the library.
        setting: How the library is used.
        module: The module in this package that contains the contestant's `load`.
        options: The arguments of `load`.
        distributions: The packages whose versions are recorded.
        environment: The interpreter to run it with: this one if empty, otherwise that of `--<environment>-python`.
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
        """Whether the contestant is this package, not a peer."""
        return self.module.startswith("ours")


def measure(module: str, options: dict[str, Any], distributions: Sequence[str], pairs: int) -> dict[str, Any]:
    """Load a contestant, warm it up with a batch of other rows, and time it on `pairs` rows."""
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
    """Split rows into batches."""
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def by_length(score: Callable[[list[Row]], list[float]]) -> Score:
    """Wrap a scorer so that captions of similar length are scored together; results are in the original order."""

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
