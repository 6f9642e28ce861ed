"""What embeddings and scores are worth: retrieval, pairs, agreement with people, calibration. NumPy and SciPy only."""

from __future__ import annotations

from .agreement import Agreement, agreement
from .calibration import Calibration, fit_calibration
from .pairs import PairStatistics, Spread, auc, matching_scores, mismatching_scores, pair_statistics
from .retrieval import Direction, Retrieval, retrieval

__all__ = [
    "Agreement",
    "Calibration",
    "Direction",
    "PairStatistics",
    "Retrieval",
    "Spread",
    "agreement",
    "auc",
    "fit_calibration",
    "matching_scores",
    "mismatching_scores",
    "pair_statistics",
    "retrieval",
]
