"""Keep the rows of a scored table whose score is high enough.

The table is read twice: once for its scores, which go to a file of eight bytes a row, and once for the rows that stay. The
output appears complete or not at all; a run that is stopped begins from the first row.
"""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass, replace
from functools import partial
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import Dialect
from ..errors import ConfigError, InputTypeError, UsageError
from ..files import path_text
from ..formats import (
    columns_of,
    format_of,
    open_table,
    output_for,
)
from ..records import Progress
from ..workspace import Workspace
from .identity import check_replaceable
from .places import check_places, put_together, work_folder
from .ranks import ScoreFile
from .rules import PROBABILITY, FilterRule, Threshold, find_calibration, least_of, most_rows, threshold_of
from .scored_rows import KeptRows, open_scored

if TYPE_CHECKING:
    from ..metrics import Calibration

_SHARES = (100, 90, 80, 70, 60, 50, 40, 30, 20, 10, 5, 1)  # percent of the scored rows, in a plan


@dataclass(frozen=True, slots=True)
class FilterSummary:
    """What a filter kept, as `<out>.summary.json` holds it.

    Args:
        input: The table that was read.
        output: The one that was written.
        rows: Rows of the input.
        failed: Rows without a score.
        kept: Rows of the output.
        threshold: The lowest score that stayed; None where all did.
        ties_left_out: Rows with just this score that did not stay.
        score_column: The column of scores.
        job: Which rows were to stay, and of which input.
        output_content: Hash of the output's file.
    """

    input: str
    output: str
    rows: int
    failed: int
    kept: int
    threshold: float | None
    ties_left_out: int
    score_column: str
    job: dict[str, Any]
    output_content: str


@dataclass(frozen=True, slots=True)
class PlannedThreshold:
    """A threshold, and what would stay with it.

    Args:
        share: Percent of the scored rows that this threshold was looked for; None for a rule's own.
        threshold: The lowest score that stays; None where all do.
        kept: How many rows stay.
        probability: How likely a pair of just this score matches; None without a calibration.
    """

    share: int | None
    threshold: float | None
    kept: int
    probability: float | None


@dataclass(frozen=True, slots=True)
class FilterPlan:
    """What different thresholds would keep of a table.

    Args:
        rows: Rows of the table.
        failed: Rows without a score.
        thresholds: From the lowest to the highest.
        chosen: That of a rule, if one was given.
    """

    rows: int
    failed: int
    thresholds: list[PlannedThreshold]
    chosen: PlannedThreshold | None


def filter_table(  # noqa: PLR0913 - paths, one of four rules, and where and how
    in_path: str | PathLike[str],
    out_path: str | PathLike[str],
    *,
    min_score: float | None = None,
    top: int | str | None = None,
    probability: float | None = None,
    drop_failed: bool = False,
    col_score: str = "similarity",
    calibration: str | PathLike[str] | None = None,
    dialect: Dialect | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> FilterSummary:
    """Write the rows of a scored table whose score is high enough, in their order and with all their columns.

    Exactly one of `min_score`, `top`, `probability` and `drop_failed` says which; a row without a score never stays.

    Args:
        in_path: A table that `score_table` wrote, or any other with a column of numbers; formats as for `score_table`.
        out_path: Where the rows go, in the format its name says; `<out_path>.summary.json` is written beside it.
        min_score: The lowest score that stays.
        top: How many rows stay, those of the highest scores: a number, or a share of the rows with a score, such as `30%`,
            rounded up. Of rows with the same score the first ones of the table stay.
        probability: The lowest probability of a match that stays, between 0 and 1.
        drop_failed: Keep all rows that have a score.
        col_score: The column of scores.
        calibration: A folder with `calibration.json`, for `probability`; None takes the table's column `probability`, or the
            calibration of the model that the table was scored with.
        dialect: How CSV and TSV files are written.
        force: Whether an output is replaced that no filter wrote, or that was changed since.
        progress: Called with rows done, rows without a score and rows in all.

    Returns:
        How many rows stayed, and from which score on; also written as JSON.

    Raises:
        UsageError: The table or the column does not exist; the probability of a score is unknown; the output is not a filter's.
        ConfigError: Not exactly one rule is given, or it is outside its range.
        TableError: The table cannot be read, a score is not a number, or the output cannot be written.
        BusyError: Another run is writing the output.

    Example:
        filter_table("scored.parquet", "best.parquet", top="30%").threshold
    """
    rule = FilterRule(min_score=min_score, top=top, probability=probability, drop_failed=drop_failed)
    source, target = path_text(in_path, "in_path"), path_text(out_path, "out_path")
    check_places(source, target)
    with Workspace(work_folder(target), target, format_of(target).kind) as work:
        _check_target(target, work, force=force)
        scored = open_scored(source, dialect, _score_column(source, dialect, col_score, rule, calibration))
        output = output_for(target, scored.table, dialect or Dialect(), ())
        least = _least(rule, source, scored.column, calibration)
        with ScoreFile(work.scratch("scores")) as scores:
            scored.collect(scores)
            threshold = threshold_of(rule, scores, least)
            kept = KeptRows(scored, threshold, progress)
            found = FilterSummary(
                input=source,
                output=target,
                rows=scored.table.row_count,
                failed=scored.table.row_count - scores.count,
                kept=0,
                threshold=threshold.score,
                ties_left_out=0,
                score_column=scored.column,
                job=scored.identity(rule, least),
                output_content="",
            )

            def describe(content: str) -> dict[str, Any]:
                nonlocal found
                scored.check_unchanged()
                found = replace(found, kept=kept.rows, ties_left_out=kept.ties_left_out, output_content=content)
                return asdict(found)

            parts = kept.parts(output, work.scratch("rows"))
            put_together((output, parts), target, describe, work, check=None if force else _check_ours)
        work.finish()
    return found


def plan_filter(
    in_path: str | PathLike[str],
    rule: FilterRule | None = None,
    *,
    col_score: str = "similarity",
    calibration: str | PathLike[str] | None = None,
    dialect: Dialect | None = None,
) -> FilterPlan:
    """Say what different thresholds would keep of a scored table, without writing anything.

    Args:
        in_path: As for `filter_table`, and so are the others.
        rule: One whose own threshold is of interest too.

    Raises:
        UsageError, TableError: As `filter_table`.
    """
    source = path_text(in_path, "in_path")
    scored = open_scored(source, dialect, _score_column(source, dialect, col_score, rule, calibration))
    curve = None if scored.column == PROBABILITY else find_calibration(source, calibration)
    least = None if rule is None else _least(rule, source, scored.column, calibration)
    with tempfile.TemporaryDirectory() as folder, ScoreFile(Path(folder) / "scores") as scores:
        scored.collect(scores)
        found = []
        for share in _SHARES if scores.count else ():
            rank = scores.highest(most_rows(f"{share}%", scores.count))
            found.append(_planned(share, Threshold(rank.score), scores, curve))
        chosen = None if rule is None else _planned(None, threshold_of(rule, scores, least), scores, curve)
    return FilterPlan(scored.table.row_count, scored.table.row_count - scores.count, found, chosen)


def _planned(share: int | None, threshold: Threshold, scores: ScoreFile, curve: Calibration | None) -> PlannedThreshold:
    score = threshold.score
    if score is None:
        return PlannedThreshold(share, None, scores.count, None)
    there = scores.at_least(score)
    if threshold.ties is not None:
        there += threshold.ties - scores.highest(there).there
    return PlannedThreshold(share, score, there, None if curve is None else float(curve.probability(score)))


def _score_column(
    source: str, dialect: Dialect | None, column: str, rule: FilterRule | None, calibration: str | PathLike[str] | None
) -> str:
    """Return the column that a rule looks at: for a probability, one that holds it already is preferred."""
    if not isinstance(column, str):
        raise InputTypeError.of("col_score", "the name of a column", column)
    if rule is None or rule.probability is None or calibration is not None or column != "similarity":
        return column
    return PROBABILITY if PROBABILITY in columns_of(open_table(source, dialect=dialect)) else column


def _least(rule: FilterRule, source: str, column: str, calibration: str | PathLike[str] | None) -> float | None:
    """Return the score that stands for a rule's probability, or None where the rule has none."""
    if rule.probability is None:
        if calibration is not None:
            raise ConfigError("a calibration is used only with --probability (probability=...)")
        return None
    if column == PROBABILITY:
        return rule.probability
    curve = find_calibration(source, calibration)
    if curve is None:
        raise UsageError(
            f"there is no calibration for the scores of {source}: make one with `text-image-similarity evaluate SOURCE "
            "--model MODEL --calibrate FOLDER`, then name it with --calibration FOLDER"
        )
    return least_of(curve, rule.probability)


_check_ours = partial(check_replaceable, by="filter")


def _check_target(target: str, work: Workspace, *, force: bool) -> None:
    if work.begun() is not None:
        raise UsageError(f"{target}.parts holds parts of a run that is not finished; finish it, or name another output")
    if not force:
        _check_ours(target, work.placed())
