"""Write the match log: one entry for each query, including refusals and empty results."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any, NamedTuple, overload

import numpy as np

from ...errors import DatabaseError, RowError, UsageError
from ...search import Field, Query, Term
from ...search.filters import to_dict
from ...search.match_log import (
    MOST_BYTES,
    LogEntry,
    LogEvent,
    LogQueries,
    LogWriter,
    MatchLog,
    masked,
    masked_query,
    new_match_id,
    open_match_log,
)
from ..clients import current
from ..jobs import CLIENT_LEFT, Call
from ..keys import ANYBODY, ApiKey
from ..problems import ProblemError
from ..settings import Settings
from ..telemetry.search import SearchMetrics
from .catalog import Answered, ServedCatalog
from .results import Shown, Written
from .threads import Threads

logger = logging.getLogger("text_image_similarity")

_THREADS = 2
# Maximum number and size of a request's entries that wait at a time, if entries are required: this many always fit in a
# client's share of the queue. A single entry is always smaller than this size.
_MOST_WAITING, _MOST_WAITING_BYTES = 500, MOST_BYTES // 4
# Maximum number of characters of a query or its filter in an entry: for an answered request, and for a refused one.
_MOST_ANSWERED, _MOST_REFUSED = 200_000, 10_000
_ENTRY_BYTES, _CHARACTER_BYTES = 2000, 16  # memory of an entry, and of each character of its JSON if values are short


class _Said(NamedTuple):
    """A query or a filter as an entry contains it, and the number of characters of its JSON."""

    value: Any
    length: int


@dataclass(slots=True)
class Asked:
    """The queries and results of a match request, as far as the request has been processed.

    Args:
        catalog: Name of the catalogue in the request; None means the default catalogue.
        ids: Ids of the matches for events, one for each query.
        queries: The queries as entries contain them; empty if they could not be read.
        wheres: Filters of the queries as JSON values, None for a query without one.
        found: Results of the queries; empty until they have been answered.
    """

    catalog: str | None
    ids: list[str] = field(default_factory=lambda: [new_match_id()])
    queries: Sequence[_Said] = ()
    wheres: Sequence[_Said] = ()
    found: Sequence[Answered] = ()

    def take(self, queries: Sequence[Query], fields: Sequence[Field], log_queries: LogQueries) -> None:
        """Record the queries and their filters, which `access.bound` has parsed, as JSON values.

        This method runs on a thread, because it takes longer the longer the queries and their images are.
        """
        self.queries = [_said_of(query, log_queries) for query in queries]
        wheres: list[Any] = [query.where for query in queries]
        self.wheres = [_measured(None if where is None else to_dict(where, fields)) for where in wheres]
        self.ids = [new_match_id() for _ in queries]


class Journal:
    """The match logs of a service's catalogues.

    Args:
        settings: Settings, which say whether and where entries are written, and how much of a query they contain.
        catalogs: The catalogues.
        metrics: Metrics that count entries.
    """

    def __init__(self, settings: Settings, catalogs: Mapping[str, ServedCatalog], metrics: SearchMetrics) -> None:
        self._settings, self._catalogs, self._metrics = settings, catalogs, metrics
        self._logs: list[MatchLog] = []
        self._threads = Threads("the match log", _THREADS, settings.request_timeout_s)
        self._writers: dict[str, LogWriter] = {}  # by catalogue

    def open(self) -> None:
        """Open the logs, unless they are already open.

        Raises:
            UsageError, DatabaseError: A log cannot be opened.
        """
        if self._settings.match_log == "off" or self._logs:
            return
        shared = None
        for name, catalog in self._catalogs.items():
            if self._settings.log_place is None and catalog.log_place is None:
                logger.info("catalogue %s has no match log, because it is a table in memory; see --log-to", name)
                continue
            if shared is None or self._settings.log_place is None:
                log = open_match_log(self._settings.log_place or catalog.log_place or "")
                self._logs.append(log)
                shared = LogWriter(log)
            self._writers[name] = writer = shared
            self._metrics.watch_log(name, lambda writer=writer: writer.depth)  # type: ignore[misc]

    @property
    def writers(self) -> list[LogWriter]:
        """The writers of the logs, each once."""
        return list({id(writer): writer for writer in self._writers.values()}.values())

    def keeps(self, catalog: str) -> bool:
        """Tell whether searches in a catalogue are logged, so that events can refer to them."""
        return catalog in self._writers

    def close(self) -> None:
        """Write pending entries and close the logs."""
        for writer in self.writers:
            writer.close()
        for log in self._logs:
            log.close()
        self._threads.close()

    async def record(
        self, call: Call, key: ApiKey | None, route: str, status: int, problem: ProblemError | None
    ) -> None:
        """Write the entries of a match request that is about to be answered.

        A request that lacks a required key must not fill the disk, so it is only counted in the metrics.

        Raises:
            ProblemError: `log_unavailable`, if entries are required and cannot be written.
        """
        asked: Asked = call.asked
        seen = [name for name in self._catalogs if (key or ANYBODY).sees(name)]
        if not seen:
            return
        name = asked.catalog if asked.catalog in seen else seen[0]
        asked.catalog = name
        found = [_entry(call, key or ANYBODY, route, status, problem, place) for place in range(len(asked.ids))]
        for entry, _ in found:
            self._metrics.matches.labels(name, _result_of(entry)).inc()
        if (writer := self._writers.get(name)) is None or key is None:
            return
        kept = [(masked(entry, self._settings.log_queries, query_too=False), size) for entry, size in found]
        client, written = current.get(), 0
        if self._settings.match_log == "required" and status != CLIENT_LEFT:
            try:
                async with asyncio.timeout(self._settings.request_timeout_s):
                    for group in _groups(kept):
                        writes = [writer.write(entry, size=size, client=client) for entry, size in group]
                        await asyncio.gather(*map(asyncio.wrap_future, writes))
                        self._metrics.log_entries.labels(name, "written").inc(len(group))
                        written += len(group)
            except (DatabaseError, TimeoutError) as exc:
                self._metrics.log_entries.labels(name, "lost").inc(len(kept) - written)
                logger.warning("the match log cannot be written: %s", str(exc) or "writing takes too long")
                detail = "the match log cannot be written, and each response requires an entry; see the service's log"
                raise ProblemError("log_unavailable", detail, retry_after_s=5) from exc
            return
        taken = sum(writer.put(entry, size=size, client=client) for entry, size in kept)
        self._metrics.log_entries.labels(name, "written").inc(taken)
        self._metrics.log_entries.labels(name, "lost").inc(len(kept) - taken)

    async def add_event(self, key: ApiKey, match_id: str, kind: Any, product: str) -> None:
        """Record what someone did with a product that a match request found.

        Raises:
            ProblemError: `unknown_match`; `invalid_request` if the match did not find the product; `conflict` if no log
                is kept; `log_unavailable` if too many entries are waiting; `catalog_unavailable`.
        """
        writers = {name: each for name, each in self._writers.items() if key.sees(name)}
        if not writers:
            raise ProblemError("conflict", "this service keeps no match log; see --match-log and --log-to")
        try:
            for name, writer in writers.items():
                entry = await self._threads.run(writer.find, match_id)
                if entry is not None and entry.tenant == key.name and entry.catalog == name:
                    if product not in [found["id"] for found in entry.results]:
                        detail = f"product {product[:100]!r} was not among the results of match {match_id}"
                        raise ProblemError("invalid_request", detail)
                    happened = LogEvent(match_id, time.time(), kind, product, key.name)
                    if not writer.put(happened, size=_ENTRY_BYTES + 4 * len(product), client=current.get()):
                        raise ProblemError(
                            "log_unavailable", "too many entries are waiting for the match log", retry_after_s=5
                        )
                    return
        except UsageError as exc:
            raise ProblemError("unknown_match", str(exc)) from None
        except DatabaseError as exc:
            logger.warning("the match log cannot be read: %s", exc)
            detail = "the match log cannot be read at the moment; see the service's log"
            raise ProblemError("catalog_unavailable", detail, retry_after_s=1) from exc
        raise ProblemError("unknown_match", f"there is no match {match_id[:100]!r}")


def _entry(
    call: Call, key: ApiKey, route: str, status: int, problem: ProblemError | None, place: int
) -> tuple[LogEntry, int]:
    """Return the entry for one of a request's queries, and the maximum number of bytes that it takes in memory."""
    asked: Asked = call.asked
    found = asked.found[place] if place < len(asked.found) else None
    most = _MOST_ANSWERED if problem is None else _MOST_REFUSED
    said, said_size = _bounded(asked.queries[place], most) if place < len(asked.queries) else ({}, 0)
    where, where_size = _bounded(asked.wheres[place], most) if place < len(asked.wheres) else (None, 0)
    entry = LogEntry(
        id=asked.ids[place],
        time=call.began,
        catalog=asked.catalog or "",
        route=route,
        request_id=call.request_id,
        tenant=key.name,
        status=status,
        query=said,
        where=where,
        milliseconds={**({} if found is None else found.milliseconds), "total": 1000 * (time.time() - call.began)},
        error=None if problem is None else f"{problem.code}: {problem.detail}",
    )
    size = _ENTRY_BYTES + said_size + where_size + 4 * len(entry.error or "")
    if found is None or problem is not None:
        return entry, size
    if isinstance(found.answer, RowError):
        return replace(entry, error=f"{found.answer.code.value}: {found.answer.detail}"), size
    return replace(entry, **_answered(found.answer)), size + found.answer.shown_size


def _groups(kept: Sequence[tuple[LogEntry, int]]) -> Iterator[Sequence[tuple[LogEntry, int]]]:
    """Yield a request's entries in groups that fit into the queue."""
    start, held = 0, 0
    for place, (_, size) in enumerate(kept):
        if place - start == _MOST_WAITING or (place > start and held + size > _MOST_WAITING_BYTES):
            yield kept[start:place]
            start, held = place, 0
        held += size
    yield kept[start:]


def _bounded(said: _Said, most: int) -> tuple[Any, int]:
    """Return a query and the maximum number of its bytes in memory; of a query that is too long, return the length."""
    if said.length > most:
        return {"left_out": f"{said.length:,} characters"}, 0
    return said.value, _CHARACTER_BYTES * said.length


class _Products(Sequence[Mapping[str, Any]]):
    """The products of an entry, which become mappings when they are read: mappings take far more memory."""

    __slots__ = ("_shown",)

    def __init__(self, shown: tuple[Shown, ...]) -> None:
        self._shown = shown

    def __len__(self) -> int:
        return len(self._shown)

    @overload
    def __getitem__(self, place: int) -> Mapping[str, Any]: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Mapping[str, Any]]: ...
    def __getitem__(self, place: int | slice) -> Any:
        return _Products(self._shown[place]) if isinstance(place, slice) else self._shown[place]._asdict()

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        return (each._asdict() for each in self._shown)


def _answered(found: Written) -> dict[str, Any]:
    return {"generation": found.generation, "results": _Products(found.shown), "total": found.total, "plan": found.plan}


def _said_of(query: Query, log_queries: LogQueries) -> _Said:
    """Return a query as an entry contains it, without the parts that must not be kept."""
    if log_queries == "off":
        return _measured(masked_query({"after": query.after}, log_queries))
    said = _query(query)
    length = sum(len(term.get("image_url", "")) for term in said["terms"])
    if length <= _MOST_ANSWERED:
        length = _measured(said).length
    return _Said(masked_query(said, log_queries) if length <= _MOST_ANSWERED else None, length)


def _measured(value: Any) -> _Said:
    return _Said(value, len(json.dumps(value, ensure_ascii=False)))


def _query(query: Query) -> dict[str, Any]:
    """Return a query as JSON values, with the SHA-256 of images and vectors instead of their content."""
    members = {name: getattr(query, name) for name in ("top_k", "min_similarity", "group", "sort", "fusion", "after")}
    return {"terms": [_term(term) for term in query.parts], **members, "facets": list(query.facets)}


def _term(term: Term) -> dict[str, Any]:
    said: dict[str, Any]
    if isinstance(term.image, bytes):
        said = {"image_sha256": sha256(term.image).hexdigest()}
    elif isinstance(term.image, str) and term.image[:5].lower() == "data:":
        said = {"image_sha256": sha256(term.image.encode()).hexdigest()}
    elif term.image is not None:
        said = {"image_url": term.image}
    elif term.vector is not None:
        said = {"vector_sha256": sha256(np.asarray(term.vector, "<f4").tobytes()).hexdigest()}
    else:
        said = {"text": term.text} if term.text is not None else {"product": term.product}
    return {**said, "weight": term.weight}


def _result_of(entry: LogEntry) -> str:
    if entry.error is not None:
        return "refused" if entry.status >= 400 else "failed"
    if entry.total is None:
        return "refused"
    return "found" if entry.results else "empty"
