"""Ray Data's recipe for batch inference: `map_batches` with actors that load the model once.

Each actor runs the plain transformers loop. The actors start when the dataset is executed, so the clock starts when the
first of them begins its first batch. CPU time is that of the actors from then on, plus the driver's; that of Ray's own
daemons is excluded.
"""

from __future__ import annotations

import os
import time
from typing import Any

import numpy as np
import ray

from ..inputs import ROOT, Row
from . import BATCH, Score, Timed, transformers_loop


class Scorer:
    """An actor, which scores rows and adds its clock readings before the first batch and after the current one."""

    def __init__(self) -> None:
        self._score = transformers_loop.load()
        self._began = 0.0
        self._cpu = 0.0

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        if not self._began:
            self._began, self._cpu = time.time(), time.process_time()
        rows = [Row(str(url), str(caption)) for url, caption in zip(batch["url"], batch["caption"], strict=True)]
        scores = np.array(self._score(rows))
        facts = {"actor": os.getpid(), "began": self._began, "cpu": time.process_time() - self._cpu}
        return {
            "number": batch["number"],
            "score": scores,
            **{name: np.full(len(rows), value) for name, value in facts.items()},
        }


def load(*, actors: int, cpus: int, batch_size: int = BATCH) -> Score:
    """Start Ray; each actor gets `cpus` CPUs, and as many torch threads."""
    there = {"env_vars": {"PYTHONPATH": str(ROOT)}}
    ray.init(include_dashboard=False, log_to_driver=False, runtime_env=there, num_cpus=2)

    def score(rows: list[Row]) -> Timed:
        cpu = time.process_time()
        items = [{"number": i, "url": row.url, "caption": row.caption} for i, row in enumerate(rows)]
        pool = ray.data.ActorPoolStrategy(size=actors)
        scored = ray.data.from_items(items).map_batches(Scorer, batch_size=batch_size, compute=pool, num_cpus=cpus)
        found = sorted(scored.take_all(), key=lambda row: row["number"])
        seconds = time.time() - min(row["began"] for row in found)
        used = {
            actor: max(row["cpu"] for row in found if row["actor"] == actor) for actor in {r["actor"] for r in found}
        }
        return Timed([row["score"] for row in found], seconds, sum(used.values()) + time.process_time() - cpu)

    return score
