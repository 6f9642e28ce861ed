"""The best of many rows, picked from rough cosines: the same as when all are put in order by their exact ones."""

from __future__ import annotations

import numpy as np
import pytest

from text_image_similarity.search.nearest import best
from text_image_similarity.similarity import cosine


@pytest.mark.parametrize("rows", [0, 7, 4_100, 10_000])
@pytest.mark.parametrize("limit", [1, 10, 300, None])
def test_the_best_are_those_of_a_full_sort(rows: int, limit: int | None) -> None:
    rng = np.random.default_rng(rows)
    vectors = rng.standard_normal((rows, 4)).astype(np.float32).round(1) + np.float32(0.01)  # many of them equal
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    query = np.array([0.6, 0.8, 0, 0], np.float32)
    rough = (vectors @ query).astype(np.float32)
    masked, broken = rng.random(rows) < 0.3, rng.random(rows) < 0.1
    rough[masked] = -np.inf
    rough[broken] = np.nan
    rough[:1] = np.inf
    exact = cosine(query[None, :], vectors)
    exact[masked | broken] = np.nan
    exact[:1] = np.nan
    order = np.argsort(-exact, kind="stable")[: int(np.isfinite(exact).sum())]
    if limit is not None and limit < len(order):
        order = order[exact[order] >= exact[order[limit - 1]]]
    places, cosines = best(query, vectors, rough, limit)
    assert places.tolist() == order.tolist()
    assert cosines.tolist() == exact[order].tolist()


@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_rows_that_count_for_nothing_are_never_picked(value: float) -> None:
    rows = np.ones((5000, 2), np.float32)
    assert best(rows[0], rows, np.full(5000, value, np.float32), 3)[0].tolist() == []
