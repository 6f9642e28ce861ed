"""Reciprocal rank fusion: one list of products for each term and one for the words, combined by rank.

The method is that of Cormack, Clarke and Büttcher 2009, "Reciprocal Rank Fusion outperforms Condorcet and individual
Rank Learning Methods". A product's score is the sum of 1 / (60 + rank) over the lists that it is in, here multiplied by
the term's weight. A term with a negative weight ranks the products that the other lists found, and its share is
subtracted.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..similarity import Embeddings, as_floats, cosine
from .fields import ID
from .ledger.rows import Listed
from .ranking import Ask, Candidate, best_images, search, take_page
from .time_limit import check_time

_K = 60
DEPTH = 1000  # products of each list; the same for every page, so that pages are consistent
_MOST_LED = 4 * DEPTH  # products whose images are compared with terms of negative weight: as many as in four lists
_AT_ONCE = 250  # products whose images are in memory at a time


@dataclass(frozen=True, slots=True)
class Fused:
    """A ranking by reciprocal ranks.

    Args:
        page: Products of the page in order, and one more if there is a next page.
        numbers: All products of the ranking.
        parts: For each product, the contribution of each list, by the list's number; the word list is the last.
        cosines: For the list of each term, the cosines of its products.
    """

    page: list[Candidate]
    numbers: list[int]
    parts: dict[int, dict[int, float]]
    cosines: list[dict[int, float]]


def fuse(ask: Ask) -> Fused:
    """Rank products by their ranks in the lists of a query's terms; terms with a negative weight add no products."""
    terms = ask.query.parts
    parts: dict[int, dict[int, float]] = defaultdict(dict)
    cosines: list[dict[int, float]] = [{} for _ in terms]
    slots: dict[int, int] = {}
    for place, (term, vector) in enumerate(zip(terms, ask.encoded.vectors, strict=True)):
        if term.weight > 0:
            numbers, similar, found = _list_similar(ask, vector)
            cosines[place] = dict(zip(numbers, similar, strict=True))
            slots = found | slots
            for rank, number in enumerate(numbers, 1):
                parts[number][place] = term.weight / (_K + rank)
    words = " ".join(term.text for term in terms if term.text is not None and term.weight > 0)
    if words:
        for rank, number in enumerate(ask.ledger.find_words(words, ask.where, DEPTH), 1):
            parts[number][len(terms)] = 1 / (_K + rank)
    products = ask.ledger.listed([number for number in parts if number not in ask.encoded.own], ask.where)
    for place, near in _leading_away(ask, products, parts).items():
        cosines[place] = near
        for number, share in _shares(near, products).items():
            parts[number][place] = terms[place].weight * share
    scores = {number: sum(parts[number].values()) for number in products}
    ranking = [Candidate(found, slots.get(number), scores[number]) for number, found in products.items()]
    ranking.sort(key=lambda found: (-scores[found.listed.number], found.listed.id))
    return Fused(take_page(ask, ranking), [found.listed.number for found in ranking], dict(parts), cosines)


def _leading_away(
    ask: Ask, products: Mapping[int, Listed], parts: Mapping[int, Mapping[int, float]]
) -> dict[int, dict[int, float]]:
    """Return, for each term with a negative weight, its cosine with the best image of each product that has one.

    If there are more than `_MOST_LED` products, only the first ones of the ranking so far are compared; the others are
    treated like products without an image.
    """
    near: dict[int, dict[int, float]] = {place: {} for place, term in enumerate(ask.query.parts) if term.weight < 0}
    if not near:
        return {}
    ordered = sorted(products, key=lambda number: (-sum(parts[number].values()), products[number].id))[:_MOST_LED]
    for start in range(0, len(ordered), _AT_ONCE):
        check_time()
        found = ask.ledger.image_outcomes(ask.generation.number, ordered[start : start + _AT_ONCE])
        images = [(number, each.vector) for number, group in found.items() for each in group if each.vector is not None]
        for place in near if images else ():
            similar = as_floats(cosine(ask.encoded.vectors[place][None, :], np.stack([vector for _, vector in images])))
            for (number, _), each in zip(images, similar, strict=True):
                near[place][number] = max(each, near[place].get(number, -1.0))
    return near


def _shares(near: Mapping[int, float], products: Mapping[int, Listed]) -> dict[int, float]:
    """Return 1 / (60 + rank) for each product, nearest first; products without an image get the mean of the others."""
    ordered = sorted(near, key=lambda number: (-near[number], products[number].id))
    shares = {number: 1 / (_K + rank) for rank, number in enumerate(ordered, 1)}
    middle = sum(shares.values()) / len(shares) if shares else 0.0
    return {number: shares.get(number, middle) for number in products}


def _list_similar(ask: Ask, vector: Embeddings) -> tuple[list[int], list[float], dict[int, int]]:
    """Return the products nearest to a vector, equal ones by id, with their cosines and best images."""
    limit = 2 * DEPTH
    while True:
        hits = search(ask, vector, limit, exact=ask.exact)
        found = best_images(ask, hits)
        if len(found.rows) >= DEPTH or len(hits.rows) < limit:
            break
        limit *= 4
    numbers, similar = found.rows.tolist(), as_floats(found.cosines)
    ids = ask.ledger.column(ID, numbers)
    order = sorted(range(len(numbers)), key=lambda at: (-similar[at], str(ids.get(numbers[at]))))[:DEPTH]
    slots = found.slots.tolist()
    return (
        [numbers[at] for at in order],
        [similar[at] for at in order],
        {numbers[at]: slots[at] for at in order},
    )
