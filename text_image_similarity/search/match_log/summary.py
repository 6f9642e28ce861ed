"""Statistics of a match log: the number of searches, their duration, and how many found nothing or led to a click."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from ...normal_forms import normal_form
from .entries import LogEntry, LogEvent
from .joined import is_first_page, terms_of, with_events
from .match_log import MatchLog

CLICKED_WITHIN = (1, 3, 10)
_POSITIVE = ("click", "cart", "buy")
_LISTED = 20  # maximum number of queries and products to list
_SHOWN = 200  # characters of a query


@dataclass(frozen=True, slots=True)
class LogSummary:
    """Statistics of a match log.

    Args:
        requests: Number of entries, regardless of the response.
        searches: Number of entries without an error that are not later pages of a result (`query` has no `after`). All
            figures below are about searches, except `refused`, `milliseconds_*` and `events`.
        refused: Number of entries with an error, by error code, most frequent first.
        empty: Number of searches that found no product.
        empty_queries: The most frequent queries among the searches that found no product, with their counts.
        asked: The most frequent queries of all searches, with their counts. Two queries are the same if their terms
            are, regardless of filters and options: texts are compared ignoring case and repeated spaces, images by
            their URL or, like vectors, by the first 12 digits of their SHA-256, and all by their first 200 characters.
        milliseconds_median: Median of `milliseconds["total"]` of all entries without an error; None if no entry has it.
        milliseconds_p99: 99th percentile of the same values, interpolated linearly as in NumPy.
        click_through: For k = 1, 3 and 10, the share of all searches with a click, cart or buy of a product among the
            first k results; None if there is no search.
        clicked: The products that were clicked, put into the cart or bought in the most searches, with these numbers.
        events: Number of events of all entries, by kind.
    """

    requests: int
    searches: int
    refused: Mapping[str, int]
    empty: int
    empty_queries: list[tuple[str, int]]
    asked: list[tuple[str, int]]
    milliseconds_median: float | None
    milliseconds_p99: float | None
    click_through: Mapping[int, float | None]
    clicked: list[tuple[str, int]]
    events: Mapping[str, int]

    def as_dict(self) -> dict[str, Any]:
        """Return the statistics as JSON values."""
        return asdict(self)


@dataclass(slots=True)
class _Counts:
    """The counts from the pass over a log."""

    requests: int = 0
    searches: int = 0
    empty: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    empty_queries: Counter[str] = field(default_factory=Counter)
    asked: Counter[str] = field(default_factory=Counter)
    within: Counter[int] = field(default_factory=Counter)
    clicked: Counter[str] = field(default_factory=Counter)
    events: Counter[str] = field(default_factory=Counter)
    milliseconds: array[float] = field(default_factory=lambda: array("d"))


def summarize(log: MatchLog, since: float | None = None) -> LogSummary:
    """Compute the statistics of a log in one pass; memory grows with distinct queries, and by 8 bytes per entry.

    Args:
        log: The log.
        since: Time of the first entry to count, in seconds since the epoch; None counts all.

    Raises:
        DatabaseError: The log cannot be read.
    """
    counts = _Counts()
    for entry, events in with_events(log, since):
        counts.requests += 1
        counts.events.update(event.kind for event in events)
        if entry.error is not None:
            counts.refused[entry.error.partition(":")[0]] += 1
            continue
        if isinstance(total := entry.milliseconds.get("total"), (int, float)):
            counts.milliseconds.append(total)
        if is_first_page(entry):
            _count_search(counts, entry, events)
    times = np.percentile(np.frombuffer(counts.milliseconds), [50, 99]).tolist() if counts.milliseconds else [None] * 2
    searches = counts.searches
    return LogSummary(
        requests=counts.requests,
        searches=searches,
        refused=dict(counts.refused.most_common()),
        empty=counts.empty,
        empty_queries=counts.empty_queries.most_common(_LISTED),
        asked=counts.asked.most_common(_LISTED),
        milliseconds_median=times[0],
        milliseconds_p99=times[1],
        click_through={k: counts.within[k] / searches if searches else None for k in CLICKED_WITHIN},
        clicked=counts.clicked.most_common(_LISTED),
        events=dict(counts.events.most_common()),
    )


def describe_query(entry: LogEntry) -> str:
    """Return a description of an entry's query on one line, equal for queries that `LogSummary` counts together."""
    parts = [_describe_term(term) for term in terms_of(entry)]
    return " + ".join(parts)[:_SHOWN] or "(no terms)"


def _count_search(counts: _Counts, entry: LogEntry, events: Iterable[LogEvent]) -> None:
    query = describe_query(entry)
    counts.searches += 1
    counts.asked[query] += 1
    if not entry.results:
        counts.empty += 1
        counts.empty_queries[query] += 1
    products = dict.fromkeys(event.product for event in events if event.kind in _POSITIVE)  # in their order
    counts.clicked.update(products.keys())
    best = next((rank for rank, found in enumerate(entry.results, 1) if found.get("id") in products), None)
    counts.within.update(k for k in CLICKED_WITHIN if best is not None and best <= k)


def _describe_term(term: Mapping[str, Any]) -> str:
    weight = term.get("weight", 1)
    times = "" if weight == 1 else f"{weight} × "
    if isinstance(text := term.get("text"), str):
        return times + " ".join(normal_form("NFC", text).casefold().split())
    kind, value = next(((name, value) for name, value in term.items() if name != "weight"), ("term", ""))
    return f"{times}{kind.removesuffix('_sha256')} {str(value)[: 12 if kind.endswith('_sha256') else _SHOWN]}"
