"""Exact nearest neighbours by cosine: one matrix product and a partial sort.

No index that approximates: at 10,000 rows the product takes a few milliseconds, at a million some hundred.
"""

from __future__ import annotations

import numpy as np

from ..similarity import Embeddings, Scores, cosine

# Between equal rows a matrix product may differ in the last bits, depending on where they stand: by 4e-7 with 4,096
# dimensions. Whoever is within this of the last place is looked at again.
_SLACK = 1e-5


def nearest(
    query: Embeddings, rows: Embeddings, top_k: int
) -> tuple[np.ndarray[tuple[int], np.dtype[np.intp]], Scores]:
    """Find the rows with the highest cosine to a query.

    Args:
        query: A unit vector, shape (embed_dim,), float32.
        rows: Unit vectors, shape (n, embed_dim), float32; rows that are not finite are never found.
        top_k: How many to find, at least 1; there are fewer where `rows` has fewer.

    Returns:
        Row numbers and cosines, shapes (k,), highest first; equal cosines in the order of the rows.

    Example:
        >>> nearest(np.float32([1, 0]), np.float32([[0, 1], [1, 0], [0.6, 0.8], [1, 0]]), 3)
        (array([1, 3, 2]), array([1. , 1. , 0.6], dtype=float32))
    """
    with np.errstate(invalid="ignore", over="ignore"):  # a row that is not finite
        rough = rows @ query  # (n, d) @ (d,) -> (n,)
    rough = np.where(np.isfinite(rough), rough, -np.inf)
    if top_k < len(rough):
        least = np.partition(rough, len(rough) - top_k)[len(rough) - top_k]
        candidates = np.flatnonzero((rough >= least - _SLACK) & (rough > -np.inf))
    else:
        candidates = np.flatnonzero(rough > -np.inf)
    # Once more, row by row, as `score_pairs` does: equal rows get equal cosines, and both doors the same number.
    exact = cosine(query[None, :], rows[candidates])  # (m,)
    order = np.argsort(-exact, kind="stable")[:top_k]
    return candidates[order], exact[order]
