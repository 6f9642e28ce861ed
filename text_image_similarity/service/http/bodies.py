"""What the routes have in common: reading bodies, asking the backend, and stopping when the client leaves."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Coroutine, Sequence
from itertools import chain
from typing import Any, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from ...config import ScoreKind
from ...errors import RowError
from ...records import ScoreResult
from ..jobs import Answer, Ask, Call, ClientLeftError
from ..pool import Backend
from ..problems import CONTENT_TYPE, ProblemError
from .schema import MOST_EVALUATIONS

T = TypeVar("T")

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
        400: "The body is no JSON.",
        401: "A key is wanted.",
        404: "There is no such model.",
        408: "The body took too long.",
        413: "The body is too long.",
        415: "The body is of another type.",
        422: "The request is not as described here.",
        429: "There is no room now; come back after `Retry-After` seconds.",
        500: "An error of the service.",
        503: "The model cannot be used now.",
    }.items()
}


class _WorkRequest(Request):
    """A request whose JSON has been read and measured before the framework looks at each part of it."""

    asked: Any = None

    async def json(self) -> Any:
        return self.asked


class WorkRoute(APIRoute):
    """A route that refuses a body of another kind, takes it in, and refuses one of too many parts."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_work(request: Request) -> Response:
            request = _WorkRequest(request.scope, request.receive)
            kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
            wanted = "multipart/form-data" if self.path.endswith("/upload") else "application/json"
            if kind != wanted:
                raise ProblemError(
                    "unsupported_media_type", f"the body must be {wanted}, and its Content-Type must say so"
                )
            if wanted == "multipart/form-data":
                await request.form(max_files=1, max_fields=100)  # piece by piece; the framework asks for it again
            else:
                request.asked = _read_json(await request.body())
                most = request.app.state.settings.max_pairs
                _check_size(request.asked, MOST_EVALUATIONS if self.path.endswith("/batch") else most)
            return await handle(request)

        return handle_work


def _read_json(body: bytes) -> Any:
    if sum(map(body.count, (b",", b"[", b"{"))) > _MOST_PARTS:
        raise ProblemError("invalid_request", f"the body has more than {_MOST_PARTS:,} commas and brackets")
    try:
        found = json.loads(body.decode("utf-8-sig"), parse_constant=_not_json)
        if _SURROGATE.search(body):
            json.dumps(found, ensure_ascii=False).encode()  # no half of a pair can be sent back
    except json.JSONDecodeError as exc:
        raise ProblemError("invalid_json", f"the body is no valid JSON: {exc}") from None
    except (ValueError, RecursionError):
        detail = "the body's JSON is nested too deeply, not all UTF-8, or has a number too long or not finite"
        raise ProblemError("invalid_json", detail) from None
    return found


def _not_json(constant: str) -> None:
    raise ValueError(f"{constant} is no value of JSON")


def _check_size(asked: Any, most: int) -> None:
    """Refuse what has more parts than anything may have, before each of them is looked at and complained about."""
    lists = [value for value in asked.values() if isinstance(value, list)] if isinstance(asked, dict) else []
    for items in lists:
        if len(items) > most:
            raise ProblemError("invalid_request", f"{len(items):,} items in a request, and there may be {most:,}")
    for found in chain([asked], *lists):
        if isinstance(found, dict) and len(found) > _MOST_MEMBERS:
            raise ProblemError("invalid_request", f"an object has {len(found):,} members")


async def ask(request: Request, model: str | None, asks: Sequence[Ask], kind: ScoreKind = "cosine") -> Answer:
    """Ask the backend, and give up when the client leaves.

    Raises:
        ProblemError: The request is refused.
        ClientLeftError: Nobody waits for the answer any more.
    """
    call: Call = request.state.call
    backend: Backend = request.app.state.backend
    answer = await _while_connected(request, backend.run(model, asks, kind))
    call.pairs += len(asks)
    call.failed += sum(_failed(result) for result in answer.results)
    call.answers.append(answer)
    return answer


def _failed(result: object) -> bool:
    return isinstance(result, RowError) or (isinstance(result, ScoreResult) and result.error is not None)


async def _while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    task = asyncio.create_task(work)
    leaving = asyncio.create_task(_leaving(request))
    try:
        await asyncio.wait({task, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientLeftError
        return task.result()
    finally:
        leaving.cancel()
        task.cancel()


async def _leaving(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def reference_of(image: str) -> str:
    """Return the reference of a picture that came as base64, or as a data: URL."""
    return image if image[:5].lower() == "data:" else f"data:;base64,{image}"


def add_problems(app: FastAPI) -> None:
    """Let the framework's own refusals be problems too."""

    async def invalid(request: Request, exc: Exception) -> Response:
        assert isinstance(exc, RequestValidationError)
        found = [_place(error) for error in exc.errors()[:20]]
        first = found[0]
        raise ProblemError("invalid_request", f"{first['pointer']}: {first['detail']}", errors=found) from None

    async def refused(request: Request, exc: Exception) -> Response:
        assert isinstance(exc, HTTPException)
        code = _CODES.get(exc.status_code, "internal_error")
        raise ProblemError(code, str(exc.detail), headers=exc.headers) from None

    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, refused)


def _place(error: Any) -> dict[str, str]:
    """Return where a request is wrong, as a JSON pointer, and how; not what it said there, which may be long."""
    where = [str(part) for part in error["loc"][1:] if part not in ("url", "base64")]
    return {"pointer": "/" + "/".join(where)[:200], "detail": error["msg"]}
