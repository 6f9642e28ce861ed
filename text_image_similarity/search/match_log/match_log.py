"""The match log: entries and their events in the order of time, in any of the databases."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from types import TracebackType

from .entries import LogEntry, LogEvent, check_match_id, entry_row, event_row, read_entry, read_event, time_prefix
from .storage import TABLES, LogStorage, StoredRow, Table

_AT_ONCE = 500  # rows in memory
_DELETED_AT_ONCE = 5000  # rows of one transaction, which keeps writers waiting
_END = "g"  # greater than every id


class MatchLog:
    """A match log, to which entries and events are only added; `open_match_log` opens one. Threads may share it.

    Times are those in the ids of the matches, to the millisecond, also for events: what is chosen by time is a match with
    everything that belongs to it.

    Args:
        storage: Where it is kept; it is closed with the log.

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

        What is there already under the same id stays as it is, so that the same call may be made again after a failure.
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
            UsageError: It is not the id of a match.
        """
        check_match_id(id)
        found = self._storage.get("entry", id)
        return None if found is None else read_entry(found)

    def entries(self, since: float | None = None, until: float | None = None) -> Iterator[LogEntry]:
        """Yield the entries in the order of their ids, which is that of time; writers continue meanwhile.

        Args:
            since: The first time, seconds since the epoch; None starts with the oldest.
            until: The time before which to stop; None continues to the newest.
        """
        return map(read_entry, self._bodies("entry", since, until))

    def events(self, since: float | None = None, until: float | None = None) -> Iterator[LogEvent]:
        """Yield the events of the matches of a time, in the order of the matches' ids, and of one match in that of time."""
        return map(read_event, self._bodies("event", since, until))

    def latest(self, most: int) -> list[LogEntry]:
        """Return the newest entries, the newest first."""
        return [read_entry(body) for _, body in self._storage.page("entry", "", _END, most, newest=True)]

    def prune(self, before: float) -> int:
        """Remove the entries from before a time, with their events, and return how many entries there were."""
        removed: dict[Table, int] = dict.fromkeys(TABLES, 0)
        for table in reversed(TABLES):  # entries last, so that an interrupted run leaves no event without one
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
    """Return a text that is less than all ids with a prefix, and greater than all with a lesser one."""
    number = int(prefix, 16)
    return f"{number - 1:0{len(prefix)}x}{_END}" if number else ""
