"""Convert requests to queries, and results to JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, TypeVar
from urllib.parse import quote

from fastapi import Request
from pydantic_core import to_json

from ...errors import RowError, UsageError
from ...search import AWAY, Match, Matches, Product, Query, Term
from ...search.fields import Value
from ..problems import ProblemError
from ..search.catalog import ServedCatalog
from ..search.results import Shown, Written
from .access import bound
from .bodies import decode_base64, is_fetchable
from .search_schema import MatchImageRequest, MatchTextRequest, NamedProductBody, QueryBody, TermBody
from .sizes import advise_on_answer

_SIZE = 256
_MOST_VALUES = 1000  # values of a facet in a response; a facet of ids would have one for each product
T = TypeVar("T")


def query_of(request: Request, catalog: ServedCatalog, body: QueryBody) -> Query:
    """Return the query for a request in the full query language.

    Raises:
        UsageError, InputTypeError: The query is not valid.
    """
    query = _query(request, catalog, body, [_term(each) for each in body.terms])
    return replace(query, fusion=body.fusion, after=body.after)


def short_query_of(
    request: Request, catalog: ServedCatalog, body: MatchTextRequest | MatchImageRequest, terms: Sequence[Term]
) -> Query:
    """Return the query for a request to `/match-text` or `/match-image`.

    Raises:
        UsageError, InputTypeError: As for `query_of`.
    """
    away = [body.without] if isinstance(body.without, str) else body.without
    query = _query(request, catalog, body, [*terms, *(Term(words, weight=AWAY) for words in away)])
    return replace(query, after=body.page)


def image_term(url: str | None, base64: str | None, weight: float = 1.0) -> Term:
    """Return the term for an image from a URL or a file in base64.

    Raises:
        UsageError: Neither or both are given, or the URL is not an http(s) or `data:` URL.
    """
    if (url is None) == (base64 is None):
        raise UsageError("send exactly one of image_url and image_base64")
    return Term(image=_url(url) if base64 is None else decode_base64(base64), weight=weight)


class CountedJson:
    """Counts the JSON of a response to a search as it is written, within `max_body_bytes` and the service's memory.

    Args:
        request: The request.
    """

    def __init__(self, request: Request) -> None:
        self._most: int = request.app.state.settings.max_body_bytes
        self._path: str = request.scope["route"].path
        self._hold: Callable[[int], None] = request.state.count_answer
        self._length, self._size, self._held = 0, 0, 0

    @property
    def left(self) -> int:
        """The number of bytes of JSON that may still be added."""
        return self._most - self._length

    def count(self, length: int, size: int | None = None) -> None:
        """Count JSON by its length in bytes, and by its size in memory if that is larger.

        Raises:
            ProblemError: `too_many_bytes` or `queue_full`.
        """
        self._length += length
        if self.left < 0:
            raise self.refusal()
        self._size += length if size is None else size
        if (more := self._size - self._held) > 0:
            self._hold(more)
            self._held = self._size

    def refusal(self) -> ProblemError:
        """Return the problem of a response that is too long."""
        return ProblemError(
            "too_many_bytes", f"the response would exceed max_body_bytes; {advise_on_answer(self._path)}"
        )

    def start_over(self) -> None:
        """Count from 0 again; the memory that is already reserved is used first."""
        self._length = self._size = 0


class MatchReply:
    """The response to a match request; see `Reply`.

    Args:
        request: The request.
        catalog: The catalogue.
    """

    def __init__(self, request: Request, catalog: ServedCatalog) -> None:
        self._json, self._catalog = CountedJson(request), catalog

    def write(self, found: Matches | RowError | None) -> Written | RowError:
        """Return the results of a query as JSON; None means that the products have too many characters."""
        if found is None:
            raise self._json.refusal()
        if isinstance(found, RowError):
            return found
        written = write_matches(self._catalog, found, self._json.left)
        if written is None:
            raise self._json.refusal()
        self.add(written)
        return written

    def add(self, found: Written) -> None:
        """Count results that are already JSON."""
        self._json.count(len(found.json), found.size)

    def start_over(self) -> None:
        """Forget what has been counted, because all queries are answered again."""
        self._json.start_over()


def write_matches(catalog: ServedCatalog, found: Matches, most: int) -> Written | None:
    """Return results as JSON, whose parts are written one by one within a limit on their total size; None beyond it.

    Args:
        catalog: The catalogue.
        found: The results.
        most: Maximum size of the JSON in bytes.
    """
    about = {"catalog": catalog.name, "generation": found.generation, "total": found.total}
    matches = _written((_format_match(catalog, match) for match in found), most)
    if matches is None:
        return None
    counted = ({name: list(most_frequent(counts, _MOST_VALUES))} for name, counts in found.facets.items())
    facets = _written(counted, most - sum(map(len, matches)))
    if facets is None:
        return None
    json = b"".join(
        (
            to_json({**about, "plan": found.plan})[1:-1],
            b',"matches":[' + b",".join(matches) + b"]",
            b',"facets":{' + b",".join(facet[1:-1] for facet in facets) + b"},",
            to_json({"next": found.next})[1:],
        )
    )
    shown = tuple(Shown(match.product.id, match.similarity, match.score) for match in found)
    return Written(json, shown, found.total, found.generation, found.plan)


def _written(values: Iterable[Any], most: int) -> list[bytes] | None:
    """Return each value's JSON; None if all together are longer than `most` bytes."""
    found = []
    for value in values:
        found.append(to_json(value, inf_nan_mode="null"))
        if (most := most - len(found[-1])) < 0:
            return None
    return found


def _format_match(catalog: ServedCatalog, match: Match) -> dict[str, Any]:
    return {
        "rank": match.rank,
        "similarity": match.similarity,
        "probability": match.probability,
        "score": match.score,
        "thumbnail": _thumbnail(catalog, match),
        "product": format_product(match.product),
        "why": [
            {"term": each.term, "similarity": each.similarity, "contribution": each.contribution} for each in match.why
        ],
    }


def format_product(product: Product) -> dict[str, Any]:
    """Return a product's facts without its image references, which may be local paths or the shop's addresses."""
    return {
        "id": product.id,
        "name": product.name,
        "description": product.description,
        "group": product.group,
        "fields": dict(product.fields),  # as read from JSON
    }


def most_frequent(counts: Mapping[Value, int], most: int) -> Iterator[dict[str, Any]]:
    """Return the most frequent values of a facet, each with its count."""
    return ({"value": value, "count": count} for value, count in islice(counts.items(), most))


def read_product(body: NamedProductBody) -> Product:
    """Return the product in a request.

    Raises:
        ProblemError: An image is not an http(s) or `data:` URL.
        UsageError, InputTypeError: The product is not valid.
    """
    for number, image in enumerate(body.images):
        if not is_fetchable(image):
            raise ProblemError("invalid_request", f"/images/{number} must be an http(s) or data: URL")
    return Product(**body.model_dump())


def thumbnail_path(catalog: ServedCatalog, product: Product, image: int = 0) -> str:
    """Return the path of a product's thumbnail."""
    return f"/v1/catalogs/{catalog.name}/products/{quote(product.id, safe='')}/image?picture={image}&size={_SIZE}"


def _query(
    request: Request, catalog: ServedCatalog, body: QueryBody | MatchTextRequest | MatchImageRequest, terms: list[Term]
) -> Query:
    """Return the query with the parts that all routes share."""
    return Query(
        terms,
        where=bound(request, catalog, body.where),
        top_k=body.top_k,
        min_similarity=body.min_similarity,
        facets=body.facets,
        group=body.group,
        sort=body.sort,
    )


def _thumbnail(catalog: ServedCatalog, match: Match) -> str | None:
    if match.image is None:
        return thumbnail_path(catalog, match.product) if match.product.images else None
    return thumbnail_path(catalog, match.product, match.product.images.index(match.image))


def _term(body: str | TermBody) -> Term:
    if isinstance(body, str):
        return Term(body)
    if body.image_url is not None or body.image_base64 is not None:
        if body.text is not None or body.product is not None or body.vector is not None:
            raise UsageError("a term must have exactly one of a text, an image, a product or a vector")
        return image_term(body.image_url, body.image_base64, body.weight)
    vector: Any = body.vector
    return Term(text=body.text, product=body.product, vector=vector, weight=body.weight)


def _url(url: str | None) -> str:
    """Return a URL, refusing paths, because the service does not read them."""
    text = (url or "").strip()
    if not is_fetchable(text):
        raise UsageError("image_url must be an http(s) or data: URL")
    return text
