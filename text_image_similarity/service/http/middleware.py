"""The gate that every request passes: it checks keys and limits, responds to errors, and records metrics and logs.

The gate is plain ASGI in front of the routes, so that a full service refuses requests before doing any work for them.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from hmac import compare_digest
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from starlette.routing import BaseRoute, Match

from ...system import forget_frames
from ..audit import Note
from ..clients import current, peer_name
from ..jobs import Call, ClientLeftError
from ..keys import ANYBODY, ApiKey
from ..pool import ModelPool
from ..problems import ProblemError
from ..search.journal import Asked, Journal
from ..settings import Settings
from ..shares import Patience, measured
from ..telemetry.metrics import Metrics
from ..telemetry.tracing import Tracing
from .auditing import Auditor, noted_refusal
from .connections import MOST_FIELDS
from .exchange import IncomingBody, Log, OutgoingAnswer, Room
from .hosts import check_host, check_origin

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

logger = logging.getLogger("text_image_similarity")

_REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,128}")
# Approximate cost of a request that is refused, and of each byte of its body. A request to an open route costs no less
# than a refusal.
_REFUSAL_S, _BYTE_S = 0.0005, 2e-9
# Dropped after a request, because an idle connection keeps its last scope. The key stays: a write may still need it.
_STATE = ("call", "json", "form", "count_body", "count_answer")
_MISSING_KEY = Note("key_refused", "unauthorized", "there is no key")
_REFUSED_KEY = Note("key_refused", "unauthorized", "the key is unknown")


@dataclass(slots=True)
class Gate:
    """The gate in front of an application; see the module's docstring.

    Args:
        app: Application behind the gate.
        settings: Settings with limits and keys.
        pool: Pool that tells whether there is room.
        metrics, tracing: Recorders of requests.
        work_routes: Routes whose requests have a body; POST requests to those that need a model are refused while the
            pool is full.
        open_routes: Routes that need no key. All other routes need a key, and so do unknown paths.
        match_routes: Routes whose responses are logged in the match log.
        journal: The match log.
        auditor: Writer of the audit log.
    """

    app: ASGIApp
    settings: Settings
    pool: ModelPool
    metrics: Metrics
    tracing: Tracing
    work_routes: Sequence[BaseRoute]
    open_routes: Sequence[BaseRoute]
    match_routes: Sequence[BaseRoute]
    journal: Journal
    auditor: Auditor
    room: Room = field(init=False)
    patience: Patience = field(default_factory=Patience)
    _keys: dict[bytes, ApiKey] = field(init=False)  # by digest
    _refused: int = 0  # bytes of refused and abandoned bodies since the last garbage collection

    def __post_init__(self) -> None:
        self.room = Room(self.settings.max_body_bytes)
        self._keys = {sha256(key.key.encode()).digest(): key for key in self.settings.keys}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        # Nothing here reads cookies, but the framework parses them for every route, in time quadratic in their length.
        scope["headers"] = [header for header in scope["headers"] if header[0] != b"cookie"]
        headers = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"")
        call = Call(given.decode() if _REQUEST_ID.fullmatch(given) else uuid4().hex)
        scope.setdefault("state", {})["call"] = call
        work = _find_route(self.work_routes, scope)
        client = peer_name(scope["client"][0] if scope.get("client") else "")
        current.set(client)
        body = IncomingBody(self.room, self.settings, receive, headers, getattr(work, "path", ""))
        body.client = client
        found = ((route, *route.matches(scope)) for route in self.match_routes)
        search, parts = next(((route, parts) for route, fits, parts in found if fits is Match.FULL), (None, {}))
        if search is not None:
            call.asked = Asked(parts.get("path_params", {}).get("catalog"))
        reply = OutgoingAnswer(
            self.room, send, call, closing=scope["app"].state.draining, log=self._log_of(scope, search)
        )
        try:
            scope["state"]["key"] = key = self._check_key(scope, headers)
            check_host(headers.get(b"host", b""), self.settings.allowed_hosts)
            check_origin(headers)
            _check_parameters(scope["query_string"])
            if key is not ANYBODY:
                client = f"key {sha256((key.name or key.key).encode()).hexdigest()[:16]}"
            current.set(client)
            body.client = reply.client = client
            scope["state"].update(count_body=body.count, count_answer=reply.count)
            needs_model = getattr(work, "needs_model", False) and scope["method"] == "POST"
            if needs_model and (refusal := self.pool.refusal()) is not None:
                raise refusal
            body.check()
            await self._answer(scope, body, reply)
        except Exception as error:
            await self._refuse(error, scope, body, reply)
        finally:
            self.room.release(client, body.held)
            reply.end()
            if work is not None and 200 <= reply.status < 400:
                self.patience.note_served(client)
            self._record(scope, headers, call, reply.status, work)
            self.auditor.write(scope, call, reply.status)
            for name in _STATE:
                scope["state"].pop(name, None)
            if not 200 <= reply.status < 400:
                self._collect(client, body.held)

    async def _refuse(self, error: Exception, scope: Scope, body: IncomingBody, reply: OutgoingAnswer) -> None:
        """Respond to a request that is refused or has failed, unless its client has left."""
        call: Call = scope["state"]["call"]
        problem = error
        if isinstance(error, ProblemError):
            if error.reason is not None:
                self.metrics.rejected.labels(error.reason).inc()
            call.notes += noted_refusal(error, scope["state"].get("key", ANYBODY))
        elif not isinstance(error, ClientLeftError):
            extra = {"request_id": call.request_id}
            logger.error("this is a bug in text_image_similarity; please report it", exc_info=error, extra=extra)
            problem = ProblemError("internal_error", "internal error; see the server's log for this request id")
        forget_frames(error)  # which hold the body
        if not isinstance(problem, ProblemError):
            await reply.leave()
            return
        await asyncio.sleep(self.patience.pause_s(body.client, _REFUSAL_S + _BYTE_S * body.sent))
        await reply.refuse(problem)

    def _collect(self, client: str, size: int) -> None:
        """Run the garbage collector after a few long bodies were refused or abandoned, in case one is left in a cycle.

        The collector, which then examines only what has been created since the start, takes up to 50 ms.
        """
        self._refused += size
        if self._refused > self.room.most:
            self._refused, began = 0, time.perf_counter()
            gc.collect()
            self.patience.charge(client, time.perf_counter() - began)

    async def _answer(self, scope: Scope, body: IncomingBody, reply: OutgoingAnswer) -> None:
        """Pass a request on; a request to an open route may have to wait first, so that others lose no time to it."""
        if _find_route(self.open_routes, scope) is None:
            await self.app(scope, body.receive, reply.send)
            return
        client = body.client
        if pause_s := self.patience.pause_s(client, _REFUSAL_S):
            await asyncio.sleep(pause_s)
        work: Any = self.app(scope, body.receive, reply.send)
        await measured(work, lambda took_s: self.patience.charge(client, took_s - _REFUSAL_S))

    def _log_of(self, scope: Scope, search: BaseRoute | None) -> Log | None:
        """Return the function that writes a match request's log entry."""
        if search is None:
            return None
        route = str(getattr(search, "path", ""))

        async def log(status: int, problem: ProblemError | None) -> None:
            state = scope["state"]
            await self.journal.record(state["call"], state.get("key"), route, status, problem)

        return log

    def _check_key(self, scope: Scope, headers: dict[bytes, bytes]) -> ApiKey:
        if not self._keys or _find_route(self.open_routes, scope) is not None:
            return ANYBODY
        scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
        given = token.strip() if scheme.lower() == b"bearer" else headers.get(b"x-api-key", b"")
        digest = sha256(given).digest()
        # All keys are compared, so that the time reveals nothing.
        found = [key for known, key in self._keys.items() if compare_digest(digest, known)]
        if not found:
            scope["state"]["call"].notes.append(_REFUSED_KEY if given else _MISSING_KEY)
            said = "this API key is unknown; send another one" if given else "send an API key"
            raise ProblemError("unauthorized", f"{said}: Authorization: Bearer KEY, or X-API-Key: KEY")
        return found[0]

    def _record(
        self, scope: Scope, headers: dict[bytes, bytes], call: Call, status: int, work: BaseRoute | None
    ) -> None:
        """Count, trace and log a finished request."""
        route = getattr(scope.get("route"), "path", None) or getattr(work, "path", "none")
        method = scope["method"] if scope["method"] in ("GET", "POST", "HEAD", "OPTIONS") else "other"
        seconds = time.time() - call.began
        self.metrics.requests.labels(route, method, str(status)).inc()
        self.metrics.request_seconds.labels(route).observe(max(seconds, 0.0))
        trace_id = None if work is None else self.tracing.record(call, headers, f"{method} {route}", status)
        level = logging.INFO if (work is not None and status != 429) or status >= 500 else logging.DEBUG
        logger.log(
            level,
            "%s %s %d in %.0f ms",
            *(method, route, status, 1000 * seconds),
            extra={
                "request_id": call.request_id,
                "trace_id": trace_id,
                "method": method,
                "route": route,
                "status": status,
                "duration_ms": round(1000 * seconds, 3),
                "pairs": call.pairs,
                "failed": call.failed,
            },
        )


def _check_parameters(query: bytes) -> None:
    """Refuse a URL with too many parameters, each of which takes time on the event loop."""
    if query.count(b"&") >= MOST_FIELDS:
        raise ProblemError("invalid_request", f"a URL may have at most {MOST_FIELDS} parameters")


def _find_route(routes: Sequence[BaseRoute], scope: Scope) -> BaseRoute | None:
    """Return the route for a request's path, regardless of its method; None if it is not among these routes."""
    return next((route for route in routes if route.matches(scope)[0] is not Match.NONE), None)
