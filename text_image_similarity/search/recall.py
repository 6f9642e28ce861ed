"""How much of what is nearest a store finds, measured against exact search on a catalogue's own products."""

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
    """Recall of a store at its own settings.

    Args:
        queries: How many were asked: half of them vectors of images, the others moved away from them as texts are.
        filters: Under how many filters each was asked.
        mean: Share of the ten nearest images that were found, 0..1.
        worst: The same for the query that lost most.
        short: Answers with fewer products than there were.
        exact: How many answers the planner had the store compare with everything.
        missing: How many products with a vector the store lacks; below 0 if it has more than there are.
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
    """Ask a generation's store for the ten nearest images of queries, as the planner does and exactly, and compare.

    Args:
        session: The catalogue.
        generation: The generation.
        queries: Number of queries.
        filters: Those that users have.

    Raises:
        UsageError: There is no image to search for.
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


def _queries(pictures: Embeddings) -> Embeddings:
    """Turn images' vectors into queries: half of them as they are, half moved off their cone, as texts' vectors are."""
    if not len(pictures):
        raise UsageError("the catalogue has no image to search for; add products first")
    draw = np.random.default_rng(_SEED)
    away = draw.standard_normal(pictures.shape[1], np.float32)
    half = len(pictures) // 2
    moved = pictures[half:] + away / np.linalg.norm(away) + draw.normal(0, 0.02, pictures[half:].shape)
    found = np.concatenate([pictures[:half], moved])  # (q, d)
    return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True), np.float32)
