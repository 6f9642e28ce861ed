"""The protocol of vector stores, so that a catalogue works with any of them.

The authoritative data, including vectors, is in the catalogue's ledger; a store follows it. A store holds the vectors
of one generation (those of one model) with the stored values of the products' fields, and can be rebuilt at any time.
Losing a store therefore costs minutes, not data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ...similarity import Embeddings
from ..fields import Value
from ..filters import Filter

Rows = NDArray[np.int64]
Alone = Callable[[], AbstractContextManager[object]]


@dataclass(frozen=True, slots=True, eq=False)
class Changes:
    """Changes to products since a version of the ledger, in columns.

    Args:
        version: Version of the ledger that a store has reached after these changes.
        rows: Numbers of products that were added or changed, without duplicates, shape (n,).
        columns: For each field, including the built-in ones, the stored values of the n products; None if missing.
        owners: For each image with a vector, the number of its product, shape (m,).
        slots: Index of each of these images among its product's images, from 0, shape (m,).
        vectors: Unit vectors of the images, shape (m, embed_dim), float32.
        deleted: Numbers of deleted products, shape (k,).
        expected: Maximum number of images in total, if these changes are part of a complete read; otherwise 0.
    """

    version: int
    rows: Rows
    columns: Mapping[str, Sequence[Value | None]]
    owners: Rows
    slots: Rows
    vectors: Embeddings
    deleted: Rows
    expected: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Hits:
    """Images that were found, best first.

    Args:
        rows: Numbers of the images' products, shape (k,); a product with several images may occur several times.
        slots: Index of each image among its product's images, shape (k,).
        cosines: Cosines of query and image, as from `similarity.cosine`, shape (k,), float32.
    """

    rows: Rows
    slots: Rows
    cosines: Embeddings


class Store(Protocol):
    """The vectors of one generation, which can be searched with filters.

    One writer at a time calls `apply` (the catalogue ensures this); any number of threads and processes may read in the
    meantime. Only products with at least one image with a vector are counted.
    """

    @property
    def shared(self) -> bool:
        """Whether other processes see applied changes; if not, each process has a separate store."""

    @property
    def approximates(self) -> bool:
        """Whether `search` may miss images unless it is told to be exact."""

    @property
    def exact_up_to(self) -> int:
        """Number of products that pass a filter up to which an approximate store should compare all of them."""

    @property
    def version(self) -> int:
        """The version of the ledger that this store has reached; 0 for a new store."""

    def apply(self, changes: Changes) -> None:
        """Apply changed and deleted products, and advance to the version of the changes.

        Changes that were already applied, completely or in part, may be applied again after a crash, with the same
        result.
        """

    def search(
        self, queries: Embeddings, where: Filter | None, limit: int | None, *, least: float = -1.0, exact: bool = False
    ) -> list[Hits]:
        """Find the images that are nearest to each query among the products that pass a filter.

        Args:
            queries: Unit vectors, shape (q, embed_dim), float32.
            where: Filter for products; None means all.
            limit: Number of images for each query; more are returned if several tie for the last place, as far as the
                store can tell. None returns all that reach `least`.
            least: Lowest cosine to return.
            exact: Whether to compare every image that passes, regardless of the cost; a store may always do this.

        Returns:
            For each query, the images, best first; with `exact`, never fewer than `limit` if that many pass.
        """

    def count(self, where: Filter | None) -> int:
        """Return how many products pass a filter."""

    def values(self, field: str, where: Filter | None) -> dict[Value, int]:
        """Return how many products that pass a filter have each value of a field; every text of a list is counted."""

    def optimize(self, alone: Alone = nullcontext) -> None:
        """Make searches fast and files small after many changes.

        Args:
            alone: Function that returns a context manager, which keeps others from applying changes; called only if
                necessary.
        """

    def clear(self) -> None:
        """Remove everything and reset the version to 0. A crash before the end leaves the version unchanged."""

    def close(self) -> None:
        """Close files and connections; applied changes are kept."""

    def drop(self) -> None:
        """Remove the store with its content, and close it."""
