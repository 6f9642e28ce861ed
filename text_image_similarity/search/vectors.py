"""Combine a query's terms into one vector, by a weighted sum."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import RowError, UsageError
from ..pipeline import ImageSource, Outcome, Scorer
from ..similarity import Embeddings
from .arguments import naming
from .ledger import Generation, Ledger
from .query import Query, Term


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """A query with the vectors of its terms.

    Args:
        query: The query.
        vectors: Unit vectors of the query's terms, shape (t, embed_dim), float32.
        fused: Weighted sum of the vectors, as a unit vector, shape (embed_dim,).
        shares: Factors with which the terms' cosines add up to that of the sum, shape (t,): the weights divided by the
            length of the sum.
        own: Numbers of the products that are terms, which are left out of the results.
    """

    query: Query
    vectors: Embeddings
    fused: Embeddings
    shares: Embeddings
    own: frozenset[int]

    @classmethod
    def empty(cls, query: Query) -> Encoded:
        """Return an encoded query without terms."""
        nothing = np.empty(0, np.float32)
        return cls(query, nothing.reshape(0, 0), nothing, nothing, frozenset())


def encode(
    queries: Sequence[Query],
    scorer: Scorer,
    ledger: Ledger,
    generation: Generation,
    *,
    names: Sequence[str] | None = None,
) -> list[Encoded | RowError]:
    """Encode the terms of queries, all texts together and all images together; see `join`."""
    texts, images = contents(queries)
    outcomes = list(scorer.embed_texts(texts)), list(scorer.embed_images(images))
    return join(queries, outcomes, ledger, generation, names=names)


def contents(queries: Sequence[Query]) -> tuple[list[str], list[ImageSource]]:
    """Return the texts and the images that must be encoded to answer queries."""
    terms = [term for query in queries for term in query.parts]
    return [t.text for t in terms if t.text is not None], [t.image for t in terms if t.image is not None]


def join(
    queries: Sequence[Query],
    outcomes: tuple[Sequence[Outcome], Sequence[Outcome]],
    ledger: Ledger,
    generation: Generation,
    *,
    names: Sequence[str] | None = None,
) -> list[Encoded | RowError]:
    """Combine queries with the outcomes of a model.

    Args:
        queries: The queries.
        outcomes: Outcomes of the generation's model for the queries' `contents`, texts and images.
        ledger: The products.
        generation: The generation.
        names: Names of the queries in messages.

    Returns:
        For each query, its vectors, or the reason why a term has none.

    Raises:
        UsageError: A term names a product that does not exist or has no vector, a vector has the wrong length or is
            zero, or the terms of a query cancel each other out.
    """
    terms = [term for query in queries for term in query.parts]
    texts = [term for term in terms if term.text is not None]
    images = [term for term in terms if term.image is not None]
    found = {id(term): each for term, each in zip([*texts, *images], [*outcomes[0], *outcomes[1]], strict=True)}
    encoded = []
    own: dict[int, int] = {}
    for query, name in zip(queries, names or [""] * len(queries), strict=True):
        with naming(name):
            for term in query.parts:
                if term.product is not None:
                    own[id(term)], found[id(term)] = _product_vector(term.product, ledger, generation)
                elif term.vector is not None:
                    found[id(term)] = _given_vector(term, generation.identity.embed_dim)
            encoded.append(_encoded(query, [found[id(term)] for term in query.parts], own))
    return encoded


def _encoded(query: Query, outcomes: Sequence[Outcome], own: dict[int, int]) -> Encoded | RowError:
    if not outcomes:
        return Encoded.empty(query)
    vectors = []
    for outcome in outcomes:
        if isinstance(outcome, RowError):
            return outcome
        vectors.append(outcome)
    numbers = frozenset(own[id(term)] for term in query.parts if id(term) in own)
    stacked = np.stack(vectors)  # (t, d)
    if len(vectors) == 1:  # unchanged, so that its cosines are those of `score_pairs`
        return Encoded(query, stacked, vectors[0], np.ones(1, np.float32), numbers)
    weights = np.array([term.weight for term in query.parts], np.float32)  # (t,)
    total = weights @ stacked  # (t,) @ (t, d) -> (d,)
    length = float(np.linalg.norm(total))
    if length < 1e-6:
        raise UsageError("the terms of the query cancel each other out; change a weight")
    return Encoded(query, stacked, total / np.float32(length), weights / np.float32(length), numbers)


def _product_vector(product: str, ledger: Ledger, generation: Generation) -> tuple[int, Embeddings]:
    found = ledger.get([product]).get(product)
    if found is None:
        raise UsageError(f"there is no product {product[:100]!r}")
    image_outcomes = ledger.image_outcomes(generation.number, [found.number]).get(found.number, [])
    vectors = [image.vector for image in image_outcomes if image.vector is not None]
    if not vectors:
        raise UsageError(f"product {product[:100]!r} has no image with a vector; search for its name instead")
    return found.number, _unit(np.mean(vectors, axis=0)) if len(vectors) > 1 else vectors[0]


def _given_vector(term: Term, embed_dim: int) -> Embeddings:
    vector = np.asarray(term.vector, np.float64)
    if len(vector) != embed_dim:
        raise UsageError(f"Term.vector has {len(vector)} values, but vectors of the catalogue's model have {embed_dim}")
    return _unit(vector)


def _unit(vector: NDArray[np.floating]) -> Embeddings:
    most = float(np.abs(vector).max(initial=0.0))
    if not most > 0:
        raise UsageError("a vector of zeros has no direction to search in")
    scaled = np.asarray(vector, np.float64) / most  # scaled, so that no square overflows or underflows
    return (scaled / np.linalg.norm(scaled)).astype(np.float32)
