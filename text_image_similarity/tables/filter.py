"""Filter a scored table: keep the rows whose score is high enough.

The table is read twice: once for its scores, which are written to a file with eight bytes per row, and once for the
rows to keep. The output appears complete or not at all; a run that is stopped starts again from the first row.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import partial
from os import PathLike
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
    """The result of a filter, as in `<out>.summary.json`.

    Args:
        input: Table that was read.
        output: Table that was written.
        rows: Number of rows of the input.
        failed: Number of rows without a score.
        kept: Number of rows of the output.
        threshold: Lowest score to keep; None if the rule keeps every score.
        ties_left_out: Number of rows with exactly the score `threshold` that were not kept.
        score_column: Column of scores.
        job: The rule and the input.
        output_content: Hash of the output file.
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
    """A threshold, and how many rows it would keep.

    Args:
        share: Percentage of scored rows for which this threshold was computed; None for the threshold of a rule.
        threshold: Lowest score to keep; None keeps all.
        kept: Number of rows that would be kept.
        probability: Probability that a pair with exactly this score matches; None without a calibration.
    """

    share: int | None
    threshold: float | None
    kept: int
    probability: float | None


@dataclass(frozen=True, slots=True)
class FilterPlan:
    """The effect of different thresholds on a table.

    Args:
        rows: Number of rows of the table.
        failed: Number of rows without a score.
        thresholds: Thresholds from lowest to highest.
        chosen: Threshold of the rule, if one was given.
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
    """Write the rows of a scored table whose score is high enough, in order and with all columns.

    Give exactly one of `min_score`, `top`, `probability` and `drop_failed`; rows without a score are never kept.

    Args:
        in_path: A table from `score_table`, or any other table with a column of numbers; formats as for `score_table`.
        out_path: The table to write, in the format given by its suffix; `<out_path>.summary.json` is written next to
            it.
        min_score: Lowest score to keep.
        top: Number of rows with the highest scores to keep, or a share of the rows with a score, such as `30%`, rounded
            up. Among equal scores, the first rows of the table are kept.
        probability: Lowest probability of a match to keep, between 0 and 1.
        drop_failed: Keep all rows that have a score.
        col_score: Column of scores.
        calibration: Folder with `calibration.json`, for `probability`; None uses the table's column `probability`, or
            the calibration of the model that scored the table.
        dialect: Dialect of CSV and TSV files.
        force: Whether to replace an output that no filter wrote, or that was changed since.
        progress: Called with the numbers of rows done, rows without a score, and rows in total.

    Returns:
        The result: how many rows were kept, and the threshold. It is also written as JSON.

    Raises:
        UsageError: The table or the column does not exist; the probability of a score is unknown; the output was not
            written by a filter.
        ConfigError: Not exactly one rule is given, or it is outside its range.
        TableError: The table cannot be read, a score is not a number, or the output cannot be written.
        ModelError: The calibration is damaged, or missing from its folder.
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
        with ScoreFile(work.folder) as scores:
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

            put_together(output, kept.parts(output), target, describe, work, check=None if force else _check_ours)
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
    """Compute how many rows of a scored table different thresholds would keep, without writing anything.

    Args:
        in_path, col_score, calibration, dialect: As for `filter_table`.
        rule: A rule whose threshold is computed as well.

    Returns:
        The thresholds, each with the number of rows that it would keep.

    Raises:
        UsageError, ConfigError, TableError, ModelError: As from `filter_table`.
    """
    source = path_text(in_path, "in_path")
    scored = open_scored(source, dialect, _score_column(source, dialect, col_score, rule, calibration))
    curve = None if scored.column == PROBABILITY else find_calibration(source, calibration)
    least = None if rule is None else _least(rule, source, scored.column, calibration)
    with ScoreFile() as scores:
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
    """Return the column for a rule; for a probability, a column that already holds it is preferred."""
    if not isinstance(column, str):
        raise InputTypeError.of("col_score", "the name of a column", column)
    if rule is None or rule.probability is None or calibration is not None or column != "similarity":
        return column
    return PROBABILITY if PROBABILITY in columns_of(open_table(source, dialect=dialect)) else column


def _least(rule: FilterRule, source: str, column: str, calibration: str | PathLike[str] | None) -> float | None:
    """Return the score that corresponds to a rule's probability, or None if the rule has none."""
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
