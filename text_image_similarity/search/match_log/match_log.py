"""The match log: entries and their events ordered by time, in any supported database."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from types import TracebackType

from .entries import LogEntry, LogEvent, check_match_id, entry_row, event_row, read_entry, read_event, time_prefix
from .storage import TABLES, LogStorage, StoredRow, Table

_AT_ONCE = 500  # rows in memory
_DELETED_AT_ONCE = 5000  # rows per transaction, which blocks writers
_END = "g"  # greater than every id


class MatchLog:
    """An append-only match log; `open_match_log` opens one. Safe to share between threads.

    Records are selected by the times in the matches' ids, to the millisecond. This includes events, so that a match is
    always selected together with its events.

    Args:
        storage: Storage of the log, which is closed with it.

    Raises:
        DatabaseError: Raised by every method if the database fails; the message says what to do.
    """

    def __init__(self, storage: LogStorage) -> None:
        self._storage = storage

    def __enter__(self) -> MatchLog:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    def append(self, entries: Iterable[LogEntry], events: Iterable[LogEvent] = ()) -> None:
        """Add entries and events; they are durable afterwards.

        Existing records with the same ids are unchanged, so that the same call can be repeated after a failure.
        """
        self._storage.insert(
            {"entry": [entry_row(each) for each in entries], "event": [event_row(each) for each in events]}
        )

    def append_events(self, events: Iterable[LogEvent]) -> None:
        """Add events, as `append` does."""
        self.append((), events)

    def get(self, id: str) -> LogEntry | None:
        """Return the entry of a match, or None.

        Raises:
            UsageError: The value is not the id of a match.
        """
        check_match_id(id)
        found = self._storage.get("entry", id)
        return None if found is None else read_entry(found)

    def entries(self, since: float | None = None, until: float | None = None) -> Iterator[LogEntry]:
        """Yield the entries ordered by id, and so by time, without blocking writers.

        Args:
            since: Time of the first entry, in seconds since the epoch; None starts with the oldest.
            until: Time before which to stop; None continues to the newest.
        """
        return map(read_entry, self._bodies("entry", since, until))

    def events(self, since: float | None = None, until: float | None = None) -> Iterator[LogEvent]:
        """Yield the events of the matches in a period, ordered by the matches' ids, then by time."""
        return map(read_event, self._bodies("event", since, until))

    def latest(self, most: int) -> list[LogEntry]:
        """Return the latest entries, newest first."""
        return [read_entry(body) for _, body in self._storage.page("entry", "", _END, most, newest=True)]

    def prune(self, before: float) -> int:
        """Remove the entries before a time, with their events, and return the number of entries removed."""
        removed: dict[Table, int] = dict.fromkeys(TABLES, 0)
        for table in reversed(TABLES):  # entries last, so that an interrupted run leaves no event without an entry
            while count := self._storage.delete(table, time_prefix(before), _DELETED_AT_ONCE):
                removed[table] += count
        return removed["entry"]

    def close(self) -> None:
        """Close files and connections."""
        self._storage.close()

    def _bodies(self, table: Table, since: float | None, until: float | None) -> Iterator[str]:
        after = "" if since is None else _just_before(time_prefix(since))
        before = _END if until is None else time_prefix(until)
        rows: list[StoredRow]
        while rows := self._storage.page(table, after, before, _AT_ONCE):
            yield from (body for _, body in rows)
            after = rows[-1][0]


def _just_before(prefix: str) -> str:
    """Return a text that is less than all ids with a prefix, and greater than all ids with a smaller prefix."""
    number = int(prefix, 16)
    return f"{number - 1:0{len(prefix)}x}{_END}" if number else ""
