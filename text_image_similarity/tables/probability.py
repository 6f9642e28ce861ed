"""The column `probability`: how likely each pair is to match, according to the model's calibration."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ..config import Config
from ..encoders import load_calibration
from ..errors import ConfigError
from ..formats import SCORE_FIELDS, score_cells
from ..metrics import Histogram
from ..records import ScoreResult
from .options import TableOptions
from .rules import PROBABILITY, check_rising
from .task import Task

if TYPE_CHECKING:
    from ..metrics import Calibration

logger = logging.getLogger("text_image_similarity")

_PREFIX = "calibration "  # so that messages about runs that differ name the calibration


def calibration_of(config: Config, options: TableOptions) -> Calibration | None:
    """Return the calibration for a run, or None if the run computes no probabilities.

    Raises:
        ConfigError: The model has no calibration, or the scores are not cosines.
        ModelError: The calibration is damaged.
        UsageError: The probability does not rise with the score.
    """
    if not options.probability:
        return None
    if config.score != "cosine":
        raise ConfigError(
            f"--probability (probability=True) is computed from cosines; use --score cosine instead of {config.score}"
        )
    curve = load_calibration(config.model, options.calibration)
    check_rising(curve)
    model, known = str(config.model), curve.model
    if model != known and Path(model).name != Path(known).name:
        logger.warning("the calibration is for %s, but the rows are scored with %s", known, model)
    return curve


def with_probability(task: Task[ScoreResult], curve: Calibration | None) -> Task[ScoreResult]:
    """Return the task with a column of probabilities after the scores; without a calibration, the same task."""
    if curve is None:
        return task

    def cells(result: ScoreResult) -> tuple[float | str | None, ...]:
        similarity, error = score_cells(result)
        return similarity, None if similarity is None else _probability(curve, similarity), error

    score, error = SCORE_FIELDS
    identity = {**task.identity, "calibration": {f"{_PREFIX}{name}": value for name, value in asdict(curve).items()}}
    return replace(
        task, added=(score, pa.field(PROBABILITY, score.type), error), cells=cells, identity=identity, derived=1
    )


def summary_of(scores: Histogram | None, calibration: Mapping[str, Any] | None) -> dict[str, float] | None:
    """Return the mean, extremes and quantiles of the probabilities of scores; None without scores or a calibration.

    Args:
        scores: Histogram of a run's scores. The mean is computed from the middles of its bins.
        calibration: Calibration, as in the identity of a run with probabilities.
    """
    found = None if scores is None or calibration is None else scores.summary()
    if scores is None or calibration is None or found is None:
        return None
    from ..metrics import Calibration

    curve = Calibration(**{name.removeprefix(_PREFIX): value for name, value in calibration.items()})
    values = {name: _probability(curve, score) for name, score in found.items()}
    middles, counts = zip(*scores.coarse(), strict=True)
    values["mean"] = float(np.average(curve.probability(middles), weights=counts))
    return {name: round(value, 6) for name, value in values.items()}


def _probability(curve: Calibration, similarity: float) -> float:
    """Return a probability as the shortest decimal of a 32-bit float, as for similarities."""
    return float(str(np.float32(curve.probability(similarity))))
