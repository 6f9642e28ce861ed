"""Totals and facets, counted over all products found, regardless of the page size."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from operator import itemgetter
from typing import Protocol

from .fields import GROUP, Field, Value, single
from .filters import And, Exists, Filter
from .ledger import Ledger
from .query import Query
from .time_limit import check_time

Facets = dict[str, Mapping[Value, int]]


class Countable(Protocol):
    """A store or a ledger, which can count the products that pass a filter."""

    def count(self, where: Filter | None) -> int:
        """Return how many products pass."""

    def values(self, field: str, where: Filter | None) -> dict[Value, int]:
        """Return the number of products with each value of a field."""


def count_passing(source: Countable, query: Query, where: Filter | None) -> tuple[int, Facets]:
    """Return the total and the facets of all products that pass a filter."""
    facets = _facets(query, lambda name: source.values(name, where))
    if not query.group:
        return source.count(where), facets
    alone = Exists(GROUP, wanted=False)
    return len(source.values(GROUP, where)) + source.count(alone if where is None else And((where, alone))), facets


def count_numbers(ledger: Ledger, query: Query, numbers: list[int]) -> tuple[int, Facets]:
    """Return the total and the facets of some products."""
    facets = _facets(query, lambda name: _frequencies(ledger.column(name, numbers).values()))
    if not query.group:
        return len(numbers), facets
    groups = list(ledger.column(GROUP, numbers).values())
    return len(set(groups) - {None}) + groups.count(None), facets


def written_facets(facets: Facets, fields: Iterable[Field]) -> Facets:
    """Return facets with values as in filters, where dates are text."""
    known = {field.name: field for field in fields}
    return {
        name: {known[name].written(value): count for value, count in counts.items()} for name, counts in facets.items()
    }


def _facets(query: Query, count: Callable[[str], dict[Value, int]]) -> Facets:
    """Return the counts of a query's facets, unless the time of `time_limit` is up."""
    facets: Facets = {}
    for name in dict.fromkeys(query.facets):  # a name may occur twice
        check_time()
        facets[name] = _ordered(count(name))
    return facets


def _frequencies(values: Iterable[Value | None]) -> dict[Value, int]:
    found: dict[Value, int] = {}
    for value in values:
        for each in single(value):
            found[each] = found.get(each, 0) + 1
    return found


def _ordered(values: dict[Value, int]) -> Mapping[Value, int]:
    """Return values, most frequent first; equally frequent ones are sorted."""
    return dict(sorted(sorted(values.items(), key=itemgetter(0)), key=lambda pair: -pair[1]))
