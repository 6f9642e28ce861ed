"""Evaluate a model on a data set: retrieval, matching against mismatching pairs, agreement with people's ratings.

Images that cannot be read are counted by error code and left out with their captions; the figures describe the others.
The package `metrics` documents what each figure means and which definition it follows.
"""

from __future__ import annotations

from .compare import compare_models
from .comparison import Correlation, Disagreement, ModelComparison
from .evaluate import calibration_folder, evaluate
from .ratings import evaluate_ratings
from .report import Evaluation, RatingEvaluation

__all__ = [
    "Correlation",
    "Disagreement",
    "Evaluation",
    "ModelComparison",
    "RatingEvaluation",
    "calibration_folder",
    "compare_models",
    "evaluate",
    "evaluate_ratings",
]
