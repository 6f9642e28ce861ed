"""Schemas of match requests and responses."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt

from .schema import Failure

Where = Annotated[
    str | dict[str, Any] | None,
    Field(
        description="Filter for products, as an expression or as JSON.",
        examples=['category = "Shoes" and price <= 90'],
    ),
]
TopK = Annotated[StrictInt, Field(ge=1, le=1000, description="Maximum number of products on a page of results.")]
Name = Annotated[str, Field(max_length=201)]  # name of a field, optionally with a sign before it
Names = Annotated[list[Name], Field(max_length=32)]
# The same limit as in a query string; it is high, because the cursor grows with each page.
Page = Annotated[str, Field(max_length=32_768, description="`next` of the previous page.")]
Similarity = Annotated[float, Field(ge=-1, le=1, allow_inf_nan=False, strict=True)]
Weight = Annotated[float, Field(ge=-10, le=10, allow_inf_nan=False, strict=True)]
Number = Annotated[float, Field(allow_inf_nan=False, strict=True)]
Reference = Annotated[str, Field(max_length=500_000)]  # limited, because responses contain them too
Scalar = str | bool | float
_DOT = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"  # one red pixel


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class TermBody(_Strict):
    """A term of a query: exactly one of a text, an image, a product or a vector."""

    text: Annotated[str | None, Field(max_length=10_000, examples=["brown boots"])] = None
    image_url: Annotated[str | None, Field(description="An http(s) or data: URL.")] = None
    image_base64: Annotated[str | None, Field(description="An image's file in standard base64.", examples=[_DOT])] = (
        None
    )
    product: Annotated[str | None, Field(max_length=1000, description="The id of a product of the catalogue.")] = None
    vector: Annotated[
        Annotated[list[Number], Field(fail_fast=True)] | None, Field(description="A vector from the catalogue's model.")
    ] = None
    weight: Annotated[Weight, Field(description="With a weight below 0, the search avoids the term.")] = 1.0


class QueryBody(_Strict):
    """A query, like `Query` of the library."""

    terms: Annotated[list[str | TermBody], Field(max_length=16, fail_fast=True)] = []
    where: Where = None
    top_k: TopK = 10
    min_similarity: Similarity | None = None
    facets: Names = []
    group: StrictBool = False
    sort: Name | None = None
    fusion: Literal["sum", "rrf"] | None = None
    after: Page | None = None


class MatchRequest(_Strict):
    """Queries that are processed together."""

    queries: Annotated[list[QueryBody], Field(min_length=1)]


class _Short(_Strict):
    without: Annotated[str | list[str], Field(description="Words that the search avoids.")] = []
    where: Where = None
    top_k: TopK = 10
    min_similarity: Similarity | None = None
    facets: Names = []
    group: StrictBool = False
    sort: Name | None = None
    page: Page | None = None


class MatchTextRequest(_Short):
    """Words to search for."""

    text: Annotated[str, Field(min_length=1, max_length=10_000, examples=["brown boots"])]


class MatchImageRequest(_Short):
    """An image to search for, and optionally words."""

    image_url: Annotated[str | None, Field(description="An http(s) or data: URL.")] = None
    image_base64: Annotated[str | None, Field(description="An image's file in standard base64.", examples=[_DOT])] = (
        None
    )
    text: Annotated[str | None, Field(max_length=10_000)] = None


class ProductFacts(BaseModel):
    """A product, without the shop's own references to its images."""

    id: str
    name: str
    description: str
    group: str | None
    fields: dict[str, Any]


class ReasonFacts(BaseModel):
    """The contribution of one term to a score."""

    term: str
    similarity: float | None
    contribution: float


class MatchFacts(BaseModel):
    """A product that was found."""

    rank: int
    similarity: float | None
    probability: float | None
    score: float | None
    thumbnail: Annotated[
        str | None,
        Field(description="Path of a thumbnail of the product's most similar or first image."),
    ]
    product: ProductFacts
    why: list[ReasonFacts]


class FacetCount(BaseModel):
    """A value, and the number of products found that have it."""

    value: Scalar
    count: int


class MatchAnswer(BaseModel):
    """A page of products, and facts about all products found."""

    match_id: Annotated[str, Field(description="Id for events about these results.")]
    catalog: str
    generation: int
    total: int
    plan: str
    matches: list[MatchFacts]
    facets: dict[str, list[FacetCount]]
    next: Annotated[str | None, Field(description="Cursor for the next page.")]


class FailedQuery(BaseModel):
    """The reason why one of several queries has no results."""

    match_id: str
    error: Failure


class MatchesAnswer(BaseModel):
    """One result for each query, in order."""

    catalog: str
    results: list[MatchAnswer | FailedQuery]


class CatalogFacts(BaseModel):
    """A catalogue that requests may name."""

    name: str
    default: bool
    products: int
    generation: int
    model: str
    fields: list[dict[str, str]]
    logged: Annotated[bool, Field(description="Whether searches are logged and events are accepted.")]


class CatalogDetails(CatalogFacts):
    """A catalogue, with facts for administrators."""

    generations: list[dict[str, Any]] | None = None
    reindex: dict[str, Any] | None = None


class CatalogsAnswer(BaseModel):
    """The catalogues that a key sees, the default first."""

    data: list[CatalogFacts]


class FieldFacets(BaseModel):
    """The values of a field, most frequent first, or the range of numbers and dates."""

    values: list[FacetCount]
    min: float | str | None
    max: float | str | None


class FacetsAnswer(BaseModel):
    """The field values of the products that pass a filter."""

    total: int
    facets: dict[str, FieldFacets]


class EventRequest(_Strict):
    """An event: what someone did with a product that a match request found."""

    kind: Literal["click", "cart", "buy", "wrong"]
    product: Annotated[str, Field(min_length=1, max_length=1000)]


class ProductBody(_Strict):
    """A product that is added, or that replaces the one with the same id."""

    name: str = ""
    images: Annotated[list[Reference], Field(max_length=8, description="http(s) and data: URLs.")] = []
    description: str = ""
    fields: dict[str, Any] = {}
    group: str | None = None


class NamedProductBody(ProductBody):
    """A product with its id."""

    id: Annotated[str, Field(min_length=1, max_length=1000)]


class BatchRequest(_Strict):
    """Products to add or replace, and ids of those to delete."""

    products: Annotated[list[NamedProductBody], Field(fail_fast=True)] = (
        []
    )  # only the first error is reported, because reporting many takes a long time
    delete: Annotated[list[str], Field(fail_fast=True)] = []


class AddAnswer(BaseModel):
    """The result of adding, replacing and deleting products."""

    added: int
    updated: int
    unchanged: int
    deleted: int
    refused: list[str]
    failures: dict[str, int]


class ReindexRequest(_Strict):
    """The model of a new generation."""

    model: Annotated[str, Field(min_length=1, max_length=500, description="A hub id, a folder or an alias.")]


class CatalogHealth(BaseModel):
    """The health of a catalogue."""

    status: Literal["healthy", "unhealthy"]
    catalog: str | None
    products: int | None
    generation: int | None
    model: str | None
    version: str
    error: str | None
