"""Vectors like those of a shop's images, in clusters of uneven size, and queries like images and like texts.

The vectors are generated in blocks, so that a million of them need little memory; those of full blocks do not depend on
the number of rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from text_image_similarity.similarity import Embeddings

WIDTH, BLOCK, CATEGORIES = 512, 8192, 40
_CLUSTERS, _SPREAD = 1000, 48
SHARES = (1.0, 0.1, 0.01, 0.001)  # the shares of the rows that pass a filter on the draw
FAR = "another category"


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """A block of rows.

    Args:
        start: The number of the first row.
        vectors: Unit vectors, shape (n, WIDTH), float32.
        categories: Integers from 0 to CATEGORIES - 1, shape (n,).
        draws: Random numbers, uniform in 0..1, shape (n,).
    """

    start: int
    vectors: Embeddings
    categories: NDArray[np.int64]
    draws: NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Ask:
    """A query with a filter.

    Args:
        vector: A unit vector, shape (WIDTH,).
        kind: `picture` or `text`.
        below: The filter passes draws below this value.
        category: The category that the filter passes; None for all.
    """

    vector: Embeddings
    kind: str
    below: float = 1.0
    category: int | None = None

    def passes(self, rows: Rows) -> NDArray[np.bool_]:
        """Return which rows pass the filter."""
        mask = rows.draws < self.below
        return mask if self.category is None else mask & (rows.categories == self.category)


class Shop:
    """The clusters, which are the same in every run."""

    def __init__(self) -> None:
        rng = np.random.default_rng(18)
        cone, self._gap = _unit(rng.standard_normal((2, WIDTH)))
        self._category = rng.integers(0, CATEGORIES, _CLUSTERS)
        kinds = _unit(rng.standard_normal((CATEGORIES, WIDTH)))
        self._centres = cone + 0.7 * kinds[self._category] + 0.6 * _unit(rng.standard_normal((_CLUSTERS, WIDTH)))
        self._bases = rng.standard_normal((CATEGORIES, _SPREAD, WIDTH)) / np.sqrt(WIDTH * _SPREAD)
        sizes = rng.pareto(1.2, _CLUSTERS) + 1
        self._shares = sizes / sizes.sum()

    def blocks(self, size: int) -> Iterator[Rows]:
        """Yield `size` rows in blocks of up to 8,192."""
        for start in range(0, size, BLOCK):
            rng = np.random.default_rng((18, start))
            number = min(BLOCK, size - start)
            vectors, categories = self._draw(rng, number)
            yield Rows(start, vectors, categories, rng.random(number))

    def asks(self, number: int) -> dict[str, list[Ask]]:
        """Return queries for each filter, half of them like images and half like texts."""
        rng = np.random.default_rng(19)
        vectors, categories = self._draw(rng, number)
        kinds = ["picture" if place % 2 else "text" for place in range(number)]
        texts = _unit(0.5 * vectors + 0.6 * self._gap + 0.2 * _unit(rng.standard_normal((number, WIDTH))))
        vectors[::2] = texts[::2]
        others = (categories + rng.integers(1, CATEGORIES, number)) % CATEGORIES
        both = list(zip(vectors, kinds, strict=True))
        asks = {f"{share:.1%}": [Ask(vector, kind, share) for vector, kind in both] for share in SHARES}
        far = [Ask(vector, kind, 1.0, int(other)) for (vector, kind), other in zip(both, others, strict=True)]
        return {**asks, FAR: far}

    def _draw(self, rng: np.random.Generator, number: int) -> tuple[Embeddings, NDArray[np.int64]]:
        clusters = rng.choice(_CLUSTERS, number, p=self._shares)
        categories = self._category[clusters]
        vectors = self._centres[clusters] + 0.05 * rng.standard_normal((number, WIDTH)) / np.sqrt(WIDTH)
        spread = rng.standard_normal((number, _SPREAD))
        for category in np.unique(categories):
            among = categories == category
            vectors[among] += 8 * spread[among] @ self._bases[category]  # (n, 48) @ (48, d)
        return _unit(vectors), categories


def nearest_rows(shop: Shop, size: int, asks: Sequence[Ask], top_k: int) -> list[list[int]]:
    """Return the row numbers of the exact results, fewer than `top_k` if fewer rows pass."""
    queries = np.stack([ask.vector for ask in asks])
    best: list[list[tuple[float, int]]] = [[] for _ in asks]
    for rows in shop.blocks(size):
        rough = queries @ rows.vectors.T  # (q, d) @ (d, n) -> (q, n)
        for place, ask in enumerate(asks):
            found = np.where(ask.passes(rows), rough[place], -np.inf)
            for row in np.argpartition(found, -top_k)[-top_k:] if len(found) > top_k else range(len(found)):
                if np.isfinite(found[row]):
                    best[place].append((float(found[row]), rows.start + int(row)))
            best[place] = sorted(best[place], reverse=True)[:top_k]
    return [[row for _, row in found] for found in best]


def _unit(vectors: NDArray[np.float64]) -> Embeddings:
    found: Embeddings = (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)
    return found
