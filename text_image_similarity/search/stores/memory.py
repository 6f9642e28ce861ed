"""A store with all vectors in one matrix in memory: exact, the default, and meant for up to about 100,000 products.

Only the ledger outlives a process; each process reads the vectors from it again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from threading import Lock

import numpy as np

from ...similarity import Embeddings
from ..fields import Field, Value
from ..filters import And, Compare, Exists, Filter, Not, OneOf, Or
from ..nearest import Places, best
from ..time_limit import check_time
from .columns import Column, Growing, Mask, make_column
from .protocol import Alone, Changes, Hits, Rows

# If a larger share passes a filter, multiplying all vectors is faster than gathering those that pass.
_GATHERED = 0.4
# Few queries are multiplied with blocks that stay in the cache and are small enough (rows x queries x dimensions) for
# OpenBLAS neither to copy them nor to distribute them over threads; with many queries, OpenBLAS is fast by itself.
_FEW, _BLOCK, _SMALL, _BLOCK_OF_MANY = 8, 256, 1 << 18, 4096
_PRODUCTS = 16_000_000  # approximate cosines in memory at a time
_MASKS = 16  # filters whose masks are kept


@dataclass(frozen=True, slots=True, eq=False)
class _State:
    """The state for one search, which later changes do not affect.

    Args:
        vectors: Vectors, shape (n, embed_dim).
        numbers: Number of each vector's product, shape (n,).
        slots: Index of each vector's image among its product's images, shape (n,).
        alive: Whether each vector is still valid, shape (n,).
        first: Whether each vector is the first of its product, shape (n,).
        columns: Values of the fields of each vector's product, by field.
        masks: Which vectors pass a filter, shape (n,), for recently used filters.
    """

    vectors: Embeddings
    numbers: Rows
    slots: Rows
    alive: Mask
    first: Mask
    columns: Mapping[str, Column]
    masks: dict[Filter, Mask] = field(default_factory=dict)

    def mask(self, where: Filter) -> Mask:
        """Return which vectors pass a filter, and keep this mask for the query's search, total and facets."""
        if (found := self.masks.get(where)) is None:
            found = _mask(where, self.columns, len(self.alive))
            if len(self.masks) >= _MASKS:
                self.masks.clear()
            self.masks[where] = found
        return found


class MemoryStore:
    """A store with all vectors in memory; see `Store`.

    Args:
        fields: All fields, including the built-in ones.
        embed_dim: Length of the vectors.
    """

    def __init__(self, fields: Sequence[Field], embed_dim: int) -> None:
        self._fields, self._embed_dim = tuple(fields), embed_dim
        self.shared = self.approximates = False
        self.exact_up_to = 0
        self._writing = Lock()
        # None during a change, and after one that was interrupted; everything is then read again.
        self._version: int | None = None
        self._alive: Mask
        self.clear()

    @property
    def version(self) -> int:
        return self._version or 0

    def apply(self, changes: Changes) -> None:
        with self._writing:
            if self._version is None:
                self._begin()
            self._version = None
            alive = self._alive & ~np.isin(self._numbers.filled, np.concatenate([changes.rows, changes.deleted]))
            if len(alive) > 2 * (np.count_nonzero(alive) + len(changes.owners)):
                alive = self._compact(alive)
            self._extend(changes)
            self._alive = np.concatenate([alive, np.ones(len(changes.owners), bool)])
            if changes.version:  # otherwise, more batches of a complete read follow
                self._show()
            self._version = changes.version

    def search(
        self, queries: Embeddings, where: Filter | None, limit: int | None, *, least: float = -1.0, exact: bool = False
    ) -> list[Hits]:
        state = self._state
        passing = state.alive if where is None else state.alive & state.mask(where)
        gathers = np.count_nonzero(passing) < _GATHERED * len(passing)
        among = np.flatnonzero(passing) if gathers else None
        found = []
        for some in np.array_split(queries, max(1, -(-len(queries) * len(passing) // _PRODUCTS))):
            check_time()
            rough = _rough_cosines(state.vectors, among, some)  # (q, n) or (q, m)
            if not gathers:
                rough[:, ~passing] = -np.inf
            for query, row in zip(some, rough, strict=True):
                places, cosines = best(query, state.vectors, row, limit, least=least, among=among)
                found.append(Hits(state.numbers[places], state.slots[places], cosines))
        return found

    def count(self, where: Filter | None) -> int:
        return int(np.count_nonzero(self._products(self._state, where)))

    def values(self, field: str, where: Filter | None) -> dict[Value, int]:
        state = self._state
        return state.columns[field].counts(np.flatnonzero(self._products(state, where)))

    def optimize(self, alone: Alone = nullcontext) -> None:
        with self._writing:
            if (version := self._version) is not None:
                self._version = None
                self._alive = self._compact(self._alive)
                self._show()
                self._version = version

    def clear(self) -> None:
        with self._writing:
            self._version = None
            self._begin()
            self._show()
            self._version = 0

    def close(self) -> None:
        """Do nothing, because nothing is open."""

    def drop(self) -> None:
        self.clear()

    def _begin(self) -> None:
        """Empty the store before a complete read; searches in progress keep the earlier state."""
        self._vectors = Growing(np.empty((0, self._embed_dim), np.float32))
        self._numbers, self._slots = (Growing(np.empty(0, np.int64)) for _ in range(2))
        self._first = Growing(np.empty(0, bool))
        self._columns = {field.name: make_column(field.kind) for field in self._fields}
        self._alive = np.empty(0, bool)

    def _show(self) -> None:
        """Make the current state visible to searches."""
        vectors, numbers, slots, first = self._vectors, self._numbers, self._slots, self._first
        self._state = _State(vectors.filled, numbers.filled, slots.filled, self._alive, first.filled, self._columns)

    def _extend(self, changes: Changes) -> None:
        """Add the images of changed products."""
        self._vectors.reserve(changes.expected)
        order = np.lexsort((changes.slots, changes.owners))
        owners = changes.owners[order]
        products = np.argsort(changes.rows, kind="stable")
        take = products[
            np.searchsorted(changes.rows, owners, sorter=products)
        ]  # (m,) positions in the changes' columns
        for name, column in self._columns.items():
            column.extend(changes.columns[name], take)
        if len(order):
            self._vectors.extend(changes.vectors, order)
            self._numbers.extend(owners)
            self._slots.extend(changes.slots[order])
            self._first.extend(np.r_[True, owners[1:] != owners[:-1]])

    def _compact(self, alive: Mask) -> Mask:
        """Drop the vectors that are no longer valid, and return the mask of those that remain, which are all valid."""
        kept = np.flatnonzero(alive)
        for name in ("_vectors", "_numbers", "_slots", "_first"):
            before: Growing = getattr(self, name)
            after = Growing(np.empty((0, *before.filled.shape[1:]), before.filled.dtype))
            after.extend(before.filled[kept])
            setattr(self, name, after)
        self._columns = {name: column.only(kept) for name, column in self._columns.items()}
        return np.ones(len(kept), bool)

    def _products(self, state: _State, where: Filter | None) -> Mask:
        """Return which images are the first of a product that passes a filter."""
        passing = state.alive & state.first
        return passing if where is None else passing & state.mask(where)


def _rough_cosines(vectors: Embeddings, among: Places | None, queries: Embeddings) -> Embeddings:
    """Return approximate cosines of queries with all vectors, shape (q, n), or with some of them, shape (q, m)."""
    if among is None and len(queries) == 1:
        return queries @ vectors.T  # (1, d) @ (d, n) -> (1, n)
    rough = np.empty((len(queries), len(vectors) if among is None else len(among)), np.float32)
    size = _BLOCK_OF_MANY if len(queries) > _FEW else min(_BLOCK, max(16, _SMALL // max(queries.size, 1)))
    room, turned = np.empty((size, vectors.shape[1]), np.float32), np.ascontiguousarray(queries.T)
    for start in range(0, rough.shape[1], size):
        block = vectors[start : start + size]
        if among is not None:
            places = among[start : start + size]
            # The mode "raise" would make another copy.
            block = np.take(vectors, places, axis=0, out=room[: len(places)], mode="clip")
        rough[:, start : start + size] = (block @ turned).T  # (block, d) @ (d, q)
    return rough


def _mask(where: Filter, columns: Mapping[str, Column], size: int) -> Mask:
    """Return which of the first `size` positions pass a filter, unless the time of `time_limit` is up."""
    check_time()
    match where:
        case Compare(field, "ne", value):
            return columns[field].present(size) & ~columns[field].compare("eq", value, size)
        case Compare(field, op, value):
            return columns[field].compare(op, value, size)
        case OneOf(field, values, negated):
            within = columns[field].among(values, size)
            return columns[field].present(size) & ~within if negated else within
        case Exists(field, wanted):
            present = columns[field].present(size)
            return present if wanted else ~present
        case And(parts) | Or(parts):
            mask = _mask(parts[0], columns, size)
            # One by one, because with 256 conditions, all masks together would take as much memory as the vectors.
            for part in parts[1:]:
                combine = np.logical_and if isinstance(where, And) else np.logical_or
                combine(mask, _mask(part, columns, size), out=mask)
            return mask
        case Not(part):
            return ~_mask(part, columns, size)
