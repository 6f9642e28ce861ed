"""The door that every request passes: its id, refusals, limits and problems, and its metrics, trace and log line afterwards.

Plain ASGI, in front of the routes, so that a request without room is refused before anything is done for it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from hmac import compare_digest
from typing import TYPE_CHECKING
from uuid import uuid4

from starlette.routing import BaseRoute, Match

from ..audit import Note
from ..clients import current, peer_name
from ..jobs import CLIENT_LEFT, Call, ClientLeftError
from ..keys import ANYBODY, ApiKey
from ..pool import ModelPool
from ..problems import CONTENT_TYPE, ProblemError
from ..search.journal import Asked, Journal
from ..settings import MOST_BODIES, Settings
from ..telemetry.metrics import Metrics
from ..telemetry.tracing import Tracing
from .auditing import Auditor, noted_refusal
from .hosts import check_host, check_origin

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

logger = logging.getLogger("text_image_similarity")

Log = Callable[[int, ProblemError | None], Awaitable[None]]

_REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,128}")
_PIECE = 1 << 16  # of an answer, given to the connection at a time
_SENDING_S = 60.0  # for a whole answer
_MISSING_KEY = Note("key_refused", "unauthorized", "there is no key")
_REFUSED_KEY = Note("key_refused", "unauthorized", "the key is unknown")


@dataclass(slots=True)
class Gate:
    """See the module.

    Args:
        app: The application behind it.
        settings: Limits and keys.
        pool: Says whether there is room.
        metrics, tracing: Record what happened.
        work_routes: Those whose requests cost a model work.
        open_routes: Those that need no key. All others do, and paths that do not exist.
        match_routes: Those whose answers are in the log of matches.
        journal: That log.
        auditor: Writes the audit log.
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
    held: Counter[str] = field(default_factory=Counter)  # bytes of bodies and answers in progress, by client
    _keys: dict[bytes, ApiKey] = field(init=False)  # by digest

    def __post_init__(self) -> None:
        self._keys = {sha256(key.key.encode()).digest(): key for key in self.settings.keys}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"")
        call = Call(given.decode() if _REQUEST_ID.fullmatch(given) else uuid4().hex)
        scope.setdefault("state", {})["call"] = call
        work = _find_route(self.work_routes, scope)
        client = peer_name(scope["client"][0] if scope.get("client") else "")
        body = _Body(self, receive, headers)
        found = ((route, *route.matches(scope)) for route in self.match_routes)
        search, parts = next(((route, parts) for route, fits, parts in found if fits is Match.FULL), (None, {}))
        if search is not None:
            call.asked = Asked(parts.get("path_params", {}).get("catalog"))
        reply = _Reply(self, send, call, closing=scope["app"].state.draining, log=self._log_of(scope, search))
        try:
            check_host(headers.get(b"host", b""), self.settings.allowed_hosts)
            check_origin(headers)
            scope["state"]["key"] = key = self._check_key(scope, headers)
            if key is not ANYBODY:
                client = f"key {sha256((key.name or key.key).encode()).hexdigest()[:16]}"
            current.set(client)
            body.client = reply.client = client
            scope["state"]["count_body"] = body.count
            if work is not None and scope["method"] == "POST" and (refusal := self.pool.refusal()) is not None:
                raise refusal
            body.check()
            await self.app(scope, body.receive, reply.send)
        except ClientLeftError:
            await reply.leave()
        except ProblemError as problem:
            if problem.reason is not None:
                self.metrics.rejected.labels(problem.reason).inc()
            call.notes += noted_refusal(problem, scope["state"].get("key", ANYBODY))
            await reply.refuse(problem)
        except Exception:
            extra = {"request_id": call.request_id}
            logger.exception("an error in text_image_similarity, please report it", extra=extra)
            await reply.refuse(ProblemError("internal_error", "internal error; see the server log for this request id"))
        finally:
            self.release(client, body.held + reply.held)
            self._record(scope, headers, call, reply.status, work)
            self.auditor.write(scope, call, reply.status)

    def hold(self, client: str, size: int) -> None:
        """Count bytes that are kept for a client."""
        self.held[client] += size

    def release(self, client: str, size: int) -> None:
        """Count bytes that are kept no more."""
        self.held[client] -= size
        if not self.held[client]:
            del self.held[client]

    def has_room(self, client: str, more: int) -> bool:
        """Say whether so many bytes more may be kept for a client: one has at most half of the room."""
        most = MOST_BODIES * self.settings.max_body_bytes
        return self.held.total() + more <= most and 2 * (self.held[client] + more) <= most

    def _log_of(self, scope: Scope, search: BaseRoute | None) -> Log | None:
        """Return what writes a match request's entry."""
        if search is None:
            return None
        route = str(getattr(search, "path", ""))

        async def log(status: int, problem: ProblemError | None) -> None:
            state = scope["state"]
            await self.journal.record(state["call"], state.get("key", ANYBODY), route, status, problem)

        return log

    def _check_key(self, scope: Scope, headers: dict[bytes, bytes]) -> ApiKey:
        if not self._keys or _find_route(self.open_routes, scope) is not None:
            return ANYBODY
        scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
        given = token.strip() if scheme.lower() == b"bearer" else headers.get(b"x-api-key", b"")
        digest = sha256(given).digest()
        # All are compared, so that the time reveals nothing.
        found = [key for known, key in self._keys.items() if compare_digest(digest, known)]
        if not found:
            scope["state"]["call"].notes.append(_REFUSED_KEY if given else _MISSING_KEY)
            raise ProblemError("unauthorized", "send an API key: Authorization: Bearer KEY, or X-API-Key: KEY")
        return found[0]

    def _record(
        self, scope: Scope, headers: dict[bytes, bytes], call: Call, status: int, work: BaseRoute | None
    ) -> None:
        """Count, trace and log a request that is over."""
        route = getattr(scope.get("route"), "path", None) or getattr(work, "path", "none")
        method = scope["method"] if scope["method"] in ("GET", "POST", "HEAD", "OPTIONS") else "other"
        seconds = time.time() - call.began
        self.metrics.requests.labels(route, method, str(status)).inc()
        self.metrics.request_seconds.labels(route).observe(max(seconds, 0.0))
        trace_id = None if work is None else self.tracing.record(call, headers, f"{method} {route}", status)
        level = logging.INFO if (work is not None and status not in (429, 503)) or status >= 500 else logging.DEBUG
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


def _find_route(routes: Sequence[BaseRoute], scope: Scope) -> BaseRoute | None:
    """Return the route for a request's path, whatever its method; None if it is not among these."""
    return next((route for route in routes if route.matches(scope)[0] is not Match.NONE), None)


class _Body:
    """A request's body on its way in, within the limits.

    Args:
        gate: Knows the limits, and how much all bodies hold.
    """

    def __init__(self, gate: Gate, receive: Receive, headers: dict[bytes, bytes]) -> None:
        self._gate, self._receive, self._most = gate, receive, gate.settings.max_body_bytes
        length = headers.get(b"content-length", b"")
        self._declared = int(length) if length.isdigit() else 0
        self._end: float | None = None
        self._whole = False
        self.held, self.client, self._sent = 0, "", 0

    def check(self) -> None:
        """Refuse a body that is too long or that would not fit now; no room is reserved for it."""
        if self._declared > self._most:
            raise self._too_long()
        if not self._gate.has_room(self.client, self._declared):
            raise self._no_room()

    async def receive(self) -> Message:
        """Receive the next message; the time for the whole body is limited."""
        if self._whole:
            return await self._receive()
        loop = asyncio.get_running_loop()
        if self._end is None:
            self._end = loop.time() + self._gate.settings.request_timeout_s
        try:
            async with asyncio.timeout_at(self._end):
                message = await self._receive()
        except TimeoutError as exc:
            raise ProblemError("timeout", "the request's body took too long to arrive") from exc
        if message["type"] == "http.disconnect":
            raise ClientLeftError
        self._hold(size := len(message.get("body", b"")))
        self._sent += size
        if self._sent > self._most:
            raise self._too_long()
        self._whole = not message.get("more_body", False)
        return message

    def count(self, size: int) -> None:
        """Count a body that has arrived as so many bytes, which it takes in memory in the place of those sent."""
        if 2 * size > MOST_BODIES * self._most:  # more than one client may ever have
            raise self._too_long()
        self._hold(size - self.held)

    def _hold(self, size: int) -> None:
        self.held += size
        self._gate.hold(self.client, size)
        if not self._gate.has_room(self.client, 0):
            raise self._no_room()

    def _too_long(self) -> ProblemError:
        return ProblemError("too_many_bytes", f"a request may have {self._most:,} bytes; send fewer pairs at a time")

    def _no_room(self) -> ProblemError:
        detail = f"the requests in progress leave no room for {max(self._declared, self.held):,} bytes"
        return ProblemError("queue_full", detail, retry_after_s=1, reason="body_memory")


class _Reply:
    """The answer to a request on its way out.

    Args:
        gate: Counts what is kept until it is sent.
        send: Takes its messages.
        call: The request.
        closing: Whether the client is asked to close the connection.
        log: Writes the entry of the answer before it is sent; None for requests without one.
    """

    def __init__(self, gate: Gate, send: Send, call: Call, *, closing: bool, log: Log | None) -> None:
        self._gate, self._send, self._call, self._log = gate, send, call, log
        self.held, self.client = 0, ""
        self._headers = [(b"x-request-id", call.request_id.encode()), *([(b"connection", b"close")] if closing else [])]
        self.status = 0  # until it has begun

    async def send(self, message: Message) -> None:
        """Pass a message on."""
        if message["type"] == "http.response.start":
            await self._write_entry(message["status"], None)
            self.status = message["status"]
            message = {**message, "headers": [*message.get("headers", ()), *self._headers]}
        body = message.get("body", b"")
        if len(body) <= _PIECE:
            await self._send(message)
            return
        self.held += len(body)
        self._gate.hold(self.client, len(body))
        try:
            async with asyncio.timeout(_SENDING_S):  # a connection takes the next piece when the client has read
                for start in range(0, len(body), _PIECE):
                    more = start + _PIECE < len(body) or message.get("more_body", False)
                    await self._send({**message, "body": body[start : start + _PIECE], "more_body": more})
        except TimeoutError as exc:
            self._call.notes.append(Note("limit_hit", "send_time", f"the answer was not read within {_SENDING_S:g} s"))
            raise ClientLeftError from exc

    async def refuse(self, problem: ProblemError) -> None:
        """Answer with a problem, unless an answer has begun."""
        if self.status:
            return
        try:
            await self._write_entry(problem.status, problem)
        except ProblemError as unwritten:
            problem = unwritten
        body = json.dumps(problem.body(self._call.request_id)).encode()
        headers = {"content-type": CONTENT_TYPE, "content-length": str(len(body)), **problem.headers}
        raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await self.send({"type": "http.response.start", "status": problem.status, "headers": raw})
        await self.send({"type": "http.response.body", "body": body})

    async def leave(self) -> None:
        """Note that the client has left before its answer."""
        if not self.status:
            await self._write_entry(CLIENT_LEFT, ProblemError("client_left", "the client closed its connection"))
        self.status = CLIENT_LEFT

    async def _write_entry(self, status: int, problem: ProblemError | None) -> None:
        """Write the entry of the answer that is about to be sent, once.

        Raises:
            ProblemError: It is required, and cannot be written.
        """
        if (log := self._log) is not None:
            self._log = None
            await log(status, problem)
