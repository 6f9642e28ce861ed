"""Answer queries with the vectors of one generation: ranking, totals and facets."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import NoneType

import numpy as np

from ..errors import DatabaseError, RowError, UsageError
from ..similarity import as_floats, cosine
from .arguments import naming
from .counting import Facets, count_numbers, count_passing, written_facets
from .cursor import Cursor, read_cursor, write_cursor
from .fields import BUILT_IN, ID, Field, FieldKind, named
from .filters import And, Filter, Not, OneOf, parse_filter
from .ledger import Generation
from .listing import list_products, order_of, sort_similar
from .meaning import Meaning
from .products import ImageOutcome, Product
from .query import FusionKind, Match, Matches, Query, Reason
from .rank_fusion import Fused, fuse
from .ranking import Ask, Candidate, first_limit, rank, rank_above
from .session import Session
from .stores import Hits
from .vectors import Encoded

_STORED: dict[FieldKind, type] = {"text": str, "number": float, "bool": bool, "date": float, "texts": tuple}

_AT_ONCE = 20  # products that are read whole at a time


@dataclass(frozen=True, slots=True, eq=False)
class Checked:
    """A checked query, which a generation can answer once its terms are encoded.

    Args:
        query: The query.
        name: Name of the query in messages.
        generation: Generation that will answer.
        where: Filter of the query.
        cursor: Position where its page begins; None for the first page.
    """

    query: Query
    name: str
    generation: Generation
    where: Filter | None
    cursor: Cursor | None


def check(session: Session, generation: Generation, query: Query, name: str) -> Checked:
    """Check that a query can be answered, and return it in the form that `answer` accepts.

    Raises:
        UsageError: The query cannot be answered; the message says what to change.
    """
    with naming(name):
        where = check_fields(query, session.ledger.fields)
        cursor = read_cursor(query, generation.number, _key_types(session, query))
        return Checked(query, name, generation, where, cursor)


def answer(
    session: Session, asked: Sequence[Checked], encoded: Sequence[Encoded | RowError], most: int | None = None
) -> Iterator[Matches | RowError | None]:
    """Answer queries to one generation, given their terms' vectors; compatible queries are searched together.

    Args:
        session: Session of the catalogue.
        asked: The queries.
        encoded: Vectors of the queries.
        most: Maximum number of characters of a query's products; None for any number.

    Returns:
        For each query, as soon as its products are read: its matches, the reason why a term has no vector, or None if
        its products have more than `most` characters.

    Raises:
        UsageError: A query's cursor is not valid.
        DatabaseError: The generation was dropped in the meantime.
    """
    if not asked:
        return iter(())
    generation = asked[0].generation
    store = session.store(generation) if any(one.query.parts for one in asked) else None
    passing: dict[str, int] = {}
    asks: list[Ask | RowError] = []
    for one, found in zip(asked, encoded, strict=True):
        if isinstance(found, RowError):
            asks.append(found)
            continue
        count = 0
        if store is not None and one.query.parts and (store.approximates or one.query.min_similarity is None):
            key = repr(one.where)
            count = passing[key] = passing[key] if key in passing else store.count(one.where)
        # All pages use the same fusion, even if products are added in the meantime.
        fusion = _fusion(one.query, count) if one.cursor is None else one.cursor.fusion
        asks.append(Ask(found, one.where, one.cursor, generation, store, session.ledger, count, fusion))
    first = _search_together([ask for ask in asks if isinstance(ask, Ask)])
    return _answers(session, asked, asks, first, most)


def _answers(
    session: Session,
    asked: Sequence[Checked],
    asks: Sequence[Ask | RowError],
    first: Mapping[int, Hits],
    most: int | None,
) -> Iterator[Matches | RowError | None]:
    generation = asked[0].generation
    meaning = Meaning(generation)
    for one, ask in zip(asked, asks, strict=True):
        with naming(one.name):
            answered = ask if isinstance(ask, RowError) else _page(ask, _rank(ask, first.get(id(ask))), meaning, most)
        if one.query.parts and _lacks_vectors(answered):
            _check_there(session, generation)
        yield answered
        del answered  # before the next one is read


def _lacks_vectors(found: Matches | RowError | None) -> bool:
    return isinstance(found, Matches) and any(match.similarity is None for match in found)


def _check_there(session: Session, generation: Generation) -> None:
    """Raise a `DatabaseError` if a generation and its vectors have been dropped, although its store is still open."""
    if generation.number not in [each.number for each in session.generations.all()]:
        raise DatabaseError(
            f"generation {generation.number} was dropped by another process during this query; send the query again"
        )


def check_fields(query: Query, declared: Sequence[Field]) -> Filter | None:
    """Return a query's filter, after checking that all fields in the query exist; no model is needed.

    Raises:
        UsageError: A field does not exist, or its kind cannot be used this way.
    """
    fields = (*BUILT_IN, *declared)
    for name in query.facets:
        named(fields, name)
    if (order := order_of(query)) is not None and named(fields, order[0]).kind == "texts":
        raise UsageError(f"products cannot be sorted by {order[0]!r}, which contains lists; sort by another field")
    return parse_filter(query.where, declared)


def _key_types(session: Session, query: Query) -> tuple[type, ...]:
    """Return the types of values that a query orders products by: a field's values, scores, or only ids."""
    if (order := order_of(query)) is not None:
        return (_STORED[named((*BUILT_IN, *session.ledger.fields), order[0]).kind], NoneType)
    return (float,) if query.parts else (NoneType,)


def _fusion(query: Query, passing: int) -> FusionKind:
    """Return the fusion for a query's terms; if no product has an image, only words can find products."""
    if query.fusion is not None:
        return query.fusion
    words = any(term.text is not None and term.weight > 0 for term in query.parts)
    return "rrf" if words and not passing and query.min_similarity is None and query.sort is None else "sum"


def _search_together(asks: Sequence[Ask]) -> dict[int, Hits]:
    """Search together for queries that differ only in their vectors, with one matrix product instead of many."""
    alike: dict[tuple[str, int, bool], list[Ask]] = defaultdict(list)
    for ask in asks:
        if ask.query.parts and ask.fusion == "sum" and ask.query.sort is None and ask.query.min_similarity is None:
            alike[repr(ask.where), first_limit(ask), ask.exact].append(ask)
    found = {}
    for (_, limit, exact), group in alike.items():
        if len(group) > 1:
            vectors = np.stack([ask.encoded.fused for ask in group])  # (q, d)
            hits = group[0].index.search(vectors, group[0].where, limit, exact=exact)
            found.update({id(ask): each for ask, each in zip(group, hits, strict=True)})
    return found


@dataclass(frozen=True, slots=True)
class _Ranking:
    """The products on a page, and the totals.

    Args:
        candidates: The products in order, and one more if there is a next page.
        counts: Total and facets.
        plan: As in `Matches`.
        fused: The ranking by reciprocal ranks, if it determines the order.
    """

    candidates: Sequence[Candidate]
    counts: tuple[int, Facets]
    plan: str
    fused: Fused | None = None


def _rank(ask: Ask, first: Hits | None) -> _Ranking:
    query, ledger = ask.query, ask.ledger
    if not query.parts or (query.sort is not None and query.min_similarity is None):
        ask = replace(ask, where=_without(ask))
        return _Ranking(list_products(ask), count_passing(ledger, query, ask.where), "list")
    if query.sort is not None:
        listed, numbers = sort_similar(ask)
        return _Ranking(listed, count_numbers(ledger, query, numbers), "exact")
    if ask.fusion == "rrf":
        fused = fuse(ask)
        return _Ranking(fused.page, count_numbers(ledger, query, fused.numbers), ask.plan, fused=fused)
    if query.min_similarity is not None:
        above, numbers = rank_above(ask)
        return _Ranking(above, count_numbers(ledger, query, numbers), ask.plan)
    return _Ranking(rank(ask, first), count_passing(ask.index, query, _without(ask)), ask.plan)


def _page(ask: Ask, ranking: _Ranking, meaning: Meaning, most: int | None) -> Matches | None:
    """Assemble the matches of a query; None if their products have more than `most` characters."""
    shown = ranking.candidates[: ask.query.top_k]
    matches: list[Match] = []
    for start in range(0, len(shown), _AT_ONCE):
        numbers = [found.listed.number for found in shown[start : start + _AT_ONCE]]
        products = ask.ledger.by_number(numbers, ask.where)
        if most is not None and (most := most - sum(map(_length, products.values()))) < 0:
            return None
        outcomes = ask.ledger.image_outcomes(ask.generation.number, numbers)
        for rank_, found in enumerate(shown[start : start + _AT_ONCE], ask.seen + start + 1):
            product = products.get(found.listed.number)
            if product is not None:  # otherwise, the product was deleted or changed in the meantime
                match = _match(ask, found, product, outcomes.get(found.listed.number, []), ranking.fused)
                probability = meaning.probability(ask.query, match.similarity)
                matches.append(replace(match, rank=rank_, probability=probability))
    after = None
    if len(ranking.candidates) > len(shown):
        key = (shown[-1].key, shown[-1].listed.id)
        marks = ask.shown | {mark for found in shown if (mark := ask.mark(found.listed)) is not None}
        after = write_cursor(ask.query, Cursor(ask.generation.number, key, ask.seen + len(shown), ask.fusion, marks))
    total, facets = ranking.counts
    facets = written_facets(facets, (*BUILT_IN, *ask.ledger.fields))
    return Matches(tuple(matches), total, facets, after, ask.generation.number, ranking.plan)


def _match(
    ask: Ask,
    found: Candidate,
    product: Product,
    image_outcomes: Sequence[ImageOutcome],
    fused: Fused | None,
) -> Match:
    """Describe a product that was found: its best image, and the contribution of each term; its rank is set later."""
    slot = found.slot if found.slot is not None else _best_slot(ask.encoded, image_outcomes)
    vector = image_outcomes[slot].vector if slot is not None and slot < len(image_outcomes) else None
    similarity: float | None = None
    cosines: list[float | None] = [None] * len(ask.query.parts)
    if vector is not None and ask.query.parts:
        whole = ask.encoded.fused[None, :]
        (similarity,) = as_floats(cosine(whole, vector[None, :]))
        cosines = list(as_floats(cosine(ask.encoded.vectors, vector[None, :])))  # (t, d) with (1, d) -> (t,)
    image = product.images[slot] if slot is not None and slot < len(product.images) else None
    why: list[Reason] = []
    if fused is not None:
        names = [*map(str, ask.query.parts), "words"]
        for place, share in sorted(fused.parts[found.listed.number].items()):
            near = fused.cosines[place].get(found.listed.number) if place < len(fused.cosines) else None
            why.append(Reason(names[place], near, share))
    elif similarity is not None:
        for term, near, share in zip(ask.query.parts, cosines, ask.encoded.shares.tolist(), strict=True):
            why.append(Reason(str(term), near, share * (near or 0.0)))
    score = similarity if fused is None else sum(fused.parts[found.listed.number].values())
    return Match(product, similarity, None, 0, image, score, tuple(why))


def _length(product: Product) -> int:
    """Return the number of characters of a product."""
    texts = (product.id, product.name, product.description, *product.images, *map(str, product.fields.values()))
    return sum(map(len, texts))


def _without(ask: Ask) -> Filter | None:
    """Return a query's filter, extended to exclude the products that are terms of the query."""
    own = tuple(term.product for term in ask.query.parts if term.product is not None)
    if not own:
        return ask.where
    others = Not(OneOf(ID, own))
    return others if ask.where is None else And((ask.where, others))


def _best_slot(encoded: Encoded, image_outcomes: Sequence[ImageOutcome]) -> int | None:
    """Return the slot of the image nearest to a query, or of the first image if the query has no terms."""
    there = {slot: image.vector for slot, image in enumerate(image_outcomes) if image.vector is not None}
    if not there or not len(encoded.fused):
        return next(iter(there), None)
    near = cosine(encoded.fused[None, :], np.stack(list(there.values())))  # (p,)
    return list(there)[int(np.argmax(near))]
