"""Exact nearest neighbours by cosine: one matrix product and a partial sort.

There is no approximate index: with 10,000 rows the product takes a few milliseconds, and with a million a few hundred.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..similarity import Embeddings, Scores, cosine

# For equal rows, the results of a matrix product may differ in the last bits with their position: by 4e-7 with 4,096
# dimensions. Candidates within this margin of the cut-off are rescored.
_SLACK = 1e-5
_GROUPS = 2048  # number of groups whose maxima give a lower bound, if few of many rows are requested

Places = NDArray[np.intp]


def nearest(query: Embeddings, rows: Embeddings, top_k: int) -> tuple[Places, Scores]:
    """Find the rows with the highest cosine to a query.

    Args:
        query: A unit vector, shape (embed_dim,), float32.
        rows: Unit vectors, shape (n, embed_dim), float32; rows that are not finite are never found.
        top_k: Number of rows to find, at least 1; fewer if there are fewer rows.

    Returns:
        Row numbers and cosines, shapes (k,), highest first; equal cosines in the order of the rows.

    Example:
        >>> nearest(np.float32([1, 0]), np.float32([[0, 1], [1, 0], [0.6, 0.8], [1, 0]]), 3)
        (array([1, 3, 2]), array([1. , 1. , 0.6], dtype=float32))
    """
    with np.errstate(invalid="ignore", over="ignore"):  # for rows that are not finite
        rough = rows @ query  # (n, d) @ (d,) -> (n,)
    places, cosines = best(query, rows, rough, top_k)
    return places[:top_k], cosines[:top_k]


def best(
    query: Embeddings,
    rows: Embeddings,
    rough: Embeddings,
    limit: int | None,
    *,
    least: float = -np.inf,
    among: Places | None = None,
) -> tuple[Places, Scores]:
    """Return the best rows by their exact cosines, given approximate ones.

    Args:
        query: A unit vector, shape (embed_dim,), float32.
        rows: Unit vectors, shape (n, embed_dim), float32.
        rough: Cosines from a matrix product, shape (n,), or (m,) if only some rows are considered.
        limit: Number of rows to return; None returns all.
        least: Lowest exact cosine to return.
        among: Numbers of the rows in `rough`, shape (m,); None means all.

    Returns:
        Row numbers and cosines, highest first, equal ones in the order of the rows; more than `limit` if several tie
        for the last place.
    """
    if not rough.max(initial=-np.inf) < np.inf:
        rough = np.where(np.isfinite(rough), rough, -np.inf)
    floor = max(least - _SLACK, float(np.finfo(np.float32).min))
    if limit is not None and limit < len(rough):
        floor = max(floor, _limit_th(rough, limit) - _SLACK)
    candidates = np.flatnonzero(rough >= floor)
    places = candidates if among is None else among[candidates]
    # Cosines are computed again row by row, as in `score_pairs`, so equal rows get equal cosines in every search.
    exact = cosine(query[None, :], rows[places])  # (m,)
    order = np.argsort(-exact, kind="stable")
    order = order[exact[order] >= least]
    if limit is not None and limit < len(order):
        order = order[exact[order] >= exact[order[limit - 1]]]
    return places[order], exact[order]


def _limit_th(numbers: Embeddings, limit: int) -> float:
    """Return the `limit`-th highest of more than `limit` numbers, none of which is NaN."""
    rows = len(numbers) // _GROUPS
    if rows > 1 and limit <= _GROUPS // 8:
        # At least `limit` groups have a number not below the limit-th highest of the groups' maxima.
        tops = numbers[: rows * _GROUPS].reshape(rows, _GROUPS).max(axis=0)
        numbers = numbers[numbers >= np.partition(tops, _GROUPS - limit)[_GROUPS - limit]]
    return float(np.partition(numbers, len(numbers) - limit)[len(numbers) - limit])
