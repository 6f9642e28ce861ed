"""Export a match log as a table with each match's events in its row, as JSON Lines or Parquet.

In Parquet, `query` and `where` contain JSON, because every query has different members.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from os import PathLike
from typing import Any

import pyarrow as pa

from ...errors import UsageError
from ...files import path_text
from ...formats import ArrowRows, JsonRows, Rows, dump, format_of
from ...records import is_whole
from ..table_export import write_rows
from .entries import LogEntry, LogEvent
from .joined import with_events
from .match_log import MatchLog

_AT_ONCE = 1000  # matches in memory
_RESULT = pa.struct([("id", pa.string()), ("similarity", pa.float64()), ("score", pa.float64())])
_EVENT = pa.struct([("time", pa.float64()), ("kind", pa.string()), ("product", pa.string()), ("tenant", pa.string())])
_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("time", pa.float64()),
        *((name, pa.string()) for name in ("catalog", "route", "request_id", "tenant")),
        ("status", pa.int64()),
        ("generation", pa.int64()),
        ("query", pa.string()),
        ("where", pa.string()),
        ("results", pa.list_(_RESULT)),
        ("total", pa.int64()),
        ("plan", pa.string()),
        ("milliseconds", pa.map_(pa.string(), pa.float64())),
        ("error", pa.string()),
        ("events", pa.list_(_EVENT)),
    ]
)


def export_log(log: MatchLog, out: str | PathLike[str], since: float | None = None, *, force: bool = False) -> int:
    """Write a log to a table, which appears complete or not at all, and return the number of matches.

    Args:
        log: The log.
        out: File to write, with the suffix `.jsonl`, optionally compressed, or `.parquet`.
        since: Time of the first match, in seconds since the epoch; None writes all.
        force: Whether to replace an existing file.

    Raises:
        UsageError: The file exists, or its suffix is not that of a supported format.
        TableError: The file cannot be written.
        DatabaseError: The log cannot be read.
    """
    place = path_text(out, "out")
    kind = format_of(place).kind
    if kind not in ("jsonl", "parquet"):
        raise UsageError(f"{place}: the rows of a log contain lists; export the log to a .jsonl or .parquet file")
    return write_rows(place, _SCHEMA, _parts(log, since, stored=kind == "parquet"), force=force)


def _parts(log: MatchLog, since: float | None, *, stored: bool) -> Iterator[Rows]:
    matches, first = with_events(log, since), 1
    while chunk := [_row(*match) for match in islice(matches, _AT_ONCE)]:
        if stored:
            rows = [{name: _stored(name, value) for name, value in row.items()} for row in chunk]
            columns = [pa.array([row[field.name] for row in rows], field.type) for field in _SCHEMA]
            yield ArrowRows(pa.record_batch(columns, schema=_SCHEMA))
        else:
            yield JsonRows(
                range(first, first + len(chunk)),
                dict.fromkeys(_SCHEMA.names, "json"),
                [_json(row) for row in chunk],
                chunk,
            )
        first += len(chunk)


def _row(entry: LogEntry, events: list[LogEvent]) -> dict[str, Any]:
    told = [{name: value for name, value in event.as_dict().items() if name != "match_id"} for event in events]
    return entry.as_dict() | {"events": told}


def _json(value: Any) -> str:
    text = dump(value)
    return text if is_whole(text) else json.dumps(value)  # with lone surrogates escaped


def _stored(name: str, value: Any) -> Any:
    """Return a value for a Parquet column."""
    if name in ("query", "where"):
        return None if value is None else _json(value)
    if name == "milliseconds":
        return [(_whole(stage), spent) for stage, spent in value.items()]
    return _whole(value)


def _whole(value: Any) -> Any:
    """Replace lone surrogates, which Arrow cannot represent."""
    if isinstance(value, str):
        return value if is_whole(value) else value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {name: _whole(inner) for name, inner in value.items()}
    return [_whole(inner) for inner in value] if isinstance(value, (list, tuple)) else value
