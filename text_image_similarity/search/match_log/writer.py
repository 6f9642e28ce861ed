"""Write the match log in the background: a thread appends waiting records, many in one transaction."""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Hashable, Iterable, Sequence
from concurrent.futures import Future
from threading import Condition, Lock, Thread
from time import monotonic
from typing import NamedTuple

from ...errors import DatabaseError
from .entries import LogEntry, LogEvent
from .match_log import MatchLog

logger = logging.getLogger("text_image_similarity")

LogRecord = LogEntry | LogEvent
MOST_BYTES = 64 << 20  # of records that wait or are being written
_RECORD_BYTES = 2000  # of a record whose size is not given
_GROUP = 500  # records per transaction
_GATHER_S = 0.1  # how long records are collected if no caller waits for them, so that a transaction has several


class _Waiting(NamedTuple):
    """A waiting record, with the future of a caller that waits for it, its size in memory, and its client."""

    record: LogRecord
    future: Future[None] | None
    size: int
    client: Hashable


class LogWriter:
    """Appends entries and events to a log, on its own thread. Safe to share between threads; not usable after a fork.

    While the database fails, records from `put` wait, up to `most` of them, and are retried; records from `write` fail
    with the reason. The process's own log has one line when the failure begins, and one when it ends.

    The memory for waiting records is limited, too; one client's records may take at most half of it.

    Args:
        log: The log, which the caller must close afterwards.
        most: Maximum number of waiting records; any more are dropped and counted.
        most_bytes: Maximum size of waiting records.
        retry_s: Seconds between two attempts while the database fails.

    Attributes:
        written: Number of durable records.
        dropped: Number of records from `put` that are lost.
    """

    def __init__(
        self, log: MatchLog, most: int = 10_000, most_bytes: int = MOST_BYTES, *, retry_s: float = 1.0
    ) -> None:
        self._log, self._most, self._most_bytes, self._retry_s = log, most, most_bytes, retry_s
        self._held: Counter[Hashable] = Counter()  # bytes by client
        self._lock = Lock()
        self._work, self._done = Condition(self._lock), Condition(self._lock)
        self._waiting: deque[_Waiting] = deque()
        self._group: list[_Waiting] = []  # records being written
        self.written, self.dropped = 0, 0
        self._taken, self._settled, self._failures = 0, 0, 0
        self._failure: DatabaseError | None = None
        self._next_try = 0.0
        self._urgent, self._gathering, self._closed, self._overflowed = False, False, False, False
        self._thread = Thread(target=self._run, name="match-log", daemon=True)
        self._thread.start()

    @property
    def depth(self) -> int:
        """Number of records that are waiting or being written."""
        return len(self._waiting) + len(self._group)

    def put(self, record: LogRecord, *, size: int = _RECORD_BYTES, client: Hashable = None) -> bool:
        """Queue a record without waiting for the database.

        Args:
            record: The record.
            size: Maximum number of bytes that the record takes in memory.
            client: Client that the record is about; records with None are limited only together with all others.

        Returns:
            Whether the record was queued; otherwise it is counted in `dropped`.
        """
        with self._lock:
            if taken := not self._closed and self._has_room(size, client):
                self._take(_Waiting(record, None, size, client))
            else:
                self.dropped += 1
                first, self._overflowed = not self._overflowed, True
        if not taken and first:
            logger.warning(
                "the match log is full: %s records are waiting; any more are dropped and counted", self.depth
            )
        return taken

    def write(self, record: LogRecord, *, size: int = _RECORD_BYTES, client: Hashable = None) -> Future[None]:
        """Queue a record as `put` does, and return a future that completes when the record is durable.

        Returns:
            A future whose result is None once the record is durable, or that fails with a `DatabaseError`: at once if
            the database is failing or too many records are waiting. A failed record is not retried; in rare cases, if a
            connection broke during the commit, the record may have been written anyway.
        """
        future: Future[None] = Future()
        future.set_running_or_notify_cancel()  # a caller that gives up cannot stop a write in progress
        with self._lock:
            problem = self._refusal(size, client)
            if problem is None:
                self._take(_Waiting(record, future, size, client))
        if problem is not None:
            future.set_exception(problem)
        return future

    def find(self, match_id: str) -> LogEntry | None:
        """Return the entry of a match, even if it is still waiting, or None.

        Raises:
            UsageError: The value is not the id of a match.
            DatabaseError: The entry is not waiting, and the database fails.
        """
        with self._lock:
            for record, *_ in (*self._group, *self._waiting):
                if isinstance(record, LogEntry) and record.id == match_id:
                    return record
        return self._log.get(match_id)

    def flush(self, timeout_s: float | None = None) -> bool:
        """Wait until all earlier records are written or, if the database fails, have been tried once.

        Args:
            timeout_s: Longest wait in seconds; None means no limit.

        Returns:
            Whether each of them has been written, dropped, or refused by `write`.
        """
        with self._lock:
            target, failures = self._taken, self._failures
            self._urgent = True
            self._work.notify()
            self._done.wait_for(lambda: self._settled >= target or self._failures > failures, timeout_s)
            return self._settled >= target

    def close(self) -> None:
        """Write waiting records and end the thread; records that cannot be written are dropped, counted and logged."""
        with self._lock:
            self._closed = True
            self._work.notify()
        self._thread.join()

    def _has_room(self, size: int, client: Hashable) -> bool:
        if self.depth >= self._most or self._held.total() + size > self._most_bytes:
            return False
        return client is None or 2 * (self._held[client] + size) <= self._most_bytes

    def _take(self, waiting: _Waiting) -> None:
        self._waiting.append(waiting)
        self._held[waiting.client] += waiting.size
        self._taken += 1
        self._urgent = self._urgent or waiting.future is not None
        if not self._gathering or self._urgent or len(self._waiting) >= _GROUP:
            self._work.notify()

    def _refusal(self, size: int, client: Hashable) -> DatabaseError | None:
        """Return the reason why a record cannot be queued now, or None."""
        if self._closed:
            return DatabaseError("the match log is closed")
        if self._failure is not None and monotonic() < self._next_try:
            return DatabaseError(str(self._failure))
        if not self._has_room(size, client):
            return DatabaseError(f"the match log is full: {self.depth:,} records are waiting to be written")
        return None

    def _run(self) -> None:
        while group := self._next_group():
            self._append(group)
            with self._lock:
                self._group = []

    def _next_group(self) -> list[_Waiting]:
        """Wait for records to write, and return some, or none once the writer is closed and no records are waiting."""
        with self._lock:
            while not self._closed:
                if not self._waiting:
                    self._work.wait()
                elif self._failure is None or self._urgent or (pause := self._next_try - monotonic()) <= 0:
                    break
                else:
                    self._work.wait(pause)
            self._gathering = True
            self._work.wait_for(lambda: self._urgent or self._closed or len(self._waiting) >= _GROUP, _GATHER_S)
            self._gathering = self._urgent = False
            self._group = [self._waiting.popleft() for _ in range(min(_GROUP, len(self._waiting)))]
            return self._group

    def _append(self, group: Sequence[_Waiting]) -> None:
        records = [record for record, *_ in group]
        try:
            self._log.append(
                [record for record in records if isinstance(record, LogEntry)],
                [record for record in records if isinstance(record, LogEvent)],
            )
        except DatabaseError as problem:
            self._postpone(group, problem)
        except Exception as problem:  # a record that cannot be written must not block the others
            for each in group if len(group) > 1 else ():
                self._append([each])
            if len(group) == 1:
                self._give_up(group[0], problem)
        else:
            self._finish(group)

    def _finish(self, group: Sequence[_Waiting]) -> None:
        with self._lock:
            recovered, self._failure, self._group = self._failure is not None, None, []
            self.written += len(group)
            self._overflowed = self._overflowed and bool(self._waiting)
            self._settle(group)
        if recovered:
            logger.warning(
                "the match log can be written again; %s records have been dropped so far", f"{self.dropped:,}"
            )
        for each in group:
            if each.future is not None:
                each.future.set_result(None)

    def _postpone(self, group: Sequence[_Waiting], problem: DatabaseError) -> None:
        """Keep records for the next attempt, or drop them if there will be none."""
        with self._lock:
            first, self._failure, self._group = self._failure is None, problem, []  # records wait again, or are dropped
            self._next_try = monotonic() + self._retry_s
            self._failures += 1
            self._waiting.extendleft(each for each in reversed(group) if each.future is None)
            lost = [*self._waiting] if self._closed else []
            self._waiting = deque() if self._closed else self._waiting
            self.dropped += sum(each.future is None for each in lost)
            refused = [each.future for each in (*group, *lost) if each.future is not None]
            self._settle([*lost, *(each for each in group if each.future is not None)])
        if first:
            logger.warning(
                "the match log cannot be written: %s; up to %s records will be retried", problem, f"{self._most:,}"
            )
        if lost:
            logger.warning("the match log was closed with %s records that could not be written", f"{len(lost):,}")
        for future in refused:
            future.set_exception(DatabaseError(str(problem)))

    def _give_up(self, waiting: _Waiting, problem: Exception) -> None:
        record, future, *_ = waiting
        with self._lock:
            self.dropped += future is None
            self._settle([waiting])
        id = record.id if isinstance(record, LogEntry) else record.match_id
        logger.warning("a record of match %s cannot be written: %r", id, problem)
        if future is not None:
            future.set_exception(DatabaseError(f"the record cannot be written: {problem!r}"))

    def _settle(self, settled: Iterable[_Waiting]) -> None:
        for each in settled:
            self._settled += 1
            self._held[each.client] -= each.size
            if not self._held[each.client]:
                del self._held[each.client]
        self._done.notify_all()
