"""What every vector store does, so that a catalogue need not know which one it has.

The truth about products, and their vectors, is in the catalogue's ledger; a store follows it. It holds the vectors of
one generation (those of one model) with the stored values of the products' fields, and can be built again at any time.
So a store that breaks costs minutes, not data.
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
    """What became of products since some version of the ledger, in columns.

    Args:
        version: With these changes a store has all there is up to this version.
        rows: The numbers of products that were added or changed, each once, shape (n,).
        columns: For each field, those that every product has included, the stored value of each product, n of them; None
            where it is missing.
        owners: For each image with a vector the number of its product, shape (m,).
        slots: Which of its product's images it is, from 0 on, shape (m,).
        vectors: The images' unit vectors, shape (m, embed_dim), float32.
        deleted: The numbers of products that are gone, shape (k,).
        expected: At most how many images come in all, where these are a part of everything that there is; else 0.
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
        rows: The numbers of their products, shape (k,); a product with several images may be there several times.
        slots: Which of its product's images each one is, shape (k,).
        cosines: As `similarity.cosine` gives them for query and image, shape (k,), float32.
    """

    rows: Rows
    slots: Rows
    cosines: Embeddings


class Store(Protocol):
    """The vectors of one generation, searchable under filters.

    One writer calls `apply` at a time (the catalogue sees to it); any number of threads and processes may read meanwhile.
    A product counts where it has at least one image with a vector.
    """

    @property
    def shared(self) -> bool:
        """Whether other processes see what is applied here; if not, each has a store of its own."""

    @property
    def approximates(self) -> bool:
        """Whether `search` may miss images unless it is told to be exact."""

    @property
    def exact_up_to(self) -> int:
        """Up to how many products that pass a filter it is best to compare with all of them, for a store that approximates."""

    @property
    def version(self) -> int:
        """The version of the ledger up to which this store has everything; 0 for a new one."""

    def apply(self, changes: Changes) -> None:
        """Replace what is known of changed products, forget deleted ones, and move on to the version of the changes.

        Changes that were applied before, in whole or in part, may come again after a crash: the outcome is the same.
        """

    def search(
        self, queries: Embeddings, where: Filter | None, limit: int | None, *, least: float = -1.0, exact: bool = False
    ) -> list[Hits]:
        """Find the images that are nearest to each query among the products that pass a filter.

        Args:
            queries: Unit vectors, shape (q, embed_dim), float32.
            where: Which products count; None for all.
            limit: How many images to find for each query; more are returned where several tie for the last place, as far as
                the store can see that. None finds all that reach `least`.
            least: The lowest cosine that counts.
            exact: Compare with every image that passes, whatever it takes; a store may do so always.

        Returns:
            For each query the images, best first; never fewer than `limit` where `exact` is asked for and so many pass.
        """

    def count(self, where: Filter | None) -> int:
        """Return how many products pass a filter."""

    def values(self, field: str, where: Filter | None) -> dict[Value, int]:
        """Return how many of the products that pass a filter have each value of a field; one of a list counts each of its texts."""

    def optimize(self, alone: Alone = nullcontext) -> None:
        """Make searches fast and files small, after many changes.

        Args:
            alone: Keeps everybody from applying changes while its block runs; entered only where that could not be helped.
        """

    def clear(self) -> None:
        """Forget everything; the version is 0 then. A crash before the end leaves the version as it was."""

    def close(self) -> None:
        """Let go of files and connections; what was applied stays."""

    def drop(self) -> None:
        """Remove the store with all that it holds, and close it."""
