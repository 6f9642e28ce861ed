"""A table's rows on their way through an engine, part by part, into the workspace."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic

from ..errors import ErrorCode, RowError, StoppedError, TableError
from ..formats import Output, Rows, Table
from ..pipeline import RunStats, TaggedRows
from ..records import OUT_COLUMNS, Progress, Record, ScoreResult
from ..workspace import Part, Workspace, digest_of
from .failures import FailureWatch
from .task import R, RowResult, TableEngine, Task


@dataclass(frozen=True, slots=True)
class TableJob(Generic[R]):
    """A table on its way to its output.

    Args:
        table: What is read.
        task: What is done with its rows.
        output: What writes it.
        work: Where its finished parts are.
        watch: Looks at rows that fail.
        earlier: The finished output of an earlier run, of which only failures that may have passed are scored again.
        dropped: The columns that the output comes without.
    """

    table: Table
    task: Task[R]
    output: Output
    work: Workspace
    watch: FailureWatch
    earlier: Table | None = None
    dropped: frozenset[str] = frozenset()

    def score(
        self, chunk_size: int, engine: TableEngine[R], progress: Progress | None, stop: Callable[[], bool]
    ) -> None:
        """Score what no finished part holds.

        Args:
            chunk_size: Rows of a part.
            engine: Scores the rows; it is started.
            progress: As for `score_table`.
            stop: As for `score_table`.

        Raises:
            StoppedError: `stop` said yes; what is finished is kept.
            TooManyFailuresError: More rows failed than may; what is finished is kept.
        """
        stats = RunStats()
        counter = _ProgressCounter(self.work.parts, self.table.row_count, progress)
        parts = self._parts(counter.done, chunk_size)
        with closing(engine.score_parts(parts, stats)) as results:
            while counter.done < counter.total:
                kept = counter.done
                self.watch.check(counter.failures, kept)
                if stop():
                    raise _stopped(kept, counter.total)
                try:
                    self._score_part(results, stats, counter)
                except TableError as exc:  # whatever ends this process may have ended the engine's as well
                    if stop():
                        raise _stopped(kept, counter.total) from exc
                    raise
                if counter.done == kept:  # no results are left; `score_table` finds out why
                    break
        self.watch.check(counter.failures, counter.done)

    def _score_part(self, results: Generator[tuple[Rows, R]], stats: RunStats, counter: _ProgressCounter) -> None:
        """Take the results of the next part, and keep it."""
        began, before, cut = time.perf_counter(), stats.spent(), stats.captions_cut
        if (head := next(results, None)) is None:
            return
        rows, first = head
        counter.count(first)
        found = [first]
        for tag, result in islice(results, len(rows) - 1):
            if tag is not rows:
                raise TableError(
                    "the engine returned results of another part among those of one; no row can be trusted"
                )
            counter.count(result)
            found.append(result)
        if len(found) < len(rows):
            raise TableError(f"the engine returned {len(found):,} results for a part of {len(rows):,} rows")
        kept = rows.without(self.dropped) if self.dropped else rows
        data = self.output.part(kept, [self.task.cells(result) for result in found])
        seconds = {stage: round(s, 6) for stage, s in (stats.spent() - before).items()}
        failures = Counter(result.code.value for result in found if result.code is not None)
        part = Part(
            number=len(self.work.parts),
            rows=len(found),
            digest=digest_of(data),
            scored=len(found) - failures.total(),
            failures=dict(failures),
            captions_cut=None if cut is None or stats.captions_cut is None else stats.captions_cut - cut,
            seconds={**seconds, "total": round(time.perf_counter() - began, 6)},
        )
        self.work.commit(part, data)
        self.watch.look_at(found)

    def _parts(self, start: int, most: int) -> Iterator[TaggedRows[Rows]]:
        """Yield parts from a row on: each row's part, with its record, or with its result from the earlier output."""
        kept = self._kept(start, most)
        for rows in self.table.read(start, most):
            cells = [[""] * len(rows) if name is None else rows.column(name) for name in self.task.columns]
            records = [_record_of(*row) for row in zip(*cells, strict=True)]
            known = [None] * len(rows) if kept is None else list(islice(kept, len(rows)))
            if len(known) < len(rows):
                raise TableError(
                    "the earlier output has fewer rows than the input; score it from scratch, without --retry-failed"
                )
            yield [(rows, result or record) for record, result in zip(records, known, strict=True)]

    def _kept(self, start: int, most: int) -> Iterator[ScoreResult | None] | None:
        """Return the results that stay as they are, from a row on; None for a row that may succeed now."""
        if self.earlier is None:
            return None
        columns = ([rows.column(name) for name in OUT_COLUMNS] for rows in self.earlier.read(start, most))
        return (_still_valid(*pair) for part in columns for pair in zip(*part, strict=True))


def _record_of(image: Any, text: Any) -> Record | ScoreResult:
    """Return a row as a record, or its result where the table itself could not give the image."""
    return ScoreResult.failed(image) if isinstance(image, RowError) else Record.of(image, text)


def _stopped(kept: int, total: int) -> StoppedError:
    return StoppedError(f"stopped as asked with {kept:,} of {total:,} rows kept; the same command resumes")


class _ProgressCounter:
    """Counts rows as they are done, and calls `progress`."""

    def __init__(self, parts: Sequence[Part], total: int, progress: Progress | None) -> None:
        self.done = sum(part.rows for part in parts)
        self.total = total
        self.failures: Counter[str] = Counter()
        for part in parts:
            self.failures.update(part.failures)
        self._progress = progress
        self._report()

    def count(self, result: RowResult) -> None:
        """Count one more row."""
        self.done += 1
        if result.code is not None:
            self.failures[result.code.value] += 1
        self._report()

    def _report(self) -> None:
        if self._progress is not None:
            self._progress(self.done, self.failures.total(), self.total)


def _still_valid(similarity: object, error: object) -> ScoreResult | None:
    """Return an earlier result, or None if the same row may have another one now."""
    try:
        if not error:
            return ScoreResult(float(str(similarity)))
        if not ErrorCode(str(error).partition(":")[0]).retryable:
            return ScoreResult(error=str(error))
    except ValueError as exc:
        raise TableError(
            f"the earlier output holds the result {similarity!r}, {error!r}, which this package did not write"
        ) from exc
    return None
