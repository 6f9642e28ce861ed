"""The door that every request passes: identity, refusal, limits, problems, and what is told about it afterwards.

Plain ASGI, in front of the routes, so that a request for which there is no room is refused before anything is done for it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
from dataclasses import dataclass
from hashlib import sha256
from hmac import compare_digest
from typing import TYPE_CHECKING
from uuid import uuid4

from ..jobs import Call, ClientLeftError
from ..pool import Backend
from ..problems import CONTENT_TYPE, ProblemError
from ..settings import Settings
from ..telemetry.metrics import Metrics
from ..telemetry.tracing import Tracing

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

logger = logging.getLogger("text_image_similarity")

# What needs no key. All else does, what does not exist included.
OPEN = frozenset(
    {"/", "/docs", "/openapi.json", "/livez", "/readyz", "/metrics"}
    | {"/evaluator/health", "/evaluator/metrics", "/evaluator/docs", "/system/health"}
)
_OPEN_UNDER = ("/page/", "/swagger/")
# What costs the models work.
WORK = frozenset({"/v1/similarity", "/v1/similarity/upload", "/v1/embeddings"}) | {
    "/evaluator/v1/evaluation/single",
    "/evaluator/v1/evaluation/batch",
}
_REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,128}")
_CLIENT_LEFT = 499  # nginx's number, for logs and metrics alone


@dataclass(slots=True)
class Gate:
    """See the module.

    Args:
        app: The routes.
        settings: Limits and keys.
        backend: Says whether there is room.
        metrics, tracing: Told what happened.
    """

    app: ASGIApp
    settings: Settings
    backend: Backend
    metrics: Metrics
    tracing: Tracing
    held: int = 0  # bytes of the bodies in work

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"")
        call = Call(given.decode() if _REQUEST_ID.fullmatch(given) else uuid4().hex)
        scope.setdefault("state", {})["call"] = call
        body = _Body(self, receive, headers)
        reply = _Reply(send, call, closing=scope["app"].state.draining)
        try:
            self._refuse(scope, headers)
            body.check()
            await self.app(scope, body.receive, reply.send)
        except ClientLeftError:
            reply.status = _CLIENT_LEFT
        except ProblemError as problem:
            if problem.reason is not None:
                self.metrics.rejected.labels(problem.reason).inc()
            await reply.refuse(problem)
        except Exception:
            extra = {"request_id": call.request_id}
            logger.exception("an error in text_image_similarity, please report it", extra=extra)
            await reply.refuse(ProblemError("internal_error", "an error of ours; it is in the log"))
        finally:
            self.held -= body.held
            self._tell(scope, headers, call, reply.status)

    def _refuse(self, scope: Scope, headers: dict[bytes, bytes]) -> None:
        """Raise the problem of a request that is not to be looked at."""
        path = scope["path"]
        if self.settings.api_keys and path not in OPEN and not path.startswith(_OPEN_UNDER):
            self._check_key(headers)
        if scope["method"] == "POST" and path in WORK and (refusal := self.backend.refusal()) is not None:
            raise refusal

    def _check_key(self, headers: dict[bytes, bytes]) -> None:
        scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
        given = token.strip() if scheme.lower() == b"bearer" else headers.get(b"x-api-key", b"")
        digest = sha256(given).digest()
        # All are compared, so that the time tells nothing.
        known = [compare_digest(digest, sha256(key.encode()).digest()) for key in self.settings.api_keys]
        if not any(known):
            raise ProblemError("unauthorized", "this service wants a key: Authorization: Bearer KEY, or X-API-Key: KEY")

    def _tell(self, scope: Scope, headers: dict[bytes, bytes], call: Call, status: int) -> None:
        """Count, trace and log a request that is over."""
        route = getattr(scope.get("route"), "path", None) or (scope["path"] if scope["path"] in WORK else "none")
        method = scope["method"] if scope["method"] in ("GET", "POST", "HEAD", "OPTIONS") else "other"
        seconds = time.time() - call.began
        self.metrics.requests.labels(route, method, str(status)).inc()
        self.metrics.request_seconds.labels(route).observe(max(seconds, 0.0))
        work = scope["path"] in WORK
        trace_id = self.tracing.record(call, headers, f"{method} {route}", status) if work else None
        level = logging.INFO if (work and status not in (429, 503)) or status >= 500 else logging.DEBUG
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


class _Body:
    """A request's body on its way in, within the limits.

    Args:
        gate: Knows the limits, and how much all bodies hold.
    """

    def __init__(self, gate: Gate, receive: Receive, headers: dict[bytes, bytes]) -> None:
        self._gate, self._receive = gate, receive
        length = headers.get(b"content-length", b"")
        self._declared = int(length) if length.isdigit() else 0
        self._end: float | None = None
        self._whole = False
        self.held = 0

    def check(self) -> None:
        """Refuse a body that is too long, or for which there is no room now. None is kept for what has yet to come."""
        if self._declared > self._gate.settings.max_body:
            raise self._too_long()
        if self._gate.held + self._declared > self._gate.settings.max_bodies and self._gate.held:
            raise self._crowded()

    async def receive(self) -> Message:
        """Take the next message in; the time for the whole body is limited."""
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
        self._hold(len(message.get("body", b"")))
        self._whole = not message.get("more_body", False)
        return message

    def _hold(self, size: int) -> None:
        self.held += size
        self._gate.held += size
        if self.held > self._gate.settings.max_body:
            raise self._too_long()
        if self._gate.held > max(self._gate.settings.max_bodies, self.held):
            raise self._crowded()

    def _too_long(self) -> ProblemError:
        most = self._gate.settings.max_body
        return ProblemError("too_many_bytes", f"a request may have {most:,} bytes; send fewer pairs at a time")

    def _crowded(self) -> ProblemError:
        detail = f"the requests in work leave no room for {max(self._declared, self.held):,} bytes"
        return ProblemError("queue_full", detail, retry_after_s=1, reason="body_memory")


class _Reply:
    """The answer to a request on its way out.

    Args:
        send: Takes its messages.
        call: The request.
        closing: Whether the client is asked to close the connection.
    """

    def __init__(self, send: Send, call: Call, *, closing: bool) -> None:
        self._send, self._call = send, call
        self._headers = [(b"x-request-id", call.request_id.encode()), *([(b"connection", b"close")] if closing else [])]
        self.status = 0  # until it has begun

    async def send(self, message: Message) -> None:
        """Pass a message on."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message = {**message, "headers": [*message.get("headers", ()), *self._headers]}
        await self._send(message)

    async def refuse(self, problem: ProblemError) -> None:
        """Answer with a problem, unless an answer has begun."""
        if self.status:
            return
        body = json.dumps(problem.body(self._call.request_id)).encode()
        headers = {"content-type": CONTENT_TYPE, "content-length": str(len(body)), **problem.headers}
        raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await self.send({"type": "http.response.start", "status": problem.status, "headers": raw})
        await self.send({"type": "http.response.body", "body": body})
