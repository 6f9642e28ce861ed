"""What the routes have in common: reading bodies, waiting for answers, and stopping when the client leaves."""

from __future__ import annotations

import asyncio
import json
import re
from base64 import b64decode
from collections.abc import Callable, Coroutine
from itertools import chain
from typing import Any, ClassVar

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from ...errors import RowError
from ...fetch import strip_invisible
from ...records import ScoreResult
from ..jobs import Answer, Call, ClientLeftError, ImageInput, ResultT
from ..problems import CONTENT_TYPE, ProblemError

_MOST_PARTS = 100_000  # of a body's JSON: values and members take far more memory and time than their text does
_MOST_MEMBERS = 100  # of one of its objects
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_CODES = {
    400: "invalid_request",
    404: "not_found",
    405: "method_not_allowed",
    413: "too_many_bytes",
    415: "unsupported_media_type",
}

PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"description": text, "content": {CONTENT_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}}
    for status, text in {
        400: "The body is not valid JSON.",
        401: "An API key is required.",
        404: "The service has no model of this name.",
        408: "The body took too long to arrive.",
        413: "The body is too long.",
        415: "The body's media type is wrong.",
        422: "The request does not match this description.",
        429: "The service is at capacity; retry after `Retry-After` seconds.",
        500: "Internal error.",
        503: "The model is unavailable.",
    }.items()
}


class _WorkRequest(Request):
    """A request whose JSON has been read and measured before the framework looks at each part of it."""

    asked: Any = None

    async def json(self) -> Any:
        return self.asked


class WorkRoute(APIRoute):
    """A route whose requests cost a model work: it checks and reads the body before the framework looks at it.

    A full service refuses its requests before their bodies are read. Routes with another kind of body have a subclass.
    """

    media_type: ClassVar[str] = "application/json"
    most_items: ClassVar[int | None] = None  # of a list in the body; None is the service's `max_pairs`

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_work(request: Request) -> Response:
            request = _WorkRequest(request.scope, request.receive)
            given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
            if given != self.media_type:
                detail = f"the body must be {self.media_type}, and its Content-Type must say so"
                raise ProblemError("unsupported_media_type", detail)
            await self.read(request)
            return await handle(request)

        return handle_work

    async def read(self, request: _WorkRequest) -> None:
        """Read the body, and refuse one with too many parts."""
        request.asked = _read_json(await request.body())
        most = request.app.state.settings.max_pairs if self.most_items is None else self.most_items
        _check_size(request.asked, most)


class FormRoute(WorkRoute):
    """A route that takes a form with a file."""

    media_type = "multipart/form-data"

    async def read(self, request: _WorkRequest) -> None:
        """Read the form piece by piece; the framework asks for it again."""
        await request.form(max_files=1, max_fields=100)


def _read_json(body: bytes) -> Any:
    if sum(map(body.count, (b",", b"[", b"{"))) > _MOST_PARTS:
        raise ProblemError("invalid_request", f"the body has more than {_MOST_PARTS:,} commas and brackets")
    try:
        found = json.loads(body.decode("utf-8-sig"), parse_constant=_refuse_constant)
        if _SURROGATE.search(body):
            json.dumps(found, ensure_ascii=False).encode()  # a lone surrogate cannot be sent back
    except json.JSONDecodeError as exc:
        raise ProblemError("invalid_json", f"the body is not valid JSON: {exc}") from None
    except (ValueError, RecursionError):
        detail = "the body's JSON is nested too deeply, not all UTF-8, or has a number too long or not finite"
        raise ProblemError("invalid_json", detail) from None
    return found


def _refuse_constant(constant: str) -> None:
    raise ValueError(f"{constant} is not a JSON value")


def _check_size(asked: Any, most: int) -> None:
    """Refuse a body with more parts than any may have, before each of them is validated and reported."""
    lists = [value for value in asked.values() if isinstance(value, list)] if isinstance(asked, dict) else []
    for items in lists:
        if len(items) > most:
            raise ProblemError("invalid_request", f"{len(items):,} items in one list; the limit is {most:,}")
    for found in chain([asked], *lists):
        if isinstance(found, dict) and len(found) > _MOST_MEMBERS:
            raise ProblemError("invalid_request", f"an object has {len(found):,} members")


async def ask(request: Request, work: Coroutine[Any, Any, Answer[ResultT]]) -> Answer[ResultT]:
    """Wait for a pool's answer, and give up when the client leaves.

    Raises:
        ProblemError: The request is refused.
        ClientLeftError: The client has left.
    """
    call: Call = request.state.call
    answer = await _while_connected(request, work)
    call.pairs += len(answer.results)
    call.failed += sum(_has_failed(result) for result in answer.results)
    call.answers.append(answer)
    return answer


def _has_failed(result: object) -> bool:
    return isinstance(result, RowError) or (isinstance(result, ScoreResult) and result.error is not None)


async def _while_connected(request: Request, work: Coroutine[Any, Any, Answer[ResultT]]) -> Answer[ResultT]:
    task = asyncio.create_task(work)
    leaving = asyncio.create_task(_wait_for_disconnect(request))
    try:
        await asyncio.wait({task, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientLeftError
        return task.result()
    finally:
        leaving.cancel()
        task.cancel()


async def _wait_for_disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def decode_base64(text: str) -> ImageInput:
    """Return the file that a text in base64 holds.

    A `data:` URL is returned as it is. Other text, such as base64 with line breaks or with errors, becomes a `data:` URL: the
    fetcher reads it, or reports the pair's error.
    """
    text = strip_invisible(text)
    if text[:5].lower() == "data:":
        return text
    try:
        return b64decode(text, validate=True)
    except ValueError:
        return f"data:;base64,{text}"


def add_problems(app: FastAPI) -> None:
    """Turn the framework's own refusals into problems."""

    async def invalid(request: Request, exc: Exception) -> Response:
        assert isinstance(exc, RequestValidationError)
        found = [_locate(error) for error in exc.errors()[:20]]
        first = found[0]
        raise ProblemError("invalid_request", f"{first['pointer']}: {first['detail']}", errors=found) from None

    async def refused(request: Request, exc: Exception) -> Response:
        assert isinstance(exc, HTTPException)
        code = _CODES.get(exc.status_code, "internal_error")
        raise ProblemError(code, str(exc.detail), headers=exc.headers) from None

    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, refused)


def _locate(error: Any) -> dict[str, str]:
    """Return where a request is wrong, as a JSON pointer, and how; not the value there, which may be long."""
    where = [str(part) for part in error["loc"][1:] if part not in ("url", "base64")]
    return {"pointer": "/" + "/".join(where)[:200], "detail": error["msg"]}
