"""Rules for which rows of a scored table to keep: by lowest score or probability, by rank, or all that have a score."""

from __future__ import annotations

import logging
import math
import re
from dataclasses import dataclass
from fractions import Fraction
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from ..encoders import calibrated_folder
from ..errors import ConfigError, TableError, UsageError
from .ranks import ScoreFile
from .summary_file import read_summary

if TYPE_CHECKING:
    from ..metrics import Calibration

logger = logging.getLogger("text_image_similarity")

PROBABILITY = "probability"  # an optional column of scored tables
_SHARE = re.compile(r"(\d{1,3}(?:\.\d{1,12})?)%", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class FilterRule:
    """A rule for the rows to keep, with exactly one of the four settings. Rows without a score are never kept.

    Args:
        min_score: Lowest score to keep.
        top: Number of rows with the highest scores to keep, or a share of the rows that have a score, such as `30%`,
            rounded up. Among equal scores, the first rows of the table are kept.
        probability: Lowest probability of a match to keep, between 0 and 1.
        drop_failed: Whether to keep all rows that have a score.

    Raises:
        ConfigError: Not exactly one of the four is given, or a value is outside its range.
    """

    min_score: float | None = None
    top: int | str | None = None
    probability: float | None = None
    drop_failed: bool = False

    def __post_init__(self) -> None:
        given = [self.min_score is not None, self.top is not None, self.probability is not None, self.drop_failed]
        if sum(given) != 1:
            raise ConfigError(
                "choose the rows to keep with one of --min, --top, --probability and --drop-failed (min_score, top, "
                "probability, drop_failed)"
            )
        for name in ("min_score", "probability"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
                raise ConfigError(f"{name} must be a number, not {value!r}")
        if self.min_score is not None and not math.isfinite(self.min_score):
            raise ConfigError(f"min_score={self.min_score} must be a finite number")
        if self.probability is not None and not 0 < self.probability < 1:
            raise ConfigError(f"probability={self.probability} must be between 0 and 1")
        if self.top is not None:
            most_rows(self.top, 0)


def most_rows(top: int | str, scored: int) -> int:
    """Return how many of the scored rows `top` selects.

    Raises:
        ConfigError: `top` is neither a number of rows nor a share of them.

    Example:
        >>> most_rows("30%", 11), most_rows(5, 3)
        (4, 3)
    """
    share = _SHARE.fullmatch(str(top))
    if share and 0 < (part := Fraction(share[1])) <= 100:
        return math.ceil(part * scored / 100)
    if isinstance(top, bool) or not re.fullmatch(r"0*[1-9]\d{0,14}", str(top), re.ASCII):
        raise ConfigError(f"top={top!r} must be a number of rows, such as 10000, or a share of them, such as 30%")
    return min(int(top), scored)


@dataclass(frozen=True, slots=True)
class Threshold:
    """The threshold that decides which rows are kept.

    Args:
        score: Lowest score to keep; None keeps all scores.
        ties: Number of rows with exactly this score to keep, the first ones of the table; None keeps all of them.
    """

    score: float | None
    ties: int | None = None


def threshold_of(rule: FilterRule, scores: ScoreFile, least: float | None) -> Threshold:
    """Return the threshold for a rule.

    Args:
        rule: The rule.
        scores: Scores of the table.
        least: Score that corresponds to the rule's probability.
    """
    if rule.top is not None:
        most = most_rows(rule.top, scores.count)
        if not most:
            return Threshold(None)
        rank = scores.highest(most)
        return Threshold(rank.score, rank.taken)
    if rule.probability is not None:
        return Threshold(least)
    return Threshold(rule.min_score)


def find_calibration(source: str, folder: str | PathLike[str] | None) -> Calibration | None:
    """Return the calibration for a table's scores, from a folder or from the model that scored the table, or None.

    Args:
        source: The scored table, whose summary names the model.
        folder: Folder with `calibration.json`, or None.

    Raises:
        UsageError: A folder is given, but the table's scores are not cosines.
        ModelError: The folder has no calibration, or the calibration is damaged.
    """
    from ..metrics import Calibration  # imported here, because scoring does not need it

    summary = _summary_of(source)
    model, kind = summary.get("model"), summary.get("score", "cosine")
    found = None
    if folder is not None:
        found = Calibration.load(folder)
    elif isinstance(model, str) and (home := calibrated_folder(model)) is not None:
        found = Calibration.load(home)
    if found is not None and kind != "cosine":
        if folder is None:
            return None
        raise UsageError(
            f"{source} contains scores of kind {kind}, but a calibration is for cosines; use --min instead"
        )
    if folder is not None and found is not None and isinstance(model, str) and not _same(model, found.model):
        logger.warning("the calibration is for %s, but %s was scored with %s", found.model, source, model)
    return found


def _same(one: str, other: str) -> bool:
    return one == other or Path(one).name == Path(other).name


def _summary_of(source: str) -> dict[str, object]:
    """Return the summary that `score` wrote next to a table, if there is one."""
    try:
        return read_summary(source)
    except (UsageError, TableError, ValueError, TypeError):
        return {}


def least_of(curve: Calibration, probability: float) -> float:
    """Return the score that corresponds to a probability of matching.

    Raises:
        UsageError: The probability does not rise with the score.
    """
    check_rising(curve)
    return curve.cosine(probability)


def check_rising(curve: Calibration) -> None:
    """Raise a `UsageError` unless the probability rises with the score."""
    if curve.slope <= 0:
        raise UsageError(
            f"according to this calibration of {curve.model}, a higher score does not mean a more likely match; "
            "calibrate on images whose captions match them"
        )
