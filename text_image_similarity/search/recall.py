"""Recall of a store, measured against exact search on a catalogue's own products."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import UsageError
from ..similarity import Embeddings
from .filters import Filter
from .ledger import Generation
from .ranking import compares_all
from .session import Session

_TOP_K = 10
_SEED = 0


@dataclass(frozen=True, slots=True)
class RecallReport:
    """Recall of a store with the settings that searches use.

    Args:
        queries: Number of queries: half of them are vectors of images; the others are such vectors, shifted away from
            the images as vectors of texts are.
        filters: Number of filters with which each query was run.
        mean: Share of the ten nearest images that were found, on average over all queries, 0..1.
        worst: Share for the worst query with any of the filters.
        short: Number of results with fewer images than an exact search finds.
        exact: Number of results for which the store compared everything.
        missing: Number of products with vectors that are missing from the store; negative if the store has too many.
    """

    queries: int
    filters: int
    mean: float
    worst: float
    short: int
    exact: int
    missing: int


def measure_recall(
    session: Session, generation: Generation, *, queries: int = 100, filters: Sequence[Filter | None] = (None,)
) -> RecallReport:
    """Measure the recall of a generation's store: compare the images that its searches find with the ten nearest ones.

    Args:
        session: The catalogue.
        generation: The generation.
        queries: Number of queries.
        filters: Filters that users typically set.

    Raises:
        UsageError: The catalogue has no image to search for.
    """
    store = session.store(generation)
    vectors = _queries(session.ledger.sample_vectors(generation.number, queries, _SEED))
    shares: list[float] = []
    short = exact = 0
    for where in filters:
        passing = store.count(where)
        planned = compares_all(store, passing)
        found = store.search(vectors, where, _TOP_K, exact=planned)
        truth = store.search(vectors, where, _TOP_K, exact=True)
        exact += planned * len(vectors)
        for one, other in zip(found, truth, strict=True):
            wanted = set(zip(other.rows[:_TOP_K].tolist(), other.slots[:_TOP_K].tolist(), strict=True))
            got = set(zip(one.rows.tolist(), one.slots.tolist(), strict=True))
            shares.append(len(wanted & got) / len(wanted) if wanted else 1.0)
            short += len(one.rows) < len(wanted)
    missing = session.ledger.count_seen(generation.number) - store.count(None)
    return RecallReport(len(vectors), len(filters), float(np.mean(shares)), min(shares), short, exact, missing)


def _queries(vectors: Embeddings) -> Embeddings:
    """Return queries from images' vectors: half of them unchanged, and half shifted like vectors of texts."""
    if not len(vectors):
        raise UsageError("the catalogue has no image to search for; add products first")
    draw = np.random.default_rng(_SEED)
    away = draw.standard_normal(vectors.shape[1], np.float32)
    half = len(vectors) // 2
    moved = vectors[half:] + away / np.linalg.norm(away) + draw.normal(0, 0.02, vectors[half:].shape)
    found = np.concatenate([vectors[:half], moved])  # (q, d)
    return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True), np.float32)
