"""What the match log holds: one entry for each answer, and what people did with it afterwards."""

from __future__ import annotations

import json
import re
import secrets
import time as clock
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from hashlib import blake2b
from typing import Any, Literal, get_args

import numpy as np

from ...errors import InputTypeError, UsageError
from ...files import without_nan
from ...normal_forms import normal_form

EventKind = Literal["click", "cart", "buy", "wrong"]
_ID = re.compile("[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One answered match request, also one that was refused or found nothing.

    Args:
        id: The match's id, as `new_match_id` makes it; it carries the time by which entries are ordered and chosen.
        time: When the request came, seconds since the epoch.
        catalog: The catalogue's name.
        route: The route that was asked, such as `/match-text`.
        request_id: The id of the HTTP request, which several matches share if it held several queries.
        tenant: The name of the key, or empty.
        status: The HTTP status; 499 where the client had left.
        generation: The number of the generation that answered; None if none did.
        query: What was asked: `terms` as mappings of `text`, `image_sha256`, `image_url`, `product` or `vector_sha256`, each with
            `weight`; and `top_k`, `sort` and so on as they were given.
        where: The filter, with that of the tenant; None without one.
        results: The products that were answered, best first, as mappings with `id`, `similarity` and `score`.
        total: How many products were found in all; None if none were looked for.
        plan: How they were found, as `Matches.plan` has it; None if none were looked for.
        milliseconds: How long each stage took, with the whole under `total`.
        error: `"<code>: <detail>"` of what was answered instead; None without an error.

    Raises:
        UsageError: The id was not made by `new_match_id`.
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
    results: tuple[Mapping[str, Any], ...] = ()
    total: int | None = None
    plan: str | None = None
    milliseconds: Mapping[str, float] = field(default_factory=dict)
    error: str | None = None

    def __post_init__(self) -> None:
        check_match_id(self.id)

    def as_dict(self) -> dict[str, Any]:
        """Return the members by their names."""
        return {name: getattr(self, name) for name in _ENTRY} | {"results": list(self.results)}


@dataclass(frozen=True, slots=True)
class LogEvent:
    """What somebody did with a product of an answer, or said of it.

    Args:
        match_id: The id of the entry.
        time: When, seconds since the epoch.
        kind: `click`, `cart` or `buy`; or `wrong` for a verdict that the product is not what was looked for.
        product: The product's id.
        tenant: The name of the key, or empty.

    Raises:
        InputTypeError, UsageError: A value cannot be used.
    """

    match_id: str
    time: float
    kind: EventKind
    product: str
    tenant: str = ""

    def __post_init__(self) -> None:
        check_match_id(self.match_id)
        if self.kind not in get_args(EventKind):
            raise UsageError(f"the kind of an event is click, cart, buy or wrong, not {self.kind!r:.100}")
        if not isinstance(self.product, str) or not self.product:
            raise InputTypeError.of("LogEvent.product", "a product's id", self.product)
        object.__setattr__(self, "product", normal_form("NFC", self.product))  # as the ids of products are

    def as_dict(self) -> dict[str, Any]:
        """Return the members by their names."""
        return {name: getattr(self, name) for name in _EVENT}


_ENTRY = [each.name for each in fields(LogEntry)]
_EVENT = [each.name for each in fields(LogEvent)]


def new_match_id(time: float | None = None) -> str:
    """Return an id that no other match has, and that sorts by time: 12 hexadecimal digits of milliseconds, and 20 random ones.

    Args:
        time: When the request came, seconds since the epoch; None is now.
    """
    return time_prefix(clock.time() if time is None else time) + secrets.token_hex(10)


def check_match_id(id: object) -> None:
    """Raise a `UsageError` unless an id is one that `new_match_id` makes."""
    if not isinstance(id, str) or not _ID.fullmatch(id):
        raise UsageError(f"{id!r:.100} is not the id of a match: an id has 32 hexadecimal digits")


def time_prefix(time: float) -> str:
    """Return what the ids of a millisecond begin with."""
    return f"{min(max(0, int(time * 1000)), (1 << 48) - 1):012x}"


def entry_row(entry: LogEntry) -> tuple[str, str]:
    """Return an entry as it is stored: its id, and its members as JSON in ASCII, without NaN."""
    try:
        return entry.id, _dump(entry.as_dict())
    except RecursionError:  # nested more deeply than could be read again
        return entry.id, _dump(replace(entry, query={}, where=None).as_dict())


def event_row(event: LogEvent) -> tuple[str, str]:
    """Return an event as it is stored: under an id that sorts by match and time, and is the same for the same event."""
    body = _dump(event.as_dict())
    digest = blake2b(body.encode("ascii"), digest_size=10).hexdigest()
    return f"{event.match_id}{time_prefix(event.time)}{digest}", body


def read_entry(body: str) -> LogEntry:
    """Return the entry that was stored."""
    found = json.loads(body)
    return LogEntry(**found | {"results": tuple(found["results"])})


def read_event(body: str) -> LogEvent:
    """Return the event that was stored."""
    return LogEvent(**json.loads(body))


def _dump(members: dict[str, Any]) -> str:
    try:
        return json.dumps(members, allow_nan=False, default=_plain)
    except (TypeError, ValueError):
        return json.dumps(without_nan(members), allow_nan=False, default=_plain)


def _plain(value: object) -> object:
    """Return what JSON can hold instead of another value; a log refuses nothing."""
    if isinstance(value, Mapping):
        return without_nan(dict(value))
    if isinstance(value, (np.generic, np.ndarray)):
        return without_nan(value.tolist())
    return list(value) if isinstance(value, (set, frozenset)) else str(value)
