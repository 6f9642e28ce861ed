"""Queries to a catalogue, and their matches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from numbers import Real
from types import NoneType
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ..checks import at_least, one_of, true_or_false
from ..errors import InputTypeError, UsageError
from ..pipeline import ImageSource
from ..pipeline.inputs import as_image
from ..records import is_missing, is_whole
from .arguments import check_type, several, texts_of
from .fields import Value
from .filters import Filter
from .products import Product, checked_id

AWAY = -0.75  # weight of terms to avoid, which halves the number of such results; see tests/search/test_quality.py

FusionKind = Literal["sum", "rrf"]
_WHERE = "an expression, a mapping, JSON or a filter"
_MOST_TERMS, _MOST_TEXT, _MOST_FACETS = 16, 10_000, 32


@dataclass(frozen=True, slots=True, eq=False)
class Term:
    """A term of a query: exactly one of a text, an image, a product or a vector.

    Args:
        text: Words to search for.
        image: A path or URL, a PIL image, an RGB array or tensor, or an encoded file's bytes.
        product: Id of a product in the catalogue; its images' mean vector is searched for, and the product itself is
            not among the results.
        vector: A vector of the catalogue's model, shape (embed_dim,), of any norm.
        weight: Weight relative to other terms, -10 to 10, but not 0; with a negative weight, products similar to the
            term are avoided.

    Raises:
        UsageError, InputTypeError: Not exactly one of the four is given, or a value is not valid.
    """

    text: str | None = None
    image: ImageSource | None = None
    product: str | None = None
    vector: NDArray[np.floating] | None = None
    weight: float = 1.0

    def __post_init__(self) -> None:
        given = [name for name in ("text", "image", "product", "vector") if getattr(self, name) is not None]
        if len(given) != 1:
            raise UsageError(f"a Term needs exactly one of text, image, product and vector, not {given or 'none'}")
        if isinstance(self.weight, bool) or not isinstance(self.weight, (int, float, np.number)):
            raise InputTypeError.of("Term.weight", "a number", self.weight)
        if not 0 < abs(self.weight) <= 10:
            raise UsageError(f"Term.weight={self.weight!r} must be a number from -10 to 10 other than 0")
        if self.product is not None:
            object.__setattr__(self, "product", checked_id(self.product, "Term.product"))
        if self.text is not None:
            _check_words(self.text)
        if self.image is not None:
            object.__setattr__(self, "image", as_image(self.image, "Term.image"))
            if is_missing(self.image) or (isinstance(self.image, str) and not self.image.strip()):
                raise UsageError(f"Term.image is {self.image!r}, which is not an image; leave it out")
        if self.vector is not None and not _is_vector(self.vector):
            raise UsageError("Term.vector must be a finite vector of numbers, shape (embed_dim,)")

    @property
    def kind(self) -> str:
        """`text`, `image`, `product` or `vector`."""
        return next(name for name in ("text", "image", "product", "vector") if getattr(self, name) is not None)

    def __str__(self) -> str:
        what = self.text if self.text is not None else self.product
        if what is None and isinstance(self.image, str):
            what = self.image
        return f"{self.kind} {what[:200]!r}" if what is not None else self.kind


def _check_words(text: object) -> None:
    check_type("Term.text", text, str, "a string")
    if not 0 < len(str(text).strip()) <= len(str(text)) <= _MOST_TEXT:
        raise UsageError(f"Term.text must say what to look for, in at most {_MOST_TEXT:,} characters")
    if not is_whole(str(text)):
        raise UsageError("Term.text contains a lone surrogate (half of a UTF-16 pair); remove it")


def _is_vector(given: object) -> bool:
    try:
        vector = np.asarray(given)
    except (TypeError, ValueError, RuntimeError):  # rows of different lengths, or a tensor on another device
        return False
    return vector.ndim == 1 and vector.dtype.kind in "fiu" and vector.size > 0 and bool(np.isfinite(vector).all())


@dataclass(frozen=True, slots=True, eq=False)
class Query:
    """A query: what to search for, and which part of the results to return.

    Args:
        terms: Words, a term, or several terms; without terms, products are listed by `sort` or else by id.
        where: Filter for products: a mapping, JSON, an expression such as `category = "Footwear" and price <= 90`, or a
            filter tree; see docs/catalog.md#filters.
        top_k: Maximum number of products to return, 1 to 1,000.
        min_similarity: Lowest similarity of a product to return, -1..1.
        facets: Fields whose values are counted among all products found.
        group: Whether to return only the best product of each group; all products without a group are returned.
        sort: Field to order by instead of similarity, lowest first, or highest first with `-` before it; products
            without a value come last.
        fusion: How several terms become one ranking: `sum` adds their weighted vectors, and finds products only by
            their images; `rrf` adds weight / (60 + rank) over one list for each term and, with weight 1, one of the
            products that contain the words of the text terms (reciprocal rank fusion, Cormack et al. 2009), and uses
            only the first 1,000 products of each list. None means `sum`, or `rrf` for words if no product that passes
            the filter has an image and neither `min_similarity` nor `sort` is set.
        after: `Matches.next` of the previous page; None for the first page.

    Raises:
        UsageError, InputTypeError: A value is not valid.
    """

    terms: str | Term | Sequence[str | Term] = ()
    where: Filter | Mapping[str, object] | str | None = None
    top_k: int = 10
    min_similarity: float | None = None
    facets: Sequence[str] = ()
    group: bool = False
    sort: str | None = None
    fusion: FusionKind | None = None
    after: str | None = None

    def __post_init__(self) -> None:
        single = isinstance(self.terms, (str, Term))
        given: Iterable[Any] = (
            [self.terms] if single else several("Query.terms", self.terms, "a string, a Term, or a list of them")
        )
        terms = tuple(Term(each) if isinstance(each, str) else each for each in given)
        for number, term in enumerate(terms):
            check_type(f"Query.terms[{number}]", term, Term, "a string or a Term")
        if len(terms) > _MOST_TERMS:
            raise UsageError(f"a query has at most {_MOST_TERMS} terms, not {len(terms)}")
        if terms and all(term.weight < 0 for term in terms):
            raise UsageError("a query needs at least one term with a weight above 0")
        object.__setattr__(self, "terms", terms)
        if isinstance(self.top_k, np.integer):
            object.__setattr__(self, "top_k", int(self.top_k))
        at_least("top_k", self.top_k, 1)
        if self.top_k > 1000:
            raise UsageError(
                f"top_k={self.top_k} is more than 1,000; request several pages, each with the cursor from the previous page"
            )
        true_or_false("group", self.group)
        if self.fusion is not None:
            one_of("fusion", self.fusion, get_args(FusionKind))
        check_type("Query.where", self.where, (str, Mapping, *get_args(Filter), NoneType), _WHERE)
        check_type(
            "Query.sort", self.sort, (str, NoneType), "the name of a field, with a leading - to put the highest first"
        )
        check_type("Query.after", self.after, (str, NoneType), "the `next` of the previous page")
        self._check_combination(terms)
        facets = texts_of("Query.facets", self.facets, "the name of a field, or several")
        if len(facets) > _MOST_FACETS:
            raise UsageError(f"a query has at most {_MOST_FACETS} facets, not {len(facets)}")
        object.__setattr__(self, "facets", facets)

    def _check_combination(self, terms: Sequence[Term]) -> None:
        least = self.min_similarity
        if least is not None and (isinstance(least, bool) or not isinstance(least, Real) or not -1 <= least <= 1):
            raise UsageError(f"min_similarity={least!r} must be a cosine, -1 to 1")
        if least is not None:
            object.__setattr__(self, "min_similarity", float(least))
        if least is not None and not terms:
            raise UsageError("min_similarity has no effect without a term; give a term, or leave it out")
        if self.fusion == "rrf" and (least is not None or self.sort is not None):
            raise UsageError("fusion='rrf' cannot be combined with min_similarity or sort; use fusion='sum' with these")

    @property
    def parts(self) -> tuple[Term, ...]:
        """The terms."""
        return self.terms  # type: ignore[return-value]  # since __post_init__


@dataclass(frozen=True, slots=True)
class Reason:
    """The contribution of a term to a score.

    Args:
        term: The term, such as `text 'brown boots'`, or `words` for the word list of `rrf`.
        similarity: Cosine of the term and the image, -1..1; None for `words` and for a product without an image.
        contribution: The term's share of the score; the shares of all reasons add up to the score.
    """

    term: str
    similarity: float | None
    contribution: float


@dataclass(frozen=True, slots=True)
class Match:
    """A product that was found.

    Args:
        product: The product.
        similarity: Cosine of the query and the product's best image, -1..1 (for a single term, the same as from
            `score_pairs`); None for a product without an image or a query without terms.
        probability: Probability that a product with this similarity matches, 0..1; see `catalog calibrate`; None if
            this kind of query has no calibration.
        rank: Rank from 1, counted over all pages.
        image: Reference to the most similar image; None without one.
        score: Value for ranking: the similarity, or for `rrf` the weighted sum of reciprocal ranks.
        why: Contributions of the terms to the score.
    """

    product: Product
    similarity: float | None
    probability: float | None
    rank: int
    image: str | None
    score: float | None
    why: tuple[Reason, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return the match as JSON values."""
        return {
            "rank": self.rank,
            "similarity": self.similarity,
            "probability": self.probability,
            "score": self.score,
            "image": self.image,
            "product": self.product.as_dict(),
            "why": [asdict(reason) for reason in self.why],
        }


@dataclass(frozen=True, slots=True)
class Matches(Sequence[Match]):
    """The result of a query: a page of products, and facts about all products found.

    Args:
        matches: The products of this page, in order.
        total: Number of products on all pages; with `group`, each group counts once.
        facets: For each requested field, the values of all products found, each with its number of products, most
            frequent first; dates are written as text, as in filters.
        next: Value of `Query.after` for the next page; None on the last page.
        generation: The generation that was searched.
        plan: How the products were found: `exact`, by comparing every product that passes the filter; `approximate`,
            through the store's index; or `list`, without comparing any.
    """

    matches: tuple[Match, ...]
    total: int
    facets: Mapping[str, Mapping[Value, int]] = field(default_factory=dict)
    next: str | None = None
    generation: int = 0
    plan: str = "exact"

    def as_dict(self) -> dict[str, Any]:
        """Return the result as JSON values; a facet is a list, because its values may be numbers."""
        return {
            "total": self.total,
            "matches": [match.as_dict() for match in self.matches],
            "facets": {
                name: [{"value": value, "count": count} for value, count in counts.items()]
                for name, counts in self.facets.items()
            },
            "next": self.next,
            "generation": self.generation,
            "plan": self.plan,
        }

    def __len__(self) -> int:
        return len(self.matches)

    def __iter__(self) -> Iterator[Match]:
        return iter(self.matches)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]  # as a tuple's
        return self.matches[index]


def options_of(query: Query) -> dict[str, object]:
    """Return the options of a query, without terms and page, for callers that compare queries."""
    return {
        each.name: getattr(query, each.name) for each in fields(Query) if each.name not in ("terms", "after", "top_k")
    }
