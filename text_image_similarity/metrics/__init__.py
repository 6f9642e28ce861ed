"""Metrics of embeddings and scores: retrieval, pairs, agreement with people, calibration. NumPy and SciPy only."""

from __future__ import annotations

from .agreement import Agreement, agreement
from .bootstrap import Interval, paired_intervals, rank_correlation
from .calibration import Calibration, fit_calibration
from .histogram import Histogram
from .pairs import PairStatistics, Spread, auc, matching_scores, mismatching_scores, pair_statistics, placements
from .retrieval import Direction, Retrieval, ranks, retrieval

__all__ = [
    "Agreement",
    "Calibration",
    "Direction",
    "Histogram",
    "Interval",
    "PairStatistics",
    "Retrieval",
    "Spread",
    "agreement",
    "auc",
    "fit_calibration",
    "matching_scores",
    "mismatching_scores",
    "pair_statistics",
    "paired_intervals",
    "placements",
    "rank_correlation",
    "ranks",
    "retrieval",
]
