"""Records of the match log: an entry for each query, and events for what people did with its results."""

from __future__ import annotations

import json
import re
import secrets
import time as clock
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from hashlib import blake2b
from numbers import Real
from typing import Any, Literal, get_args

import numpy as np

from ...bounded_json import parse_json
from ...checks import excerpt
from ...errors import DatabaseError, InputTypeError, UsageError, type_name
from ...files import without_nan
from ...normal_forms import normal_form

EventKind = Literal["click", "cart", "buy", "wrong"]
_ID = re.compile("[0-9a-f]{32}")
_END_OF_TIME = 2.5e11  # in the year 9892, which a calendar can still show


@dataclass(frozen=True, slots=True)
class LogEntry:
    """A match request with its results, which are empty if the request was refused or nothing was found.

    Args:
        id: Id of the match, from `new_match_id`; it contains the time by which entries are sorted and selected.
        time: Time of the request, in seconds since the epoch.
        catalog: Name of the catalogue.
        route: Route of the request, such as `/match-text`.
        request_id: Id of the HTTP request, which several matches share if it contained several queries.
        tenant: Name of the key, or empty.
        status: HTTP status; 499 if the client had left.
        generation: Number of the generation that was searched; None if there was no search.
        query: The query as a mapping: `terms`, each with `weight` and one of `text`, `image_sha256`, `image_url`,
            `product` and `vector_sha256`; and the options as given, such as `top_k` and `sort`.
        where: Filter, combined with that of the tenant; None without a filter.
        results: Products in the response, in order, as mappings with `id`, `similarity` and `score`.
        total: Total number of products found; None if there was no search.
        plan: How the products were found; see `Matches.plan`; None if there was no search.
        milliseconds: Duration of each stage, and of the whole request under `total`.
        error: `"<code>: <detail>"` if the response was an error, otherwise None.

    Raises:
        UsageError: The id does not have the form of those from `new_match_id`.
    """

    id: str
    time: float
    catalog: str = ""
    route: str = ""
    request_id: str = ""
    tenant: str = ""
    status: int = 200
    generation: int | None = None
    query: Mapping[str, Any] = field(default_factory=dict)
    where: str | Mapping[str, Any] | None = None
    results: Sequence[Mapping[str, Any]] = ()
    total: int | None = None
    plan: str | None = None
    milliseconds: Mapping[str, float] = field(default_factory=dict)
    error: str | None = None

    def __post_init__(self) -> None:
        check_match_id(self.id)
        _check_time("LogEntry.time", self.time)

    def as_dict(self) -> dict[str, Any]:
        """Return the entry as a dictionary, with its results as a list."""
        return {name: getattr(self, name) for name in _ENTRY} | {"results": list(self.results)}


@dataclass(frozen=True, slots=True)
class LogEvent:
    """An event: what someone did with a product in a response, or a verdict on it.

    Args:
        match_id: Id of the entry.
        time: Time of the event, in seconds since the epoch.
        kind: `click`, `cart` or `buy`; or `wrong` for a verdict that the product does not match.
        product: Id of the product.
        tenant: Name of the key, or empty.

    Raises:
        InputTypeError, UsageError: A value is not valid.
    """

    match_id: str
    time: float
    kind: EventKind
    product: str
    tenant: str = ""

    def __post_init__(self) -> None:
        check_match_id(self.match_id)
        _check_time("LogEvent.time", self.time)
        if self.kind not in get_args(EventKind):
            raise UsageError(f"the kind of an event must be click, cart, buy or wrong, not {self.kind!r:.100}")
        if not isinstance(self.product, str) or not self.product:
            raise InputTypeError.of("LogEvent.product", "a product's id", self.product)
        object.__setattr__(self, "product", normal_form("NFC", self.product))  # like the ids of products

    def as_dict(self) -> dict[str, Any]:
        """Return the event as a dictionary."""
        return {name: getattr(self, name) for name in _EVENT}


_ENTRY = [each.name for each in fields(LogEntry)]
_EVENT = [each.name for each in fields(LogEvent)]
_STORED: dict[str, tuple[type, ...]] = {  # types of members; records check their other members themselves
    **dict.fromkeys(("catalog", "route", "request_id", "tenant"), (str,)),
    **dict.fromkeys(("generation", "total"), (int, type(None))),
    **dict.fromkeys(("plan", "error"), (str, type(None))),
    **dict.fromkeys(("query", "milliseconds"), (dict,)),
    "status": (int,),
    "where": (str, dict, type(None)),
    "results": (list,),
}


def new_match_id(time: float | None = None) -> str:
    """Return a unique id that sorts by time: 12 hexadecimal digits of milliseconds, and 20 random ones.

    Args:
        time: Time of the request, in seconds since the epoch; None means now.
    """
    return time_prefix(clock.time() if time is None else time) + secrets.token_hex(10)


def check_match_id(id: object) -> None:
    """Raise a `UsageError` unless an id has the form of those from `new_match_id`."""
    if not isinstance(id, str) or not _ID.fullmatch(id):
        raise UsageError(f"{id!r:.100} is not the id of a match: an id has 32 hexadecimal digits")


def _check_time(name: str, time: object) -> None:
    if not isinstance(time, Real) or not abs(float(time)) < _END_OF_TIME:
        raise UsageError(f"{name} must be in seconds since the epoch, not {excerpt(time)}")


def time_prefix(time: float) -> str:
    """Return the prefix that all ids of the same millisecond share."""
    return f"{min(max(0, int(time * 1000)), (1 << 48) - 1):012x}"


def entry_row(entry: LogEntry) -> tuple[str, str]:
    """Return the stored form of an entry: its id, and its members as ASCII JSON, without NaN."""
    try:
        return entry.id, _dump(entry.as_dict())
    except RecursionError:  # nested too deeply to be read again
        return entry.id, _dump(replace(entry, query={}, where=None).as_dict())


def event_row(event: LogEvent) -> tuple[str, str]:
    """Return the stored form of an event, with an id that sorts by match and time, and is equal for equal events."""
    body = _dump(event.as_dict())
    digest = blake2b(body.encode("ascii"), digest_size=10).hexdigest()
    return f"{event.match_id}{time_prefix(event.time)}{digest}", body


def read_entry(body: str) -> LogEntry:
    """Return an entry from its stored form.

    Raises:
        DatabaseError: The form is not one that `entry_row` returns.
    """
    with _as_stored():
        found = _members(body, _ENTRY)
        results = found.get("results", [])
        if not all(isinstance(each, dict) and isinstance(each.get("id", ""), str) for each in results):
            raise ValueError("a result is not a product with an id")
        if not all(isinstance(spent, (int, float)) for spent in found.get("milliseconds", {}).values()):
            raise ValueError("a duration is not a number")
        return LogEntry(**found | {"results": tuple(results)})


def read_event(body: str) -> LogEvent:
    """Return an event from its stored form.

    Raises:
        DatabaseError: The form is not one that `event_row` returns.
    """
    with _as_stored():
        return LogEvent(**_members(body, _EVENT))


@contextmanager
def _as_stored() -> Iterator[None]:
    try:
        yield
    except (ValueError, TypeError, AttributeError, RecursionError, UsageError) as exc:
        raise DatabaseError(
            f"the match log contains a record that this package did not write ({excerpt(str(exc), 200)}); restore the log from a "
            "backup, or delete the record"
        ) from exc


def _members(body: str, names: Sequence[str]) -> dict[str, Any]:
    """Return the members of a stored record, without those that this version does not know."""
    found = parse_json(body)
    if not isinstance(found, dict):
        raise TypeError("a record is not an object")
    for name, kinds in _STORED.items():
        if name in found and not isinstance(found[name], kinds):
            raise TypeError(f"{name} is {type_name(found[name])}")
    return {name: found[name] for name in names if name in found}


def _dump(members: dict[str, Any]) -> str:
    try:
        return json.dumps(members, allow_nan=False, default=_plain)
    except (TypeError, ValueError):
        return json.dumps(without_nan(members), allow_nan=False, default=_plain)


def _plain(value: object) -> object:
    """Return a substitute for a value that JSON cannot represent; a log accepts all values."""
    if isinstance(value, Mapping):
        return without_nan(dict(value))
    if isinstance(value, (np.generic, np.ndarray)):
        return without_nan(value.tolist())
    return list(value) if isinstance(value, (set, frozenset)) else str(value)
