"""Receive request bodies and send responses, within limits on the memory for both."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable
from threading import Lock, RLock
from typing import TYPE_CHECKING

from ...system import forget_frames
from ..audit import Note
from ..jobs import CLIENT_LEFT, Call, ClientLeftError
from ..problems import CONTENT_TYPE, ProblemError
from ..settings import MOST_BODIES, Settings
from .sizes import advise_on_body

if TYPE_CHECKING:
    from starlette.types import Message, Receive, Send

Log = Callable[[int, ProblemError | None], Awaitable[None]]

_PIECE = 1 << 16  # bytes of a response that are passed to the connection at a time
_SENDING_S = 60.0  # time to send a whole response


class Room:
    """Counts the memory of clients' request and response bodies, within limits. Safe to share between threads.

    Args:
        most_bytes: Longest body, in bytes.
    """

    def __init__(self, most_bytes: int) -> None:
        self.most = MOST_BODIES * most_bytes  # of all clients together
        self.held: Counter[str] = Counter()  # by client
        self._lock = RLock()

    def hold(self, client: str, size: int) -> None:
        """Count bytes that are held for a client."""
        with self._lock:
            self.held[client] += size

    def release(self, client: str, size: int) -> None:
        """Stop counting bytes of a client."""
        with self._lock:
            self.held[client] -= size
            if not self.held[client]:
                del self.held[client]

    def has_room(self, client: str, more: int) -> bool:
        """Tell whether `more` bytes may be held for a client, which may use at most half of the memory."""
        with self._lock:
            return self.held.total() + more <= self.most and 2 * (self.held[client] + more) <= self.most

    def take(self, client: str, size: int) -> bool:
        """Hold bytes for a client if there is room, and tell whether there was."""
        with self._lock:
            if there := self.has_room(client, size):
                self.hold(client, size)
            return there


class IncomingBody:
    """A request's body while it is received, within the limits.

    Args:
        room: Memory of all bodies.
        settings: Settings with the limits.
        receive: ASGI callable that receives its messages.
        headers: Headers of the request.
        path: Path of the route; empty if it takes no body.
    """

    def __init__(
        self, room: Room, settings: Settings, receive: Receive, headers: dict[bytes, bytes], path: str = ""
    ) -> None:
        self._room, self._receive, self._most = room, receive, settings.max_body_bytes
        self._advice = advise_on_body(path)
        self._longest_s = settings.request_timeout_s
        length = headers.get(b"content-length", b"")
        self._declared = int(length) if length.isdigit() else 0
        self._end: float | None = None
        self._whole = False
        self.held, self.client, self.sent = 0, "", 0

    def check(self) -> None:
        """Refuse a body that is too long or does not fit now, without reserving memory for it."""
        if self._declared > self._most:
            raise self._too_long()
        if not self._room.has_room(self.client, self._declared):
            raise self._no_room()

    async def receive(self) -> Message:
        """Receive the next message, within the time limit for the whole body."""
        if self._whole:
            return await self._receive()
        loop = asyncio.get_running_loop()
        if self._end is None:
            self._end = loop.time() + self._longest_s
        try:
            async with asyncio.timeout_at(self._end):
                message = await self._receive()
        except TimeoutError as exc:
            raise ProblemError("timeout", "the request's body took too long to arrive") from exc
        if message["type"] == "http.disconnect":
            raise ClientLeftError
        self._hold(size := len(message.get("body", b"")))
        self.sent += size
        if self.sent > self._most:
            raise self._too_long()
        self._whole = not message.get("more_body", False)
        return message

    def count(self, size: int) -> None:
        """Count a received body by its size in memory, instead of the bytes sent."""
        if 2 * size > MOST_BODIES * self._most:  # more than one client may ever hold
            raise self._too_long()
        self._hold(size - self.held)

    def _hold(self, size: int) -> None:
        self.held += size
        self._room.hold(self.client, size)
        if not self._room.has_room(self.client, 0):
            raise self._no_room()

    def _too_long(self) -> ProblemError:
        return ProblemError("too_many_bytes", f"a request may have at most {self._most:,} bytes; {self._advice}")

    def _no_room(self) -> ProblemError:
        detail = f"the requests in progress leave no memory for {max(self._declared, self.held):,} bytes"
        return ProblemError("queue_full", detail, retry_after_s=1, reason="body_memory")


class OutgoingAnswer:
    """The response to a request while it is sent.

    Args:
        room: Memory of responses that are not yet sent.
        send: ASGI callable that sends its messages.
        call: The call to which this is the response.
        closing: Whether the client is asked to close the connection.
        log: Function that writes the log entry of the response before it is sent; None for requests without one.
    """

    def __init__(self, room: Room, send: Send, call: Call, *, closing: bool, log: Log | None) -> None:
        self._room, self._send, self._call, self._log = room, send, call, log
        self.held, self.client = 0, ""
        self._headers = [
            (b"x-request-id", call.request_id.encode()),
            (b"cross-origin-resource-policy", b"same-origin"),  # no page of another origin can embed the response
            *([(b"connection", b"close")] if closing else []),
        ]
        self.status = 0  # 0 until the response has begun
        self._lock, self._ended = Lock(), False

    def count(self, size: int) -> None:
        """Count a part of the response when it is created, on any thread.

        Raises:
            ProblemError: `queue_full`, if the client or the service has no memory left for the part.
            ClientLeftError: The request has ended.
        """
        with self._lock:
            if self._ended:
                raise ClientLeftError
            if not self._room.take(self.client, size):
                detail = f"the responses that have not been read yet leave no memory for {self.held + size:,} bytes"
                raise ProblemError("queue_full", detail, retry_after_s=1, reason="body_memory")
            self.held += size

    def end(self) -> None:
        """Release the memory of the response."""
        with self._lock:
            self._ended = True
            self._room.release(self.client, self.held)

    async def send(self, message: Message) -> None:
        """Send a message of the response, with the common headers, and in pieces if it is long."""
        if message["type"] == "http.response.start":
            await self._write_entry(message["status"], None)
            self.status = message["status"]
            message = {**message, "headers": [*message.get("headers", ()), *self._headers]}
        body = message.get("body", b"")
        if len(body) <= _PIECE:
            await self._send(message)
            return
        more_held = max(0, len(body) - self.held)  # without the parts that were counted when they were created
        self.held += more_held
        self._room.hold(self.client, more_held)
        try:
            async with asyncio.timeout(_SENDING_S):  # sending waits for the client to read
                for start in range(0, len(body), _PIECE):
                    more = start + _PIECE < len(body) or message.get("more_body", False)
                    await self._send({**message, "body": body[start : start + _PIECE], "more_body": more})
        except TimeoutError as exc:
            self._call.notes.append(
                Note("limit_hit", "send_time", f"the response was not read within {_SENDING_S:g} s")
            )
            raise ClientLeftError from exc

    async def refuse(self, problem: ProblemError) -> None:
        """Respond with a problem, unless a response has already begun."""
        if self.status:
            return
        try:
            await self._write_entry(problem.status, problem)
        except ProblemError as unwritten:
            forget_frames(unwritten)
            problem = unwritten
        body = json.dumps(problem.body(self._call.request_id)).encode()
        headers = {"content-type": CONTENT_TYPE, "content-length": str(len(body)), **problem.headers}
        raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await self.send({"type": "http.response.start", "status": problem.status, "headers": raw})
        await self.send({"type": "http.response.body", "body": body})

    async def leave(self) -> None:
        """Record that the client left before the response."""
        if not self.status:
            await self._write_entry(CLIENT_LEFT, ProblemError("client_left", "the client closed its connection"))
        self.status = CLIENT_LEFT

    async def _write_entry(self, status: int, problem: ProblemError | None) -> None:
        """Write the log entry of the response, once, before it is sent.

        Raises:
            ProblemError: The entry is required, and cannot be written.
        """
        if (log := self._log) is not None:
            self._log = None
            await log(status, problem)
