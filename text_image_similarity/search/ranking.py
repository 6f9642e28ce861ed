"""Rankings of products by similarity: how many of them a store has to be asked for, and exact or not.

A store finds images; a product counts with its best one, and a group with its best product. So more may be needed than
were asked for, and they are fetched until a page is full or nothing is left.
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
from .products import Product
from .query import FusionKind, Query
from .stores import Hits, Store
from .vectors import Encoded

_SPARE = 16  # images asked for beyond those needed: several of one product, and ties


@dataclass(frozen=True, slots=True, eq=False)
class Ask:
    """A query on its way to its answer.

    Args:
        encoded: The query with its vectors.
        where: Its filter.
        cursor: Where its page begins; None for the first one.
        generation: The generation that answers.
        store: Its store; None for a query without terms.
        ledger: The products.
        passing: How many products with an image pass the filter.
        fusion: How the terms become one ranking.
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
        """The store, of a query that has terms."""
        assert self.store is not None
        return self.store

    @property
    def query(self) -> Query:
        """The query."""
        return self.encoded.query

    @property
    def exact(self) -> bool:
        """Whether every image that passes is compared."""
        return compares_all(self.index, self.passing) or self.query.min_similarity is not None

    @property
    def plan(self) -> str:
        """How the answer is found, as in `Matches`."""
        return "exact" if self.exact else "approximate"

    @property
    def seen(self) -> int:
        """How many products the pages before have shown."""
        return 0 if self.cursor is None else self.cursor.seen

    @property
    def shown(self) -> frozenset[bytes]:
        """The marks of what the pages before have shown."""
        return frozenset() if self.cursor is None else self.cursor.shown

    def mark(self, product: Product) -> bytes | None:
        """Return what keeps a product's group from being shown again, or itself where ranks move while others write."""
        if self.query.group and product.group is not None:
            return mark_of(f"group {product.group}")
        return mark_of(f"product {product.id}") if self.fusion == "rrf" else None


@dataclass(frozen=True, slots=True)
class Candidate:
    """A product in a ranking.

    Args:
        product: The product.
        number: Its number.
        slot: Its best image; None where it has none.
        key: What it is ranked by: a score, or the value of a field.
    """

    product: Product
    number: int
    slot: int | None
    key: Value | None


def compares_all(store: Store, passing: int) -> bool:
    """Say whether a store compares all images of the products that pass a filter: always, or because they are few."""
    return not store.approximates or passing <= store.exact_up_to


class _Key(NamedTuple):
    """What a product is put in order by: the negative score, then the id."""

    fall: float
    id: str
    number: int
    slot: int


def rank(ask: Ask, first: Hits | None = None) -> list[Candidate]:
    """Return the products of a page in their order, and one more if there are any after it.

    Args:
        ask: The query.
        first: What the store found for `first_limit(ask)` already.
    """
    limit, exact = first_limit(ask), ask.exact
    while True:
        hits = first if first is not None else search(ask, ask.encoded.fused, limit, exact=exact)
        first = None
        found = _page(ask, best_pictures(ask, hits))
        enough = len(hits.rows) < limit
        if len(found) > ask.query.top_k or (exact and enough):
            return found
        if enough:  # an index gave up early
            exact = True
        else:
            limit *= 4


def rank_above(ask: Ask) -> tuple[list[Candidate], list[int]]:
    """Return the same of the products above `Query.min_similarity`, and the numbers of all of these."""
    best = best_pictures(ask, search(ask, ask.encoded.fused, None, exact=True))
    return _page(ask, best), ask.ledger.passing(best.rows.tolist(), ask.where)


def first_limit(ask: Ask) -> int:
    """Return how many images to ask a store for at first."""
    seen = min(ask.seen, ask.passing)  # a cursor may have been meddled with
    return seen + ask.query.top_k + len(ask.encoded.own) + _SPARE


def search(ask: Ask, vector: Embeddings, limit: int | None, *, exact: bool) -> Hits:
    """Return the images nearest to a vector, under the query's filter."""
    least = -1.0 if ask.query.min_similarity is None else ask.query.min_similarity
    (hits,) = ask.index.search(vector[None, :], ask.where, limit, least=least, exact=exact)
    return hits


def best_pictures(ask: Ask, hits: Hits) -> Hits:
    """Keep the best image of each product, and leave out products that are terms of the query."""
    _, places = np.unique(hits.rows, return_index=True)
    places = np.sort(places)
    if ask.encoded.own:
        places = places[~np.isin(hits.rows[places], list(ask.encoded.own))]
    return Hits(hits.rows[places], hits.slots[places], hits.cosines[places])


def take_page(
    ask: Ask, candidates: Iterable[Candidate], behind: Callable[[Candidate, Cursor], bool] = lambda *_: True
) -> list[Candidate]:
    """Take what belongs on a page, and one more, from a ranking: what is after the cursor, and nothing that was shown.

    Args:
        ask: The query.
        candidates: The ranking.
        behind: Says whether a product comes behind a cursor.
    """
    page: list[Candidate] = []
    shown = set(ask.shown)
    for candidate in candidates:
        mark = ask.mark(candidate.product)
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
    """Yield products by score, equal ones by id, reading no more of them than are asked for."""
    start, end = 0, len(hits.rows)
    if ask.cursor is not None:  # what is above the cursor was shown
        start = int(np.count_nonzero(hits.cosines > np.float32(_score(ask.cursor.key[0]))))
    while start < end:
        stop = min(start + ask.query.top_k + _SPARE, end)
        while stop < end and hits.cosines[stop] == hits.cosines[stop - 1]:
            stop += 1
        numbers = hits.rows[start:stop].tolist()
        ids = ask.ledger.column(ID, numbers)  # whole products would take long where thousands tie
        scored = zip(numbers, hits.slots[start:stop].tolist(), as_floats(hits.cosines[start:stop]), strict=True)
        keys = [_Key(-score, str(ids[number]), number, slot) for number, slot, score in scored if number in ids]
        if ask.cursor is not None:
            keys = [key for key in keys if key[:2] > (-_score(ask.cursor.key[0]), ask.cursor.key[1])]
        keys.sort()
        for begin in range(0, len(keys), ask.query.top_k + 1):
            part = keys[begin : begin + ask.query.top_k + 1]
            # The store's filter saw other values if a product was changed since.
            products = ask.ledger.by_number([key.number for key in part], ask.where)
            for key in part:
                if key.number in products:
                    yield Candidate(products[key.number], key.number, key.slot, -key.fall)
        start = stop


def _scores_less(candidate: Candidate, cursor: Cursor) -> bool:
    """Say whether a product comes behind a cursor, the highest score first and equal ones by id."""
    return (-_score(candidate.key), candidate.product.id) > (-_score(cursor.key[0]), cursor.key[1])


def _score(key: Value | None) -> float:
    if not isinstance(key, float):
        raise UsageError(NO_CURSOR)
    return key
