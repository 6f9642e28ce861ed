"""Agreement of scores with human judgement: rank correlations.

This module computes Kendall's tau-b (Kendall 1945, "The treatment of ties in ranking problems") and tau-c (Stuart 1953,
"The estimation and comparison of strengths of association in contingency tables"), and Spearman's rho. Papers on
caption metrics report tau-c on Flickr8k-Expert, where every rating counts as one pair (Hessel et al. 2021, CLIPScore,
section 4.1).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ..system import require


@dataclass(frozen=True, slots=True)
class Agreement:
    """Rank correlations of scores with ratings, each from -1 to 1; NaN if either side is constant.

    Args:
        pairs: Number of scores that were compared with a rating.
        kendall_tau_b: Corrected for ties on both sides.
        kendall_tau_c: Corrected for ratings on a scale of few steps.
        spearman: Correlation of the ranks.
    """

    pairs: int
    kendall_tau_b: float
    kendall_tau_c: float
    spearman: float


def agreement(scores: ArrayLike, ratings: ArrayLike) -> Agreement:
    """Compare scores with ratings of the same pairs.

    Args:
        scores: Shape (n,), finite.
        ratings: Shape (n,), finite; higher is better.

    Raises:
        ValueError: The shapes differ, or a number is not finite.

    Example:
        >>> agreement([0.1, 0.2, 0.3], [1, 3, 2]).kendall_tau_b.__round__(4)
        0.3333
    """
    ours, theirs = np.asarray(scores, np.float64), np.asarray(ratings, np.float64)
    if ours.ndim != 1 or ours.shape != theirs.shape:
        raise ValueError(
            "scores and ratings must be one-dimensional and of the same length, "
            f"but their shapes are {ours.shape} and {theirs.shape}"
        )
    if not (np.isfinite(ours).all() and np.isfinite(theirs).all()):
        raise ValueError("a score or a rating is not finite; leave out such pairs")
    if len(ours) < 2 or np.ptp(ours) == 0 or np.ptp(theirs) == 0:
        return Agreement(len(ours), float("nan"), float("nan"), float("nan"))
    require("agreement with people", "scipy")
    from scipy import stats  # imported here, because importing it takes a second

    return Agreement(
        pairs=len(ours),
        kendall_tau_b=float(stats.kendalltau(ours, theirs, variant="b").statistic),
        kendall_tau_c=float(stats.kendalltau(ours, theirs, variant="c").statistic),
        spearman=float(stats.spearmanr(ours, theirs).statistic),
    )
