"""List products ordered by a field: all that pass a filter, or only those that reach a similarity."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from .cursor import Cursor
from .fields import ID
from .query import Query
from .ranking import Ask, Candidate, best_images, search, take_page

# Number of ids in the first read and maximum for later ones, if groups hide some; reads grow, because each of them
# checks the filter again.
_AT_ONCE, _MOST_AT_ONCE = 1000, 64_000


def list_products(ask: Ask) -> list[Candidate]:
    """Return the products of a page, ordered by `Query.sort` or else by id, and one more if there is a next page."""
    return take_page(ask, _browse(ask), _comes_after(ask))


def sort_similar(ask: Ask) -> tuple[list[Candidate], list[int]]:
    """Return a page like `list_products`, but only of products that reach a similarity, and the numbers of all."""
    order = order_of(ask.query)
    assert order is not None
    hits = best_images(ask, search(ask, ask.encoded.fused, None, exact=True))
    slots = dict(zip(hits.rows.tolist(), hits.slots.tolist(), strict=True))
    values = ask.ledger.column(order[0], hits.rows.tolist(), ask.where)
    ids = ask.ledger.column(ID, list(values))
    # Ties are sorted by id, and `reverse` would reverse them too, so there are two stable sorts.
    ordered = sorted(ids, key=lambda number: str(ids[number]))
    given = [number for number in ordered if values[number] is not None]
    given.sort(key=lambda number: values[number], reverse=order[1])  # type: ignore[arg-type,return-value]  # of one kind
    ordered = given + [number for number in ordered if values[number] is None]

    def read() -> Iterator[Candidate]:
        for start in range(0, len(ordered), _AT_ONCE):
            listed = ask.ledger.listed(ordered[start : start + _AT_ONCE], ask.where)
            for number in ordered[start : start + _AT_ONCE]:
                if number in listed:
                    yield Candidate(listed[number], slots[number], values[number])

    return take_page(ask, read(), _comes_after(ask)), list(ids)


def order_of(query: Query) -> tuple[str, bool] | None:
    """Return the field to sort by, and whether the highest comes first.

    Example:
        >>> order_of(Query(sort="-price"))
        ('price', True)
    """
    return None if query.sort is None else (query.sort.removeprefix("-"), query.sort.startswith("-"))


def _browse(ask: Ask) -> Iterator[Candidate]:
    """Yield the products that pass the filter, in order, from the cursor on."""
    after = None if ask.cursor is None else ask.cursor.key
    size = _AT_ONCE if ask.query.group else ask.query.top_k + 1
    while chunk := ask.ledger.list_ids(ask.where, order_of(ask.query), after, size):
        yield from (Candidate(found, None, value) for found, value in chunk)
        if len(chunk) < size:
            return
        after, size = (chunk[-1][1], chunk[-1][0].id), min(4 * size, _MOST_AT_ONCE)


def _comes_after(ask: Ask) -> Callable[[Candidate, Cursor], bool]:
    """Return a function that tells whether a product comes after the cursor: missing values last, equal ones by id."""
    order = order_of(ask.query)

    def behind(candidate: Candidate, cursor: Cursor) -> bool:
        (last, last_id), value = cursor.key, candidate.key
        if order is None or value == last:
            return candidate.listed.id > last_id
        if value is None or last is None:
            return value is None
        return (value < last) if order[1] else (value > last)  # type: ignore[operator]  # values of one field

    return behind
