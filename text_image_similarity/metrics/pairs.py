"""Separation of the scores of matching pairs from those of mismatching pairs.

The area under the ROC curve is the probability that a random matching pair scores higher than a random mismatching one,
counting ties as half: the Mann-Whitney U statistic divided by the number of comparisons (Hanley and McNeil 1982).
A pair counts as mismatching if the image is not the caption's own, even if the caption happens to describe it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .retrieval import TIE, Vectors, check_embeddings, own_cosines

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
MOST = 5_000_000  # maximum number of mismatching pairs to use; if there are more, a random sample of this size is used


@dataclass(frozen=True, slots=True)
class Spread:
    """The distribution of scores.

    Args:
        count: Number of scores.
        mean: Mean of the scores.
        std: Standard deviation of the scores (of the population, divided by the count).
        quantiles: For each share, the value below which that share of the scores lies.
    """

    count: int
    mean: float
    std: float
    quantiles: dict[float, float]


@dataclass(frozen=True, slots=True)
class PairStatistics:
    """Scores of matching and mismatching pairs.

    Args:
        matching: Every caption with its own image.
        mismatching: Every caption with every other image, or a sample of such pairs.
        sampled: Whether the mismatching pairs are a sample.
        auc: Probability that a matching pair scores above a mismatching one; NaN if there is no mismatching pair.
    """

    matching: Spread
    mismatching: Spread
    sampled: bool
    auc: float


def pair_statistics(
    image: Vectors, text: Vectors, owner: NDArray[np.integer], *, most: int = MOST, seed: int = 0
) -> PairStatistics:
    """Compare the cosines of matching pairs with those of mismatching pairs.

    Args:
        image: Unit vectors, shape (n, d).
        text: Unit vectors, shape (m, d).
        owner: Index of each caption's image, shape (m,), 0 to n - 1.
        most: Maximum number of mismatching pairs to use; if there are more, a random sample of this size is used.
        seed: Seed of the sample.

    Raises:
        ValueError: The shapes do not fit together, there is no caption, or a vector is not finite.
    """
    matching = matching_scores(image, text, owner)
    mismatching = mismatching_scores(image, text, owner, most=most, seed=seed)
    sampled = len(mismatching) < len(text) * (len(image) - 1)
    return PairStatistics(spread(matching), spread(mismatching), sampled, auc(matching, mismatching))


def matching_scores(image: Vectors, text: Vectors, owner: NDArray[np.integer]) -> Vectors:
    """Return the cosine of each caption with its own image, shape (m,)."""
    check_embeddings(image, text, owner)
    return own_cosines(image, text, owner)


def mismatching_scores(
    image: Vectors, text: Vectors, owner: NDArray[np.integer], *, most: int = MOST, seed: int = 0
) -> Vectors:
    """Return cosines of captions with images that are not their own.

    Returns:
        All m * (n - 1) of them if these are at most `most`, otherwise `most` pairs drawn at random, with replacement.
    """
    check_embeddings(image, text, owner)
    others = len(image) - 1
    count = len(text) * others
    if count > most:
        draw = np.random.default_rng(seed)
        captions = draw.integers(len(text), size=most)
        pictures = draw.integers(others, size=most)
        pictures += pictures >= owner[captions]  # skips the caption's own image
        scores = np.empty(most, np.result_type(image, text))
        for start in range(0, most, 4096):
            rows = slice(start, start + 4096)
            scores[rows] = (text[captions[rows]] * image[pictures[rows]]).sum(axis=1)
        return scores
    scores = np.empty((len(text), others), np.result_type(image, text))
    columns = np.arange(others)
    for start in range(0, len(text), 1024):
        rows = slice(start, start + 1024)
        tile = text[rows] @ image.T  # (captions, n)
        keep = columns[None] + (columns[None] >= owner[rows, None])  # (captions, n - 1): all but the own image
        scores[rows] = np.take_along_axis(tile, keep, axis=1)
    return scores.ravel()


def auc(matching: Vectors, mismatching: Vectors) -> float:
    """Return the probability that a matching score is above a mismatching one, counting ties as half.

    Scores that differ by less than `TIE` count as equal, as in `retrieval`.

    Example:
        >>> auc(np.array([0.5, 0.3]), np.array([0.3, 0.1]))
        0.875
    """
    return float(placements(matching, mismatching).mean()) if len(matching) and len(mismatching) else float("nan")


def placements(matching: Vectors, mismatching: Vectors) -> Vectors:
    """Return the share of mismatching scores below each matching score, counting ties as half; its mean is the AUC."""
    ordered = np.sort(np.asarray(mismatching, np.float64))
    exact = np.asarray(matching, np.float64)
    below = np.searchsorted(ordered, exact - TIE, "left").astype(np.float64)
    not_above = np.searchsorted(ordered, exact + TIE, "right")
    placed: Vectors = (below + not_above) / 2 / len(ordered)
    return placed


def spread(scores: Vectors) -> Spread:
    """Describe the distribution of scores; without scores, all figures are NaN."""
    if not len(scores):
        return Spread(0, float("nan"), float("nan"), dict.fromkeys(QUANTILES, float("nan")))
    exact = scores.astype(np.float64)
    values = np.quantile(exact, QUANTILES)
    quantiles = {share: float(value) for share, value in zip(QUANTILES, values, strict=True)}
    return Spread(len(scores), float(exact.mean()), float(exact.std()), quantiles)
