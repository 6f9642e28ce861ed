"""Reciprocal rank fusion: one list of products for each term and one for its words, joined by their ranks.

Cormack, Clarke, Büttcher 2009, "Reciprocal Rank Fusion outperforms Condorcet and individual Rank Learning Methods": a
product's score is the sum of 1 / (60 + rank) over the lists that it is in, here times the term's weight.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from ..similarity import Embeddings, as_floats
from .fields import ID
from .ranking import Ask, Candidate, best_pictures, scores_less, search, take_page

_K = 60
DEPTH = 1000  # products of each list; the same for every page, so that pages fit together


@dataclass(frozen=True, slots=True)
class Fused:
    """A ranking by reciprocal ranks.

    Args:
        page: The products of the page in their order, and one more if there are any behind it.
        numbers: All products of the ranking.
        parts: For each of them what each list contributed, by the list's number; the words' list is the last.
        cosines: For each list of a term the cosines of its products.
    """

    page: list[Candidate]
    numbers: list[int]
    parts: dict[int, dict[int, float]]
    cosines: list[dict[int, float]]


def fuse(ask: Ask) -> Fused:
    """Rank products by the ranks that they have in the lists of a query's terms."""
    parts: dict[int, dict[int, float]] = defaultdict(dict)
    cosines: list[dict[int, float]] = []
    slots: dict[int, int] = {}
    for place, (term, vector) in enumerate(zip(ask.query.parts, ask.encoded.vectors, strict=True)):
        numbers, similar, found = _list_similar(ask, vector)
        cosines.append(dict(zip(numbers, similar, strict=True)))
        if term.weight > 0:
            slots = found | slots
        for rank, number in enumerate(numbers, 1):
            parts[number][place] = term.weight / (_K + rank)
    words = " ".join(term.text for term in ask.query.parts if term.text is not None and term.weight > 0)
    if words:
        for rank, number in enumerate(ask.ledger.find_words(words, ask.where, DEPTH), 1):
            parts[number][len(ask.query.parts)] = 1 / (_K + rank)
    products = ask.ledger.by_number(list(parts), ask.where)
    scores = {number: sum(parts[number].values()) for number in parts}
    ranking = [
        Candidate(products[number], number, slots.get(number), scores[number])
        for number in parts
        if number in products and number not in ask.encoded.own
    ]
    ranking.sort(key=lambda found: (-scores[found.number], found.product.id))
    return Fused(take_page(ask, ranking, scores_less), [found.number for found in ranking], dict(parts), cosines)


def _list_similar(ask: Ask, vector: Embeddings) -> tuple[list[int], list[float], dict[int, int]]:
    """Return the products nearest to a vector, equal ones by id, with their cosines and their best pictures."""
    limit = 2 * DEPTH
    while True:
        hits = search(ask, vector, limit, exact=ask.exact)
        found = best_pictures(ask, hits)
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
