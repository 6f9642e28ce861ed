"""The job of scoring a table: its rows pass through an engine, part by part, into the workspace."""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain, count, islice
from typing import Any, Generic, TypeVar

from ..errors import StoppedError, TableError
from ..formats import Output, Rows, Table
from ..metrics import Histogram
from ..pipeline import Loaders, RunStats, TaggedRows
from ..records import Progress
from ..workspace import Part, Workspace, digest_of
from .failures import FailureWatch
from .layout import RowLayout
from .task import R, RowResult, TableEngine

logger = logging.getLogger("text_image_similarity")

T = TypeVar("T")

Commit = Callable[[Part, bytes | memoryview], None]

_UNDER_WAY = 512 * 1024 * 1024  # bytes of rows that an engine may have at a time; more than its own look-ahead


@dataclass(frozen=True, slots=True)
class TableJob(Generic[R]):
    """A job that processes a table into an output.

    Args:
        table: Table that is read.
        layout: Mapping from rows to records and back.
        output: Output that writes the result.
        work: Workspace with the finished parts.
        watch: Monitor of failed rows.
        earlier: Finished output of an earlier run; only its temporary failures are scored again.
        dropped: Columns to leave out of the output.
        kind: Score kind of results that have a score.
    """

    table: Table
    layout: RowLayout[R]
    output: Output
    work: Workspace
    watch: FailureWatch
    earlier: Table | None = None
    dropped: frozenset[str] = frozenset()
    kind: str = "cosine"

    def score(
        self, chunk_size: int, engine: TableEngine[R], progress: Progress | None, stop: Callable[[], bool]
    ) -> None:
        """Score the rows that are not in a finished part.

        Args:
            chunk_size: Rows per part.
            engine: Engine that scores the rows, already started.
            progress: As for `score_table`.
            stop: As for `score_table`.

        Raises:
            StoppedError: `stop` returned True; finished parts are kept.
            TooManyFailuresError: More rows failed than allowed; finished parts are kept.
        """
        stats = RunStats()
        counter = _ProgressCounter(self.work.parts, self.table.row_count, progress)
        if counter.done:
            done = f"{counter.done:,} of {counter.total:,} rows done"
            logger.info("resuming: %s (%s); --restart starts over", done, self.work.origin())
        parts = _Window(self._parts(counter.done, chunk_size))
        begun = -1
        while begun < counter.done < counter.total:  # otherwise no results are left, and `score_table` determines why
            begun = counter.done
            with closing(engine.score_parts(parts.open(), stats)) as results, _one_behind(self.work) as commit:
                kept = -1
                while kept < counter.done < counter.total:
                    kept = counter.done
                    self.watch.check(counter.failures, kept)
                    if stop():
                        raise _stopped(kept, counter.total)
                    try:
                        if self._score_part(results, stats, counter, commit):
                            parts.answer()
                    except TableError as exc:  # a signal to this process may also have ended the engine's processes
                        if stop():
                            raise _stopped(kept, counter.total) from exc
                        raise
        self.watch.check(counter.failures, counter.done)

    def _score_part(
        self, results: Generator[tuple[Rows, R]], stats: RunStats, counter: _ProgressCounter, commit: Commit
    ) -> bool:
        """Collect the results of the next part, and save the part; return False if no part was left."""
        began, before, cut = time.perf_counter(), stats.spent(), stats.captions_cut
        if (head := next(results, None)) is None:
            return False
        rows = head[0]
        counts = self.layout.counts(rows)
        answers, found = self._answers(rows, counts, chain([head], results), counter)
        scores, score = Histogram(self.kind), self.layout.task.score
        if score is not None:
            scores.add_all([score(result) for result in answers if result.error is None])
        kept = rows.without(self.dropped) if self.dropped else rows
        data = self.output.part(kept, self.layout.cells(answers, counts))
        seconds = {stage: round(s, 6) for stage, s in (stats.spent() - before).items()}
        failures = _failures(found)
        part = Part(
            number=counter.next_part(),
            rows=len(found),
            digest=digest_of(data),
            scored=len(found) - failures.total(),
            failures=dict(failures),
            captions_cut=None if cut is None or stats.captions_cut is None else stats.captions_cut - cut,
            seconds={**seconds, "total": round(time.perf_counter() - began, 6)},
            scores=None if score is None else scores.kept(),
        )
        self.watch.look_at(found)
        commit(part, data)
        return True

    def _answers(
        self, rows: Rows, counts: Sequence[Sequence[int]], results: Iterator[tuple[Rows, R]], counter: _ProgressCounter
    ) -> tuple[Sequence[R], Sequence[R]]:
        """Collect the results of a part, and return both all results and one result per row."""
        wanted = sum(map(sum, counts))
        answers = list[R]()
        for tag, result in counter.reporting(results, map(sum, counts)) if counter.watched else islice(results, wanted):
            if tag is not rows:
                raise TableError(
                    "the engine mixed up the results of different parts, so none of its results can be trusted"
                )
            answers.append(result)
        if len(answers) < wanted:
            raise TableError(f"the engine returned {len(answers):,} results for a part of {len(rows):,} rows")
        found = self.layout.outcomes(answers, counts)
        counter.count(found)
        return answers, found

    def _parts(self, start: int, most: int) -> Iterator[tuple[int, TaggedRows[Rows]]]:
        """Yield the parts from a row on with their sizes in bytes; a part has a tag and a record or result per row."""
        earlier = None if self.earlier is None else self._earlier(self.earlier, start, most)
        for rows in _ahead(self.table.read(start, most)):
            if earlier is None:
                yield rows.nbytes, self.layout.part(rows)
            else:
                cells = list(islice(earlier, len(rows)))
                if len(cells) < len(rows):
                    raise TableError(
                        "the earlier output has fewer rows than the input; score the input from scratch, without --retry-failed"
                    )
                known = chain.from_iterable(map(self.layout.kept, cells, self.layout.counts(rows)))
                records = zip(self.layout.records(rows), known, strict=True)
                yield rows.nbytes, ((rows, result or record) for record, result in records)

    def _earlier(self, output: Table, start: int, most: int) -> Iterator[tuple[Any, ...]]:
        for rows in output.read(start, most):
            yield from self.layout.earlier(rows)


class _Window:
    """A source of parts that stops when enough of them are waiting for results, and can then be opened again.

    Ending early limits memory, because an engine may have any number of rows in progress, and their sizes may differ a
    thousandfold.

    Args:
        parts: Parts with their sizes in bytes.
    """

    def __init__(self, parts: Iterator[tuple[int, TaggedRows[Rows]]]) -> None:
        self._parts = parts
        self._sizes: deque[int] = deque()  # sizes of parts that are waiting for results

    def open(self) -> Iterator[TaggedRows[Rows]]:
        """Yield parts until enough of them are waiting for results."""
        while sum(self._sizes) < _UNDER_WAY and (found := next(self._parts, None)) is not None:
            size, part = found
            self._sizes.append(size)
            yield part

    def answer(self) -> None:
        """Record that the first of the waiting parts has its results."""
        self._sizes.popleft()


@contextmanager
def _one_behind(work: Workspace) -> Iterator[Commit]:
    """Yield a function that commits parts: each is flushed to the disk on a thread while the next one is scored."""
    writer, waiting = Loaders(1, name="score-write"), deque[Future[None]]()

    def commit(part: Part, data: bytes | memoryview) -> None:
        while waiting:
            waiting.popleft().result()
        waiting.append(writer.submit(partial(work.commit, part, data)))

    try:
        yield commit
    finally:
        while waiting:
            waiting.popleft().result()
        writer.close()


def _ahead(parts: Iterator[T]) -> Iterator[T]:
    """Yield the items of an iterator with a look-ahead of one: the next part is read while this one is used.

    The next part is read on a daemon thread, so the process does not wait for a read that hangs.
    """
    reader = Loaders(1, name="score-read")
    waiting = reader.submit(partial(next, parts, None))
    while (found := waiting.result()) is not None:
        waiting = reader.submit(partial(next, parts, None))
        yield found


def _failures(results: Iterable[RowResult]) -> Counter[str]:
    """Return the number of failed rows by error code."""
    return Counter(result.code.value for result in results if result.error is not None and result.code is not None)


def _stopped(kept: int, total: int) -> StoppedError:
    return StoppedError(f"stopped on request with {kept:,} of {total:,} rows kept; the same command resumes")


class _ProgressCounter:
    """Counts finished rows, and calls `progress`."""

    def __init__(self, parts: Sequence[Part], total: int, progress: Progress | None) -> None:
        self.done = sum(part.rows for part in parts)
        self.total = total
        self.failures: Counter[str] = Counter()
        for part in parts:
            self.failures.update(part.failures)
        self._parts = count(len(parts))
        self._progress = progress
        self.watched = progress is not None  # if so, every row is reported as soon as it has a result
        if progress is not None:
            progress(self.done, self.failures.total(), total)

    def next_part(self) -> int:
        """Return the number of the next part."""
        return next(self._parts)

    def reporting(self, results: Iterator[tuple[Rows, R]], sizes: Iterable[int]) -> Iterator[tuple[Rows, R]]:
        """Yield the results of a part, and report each row when its results have been taken.

        Args:
            results: Results with their tags.
            sizes: Number of results of each row.
        """
        assert self._progress is not None
        failed = self.failures.total()
        for done, size in enumerate(sizes, self.done + 1):
            some = list(islice(results, size))
            yield from some
            if len(some) < size:
                return
            failed += any(result.error is not None for _, result in some)
            self._progress(done, failed, self.total)

    def count(self, results: Sequence[RowResult]) -> None:
        """Count the results of rows."""
        self.done += len(results)
        self.failures.update(_failures(results))
