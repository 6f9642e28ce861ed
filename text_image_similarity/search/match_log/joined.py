"""The matches of a log with their events, in one pass and constant memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .entries import LogEntry, LogEvent
from .match_log import MatchLog


def with_events(log: MatchLog, since: float | None = None) -> Iterator[tuple[LogEntry, list[LogEvent]]]:
    """Yield entries in order of time, each with its events; the log yields both in the order of the matches' ids."""
    events = log.events(since)
    event = next(events, None)
    for entry in log.entries(since):
        found = []
        while event is not None and event.match_id <= entry.id:
            if event.match_id == entry.id:
                found.append(event)
            event = next(events, None)
        yield entry, found


def terms_of(entry: LogEntry) -> list[dict[str, Any]]:
    """Return the well-formed terms of an entry's query."""
    terms = entry.query.get("terms")
    return [term for term in terms if isinstance(term, dict)] if isinstance(terms, list) else []


def is_first_page(entry: LogEntry) -> bool:
    """Tell whether an entry is a search, and not a later page of one."""
    return not entry.query.get("after")
