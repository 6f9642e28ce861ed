"""The routes for catalogues: listing them, products and their images, and administration."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response
from starlette.routing import Match
from starlette.types import Scope

from ... import search
from ...errors import ErrorCode
from ...search import Term
from ...search.fields import BUILT_IN
from ...system import package_version
from ..problems import ProblemError
from ..search.catalog import ServedCatalog
from ..search.upkeep import Upkeep
from .access import (
    bound,
    catalog_of,
    catalogs_of,
    check_fields,
    check_tenant,
    checked,
    key_of,
    product_of,
    require_role,
)
from .auditing import note_change, noted_hosts
from .bodies import PROBLEMS, ModellessRoute, ProductsRoute, ReadRoute, WorkRoute
from .json_bodies import JsonAnswer
from .queries import CountedJson, format_product, most_frequent, read_product
from .routes import unready
from .search_routes import answer_one
from .search_schema import (
    AddAnswer,
    BatchRequest,
    CatalogDetails,
    CatalogHealth,
    CatalogsAnswer,
    EventRequest,
    FacetsAnswer,
    MatchAnswer,
    NamedProductBody,
    ProductBody,
    ProductFacts,
    ReindexRequest,
)

_RANGED = ("number", "date")
_SIZES = (64, 512)
_PROBED_S = 5.0  # time limit of health checks, which must be quick


class ProductRoute(ReadRoute):
    """A route to a product or a part of one: `/x%2Fimage` is the product `x/image`, and `/x/image` the image of `x`."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Match a request by its path as sent, before `%2F` is decoded."""
        sent = scope.get("raw_path", b"").count(b"/") - scope.get("root_path", "").count("/")
        return super().matches(scope) if sent == self.path.count("/") else (Match.NONE, {})


class PutRoute(ProductRoute, WorkRoute):
    """A product route with a body."""


_ABOUT: dict[int | str, dict[str, Any]] = {status: PROBLEMS[status] for status in (401, 403, 404, 422, 429, 503)}
about = APIRouter(route_class=ReadRoute, responses=_ABOUT, tags=["catalogues"])
similar = APIRouter(route_class=ProductRoute, responses=PROBLEMS, tags=["search"])
products = APIRouter(route_class=ProductRoute, responses=PROBLEMS, tags=["products"])
puts = APIRouter(route_class=PutRoute, responses=PROBLEMS, tags=["products"])
writes = APIRouter(route_class=ModellessRoute, responses=PROBLEMS, tags=["products"])
batches = APIRouter(route_class=ProductsRoute, responses=PROBLEMS, tags=["products"])
admin = APIRouter(responses=PROBLEMS, tags=["administration"])
health = APIRouter(tags=["probes"])

Page = Annotated[
    str | None, Query(max_length=32_768, pattern=r"^[A-Za-z0-9._-]*$", description="`next` of the previous page.")
]
WhereText = Annotated[str | None, Query(max_length=4096, description="For a longer filter, use POST.")]
Id = Annotated[str, Path(min_length=1, max_length=1000)]


@about.get("/v1/catalogs", response_model=CatalogsAnswer)
async def catalogs(request: Request) -> Response:
    """List the catalogues that requests may search."""
    found = [await _facts(request, catalog) for catalog in catalogs_of(request)]
    return JsonAnswer({"data": found}, count=request.state.count_answer)


@about.get("/v1/catalogs/{catalog}", response_model=CatalogDetails)
async def catalog_details(catalog: str, request: Request) -> Response:
    """Describe a catalogue; with the role `admin`, also its models and the progress of a reindex."""
    served = catalog_of(request, catalog)
    found = await _facts(request, served)
    if key_of(request).may("admin"):
        found |= {
            "generations": await served.call(lambda: _generations(served)),
            "reindex": _upkeep(request, served).reindexing,
        }
    return JsonAnswer(found, count=request.state.count_answer)


@about.get("/v1/catalogs/{catalog}/facets", response_model=FacetsAnswer)
async def facets(
    catalog: str,
    request: Request,
    field: Annotated[list[str], Query(max_length=32)],
    where: WhereText = None,
    most: Annotated[
        int,
        Query(ge=1, le=1000, description="Maximum number of values of a field; the most frequent ones are returned."),
    ] = 100,
) -> Response:
    """Count the values of fields among the products that pass a filter; for numbers and dates, return the range."""
    served = catalog_of(request, catalog)
    check_fields(request, field)

    def count() -> Response:
        kinds = {each.name: each.kind for each in (*BUILT_IN, *served.catalog.fields)}
        ranged = [name for name in dict.fromkeys(field) if kinds.get(name) in _RANGED]
        given = bound(request, served, where)
        listed = search.Query(where=given, top_k=1, facets=[name for name in field if name not in ranged])
        found = served.catalog.match(listed)
        values: dict[str, dict[str, Any]] = {
            name: {"values": most_frequent(counts, most), "min": None, "max": None}
            for name, counts in found.facets.items()
        }
        for name in ranged:
            ends = [served.catalog.match(search.Query(where=given, sort=sort, top_k=1)) for sort in (name, f"-{name}")]
            low, high = ([match.product.fields.get(name) for match in end] for end in ends)
            values[name] = {"values": [], "min": next(iter(low), None), "max": next(iter(high), None)}
        facets = {name: values[name] for name in field}
        return JsonAnswer({"total": found.total, "facets": facets}, count=CountedJson(request).count, levels=4)

    return await served.call(count)


@products.get("/v1/catalogs/{catalog}/products/{id:path}/image", response_class=Response)
async def image(
    catalog: str,
    id: Id,
    request: Request,
    picture: Annotated[int, Query(ge=0, le=7)] = 0,
    size: Annotated[int, Query(ge=_SIZES[0], le=_SIZES[1], description="Length of the longer side, in pixels.")] = 256,
) -> Response:
    """Return a product's image as a newly encoded JPEG, never the shop's file."""
    served = catalog_of(request, catalog)
    product = await product_of(request, served, id)
    if picture >= len(product.images):
        there = f"it has {len(product.images)}, numbered from 0"
        raise ProblemError("not_found", f"product {id[:100]!r} has no image {picture}: {there}")
    small = await served.thumbnails.get(product.images[picture], size)
    if small is None:
        raise ProblemError("not_found", f"image {picture} of product {id[:100]!r} cannot be read")
    headers = {"ETag": small.etag, "Cache-Control": "private, max-age=300", "X-Content-Type-Options": "nosniff"}
    headers["Content-Security-Policy"] = "default-src 'none'"
    if small.etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    request.state.count_answer(len(small.content))
    return Response(small.content, media_type="image/jpeg", headers=headers)


@similar.get("/v1/catalogs/{catalog}/products/{id:path}/similar", response_model=MatchAnswer)
async def similar_products(
    catalog: str,
    id: Id,
    request: Request,
    top_k: Annotated[int, Query(ge=1, le=1000)] = 10,
    where: WhereText = None,
    page: Page = None,
) -> Response:
    """Find the products that are most similar to a product."""
    served = catalog_of(request, catalog)
    await product_of(request, served, id)
    wanted = partial(search.Query, Term(product=id), top_k=top_k, after=page)
    return await answer_one(request, served, lambda: wanted(where=bound(request, served, where)))


@products.get("/v1/catalogs/{catalog}/products/{id:path}", response_model=ProductFacts)
async def product(catalog: str, id: Id, request: Request) -> Response:
    """Return a product; with the role `write`, also the references to its images."""
    served = catalog_of(request, catalog)
    found = await product_of(request, served, id)
    facts = found.as_dict() if key_of(request).may("write") else format_product(found)
    return JsonAnswer(facts, count=request.state.count_answer)


@puts.put("/v1/catalogs/{catalog}/products/{id:path}", response_model=AddAnswer)
async def put_product(catalog: str, id: Id, asked: ProductBody, request: Request) -> Response:
    """Add a product, or replace the one with the same id."""
    require_role(request, "write")
    served = catalog_of(request, catalog)
    written = await _write(request, served, [NamedProductBody(id=id, **asked.model_dump())], [])
    if written["refused"]:
        raise ProblemError("invalid_request", written["refused"][0])
    return JsonAnswer(written)


@products.delete("/v1/catalogs/{catalog}/products/{id:path}", status_code=204)
async def delete_product(catalog: str, id: Id, request: Request) -> Response:
    """Delete a product, so that it can no longer be found."""
    require_role(request, "write")
    served = catalog_of(request, catalog)
    note_change(request, "products", f"{served.name}: 1 to delete")
    await _upkeep(request, served).write([], [id], lambda *_: product_of(request, served, id, writes=True))
    return Response(status_code=204)


@batches.post("/v1/catalogs/{catalog}/products:batch", response_model=AddAnswer)
async def batch(catalog: str, asked: BatchRequest, request: Request) -> Response:
    """Add, replace and delete many products."""
    require_role(request, "write")
    served = catalog_of(request, catalog)
    return JsonAnswer(await _write(request, served, asked.products, asked.delete))


@admin.post("/v1/catalogs/{catalog}:switch", response_model=CatalogDetails)
async def switch(catalog: str, request: Request) -> Response:
    """Switch to the new model."""
    return await _switch(catalog, request, back=False)


@admin.post("/v1/catalogs/{catalog}:rollback", response_model=CatalogDetails)
async def rollback(catalog: str, request: Request) -> Response:
    """Go back to the model that was in use before the last switch."""
    return await _switch(catalog, request, back=True)


@writes.post("/v1/catalogs/{catalog}:reindex", response_model=CatalogDetails, status_code=202)
async def reindex(catalog: str, asked: ReindexRequest, request: Request) -> Response:
    """Compute another model's vectors in a separate process with low priority; the current vectors stay in use."""
    require_role(request, "admin")
    served = catalog_of(request, catalog)
    note_change(request, "reindex", f"{served.name}: {asked.model}")
    await _upkeep(request, served).start_reindex(asked.model)
    found = await catalog_details(catalog, request)
    found.status_code = 202
    return found


@writes.post("/v1/matches/{match_id}/events", status_code=204)
async def event(match_id: str, asked: EventRequest, request: Request) -> Response:
    """Record what someone did with a product that a match request found."""
    await request.app.state.journal.add_event(key_of(request), match_id, asked.kind, asked.product)
    return Response(status_code=204)


@health.get("/health", response_model=CatalogHealth, responses={503: {"model": CatalogHealth}})
async def catalog_health(request: Request) -> Response:
    """Report whether searches work, and with which catalogue and model."""
    problem = unready(request)
    served = next(iter(request.app.state.catalogs.values()), None)
    facts: dict[str, Any] = {}
    if served is not None and problem is None:
        try:
            facts = await asyncio.wait_for(request.app.state.facts.get(partial(_facts, request, served)), _PROBED_S)
        except (ProblemError, TimeoutError):
            problem = ProblemError("catalog_unavailable", f"{served.name} does not respond", retry_after_s=1)
    body = {
        "status": "healthy" if problem is None else "unhealthy",
        "catalog": facts.get("name"),
        "products": facts.get("products"),
        "generation": facts.get("generation"),
        "model": facts.get("model"),
        "version": package_version(),
        "error": None if problem is None else problem.detail,
    }
    return JsonAnswer(body, status_code=200 if problem is None else 503)


async def _switch(catalog: str, request: Request, *, back: bool) -> Response:
    require_role(request, "admin")
    served = catalog_of(request, catalog)
    note_change(request, "rollback" if back else "switch", served.name)
    await _upkeep(request, served).switch(back=back)
    return await catalog_details(catalog, request)


async def _facts(request: Request, served: ServedCatalog) -> dict[str, Any]:
    """Return the facts about a catalogue that a request's key may see."""

    def read() -> dict[str, Any]:
        live, where = served.catalog.searcher.live(), bound(request, served)
        seen = len(served.catalog) if where is None else served.catalog.match(search.Query(where=where, top_k=1)).total
        return {
            "name": served.name,
            "default": served is catalogs_of(request)[0],
            "products": seen,
            "generation": live.number,
            "model": served.model_name(live),
            "fields": [{"name": each.name, "kind": each.kind} for each in served.catalog.fields],
            "logged": request.app.state.journal.keeps(served.name),
        }

    return await served.call(read)


async def _write(
    request: Request, served: ServedCatalog, products: Sequence[NamedProductBody], deleted: Sequence[str]
) -> dict[str, Any]:
    given = await served.call(
        lambda: [checked(partial(read_product, body), f"/products/{n}") for n, body in enumerate(products)], writes=True
    )
    check = None if bound(request, served) is None else partial(check_tenant, request, served)
    note_change(request, "products", f"{served.name}: {len(given)} to add or replace, {len(deleted)} to delete")
    written = await _upkeep(request, served).write(given, deleted, check)
    if blocked := written.pop("blocked"):
        count = written["failures"][ErrorCode.BLOCKED_ADDRESS.value]
        request.state.call.notes.append(noted_hosts(blocked, count))
    return written


def _upkeep(request: Request, served: ServedCatalog) -> Upkeep:
    upkeep: Upkeep = request.app.state.upkeep[served.name]
    return upkeep


def _generations(served: ServedCatalog) -> list[dict[str, Any]]:
    return [
        {"number": each.number, "model": each.identity.model, "state": each.state}
        for each in served.catalog.generations
    ]
