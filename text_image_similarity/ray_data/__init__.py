"""Score on Ray: `score_dataset` for Ray Data, and `RayEngine`, which scores the parts of a table on a cluster.

In both cases, a worker is an actor that loads the encoder once. Each actor has two batches in progress, so that the
network is not idle when one of them ends. Back-pressure, restarts of killed workers and the order of rows are left to
Ray.
"""

from __future__ import annotations

from .dataset import score_dataset
from .engine import RayEngine

__all__ = [
    "RayEngine",
    "score_dataset",
]
