"""Privacy of the match log: how much of a query is stored.

`hashed` shows whether two queries are equal, but does not hide a query from someone who can guess it and hash the
guess. The hash has no key, so that the replicas of a service and later runs agree without a secret that would have to
be stored; use `off` to store neither texts nor hashes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from hashlib import sha256
from typing import Any, Literal

from .entries import LogEntry

LogQueries = Literal["full", "hashed", "off"]
_PERSONAL = ("text", "without", "image_url")  # members of a query that a person wrote
_DEEPEST = 64  # deeper than any valid filter or query


def masked(entry: LogEntry, queries: LogQueries, *, query_too: bool = True) -> LogEntry:
    """Return an entry without the parts of the query that must not be stored.

    Args:
        entry: The entry.
        queries: `full` keeps everything. `hashed` replaces texts and URLs of images with their SHA-256 in hexadecimal
            digits, as `text_sha256` and so on, and a cursor with True; the filter is kept. `off` keeps only whether the
            query requested a later page, and drops the values of the filter: a mapping keeps its names, unless the
            request was refused, and an expression is dropped. `hashed` and `off` reduce an error to its code, because
            its detail may quote the query. The products found are always kept.
        query_too: Whether the query must still be masked; False if it comes from `masked_query`.
    """
    if queries == "full":
        return entry
    error = None if entry.error is None else entry.error.partition(":")[0]
    query, where = masked_query(entry.query, queries) if query_too else entry.query, entry.where
    if queries == "off":
        where = _names(where) if error is None else None
    return replace(entry, query=query, where=where, error=error)


def masked_query(query: Mapping[str, Any], queries: LogQueries) -> Mapping[str, Any]:
    """Return an entry's query without the parts that must not be stored; see `masked`."""
    if queries == "full":
        return query
    later = {"after": True} if query.get("after") else {}  # a cursor reveals where a page begins, and may be any text
    return {**_hashed(query), **later} if queries == "hashed" else later


def _hashed(value: Any, level: int = 0) -> Any:
    if level > _DEEPEST:
        return None
    if isinstance(value, Mapping):
        return dict(_hashed_member(name, inner, level + 1) for name, inner in value.items())
    return [_hashed(inner, level + 1) for inner in value] if isinstance(value, (list, tuple)) else value


def _hashed_member(name: str, value: Any, level: int) -> tuple[str, Any]:
    if name in _PERSONAL and isinstance(value, str):
        return f"{name}_sha256", sha256(value.encode("utf-8", "surrogatepass")).hexdigest()
    return name, _hashed(value, level)


def _names(where: Any, level: int = 0) -> Any:
    """Return a filter's mappings and lists of mappings without the values in them."""
    if isinstance(where, Mapping) and level <= _DEEPEST:
        return {name: _names(inner, level + 1) for name, inner in where.items()}
    if isinstance(where, (list, tuple)) and any(isinstance(inner, Mapping) for inner in where):
        return [_names(inner, level + 1) for inner in where]
    return None
