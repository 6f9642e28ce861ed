"""Create the audit log's entries for requests: refusals, blocked addresses, and changes to catalogues."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastapi import Request
from starlette.routing import BaseRoute, Match

from ..audit import AuditLog, Event, Note, is_blocked
from ..clients import peer_name
from ..jobs import Call
from ..keys import ANYBODY, ApiKey
from ..problems import ProblemError

if TYPE_CHECKING:
    from starlette.types import Scope

_EVENTS: dict[str, Event] = {  # events by the problem's code
    "forbidden": "access_refused",
    "unknown_host": "access_refused",
    "invalid_json": "request_refused",
    "invalid_request": "request_refused",
    "unsupported_media_type": "request_refused",
    "queue_full": "limit_hit",
    "too_many_bytes": "limit_hit",
    "timeout": "limit_hit",
}
_MOST_HOSTS = 5
_LONGEST = 2048  # characters at the beginning of a reference, which contain its host


@dataclass(frozen=True, slots=True)
class Auditor:
    """Writes the notes of requests to the audit log.

    Args:
        log: The audit log.
        keys: Keys of the service; a key without a name is identified by its number.
        routes: All routes.
    """

    log: AuditLog
    keys: Sequence[ApiKey]
    routes: Sequence[BaseRoute]

    def write(self, scope: Scope, call: Call, status: int) -> None:
        """Write the notes of a finished request."""
        if not call.notes:
            return
        address = str(scope["client"][0]) if scope.get("client") else ""
        key: ApiKey = scope["state"].get("key", ANYBODY)
        client = peer_name(address) if key is ANYBODY else key.name or f"key {self.keys.index(key) + 1}"
        route = next((each for each in self.routes if each.matches(scope)[0] is not Match.NONE), None)
        path = getattr(scope.get("route") or route, "path", None)
        facts = {"address": address, "method": scope["method"], "route": path, "request_id": call.request_id}
        for note in call.notes:
            self.log.record(note, client, **facts, status=status)


def noted_refusal(problem: ProblemError, key: ApiKey) -> list[Note]:
    """Return the note for a refused request; a detail that may quote the request is left out."""
    event = _EVENTS.get(problem.code)
    if (problem.code == "unknown_catalog" and key.catalogs) or (problem.code == "unknown_product" and key.where):
        event = "access_refused"  # the catalogue or product may exist, but be hidden from this key
    detail = "" if event == "request_refused" else problem.detail
    return [] if event is None else [Note(event, problem.reason or problem.code, detail)]


def note_change(request: Request, reason: str, detail: str) -> None:
    """Record that a request changes a catalogue; the status in the log's line shows whether the change succeeded."""
    call: Call = request.state.call
    call.notes.append(Note("administration", reason, detail))


def noted_blocks(images: Sequence[object], results: Sequence[object]) -> list[Note]:
    """Return the notes for images at blocked addresses; after a redirect, the note names the host that redirected.

    Args:
        images: References in a request, or the images' bytes.
        results: The result for each image.
    """
    refused = [image for image, result in zip(images, results, strict=True) if is_blocked(result)]
    return [noted_hosts(refused, len(refused))] if refused else []


def noted_hosts(blocked: Sequence[object], count: int) -> Note:
    """Return the note for `count` blocked references; it names the hosts of the first few of those in `blocked`."""
    hosts = list(dict.fromkeys(filter(None, map(_host_of, blocked))))
    more = f" and {len(hosts) - _MOST_HOSTS} more" if len(hosts) > _MOST_HOSTS else ""
    return Note("address_blocked", "blocked_address", ", ".join(hosts[:_MOST_HOSTS]) + more, count)


def _host_of(image: object) -> str:
    """Return a URL's host and port, without user name, password, path and query."""
    found = re.match(r"\s*https?://([^/?#\\\s]*)", image[:_LONGEST], re.IGNORECASE) if isinstance(image, str) else None
    return "" if found is None else found[1].rpartition("@")[2][:100]
