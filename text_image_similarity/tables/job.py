"""The way of a table's rows through the pipeline, part by part, into the workspace."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol, TypeVar

from ..config import Config
from ..errors import ErrorCode, StoppedError, TableError
from ..formats import Output, Rows, Table
from ..pipeline import RunStats, record
from ..records import OUT_COLUMNS, Record, ScoreResult
from ..workspace import Part, Workspace, digest_of

Item = TypeVar("Item")
# (rows done, rows failed, rows in all), before the first row and after every row
Progress = Callable[[int, int, int], None]
# Records, in parts -> one result per record, in order
Scorer = Callable[[Iterable[Iterable[Record]], RunStats], Generator[ScoreResult]]


class Engine(Protocol):
    """Scores parts of a table on other processes or machines, each part where there is room."""

    @property
    def at_once(self) -> int:
        """How many parts keep it busy."""

    def start(self, config: Config) -> dict[str, Any]:
        """Load the model there; return what `encoders.identify` says of it.

        Raises:
            ConfigError, ModelError: It cannot be loaded there.
        """

    def score(self, records: Sequence[Record]) -> list[ScoreResult]:
        """Score a part and return one result per record, in order; called on several threads at once.

        Raises:
            TableError: The part could not be scored, however often it was tried.
        """


def score_elsewhere(engine: Engine, parts: Iterable[Iterable[Record]]) -> Generator[ScoreResult]:
    """Score records part by part with an engine that is started; yield one result per record, in order."""
    work: deque[Future[list[ScoreResult]]] = deque()
    at_once = engine.at_once
    pool = ThreadPoolExecutor(at_once, thread_name_prefix="score-engine")
    try:
        for part in parts:
            records = list(part)
            work.append(pool.submit(engine.score, records) if records else _done([]))
            if len(work) >= at_once:
                yield from work.popleft().result()
        while work:
            yield from work.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # who stops the engine ends what is in work


def _done(results: list[ScoreResult]) -> Future[list[ScoreResult]]:
    future: Future[list[ScoreResult]] = Future()
    future.set_result(results)
    return future


@dataclass(frozen=True, slots=True)
class _Stretch:
    """The rows of one part.

    Args:
        rows: All of them.
        records: Those that are to be scored.
        kept: For each row its result from an earlier run, or None for one that is to be scored.
    """

    rows: Rows
    records: list[Record]
    kept: list[ScoreResult | None]


@dataclass(frozen=True, slots=True)
class TableJob:
    """A table on its way to its output.

    Args:
        table: What is scored.
        columns: Its columns of references and of captions.
        output: What writes it.
        work: Where its finished parts are.
        earlier: The finished output of an earlier run, of which only failures that may have passed are scored again.
    """

    table: Table
    columns: tuple[str, str]
    output: Output
    work: Workspace
    earlier: Table | None = None

    def score(
        self,
        chunk_size: int,
        scorer: Scorer,
        progress: Progress | None,
        stop: Callable[[], bool],
    ) -> None:
        """Score what no finished part holds.

        Args:
            chunk_size: Rows of a part.
            scorer: Scores the records; it may count what it does.
            progress: As for `score_csv`.
            stop: As for `score_csv`.

        Raises:
            StoppedError: `stop` said yes; what is finished is kept.
        """
        ahead, stretches = _read_twice(self._stretches(sum(part.rows for part in self.work.parts), chunk_size))
        stats = RunStats()
        told = _Told(self.work.parts, self.table.row_count, progress)
        with closing(scorer((stretch.records for stretch in ahead), stats)) as results:
            for stretch in stretches:
                kept = told.done
                if stop():
                    raise _stopped(kept, told.total)
                began, before = time.perf_counter(), stats.spent()
                try:
                    found = list(told.each(result or next(results) for result in stretch.kept))
                except TableError as exc:  # who ends this process may have ended the engine's as well
                    if stop():
                        raise _stopped(kept, told.total) from exc
                    raise
                data = self.output.part(stretch.rows, found)
                seconds = {stage: round(s, 6) for stage, s in (stats.spent() - before).items()}
                failures = Counter(result.code.value for result in found if result.code is not None)
                part = Part(
                    number=len(self.work.parts),
                    rows=len(found),
                    digest=digest_of(data),
                    scored=len(found) - failures.total(),
                    failures=dict(failures),
                    seconds={**seconds, "total": round(time.perf_counter() - began, 6)},
                )
                self.work.commit(part, data)

    def _stretches(self, start: int, most: int) -> Iterator[_Stretch]:
        """Yield the rows from a row on, with what is to be scored of them."""
        kept = self._kept(start, most)
        for rows in self.table.read(start, most):
            records = [record(*pair) for pair in zip(*map(rows.column, self.columns), strict=True)]
            known: list[ScoreResult | None] = [None] * len(rows) if kept is None else list(islice(kept, len(rows)))
            if len(known) < len(rows):
                raise TableError(
                    "the earlier output has fewer rows than the input; score it anew, without retrying failures"
                )
            yield _Stretch(rows, [row for row, result in zip(records, known, strict=True) if result is None], known)

    def _kept(self, start: int, most: int) -> Iterator[ScoreResult | None] | None:
        """Return the results that stay as they are, from a row on; None for a row that may succeed now."""
        if self.earlier is None:
            return None
        columns = ([rows.column(name) for name in OUT_COLUMNS] for rows in self.earlier.read(start, most))
        return (_still_valid(*pair) for part in columns for pair in zip(*part, strict=True))


def _stopped(kept: int, total: int) -> StoppedError:
    return StoppedError(f"stopped as asked with {kept:,} of {total:,} rows kept; the same command goes on")


def _read_twice(items: Iterator[Item]) -> tuple[Iterator[Item], Iterator[Item]]:
    """Return two iterators over one, as `itertools.tee` does, which holds on to some 57 items that both have passed."""
    queues: tuple[deque[Item], deque[Item]] = (deque(), deque())

    def read(own: deque[Item]) -> Iterator[Item]:
        while own or _fill(queues, items):
            yield own.popleft()

    return read(queues[0]), read(queues[1])


def _fill(queues: tuple[deque[Item], deque[Item]], items: Iterator[Item]) -> bool:
    for item in items:
        for queue in queues:
            queue.append(item)
        return True
    return False


class _Told:
    """Counts rows as they are done, and tells who wants to know."""

    def __init__(self, parts: Sequence[Part], total: int, progress: Progress | None) -> None:
        self.done = sum(part.rows for part in parts)
        self.total = total
        self._failed = self.done - sum(part.scored for part in parts)
        self._progress = progress
        self._tell()

    def each(self, results: Iterator[ScoreResult]) -> Iterator[ScoreResult]:
        """Pass results on, counted."""
        for result in results:
            self.done += 1
            self._failed += result.error is not None
            self._tell()
            yield result

    def _tell(self) -> None:
        if self._progress is not None:
            self._progress(self.done, self._failed, self.total)


def _still_valid(similarity: object, error: object) -> ScoreResult | None:
    """Return an earlier result, or None if the same row may have another one now."""
    try:
        if not error:
            return ScoreResult(float(str(similarity)))
        if not ErrorCode(str(error).partition(":")[0]).retryable:
            return ScoreResult(error=str(error))
    except ValueError as exc:
        raise TableError(
            f"the earlier output holds the result {similarity!r}, {error!r}, which is none of ours"
        ) from exc
    return None
