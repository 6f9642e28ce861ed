"""What the routes have in common: reading bodies, asking the backend, and stopping when the client leaves."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from ..config import ScoreKind
from ..errors import RowError
from ..records import ScoreResult
from .backend import Backend
from .gate import Call, ClientLeftError
from .problems import CONTENT_TYPE, ProblemError
from .schema import Problem
from .work import Answer, Ask

T = TypeVar("T")

_LONG = 1 << 20  # bytes; JSON of this length is read on another thread, so that others are answered meanwhile
_CODES = {404: "not_found", 405: "method_not_allowed", 413: "too_many_bytes", 415: "unsupported_media_type"}

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


class WorkRequest(Request):
    """A request whose long JSON is read on another thread."""

    async def json(self) -> Any:
        body = await self.body()
        return await asyncio.to_thread(json.loads, body) if len(body) > _LONG else json.loads(body)


class WorkRoute(APIRoute):
    """A route that takes its body in first, and wants JSON where that is what it reads."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_work(request: Request) -> Response:
            request = WorkRequest(request.scope, request.receive)
            await request.body()
            kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
            wanted = "multipart/form-data" if self.path.endswith("/upload") else "application/json"
            if kind != wanted:
                raise ProblemError(
                    "unsupported_media_type", f"the body must be {wanted}, and its Content-Type must say so"
                )
            return await handle(request)

        return handle_work


async def ask(request: Request, model: str | None, asks: Sequence[Ask], kind: ScoreKind = "cosine") -> Answer:
    """Ask the backend, and give up when the client leaves.

    Raises:
        ProblemError: The request is refused.
        ClientLeftError: Nobody waits for the answer any more.
    """
    most = request.app.state.settings.max_pairs
    if len(asks) > most:
        raise ProblemError("invalid_request", f"{len(asks)} pairs or inputs in a request, and there may be {most}")
    call: Call = request.state.call
    call.pairs += len(asks)
    backend: Backend = request.app.state.backend
    answer = await _while_connected(request, backend.run(model, asks, kind))
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
        if any(error["type"] == "json_invalid" for error in exc.errors()):
            raise ProblemError("invalid_json", "the body is no valid JSON") from None
        first = found[0]
        raise ProblemError("invalid_request", f"{first['pointer']}: {first['detail']}", errors=found) from None

    async def refused(request: Request, exc: Exception) -> Response:
        assert isinstance(exc, HTTPException)
        code = "invalid_json" if exc.status_code == 400 else _CODES.get(exc.status_code, "internal_error")
        raise ProblemError(code, str(exc.detail), headers=exc.headers) from None

    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, refused)
    own = app.openapi

    def openapi() -> dict[str, Any]:
        document = own()
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        schemas.setdefault("Problem", Problem.model_json_schema())
        return document

    app.openapi = openapi  # type: ignore[method-assign]


def _place(error: Any) -> dict[str, str]:
    """Return where a request is wrong, as a JSON pointer, and how; not what it said there, which may be long."""
    where = [str(part) for part in error["loc"][1:] if part not in ("url", "base64")]
    return {"pointer": "/" + "/".join(where), "detail": error["msg"]}
