"""Read a scored table, once for the scores and once for the rows to keep."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..config import Dialect
from ..errors import TableError
from ..formats import Output, Rows, Table, check_columns, open_table, state_of
from ..records import Progress, is_missing
from .ranks import ScoreFile, Scores
from .rules import FilterRule, Threshold

_AT_ONCE = 4096  # rows in memory


@dataclass(frozen=True, slots=True)
class ScoredTable:
    """A table with a column of scores."""

    table: Table
    column: str
    states: list[str]

    def collect(self, scores: ScoreFile) -> None:
        """Copy all scores to a file."""
        for number, rows in self.parts():
            scores.append(_numbers(rows.column(self.column), self.column, number))

    def parts(self) -> Iterator[tuple[int, Rows]]:
        """Yield batches of rows, each with the number of its first row (from 1)."""
        number = 1
        for rows in self.table.read(0, _AT_ONCE):
            yield number, rows
            number += len(rows)

    def check_unchanged(self) -> None:
        """Raise a `TableError` if the table has changed since it was opened."""
        if [state_of(file) for file in self.table.files] != self.states:
            raise TableError(f"{self.table.files[0]} was changed while it was being read; run the same command again")

    def identity(self, rule: FilterRule, least: float | None) -> dict[str, Any]:
        """Return everything that the output depends on, as JSON values."""
        return {
            "filter": {**asdict(rule), "least": least},
            "input_rows": self.table.row_count,
            "input_content": self.table.digest,
            "score_column": self.column,
        }


class KeptRows:
    """The rows to keep, counted while they are read."""

    def __init__(self, scored: ScoredTable, threshold: Threshold, progress: Progress | None) -> None:
        self._scored, self._threshold, self._progress = scored, threshold, progress
        self.rows = self.ties_left_out = 0
        self._taken = 0  # number of kept rows with exactly the threshold's score

    def parts(self, output: Output) -> Iterator[bytes | memoryview]:
        """Yield the rows as parts of an output."""
        done = failed = 0
        total = self._scored.table.row_count
        self._report(done, failed, total)
        for number, rows in self._scored.parts():
            scores = _numbers(rows.column(self._scored.column), self._scored.column, number)
            places = self._places(scores)
            if len(places):
                part = output.part(rows.chosen(places), ())
                self.rows += len(places)
                yield part
            done, failed = done + len(rows), failed + int(np.isnan(scores).sum())
            self._report(done, failed, total)

    def _places(self, scores: Scores) -> list[int]:
        least, most = self._threshold.score, self._threshold.ties
        if least is None:
            stays = ~np.isnan(scores)
        elif most is None:
            stays = scores >= least
        else:
            equal = np.flatnonzero(scores == least)
            left = max(0, most - self._taken)
            self._taken += min(left, len(equal))
            self.ties_left_out += max(0, len(equal) - left)
            stays = scores > least
            stays[equal[:left]] = True
        return [int(place) for place in np.flatnonzero(stays)]

    def _report(self, done: int, failed: int, total: int) -> None:
        if self._progress is not None:
            self._progress(done, failed, total)


def open_scored(source: str, dialect: Dialect | None, column: str) -> ScoredTable:
    """Open and check a table.

    Raises:
        UsageError: The table does not exist, or has no such column.
        TableError: The table is damaged.
    """
    table = open_table(source, dialect=dialect)
    states = [state_of(file) for file in table.files]
    table.scan()
    check_columns(table.columns, [column], source, options="--score-col (col_score)")
    return ScoredTable(table, column, states)


def _numbers(values: Sequence[Any], column: str, first: int) -> Scores:
    """Return the scores of a column, with NaN for rows without a score and for infinite scores.

    Raises:
        TableError: A value is not a number; the message names its row.
    """
    found = np.full(len(values), np.nan)
    for place, value in enumerate(values):
        if is_missing(value) or (isinstance(value, str) and not value.strip()):
            continue
        try:
            if isinstance(value, bool):
                raise ValueError
            score = float(value)
        except (TypeError, ValueError) as exc:
            raise TableError(
                f"column {column!r} in row {first + place:,} contains {str(value)[:40]!r}, which is not a score"
            ) from exc
        found[place] = score if math.isfinite(score) else math.nan
    return found
