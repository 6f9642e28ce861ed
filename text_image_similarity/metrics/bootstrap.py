"""Confidence intervals for differences between two models: the paired bootstrap.

The method is that of Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapters 6 and 13. As many groups
as there are in the data are drawn with replacement, the difference is computed on the sample, and the interval lies
between two quantiles of many such differences. Queries of one image stay together, because they are not independent,
and both models are measured on the same sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..system import require

RESAMPLES = 2000
_AT_ONCE = 4_000_000  # counts of samples in memory at a time


@dataclass(frozen=True, slots=True)
class Interval:
    """A difference between two means, with an interval.

    Args:
        difference: The second mean minus the first.
        low: Lower end of the interval.
        high: Upper end of the interval.
    """

    difference: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether the two means differ, at the interval's level."""
        return self.low > 0 or self.high < 0


def paired_intervals(
    differences: Sequence[ArrayLike],
    groups: Sequence[NDArray[np.integer]],
    count: int,
    *,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> list[Interval]:
    """Return the mean of each list of differences with its bootstrap interval; all share the same samples.

    Args:
        differences: For each figure, one number per query: the second model's value minus the first's, shape (q,).
        groups: For each figure, the index of each query's image, shape (q,), 0 to count - 1.
        count: Number of images.
        level: Confidence level, 0..1: the share of such intervals that contain the true difference.
        resamples: Number of samples to draw.
        seed: Seed of the samples.

    Raises:
        ValueError: There is nothing to sample from, or the shapes do not fit together.

    Example:
        >>> found, = paired_intervals([[1.0, 1.0, 0.0, 0.0]], [np.arange(4)], 4)
        >>> found.difference, found.low, found.high
        (0.5, 0.0, 1.0)
    """
    if count < 1 or not all(len(np.asarray(d)) == len(g) > 0 for d, g in zip(differences, groups, strict=True)):
        raise ValueError("each figure needs a difference for every query; at least one query and one image are needed")
    sums = np.stack(
        [np.bincount(g, np.asarray(d, np.float64), minlength=count) for d, g in zip(differences, groups, strict=True)]
    )  # (figures, images)
    sizes = np.stack([np.bincount(g, minlength=count).astype(np.float64) for g in groups])
    means = np.empty((resamples, len(sums)))
    draw, block = np.random.default_rng(seed), max(1, _AT_ONCE // count)
    for start in range(0, resamples, block):
        most = min(block, resamples - start)
        weights = np.stack(
            [np.bincount(draw.integers(count, size=count), minlength=count) for _ in range(most)]
        )  # (samples, images): how often each was drawn
        drawn = weights @ sizes.T
        with np.errstate(invalid="ignore"):  # a sample may contain no query of a figure
            means[start : start + most] = np.where(drawn > 0, weights @ sums.T / np.where(drawn > 0, drawn, 1), np.nan)
    tails = (1 - level) / 2
    low, high = np.nanquantile(means, (tails, 1 - tails), axis=0)
    centre = sums.sum(axis=1) / sizes.sum(axis=1)
    return [Interval(*map(float, figure)) for figure in zip(centre, low, high, strict=True)]


def rank_correlation(one: ArrayLike, other: ArrayLike) -> float:
    """Return Spearman's rho, -1 to 1; NaN if either side is constant."""
    first, second = np.asarray(one, np.float64), np.asarray(other, np.float64)
    if len(first) < 2 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return float("nan")
    require("a rank correlation", "scipy")
    from scipy import stats  # imported here, because importing it takes a second

    return float(stats.spearmanr(first, second).statistic)
