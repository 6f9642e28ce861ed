"""Rank products by similarity: how many images to request from a store, and whether to compare all of them.

A store finds images; a product is ranked by its best image, and a group by its best product. A page may therefore need
more images than it has products; more are requested until the page is full or no image is left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..errors import UsageError
from ..similarity import Embeddings, as_floats
from .cursor import NO_CURSOR, Cursor, mark_of
from .fields import ID, Value
from .filters import Filter
from .ledger import Generation, Ledger
from .ledger.rows import Listed
from .query import FusionKind, Query
from .stores import Hits, Store
from .time_limit import check_time
from .vectors import Encoded

_SPARE = 16  # additional images to request, because several may belong to one product or tie


@dataclass(frozen=True, slots=True, eq=False)
class Ask:
    """A query that is being answered.

    Args:
        encoded: The query with its vectors.
        where: Filter of the query.
        cursor: Position where its page begins; None for the first page.
        generation: Generation to search.
        store: Store of the generation; None for a query without terms.
        ledger: The products.
        passing: Number of products with an image that pass the filter.
        fusion: Fusion of the terms.
    """

    encoded: Encoded
    where: Filter | None
    cursor: Cursor | None
    generation: Generation
    store: Store | None
    ledger: Ledger
    passing: int
    fusion: FusionKind

    @property
    def index(self) -> Store:
        """The store; only for a query that has terms."""
        assert self.store is not None
        return self.store

    @property
    def query(self) -> Query:
        """The query."""
        return self.encoded.query

    @property
    def exact(self) -> bool:
        """Whether every image that passes the filter is compared."""
        return compares_all(self.index, self.passing) or self.query.min_similarity is not None

    @property
    def plan(self) -> str:
        """How the matches are found; see `Matches.plan`."""
        return "exact" if self.exact else "approximate"

    @property
    def seen(self) -> int:
        """Number of products on earlier pages."""
        return 0 if self.cursor is None else self.cursor.seen

    @property
    def shown(self) -> frozenset[bytes]:
        """Marks of products and groups on earlier pages."""
        return frozenset() if self.cursor is None else self.cursor.shown

    def mark(self, found: Listed) -> bytes | None:
        """Return the mark that keeps a product's group or, if ranks may change, the product from being shown again."""
        if self.query.group and found.group is not None:
            return mark_of(f"group {found.group}")
        return mark_of(f"product {found.id}") if self.fusion == "rrf" else None


@dataclass(frozen=True, slots=True)
class Candidate:
    """A product in a ranking. Only the products of a page are read whole.

    Args:
        listed: The product's number, id and group.
        slot: Slot of the product's best image; None if it has no image.
        key: Value for ranking: a score, or the value of a field.
    """

    listed: Listed
    slot: int | None
    key: Value | None


def compares_all(store: Store, passing: int) -> bool:
    """Tell whether a store compares all images that pass a filter, because it always does or the products are few."""
    return not store.approximates or passing <= store.exact_up_to


class _Key(NamedTuple):
    """Sort key of a product: the negative score, then the id."""

    fall: float
    id: str
    number: int
    slot: int


def rank(ask: Ask, first: Hits | None = None) -> list[Candidate]:
    """Return the products of a page in order, and one more if there is a next page.

    Args:
        ask: The query.
        first: Hits of the store for `first_limit(ask)`, if they are already known; None searches the store.
    """
    limit, exact = first_limit(ask), ask.exact
    while True:
        check_time()
        hits = first if first is not None else search(ask, ask.encoded.fused, limit, exact=exact)
        first = None
        found = _page(ask, best_images(ask, hits))
        enough = len(hits.rows) < limit
        if len(found) > ask.query.top_k or (exact and enough):
            return found
        if enough:  # the index gave up early
            exact = True
        else:
            limit *= 4


def rank_above(ask: Ask) -> tuple[list[Candidate], list[int]]:
    """Return a page like `rank`, but only of products that reach `Query.min_similarity`, and the numbers of all."""
    best = best_images(ask, search(ask, ask.encoded.fused, None, exact=True))
    return _page(ask, best), ask.ledger.passing(best.rows.tolist(), ask.where)


def first_limit(ask: Ask) -> int:
    """Return how many images to request from a store at first."""
    seen = min(ask.seen, ask.passing)  # a cursor may have been forged
    return seen + ask.query.top_k + len(ask.encoded.own) + _SPARE


def search(ask: Ask, vector: Embeddings, limit: int | None, *, exact: bool) -> Hits:
    """Return the images nearest to a vector among those that pass the query's filter."""
    least = -1.0 if ask.query.min_similarity is None else ask.query.min_similarity
    (hits,) = ask.index.search(vector[None, :], ask.where, limit, least=least, exact=exact)
    return hits


def best_images(ask: Ask, hits: Hits) -> Hits:
    """Return only the best image of each product, omitting products that are terms of the query."""
    _, places = np.unique(hits.rows, return_index=True)
    places = np.sort(places)
    if ask.encoded.own:
        places = places[~np.isin(hits.rows[places], list(ask.encoded.own))]
    return Hits(hits.rows[places], hits.slots[places], hits.cosines[places])


def take_page(
    ask: Ask, candidates: Iterable[Candidate], behind: Callable[[Candidate, Cursor], bool] = lambda *_: True
) -> list[Candidate]:
    """Return the products of a page, and one more, from a ranking: those after the cursor that have not been shown.

    Args:
        ask: The query.
        candidates: The ranking.
        behind: Function that tells whether a product comes after a cursor.
    """
    page: list[Candidate] = []
    shown = set(ask.shown)
    for candidate in candidates:
        mark = ask.mark(candidate.listed)
        if mark in shown or (ask.cursor is not None and not behind(candidate, ask.cursor)):
            continue
        if mark is not None:
            shown.add(mark)
        page.append(candidate)
        if len(page) > ask.query.top_k:
            break
    return page


def _page(ask: Ask, best: Hits) -> list[Candidate]:
    return take_page(ask, _in_order(ask, best), _scores_less)


def _in_order(ask: Ask, hits: Hits) -> Iterator[Candidate]:
    """Yield products by score, equal ones by id, reading ids only as they are needed."""
    start, end = 0, len(hits.rows)
    if ask.cursor is not None:  # products above the cursor have been shown
        start = int(np.count_nonzero(hits.cosines > np.float32(_score(ask.cursor.key[0]))))
    while start < end:
        stop = min(start + ask.query.top_k + _SPARE, end)
        while stop < end and hits.cosines[stop] == hits.cosines[stop - 1]:
            stop += 1
        numbers = hits.rows[start:stop].tolist()
        ids = ask.ledger.column(ID, numbers)  # reading whole products would be slow if thousands tie
        scored = zip(numbers, hits.slots[start:stop].tolist(), as_floats(hits.cosines[start:stop]), strict=True)
        keys = [_Key(-score, str(ids[number]), number, slot) for number, slot, score in scored if number in ids]
        if ask.cursor is not None:
            keys = [key for key in keys if key[:2] > (-_score(ask.cursor.key[0]), ask.cursor.key[1])]
        keys.sort()
        for begin in range(0, len(keys), ask.query.top_k + 1):
            part = keys[begin : begin + ask.query.top_k + 1]
            # The filter is applied again, because the store may have older values of a product.
            listed = ask.ledger.listed([key.number for key in part], ask.where)
            for key in part:
                if key.number in listed:
                    yield Candidate(listed[key.number], key.slot, -key.fall)
        start = stop


def _scores_less(candidate: Candidate, cursor: Cursor) -> bool:
    """Tell whether a product comes after a cursor, by descending score, equal ones by id."""
    return (-_score(candidate.key), candidate.listed.id) > (-_score(cursor.key[0]), cursor.key[1])


def _score(key: Value | None) -> float:
    if not isinstance(key, float):
        raise UsageError(NO_CURSOR)
    return key
