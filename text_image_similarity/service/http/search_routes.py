"""The search routes: `/match-text` and `/match-image`, and one for the full query language."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from pydantic_core import to_json
from starlette.datastructures import FormData, UploadFile

from ...errors import RowError, UsageError
from ...search import Query, Term
from ..jobs import Call
from ..problems import ProblemError
from ..search.catalog import Answered, ServedCatalog
from ..search.errors import refused
from ..search.journal import Asked
from ..search.results import Written
from .access import catalog_of, check_fields, check_length, check_products, checked
from .auditing import noted_hosts
from .bodies import PROBLEMS, ImageRoute, WorkRoute, while_connected
from .queries import MatchReply, image_term, query_of, short_query_of
from .schema import failure_of
from .search_schema import MatchAnswer, MatchesAnswer, MatchImageRequest, MatchRequest, MatchTextRequest

_FORM_LISTS = ("without", "facets")


def _whole(text: str) -> int | str:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else text


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text  # refused with its own message


_FORM_VALUES: dict[str, Any] = {
    "top_k": _whole,
    "min_similarity": _number,
    "group": lambda text: {"true": True, "false": False}.get(text, text),
}

work = APIRouter(route_class=WorkRoute, responses=PROBLEMS, tags=["search"])
images = APIRouter(route_class=ImageRoute, responses=PROBLEMS, tags=["search"])


@work.post("/match-text", response_model=MatchAnswer)
async def match_text(asked: MatchTextRequest, request: Request) -> Response:
    """Find the products that match words, in the default catalogue."""
    catalog = catalog_of(request)
    check_length([asked.where])
    return await answer_one(request, catalog, lambda: short_query_of(request, catalog, asked, [Term(asked.text)]))


@images.post(
    "/match-image",
    response_model=MatchAnswer,
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": {"$ref": "#/components/schemas/MatchImageRequest"}},
                "multipart/form-data": {"schema": {"$ref": "#/components/schemas/MatchImageForm"}},
            },
        }
    },
)
async def match_image(request: Request) -> Response:
    """Find the products that match an image, and optionally words, in the default catalogue."""
    catalog = catalog_of(request)
    body, upload = await _read_image(request)
    check_length([body.where])
    return await answer_one(
        request, catalog, lambda: short_query_of(request, catalog, body, _image_terms(body, upload))
    )


@work.post("/v1/catalogs/{catalog}/match", response_model=MatchesAnswer)
async def match(catalog: str, asked: MatchRequest, request: Request) -> Response:
    """Answer several queries in one request; their number is limited by `--max-pairs`."""
    served = catalog_of(request, catalog)
    check_length([body.where for body in asked.queries])

    def read() -> list[Query]:
        return [
            checked(lambda body=body: query_of(request, served, body), f"/queries/{number}")  # type: ignore[misc]
            for number, body in enumerate(asked.queries)
        ]

    entries, found = await answer(request, served, read)
    parts = [b'{"catalog":', to_json(served.name), b',"results":[']
    for place, (entry, each) in enumerate(zip(entries, found, strict=True)):
        parts += [b"," if place else b"", *_result(entry, each.answer)]
    return Response(b"".join((*parts, b"]}")), media_type="application/json")


def _result(entry: str, found: Written | RowError) -> list[bytes]:
    """Return the JSON of one query's results in parts."""
    if isinstance(found, RowError):
        return [to_json({"match_id": entry, "error": failure_of(found)})]
    return [b'{"match_id":', to_json(entry), b",", found.json]


async def answer(
    request: Request, catalog: ServedCatalog, read: Callable[[], Sequence[Query]]
) -> tuple[list[str], list[Answered]]:
    """Answer queries, and record them for the match log.

    Args:
        request: The request.
        catalog: The catalogue.
        read: Function that returns the queries; it runs on a thread, in the client's turn, because a filter may be long.

    Returns:
        For each query, the id for events and the results.

    Raises:
        ProblemError: The request is refused.
    """
    asked: Asked = request.state.call.asked
    asked.catalog = catalog.name

    def take() -> Sequence[Query]:
        queries = read()
        asked.take(queries, catalog.catalog.fields, request.app.state.settings.log_queries)
        return queries

    async def find() -> list[Answered]:
        queries = await catalog.read_queries(take)
        names = [name for query in queries for name in (*query.facets, (query.sort or "").removeprefix("-"))]
        check_fields(request, names)
        await check_products(request, catalog, [term.product for query in queries for term in query.parts])
        return await catalog.match(queries, MatchReply(request, catalog))

    found = await while_connected(request, find())
    asked.found = found
    call: Call = request.state.call
    for each in found:
        call.answers.extend(each.work)
        if each.blocked:
            call.notes.append(noted_hosts(each.blocked, len(each.blocked)))
    return asked.ids, found


async def answer_one(request: Request, catalog: ServedCatalog, read: Callable[[], Query]) -> Response:
    """Answer the query that `read` returns; see `answer`.

    Raises:
        ProblemError: The request is refused, an image or text cannot be encoded, or the response is too long.
    """
    (entry,), (found,) = await answer(request, catalog, lambda: [checked(read)])
    if isinstance(found.answer, RowError):
        raise refused(found.answer)
    return Response(b"".join(_result(entry, found.answer)), media_type="application/json")


async def _read_image(request: Request) -> tuple[MatchImageRequest, bytes | None]:
    """Return the body of a request with an image, and the image's file if it is a form."""
    form: FormData | None = getattr(request.state, "form", None)
    if form is None:
        return _validated(request.state.json), None
    try:
        return await _read_form(form)
    finally:
        await form.close()


async def _read_form(form: FormData) -> tuple[MatchImageRequest, bytes]:
    given: dict[str, Any] = {}
    upload = None
    for name, value in form.multi_items():
        if name == "image" and isinstance(value, UploadFile):
            upload = await value.read()
        elif isinstance(value, UploadFile) or (name in given and name not in _FORM_LISTS):
            raise ProblemError(
                "invalid_request", f"/{name[:50]}: the form may have only one image, and each field only once"
            )
        elif name in _FORM_LISTS:
            given.setdefault(name, []).append(value)
        else:
            given[name] = _FORM_VALUES.get(name, str)(value)
    if upload is None:
        raise ProblemError("invalid_request", "/image: the form has no file named image")
    return _validated(given), upload


def _validated(given: object) -> MatchImageRequest:
    try:
        return MatchImageRequest.model_validate(given)
    except ValidationError as exc:
        raise RequestValidationError([{**error, "loc": ("body", *error["loc"])} for error in exc.errors()]) from None


def _image_terms(body: MatchImageRequest, upload: bytes | None) -> list[Term]:
    if upload is None:
        image = image_term(body.image_url, body.image_base64)
    elif body.image_url is None and body.image_base64 is None:
        image = Term(image=upload)
    else:
        raise UsageError("the form has both a file and image_url or image_base64; send only one image")
    return [image, *([] if body.text is None else [Term(body.text)])]
