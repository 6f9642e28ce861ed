"""Products in the order of a field: all that pass a filter, or those above a similarity."""

from __future__ import annotations

from .fields import Value
from .ledger import Found
from .query import Query
from .ranking import Ask, Candidate, best_pictures, search

Listed = tuple[Candidate, Value | None]  # with the value that it is ordered by


def list_products(ask: Ask) -> list[Listed]:
    """Return the products of a page in the order of `Query.sort`, else of their ids, and one more if there are any behind it."""
    page: list[Listed] = []
    groups: set[str] = set()
    after = None if ask.cursor is None or ask.query.group else ask.cursor.key
    most = ask.query.top_k + 1
    size = 1000 if ask.query.group else most
    while True:
        chunk = ask.ledger.browse(ask.where, order_of(ask.query), after, size)
        for found, value in chunk:
            after = (value, found.product.id)
            if _is_next(ask, found, value, groups):
                page.append((Candidate(found.product, found.number, None, 0.0), value))
                if len(page) == most:
                    return page
        if len(chunk) < size:
            return page


def sort_similar(ask: Ask) -> tuple[list[Listed], list[int]]:
    """Return the same of the products above a similarity, and the numbers of all of these."""
    order = order_of(ask.query)
    assert order is not None
    hits = best_pictures(ask, search(ask, ask.encoded.fused, None, exact=True))
    slots = dict(zip(hits.rows.tolist(), hits.slots.tolist(), strict=True))
    values = ask.ledger.column(order[0], hits.rows.tolist(), ask.where)
    ids = ask.ledger.column("_id", list(values))
    numbers = list(ids)
    # One text decides between equal values, so `reverse` would turn ids around as well: two stable sorts.
    ordered = sorted(numbers, key=lambda number: str(ids[number]))
    given = [number for number in ordered if values[number] is not None]
    given.sort(key=lambda number: values[number], reverse=order[1])  # type: ignore[arg-type,return-value]  # of one kind
    ordered = given + [number for number in ordered if values[number] is None]
    page: list[Listed] = []
    groups: set[str] = set()
    for start in range(0, len(ordered), 256):
        chunk = ordered[start : start + 256]
        products = ask.ledger.by_number(chunk, ask.where)
        for number in chunk:
            if number in products and _is_next(ask, Found(number, products[number]), values[number], groups):
                page.append((Candidate(products[number], number, slots[number], 0.0), values[number]))
                if len(page) > ask.query.top_k:
                    return page, numbers
    return page, numbers


def order_of(query: Query) -> tuple[str, bool] | None:
    """Return the field to sort by, and whether the highest comes first.

    Example:
        >>> order_of(Query(sort="-price"))
        ('price', True)
    """
    return None if query.sort is None else (query.sort.removeprefix("-"), query.sort.startswith("-"))


def _is_next(ask: Ask, found: Found, value: Value | None, groups: set[str]) -> bool:
    """Say whether a product comes behind the cursor, and is the first one of its group."""
    group = found.product.group if ask.query.group else None
    if group is not None:
        if group in groups:
            return False
        groups.add(group)
    if ask.cursor is None:
        return True
    last, id = ask.cursor.key
    order = order_of(ask.query)
    return _place(value, found.product.id, order, last, id)


def _place(value: Value | None, id: str, order: tuple[str, bool] | None, last: Value | None, last_id: str) -> bool:
    """Say whether (value, id) comes behind (last, last_id): those without a value last, equal ones by id."""
    if order is None or value == last:
        return id > last_id
    if value is None or last is None:
        return value is None
    return (value < last) if order[1] else (value > last)  # type: ignore[operator]  # values of one field
