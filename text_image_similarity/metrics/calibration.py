"""Calibration: the probability that a pair with a given cosine matches.

The method is Platt scaling (Platt 1999, "Probabilistic Outputs for Support Vector Machines"): a logistic curve over the
cosine, with his smoothed targets, fitted by Newton's method. Matching and mismatching pairs have the same total weight,
so the probability is correct if half of the pairs match; `probability(scores, prior=...)` adjusts it to another share.
The quality of the curve is measured on pairs that it was not fitted to: the Brier score, and the expected calibration
error over 15 bins (Naeini et al. 2015; Guo et al. 2017, "On Calibration of Modern Neural Networks").
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields
from os import PathLike
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..bounded_json import parse_json
from ..errors import ModelError, UsageError
from ..files import CALIBRATION, regular_size, write_whole
from .retrieval import TIE

_BINS = 15
_STEPS = 100

Numbers = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """A curve from cosine to probability: 1 / (1 + exp(-(slope * cosine + intercept))).

    Args:
        slope: Slope of the log odds as a function of the cosine.
        intercept: Log odds at a cosine of 0.
        prior: Share of matching pairs that the curve assumes, 0..1.
        matching: Number of matching pairs that the curve was fitted to.
        mismatching: Number of mismatching pairs that the curve was fitted to.
        brier: Mean squared error on held-out pairs, 0..1; always guessing 0.5 gives 0.25.
        calibration_error: Expected calibration error on held-out pairs, 0..1.
        model: The model whose cosines were used.
    """

    slope: float
    intercept: float
    prior: float
    matching: int
    mismatching: int
    brier: float
    calibration_error: float
    model: str

    def probability(self, scores: ArrayLike, *, prior: float | None = None) -> Numbers:
        """Return the probability that pairs with these cosines match.

        Args:
            scores: Cosines of this model, -1..1, of any shape; other score kinds do not fit the curve.
            prior: Share of matching pairs in the data of these scores, between 0 and 1; None is the prior of the fit,
                0.5.

        Returns:
            Probabilities 0..1 of the same shape; NaN where a score is NaN.

        Raises:
            UsageError: The prior is not between 0 and 1.
        """
        if prior is not None and not 0 < prior < 1:
            raise UsageError(f"prior={prior!r} must be a number between 0 and 1")
        shift = 0.0 if prior is None else _logit(prior) - _logit(self.prior)  # Bayes, in log odds
        return _expit(self.slope * np.asarray(scores, np.float64) + self.intercept + shift)

    def cosine(self, probability: float) -> float:
        """Return the cosine for a probability between 0 and 1; NaN if the curve is flat."""
        return (_logit(probability) - self.intercept) / self.slope if self.slope else math.nan

    def save(self, folder: str | PathLike[str]) -> Path:
        """Write `calibration.json` into a model's folder, completely or not at all, and return its path.

        Raises:
            TableError: The file cannot be written.
        """
        path = Path(folder) / CALIBRATION
        write_whole(path, json.dumps(asdict(self), indent=2, allow_nan=False) + "\n")
        return path

    @classmethod
    def load(cls, folder: str | PathLike[str]) -> Calibration:
        """Read the calibration of a model from its folder.

        Raises:
            ModelError: There is no calibration, or it is not valid.
        """
        path = Path(folder) / CALIBRATION
        try:
            regular_size(path)
            given = parse_json(path.read_text(encoding="utf-8"))
        except FileNotFoundError as exc:
            raise ModelError(
                f"{folder} holds no {CALIBRATION}; create one with: text-image-similarity evaluate SOURCE --model {folder} --calibrate"
            ) from exc
        except (OSError, ValueError) as exc:
            raise ModelError(f"{path} cannot be read: {exc}") from exc
        try:
            return cls.of(given)
        except ValueError as exc:
            raise ModelError(f"{path} is not a calibration: {exc}") from exc

    @classmethod
    def of(cls, given: object) -> Calibration:
        """Return the calibration with the members of a mapping, such as one from JSON.

        Raises:
            ValueError: The members are not those of a calibration; the message says which.
        """
        if problem := _problem(given):
            raise ValueError(problem)
        assert isinstance(given, dict)
        return cls(**given)


def fit_calibration(
    matching: NDArray[np.floating], mismatching: NDArray[np.floating], *, model: str, seed: int = 0
) -> Calibration:
    """Fit the curve to the cosines of matching and mismatching pairs.

    The quality of the curve is measured with two curves, each fitted to a random half of the pairs and tested on the
    other half.

    Args:
        matching: Cosines of matching pairs, shape (n,), at least two.
        mismatching: Cosines of mismatching pairs, shape (m,), at least two; weighted so that both kinds count the same
            in total.
        model: Name of the model that computed the cosines.
        seed: Seed of the random halves.

    Raises:
        ValueError: There are too few pairs, all have the same score, or a score is not finite.
    """
    kinds = [np.asarray(scores, np.float64) for scores in (mismatching, matching)]
    if min(map(len, kinds)) < 2:
        raise ValueError("a calibration needs at least two matching and two mismatching pairs")
    if not all(np.isfinite(scores).all() for scores in kinds):
        raise ValueError("a score is not finite; leave out such pairs")
    if max(map(np.max, kinds)) - min(map(np.min, kinds)) <= TIE:
        raise ValueError("all pairs have the same score; there is nothing to calibrate")
    draw = np.random.default_rng(seed)
    mixed = [draw.permutation(scores) for scores in kinds]
    halves = [[scores[side::2] for scores in mixed] for side in (0, 1)]
    tried = [_outcomes(_fit(*halves[side]), *halves[1 - side]) for side in (0, 1)]
    guess, truth, weight = (np.concatenate(parts) for parts in zip(*tried, strict=True))
    weight /= 2
    slope, intercept = _fit(*kinds)
    return Calibration(
        slope=slope,
        intercept=intercept,
        prior=0.5,
        matching=len(kinds[1]),
        mismatching=len(kinds[0]),
        brier=float((weight * (guess - truth) ** 2).sum()),
        calibration_error=calibration_error(guess, truth, weight),
        model=model,
    )


def calibration_error(guess: Numbers, truth: Numbers, weight: Numbers, bins: int = _BINS) -> float:
    """Return the expected calibration error: the gap between mean guess and share of matches, averaged over bins.

    Args:
        guess: Probabilities, shape (n,).
        truth: 1 if the pair matches, otherwise 0, shape (n,).
        weight: Weight of each pair, shape (n,); weights add up to 1.
        bins: Number of bins of equal width.
    """
    place = np.minimum((guess * bins).astype(np.int64), bins - 1)
    gaps = np.bincount(place, weight * (guess - truth), minlength=bins)
    return float(np.abs(gaps).sum())


def _expit(odds: Numbers) -> Numbers:
    """Return 1 / (1 + exp(-odds)) without overflow or rounding to 0; the small install does not have SciPy's."""
    with np.errstate(invalid="ignore"):  # NaN stays NaN
        return np.asarray(np.exp(-np.logaddexp(0, -odds)))


def _logit(probability: float) -> float:
    with np.errstate(divide="ignore"):  # infinite for 0 and 1
        return float(np.log(probability) - np.log1p(-probability))


def _outcomes(curve: tuple[float, float], mismatching: Numbers, matching: Numbers) -> tuple[Numbers, Numbers, Numbers]:
    scores, truth, weight = _pooled(mismatching, matching)
    return _expit(curve[0] * scores + curve[1]), truth, weight


def _pooled(mismatching: Numbers, matching: Numbers) -> tuple[Numbers, Numbers, Numbers]:
    """Return scores, truths and weights; the weights of each kind add up to a half."""
    counts = (len(mismatching), len(matching))
    truth = np.repeat([0.0, 1.0], counts)
    weight = np.repeat([0.5 / max(count, 1) for count in counts], counts)
    return np.concatenate([mismatching, matching]), truth, weight


def _fit(mismatching: Numbers, matching: Numbers) -> tuple[float, float]:
    """Return the slope and intercept that minimise weighted cross entropy with Platt's targets."""
    scores, truth, weight = _pooled(mismatching, matching)
    # Not quite 0 and 1, so that the best slope is finite even if a threshold separates the pairs.
    target = np.where(truth == 1, (len(matching) + 1) / (len(matching) + 2), 1 / (len(mismatching) + 2))
    middle, scale = float(scores.mean()), float(scores.std()) or 1.0
    basis = np.stack([(scores - middle) / scale, np.ones_like(scores)])  # (2, n)
    curve = np.zeros(2)

    def loss(at: Numbers) -> float:
        height = at @ basis
        return float((weight * (np.logaddexp(0, height) - target * height)).sum())

    now = loss(curve)
    for _ in range(_STEPS):
        guess = _expit(curve @ basis)
        slope = basis @ (weight * (guess - target))  # (2,)
        bend = (basis * (weight * guess * (1 - guess))) @ basis.T + 1e-12 * np.eye(2)  # (2, 2)
        step = np.linalg.solve(bend, slope)
        while (then := loss(curve - step)) > now and np.abs(step).max() > 1e-12:
            step /= 2  # the curve is convex: a shorter step goes down
        curve, now = curve - step, then
        if np.abs(step).max() < 1e-10:
            break
    return float(curve[0] / scale), float(curve[1] - curve[0] * middle / scale)


def _problem(given: object) -> str | None:
    """Return what is wrong with the content of a calibration file, if anything."""
    names = [field.name for field in fields(Calibration)]
    if not isinstance(given, dict) or sorted(given) != sorted(names):
        return f"its members must be exactly {', '.join(names)}"
    for name in ("slope", "intercept", "prior", "brier", "calibration_error"):
        value = given[name]
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            return f"{name} is not a finite number"
    for name in ("prior", "brier", "calibration_error"):
        if not 0 <= given[name] <= 1:
            return f"{name} is not between 0 and 1"
    for name in ("matching", "mismatching"):
        if isinstance(given[name], bool) or not isinstance(given[name], int) or given[name] < 1:
            return f"{name} is not a whole number of at least 1"
    if given["prior"] in (0, 1):
        return "prior is 0 or 1"
    return None if isinstance(given["model"], str) else "model is not a text"
