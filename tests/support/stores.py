"""Every kind of vector store, and products for them whose answers a plain loop can tell."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np

from tests.support.filters import FIELDS
from text_image_similarity.search.fields import BUILT_IN, Field, Value
from text_image_similarity.search.filters import Compare, Filter, matches
from text_image_similarity.search.stores import Changes, Hits, MemoryStore, Store
from text_image_similarity.similarity import Embeddings, cosine

ALL_FIELDS = (*BUILT_IN, *FIELDS)
WIDTH = 16

# Each imports what it needs, no more: a process that opens one must not take seconds to import them all.


def _pgvector(folder: Path, fields: Sequence[Field], embed_dim: int) -> Store:
    from tests.support.postgres import schema_at
    from text_image_similarity.search.stores.pgvector import PgVectorStore

    return PgVectorStore(schema_at(folder), 1, fields, embed_dim)


def _lancedb(folder: Path, fields: Sequence[Field], embed_dim: int) -> Store:
    from text_image_similarity.search.stores.lancedb import LanceStore

    return LanceStore(str(folder / "vectors"), fields, embed_dim)


def _qdrant(folder: Path, fields: Sequence[Field], embed_dim: int) -> Store:
    from qdrant_client import QdrantClient

    from text_image_similarity.search.stores.qdrant import QdrantStore

    return QdrantStore(QdrantClient(path=str(folder / "qdrant")), "shop-1", fields, embed_dim)


def _qdrant_edge(folder: Path, fields: Sequence[Field], embed_dim: int) -> Store:
    from qdrant_client import QdrantClient

    from tests.support.edge import EdgeClient
    from text_image_similarity.search.stores.qdrant import QdrantStore

    return QdrantStore(cast(QdrantClient, EdgeClient(folder / "edge")), "shop-1", fields, embed_dim)


# Opens what an earlier call with the same folder has left there.
OpenStore = Callable[[Path, Sequence[Field], int], Store]
STORES: dict[str, OpenStore] = {
    "memory": lambda folder, fields, embed_dim: MemoryStore(fields, embed_dim),
    "pgvector": _pgvector,
    "lancedb": _lancedb,
    "qdrant": _qdrant,
    "qdrant-edge": _qdrant_edge,
}
KEPT = tuple(kind for kind in STORES if kind != "memory")  # what was applied is there for whoever opens the store again
SHARED = tuple(kind for kind in KEPT if not kind.startswith("qdrant"))  # Qdrant in files admits one process


def unit_vectors(seed: int, number: int, width: int = WIDTH) -> Embeddings:
    """Return random unit vectors, shape (number, width)."""
    vectors = np.random.default_rng(seed).standard_normal((number, width))
    unit: Embeddings = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return unit


@dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """A product as a store has it: stored values (those not named are missing) and vectors, shape (pictures, width)."""

    values: Mapping[str, Value | None]
    vectors: Embeddings


@dataclass(slots=True)
class Shop:
    """What a store should know, and the changes that tell it."""

    products: dict[int, Shown] = field(default_factory=dict)
    version: int = 0

    def change(self, products: Mapping[int, Shown], deleted: Iterable[int] = ()) -> Changes:
        """Add or replace products, delete others, and return that as a store is told."""
        gone = list(deleted)
        assert not products.keys() & set(gone), "no number is given twice"
        self.version += 1
        self.products = {number: shown for number, shown in self.products.items() if number not in gone}
        self.products.update(products)
        return changes_of(products, gone, self.version)

    def count(self, where: Filter | None) -> int:
        """Return how many products with a picture pass a filter."""
        return len(self._passing(where))

    def values(self, name: str, where: Filter | None) -> dict[Value, int]:
        """Return how many of those have each value of a field."""
        found: dict[Value, int] = {}
        for number in self._passing(where):
            value = self.products[number].values.get(name)
            for each in value if isinstance(value, tuple) else () if value is None else (value,):
                found[each] = found.get(each, 0) + 1
        return found

    def check(
        self, hits: Hits, query: Embeddings, where: Filter | None, limit: int | None, least: float = -1.0
    ) -> None:
        """Assert that hits are what they should be: these pictures and cosines, best first, and all that tie for the last place."""
        right = {}
        for number in self._passing(where):
            vectors = self.products[number].vectors
            for slot, value in enumerate(cosine(query[None, :], vectors)):
                right[number, slot] = float(value)
        ranked = sorted((value for value in right.values() if value >= least), reverse=True)
        last = ranked[:limit][-1] if ranked else 2.0
        pairs = zip(hits.rows.tolist(), hits.slots.tolist(), hits.cosines.tolist(), strict=True)
        found = {(row, slot): value for row, slot, value in pairs}
        assert found == {key: value for key, value in right.items() if value >= last}
        assert len(found) == len(hits.rows), "no picture twice"
        assert hits.cosines.dtype == np.float32
        assert hits.rows.dtype == hits.slots.dtype == np.int64
        assert np.all(np.diff(hits.cosines) <= 0), "best first"

    def _passing(self, where: Filter | None) -> list[int]:
        return [
            number for number, shown in self.products.items() if len(shown.vectors) and matches(where, shown.values)
        ]


def clusters(seed: int, number: int, width: int = WIDTH) -> Embeddings:
    """Return unit vectors in 40 clusters, as pictures of a shop have them, shape (number, width)."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(40).standard_normal((40, width))
    vectors = centres[rng.integers(0, 40, number)] + 0.3 * rng.standard_normal((number, width))
    unit: Embeddings = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return unit


def fill_with_clusters(store: Store, number: int = 2000, width: int = WIDTH) -> None:
    """Add products whose price is their number."""
    vectors = clusters(0, number, width)
    shown = {each: Shown({"price": float(each)}, vectors[each : each + 1]) for each in range(number)}
    store.apply(changes_of(shown, [], 1))


def recalls(store: Store, share: float, width: int = WIDTH, top_k: int = 10) -> list[float]:
    """Return for 60 queries which share of the exact answers a search finds at its defaults, where a share of products passes."""
    queries = np.concatenate(
        [clusters(1, 30, width), unit_vectors(2, 30, width)]
    )  # like the pictures, and like nothing
    where = Compare("price", "lt", share * store.count(None))
    rights = store.search(queries, where, top_k, exact=True)
    found = store.search(queries, where, top_k)
    assert all(len(hits.rows) >= top_k for hits in (*rights, *found))
    return [
        len({*hits.rows.tolist()} & {*right.rows.tolist()}) / top_k for hits, right in zip(found, rights, strict=True)
    ]


def changes_of(products: Mapping[int, Shown], deleted: Sequence[int], version: int) -> Changes:
    """Return changes, in an order that a store should not rely on."""
    numbers = list(products)[::-1]
    pictures = [(number, slot) for number in products for slot in range(len(products[number].vectors))]
    return Changes(
        version=version,
        rows=np.array(numbers, np.int64),
        columns={each.name: [products[number].values.get(each.name) for number in numbers] for each in ALL_FIELDS},
        owners=np.array([number for number, _ in pictures], np.int64),
        slots=np.array([slot for _, slot in pictures], np.int64),
        vectors=np.concatenate([shown.vectors for shown in products.values()] or [np.empty((0, WIDTH), np.float32)]),
        deleted=np.array(deleted, np.int64),
    )
