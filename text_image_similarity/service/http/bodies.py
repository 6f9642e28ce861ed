"""Functions that routes share: reading bodies, waiting for results, and stopping when the client leaves."""

from __future__ import annotations

import asyncio
from base64 import b64decode
from collections.abc import Callable, Coroutine, Sequence
from itertools import chain
from typing import Any, ClassVar, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.routing import Match, Route

from ...errors import RowError
from ...fetch import strip_invisible
from ...records import ScoreResult
from ...system import forget_failure
from ..clients import current
from ..jobs import Answer, Call, ClientLeftError, ImageInput, ResultT
from ..problems import CONTENT_TYPE, ProblemError
from .auditing import noted_blocks
from .json_bodies import JsonBody, compressed, finish, finish_in_turns
from .sizes import advise_on_body, advise_on_list

T = TypeVar("T")

_MOST_MEMBERS = 100  # members of an object in a body
_SHORT = 1 << 16  # longest body or base64 text that is read in one step, in bytes
_BYTE_S = 2e-9  # approximate seconds to read a byte of JSON
_LONGEST_TYPE = 500  # characters of the longest Content-Type; its parameters are slow to parse
FORM = "multipart/form-data"
_IN_OTHER_WORDS = dict.fromkeys(("model_type", "model_attributes_type"), "Input should be an object")
_NO_FILE = "Expected UploadFile"  # the framework's wording
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
        401: "A valid API key is required.",
        403: "The API key does not allow the request, or the request comes from a page of another site.",
        404: "Nothing with this name exists.",
        408: "The body took too long to arrive.",
        409: "The current state of the catalogue or of the service does not allow the request.",
        413: "The body, or the response, is too long.",
        415: "The body's media type or encoding is not supported.",
        422: "The request is not valid.",
        429: "The service is at capacity; retry after `Retry-After` seconds.",
        500: "Internal error.",
        503: "A model, a catalogue or the match log is unavailable, or the service is shutting down.",
    }.items()
}


class _WorkRequest(Request):
    """A request whose JSON is read and measured before the framework validates it."""

    asked: Any = None

    async def json(self) -> Any:
        return self.asked

    async def read_json(self) -> Any:
        """Read the body's JSON and drop the body; from then on, only the memory of the JSON's strings is counted.

        Long bodies are read one at a time, in steps between which other requests get a turn.
        """
        body = JsonBody(advise_on_body(self.scope["route"].path))
        async for piece in self.stream():
            body.take(piece)
        if len(body) <= _SHORT:
            self.asked = finish(body.read(self.state.count_body))
        else:
            async with self.app.state.reading.turn(current.get(), len(body) * _BYTE_S) as pay:
                self.asked = await finish_in_turns(body.read(self.state.count_body), pay)
        self._body = b"{}"  # the framework checks that there is a body
        return self.asked


class WorkRoute(APIRoute):
    """A route whose requests have a body, which is checked and read before the framework sees it.

    A pool that is full refuses POST requests before their bodies are read. Subclasses accept other bodies, or longer lists.
    """

    media_types: ClassVar[tuple[str, ...]] = ("application/json",)
    most_items: ClassVar[int | None] = None  # items of a list in the body; None means the service's `max_pairs`
    needs_model: ClassVar[bool] = True

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_work(request: Request) -> Response:
            request = _WorkRequest(request.scope, request.receive)
            told = request.headers.get("content-type", "")
            if told.partition(";")[0].strip().lower() not in self.media_types or len(told) > _LONGEST_TYPE:
                detail = f"the body must be {' or '.join(self.media_types)}, and its Content-Type must say so"
                raise ProblemError("unsupported_media_type", detail)
            _check_encoding(request.headers.get("content-encoding", ""))
            await self.read(request)
            if await request.is_disconnected():  # before any more work on the body
                raise ClientLeftError
            return await handle(request)

        return handle_work

    async def read(self, request: _WorkRequest) -> None:
        """Read the body, and refuse it if it has too many parts."""
        await request.read_json()
        most = request.app.state.settings.max_pairs if self.most_items is None else self.most_items
        _check_size(
            request.asked, most, lambda name: advise_on_list(self.path, name, is_fixed=self.most_items is not None)
        )


class ReadRoute(APIRoute):
    """A route whose GET requests stop when the client leaves: the current read is interrupted, and no other begins."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_read(request: Request) -> Response:
            return await while_connected(request, handle(request))

        return handle_read if self.methods == {"GET"} else handle


class ModellessRoute(WorkRoute):
    """A route whose requests need no model, so they are accepted while the pool of models is full."""

    needs_model = False


class ProductsRoute(WorkRoute):
    """A route whose requests may have more products than `max_pairs`."""

    most_items = 1000


class FormRoute(WorkRoute):
    """A route that accepts a form with a file."""

    media_types = (FORM,)

    async def read(self, request: _WorkRequest) -> None:
        """Read the form piece by piece, and refuse duplicate fields; the framework then receives the same form."""
        form = await _read_form(request)
        for name in ("image", "caption", "model", "score"):
            if (count := len(form.getlist(name))) > 1:
                detail = (
                    f"the form has {count} fields named {name}, but only one is allowed; send a request for each pair"
                )
                await form.close()
                raise ProblemError("invalid_request", detail)


class ImageRoute(WorkRoute):
    """A route that accepts JSON or a form with a file; its endpoint gets the form, or the parsed JSON."""

    media_types = ("application/json", FORM)

    async def read(self, request: _WorkRequest) -> None:
        """Read the body: JSON, or a form piece by piece."""
        if request.headers.get("content-type", "").lower().startswith(FORM):
            request.state.form = await _read_form(request)
        else:
            await super().read(request)
            request.state.json = request.asked


async def _read_form(request: Request) -> FormData:
    """Read a form with at most one file. Its texts must be in UTF-8: some codecs take minutes for a megabyte."""
    _, options = parse_options_header(request.headers["content-type"])
    charset = options.get(b"charset", b"utf-8").decode("latin-1")
    if charset.lower() not in ("utf-8", "utf8", "us-ascii"):
        detail = f"a form's texts must be in UTF-8, not {charset[:50]}; leave charset out of the Content-Type"
        raise ProblemError("unsupported_media_type", detail)
    return await request.form(max_files=1, max_fields=100)


def _check_encoding(encoding: str) -> None:
    """Refuse a compressed body, because its length does not limit its content."""
    if encoding.strip().lower() not in ("", "identity"):
        raise compressed(f"Content-Encoding: {encoding[:50]} is not supported")


def _check_size(asked: Any, most: int, advise: Callable[[str], str]) -> None:
    """Refuse a body with too many parts, before each part is validated and its errors are reported."""
    found = asked.items() if isinstance(asked, dict) else ()
    lists = {name: value for name, value in found if isinstance(value, list)}
    for name, items in lists.items():
        if len(items) > most and not (
            name == "input" and isinstance(items[0], (int, list))
        ):  # token ids, refused later
            raise ProblemError(
                "invalid_request",
                f"/{name[:50]}: {len(items):,} items in one list; the limit is {most:,} per request; {advise(name)}",
            )
    for value in chain([asked], *lists.values()):
        if isinstance(value, dict) and len(value) > _MOST_MEMBERS:
            raise ProblemError(
                "invalid_request", f"an object in the body has {len(value):,} members; the limit is {_MOST_MEMBERS:,}"
            )


async def ask(
    request: Request, work: Coroutine[Any, Any, Answer[ResultT]], images: Sequence[ImageInput] = ()
) -> Answer[ResultT]:
    """Wait for a pool's result, and stop when the client leaves.

    Args:
        request: The request.
        work: The pool's coroutine.
        images: The references in the request, one for each result, for the audit log.

    Raises:
        ProblemError: The request is refused.
        ClientLeftError: The client has left.
    """
    call: Call = request.state.call
    answer = await while_connected(request, work)
    call.pairs += len(answer.results)
    call.failed += sum(_has_failed(result) for result in answer.results)
    call.answers.append(answer)
    if images:
        call.notes += noted_blocks(images, answer.results)
    return answer


def _has_failed(result: object) -> bool:
    return isinstance(result, RowError) or (isinstance(result, ScoreResult) and result.error is not None)


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Wait for a result, and stop when the client leaves.

    Raises:
        ClientLeftError: The client has left.
        ProblemError: The rest of the body is refused.
    """
    task = asyncio.create_task(work)
    leaving = asyncio.create_task(_wait_for_disconnect(request))
    try:
        await asyncio.wait({task, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            leaving.result()  # raises what is wrong with the rest of the body
            raise ClientLeftError
        return task.result()
    finally:
        leaving.add_done_callback(forget_failure)
        leaving.cancel()
        if not task.done():
            task.cancel()
            task.add_done_callback(forget_failure)
        del task, leaving  # a task's exception refers to this frame, so these would form cycles


async def _wait_for_disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def is_fetchable(text: str) -> bool:
    """Tell whether a text is an http(s) or `data:` URL, the only references that a service reads."""
    return text[:8].lower().startswith(("http://", "https://", "data:"))


def decode_base64(text: str) -> ImageInput:
    """Decode a file from base64.

    A `data:` URL is returned unchanged. Other text, such as base64 with line breaks or errors, becomes a `data:` URL,
    which the fetcher reads or reports as the pair's error. Long text becomes a `data:` URL too, because decoding it
    would block the event loop.
    """
    text = strip_invisible(text)
    if text[:5].lower() == "data:":
        return text
    if len(text) > _SHORT:
        return f"data:;base64,{text}"
    try:
        return b64decode(text, validate=True)
    except ValueError:
        return f"data:;base64,{text}"


def add_problems(app: FastAPI, routes: Sequence[Route]) -> None:
    """Convert the framework's errors into problems; a 405 response lists the methods of all routes with that path."""

    async def invalid(request: Request, exc: Exception) -> Response:
        assert isinstance(exc, RequestValidationError)
        found = [_locate(error) for error in exc.errors()[:20]]
        first = found[0]
        raise ProblemError("invalid_request", f"{first['pointer']}: {first['detail']}", errors=found) from None

    async def refused(request: Request, exc: Exception) -> Response:
        assert isinstance(exc, HTTPException)
        code, headers = _CODES.get(exc.status_code, "internal_error"), dict(exc.headers or {})
        if exc.status_code == 405:
            first = next(route for route in routes if route.matches(request.scope)[0] is not Match.NONE)
            alike = [route for route in routes if route.path == first.path]
            headers["Allow"] = ", ".join(sorted({method for route in alike for method in route.methods or ()}))
        raise ProblemError(code, str(exc.detail), headers=headers) from None

    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, refused)


def _locate(error: Any) -> dict[str, str]:
    """Return a mistake in a request as a JSON pointer and a message, without the value, which may be long."""
    where = [str(part) for part in error["loc"][1:] if part not in ("url", "base64")]
    detail = _IN_OTHER_WORDS.get(error["type"], error["msg"])
    return {
        "pointer": "/" + "/".join(where)[:200],
        "detail": "Input should be a file" if _NO_FILE in detail else detail,
    }
