"""Exact search in a stream of vectors, for any number of queries in one pass, with one block in memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ...similarity import Embeddings, Scores, cosine
from ..nearest import best
from .protocol import Hits, Rows


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """A block of images.

    Args:
        rows: Numbers of the images' products, shape (n,).
        slots: Index of each image among its product's images, shape (n,).
        vectors: Unit vectors, shape (n, embed_dim), float32.
    """

    rows: Rows
    slots: Rows
    vectors: Embeddings


def best_of(blocks: Iterable[Block], queries: Embeddings, limit: int | None, least: float) -> list[Hits]:
    """Return the images nearest to each query, as `Store.search` does.

    Args:
        blocks: All images to compare, in any order.
        queries: Unit vectors, shape (q, embed_dim), float32.
        limit: Number of images for each query; None returns all.
        least: Lowest cosine to return.
    """
    kept = [_Kept(limit, least) for _ in queries]
    for block in blocks:
        rough = queries @ block.vectors.T  # (q, d) @ (d, n) -> (q, n)
        for query, row, each in zip(queries, rough, kept, strict=True):
            each.offer(block, query, row)
    return [each.hits() for each in kept]


def ranked(query: Embeddings, block: Block, limit: int | None, least: float) -> Hits:
    """Return the best images of a block by their exact cosines; more than `limit` if several tie for the last place."""
    return _ranked(block.rows, block.slots, cosine(query[None, :], block.vectors), limit, least)


class _Kept:
    """The best images for one query so far."""

    def __init__(self, limit: int | None, least: float) -> None:
        self._limit, self._least = limit, least
        self._parts: list[Hits] = []
        self._size = 0

    def offer(self, block: Block, query: Embeddings, rough: Embeddings) -> None:
        places, cosines = best(query, block.vectors, rough, self._limit, least=self._least)
        if not len(places):
            return
        self._parts.append(Hits(block.rows[places], block.slots[places], cosines))
        self._size += len(places)
        if self._limit is not None and self._size >= self._limit:
            self._parts = [self.hits()]
            self._size = len(self._parts[0].rows)
            self._least = max(self._least, float(self._parts[0].cosines[-1])) if self._size else self._least

    def hits(self) -> Hits:
        return _ranked(*_joined(self._parts), self._limit, self._least)


def _joined(parts: Sequence[Hits]) -> tuple[Rows, Rows, Scores]:
    none = np.empty(0, np.int64)
    return (
        np.concatenate([none, *(part.rows for part in parts)]),
        np.concatenate([none, *(part.slots for part in parts)]),
        np.concatenate([np.empty(0, np.float32), *(part.cosines for part in parts)]),
    )


def _ranked(rows: Rows, slots: Rows, cosines: Scores, limit: int | None, least: float) -> Hits:
    order = np.lexsort((slots, rows, -cosines))
    order = order[cosines[order] >= least]
    if limit is not None and limit < len(order):
        order = order[cosines[order] >= cosines[order[limit - 1]]]
    return Hits(rows[order], slots[order], cosines[order])
