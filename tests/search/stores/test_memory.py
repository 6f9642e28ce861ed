"""The store in memory: what a search works on stays as it was, while more is added."""

from __future__ import annotations

import numpy as np
import pytest

from text_image_similarity.search.fields import FieldKind, Value
from text_image_similarity.search.filters import Scalar
from text_image_similarity.search.stores.columns import Growing, make_column


def test_what_was_read_of_an_array_stays_as_it_was() -> None:
    growing = Growing(np.empty((0, 2), np.float32))
    seen, right = [], []
    for number in range(200):
        growing.extend(np.full((3, 2), number, np.float32))
        seen.append(growing.filled)
        right.append(np.repeat(np.arange(number + 1), 3))
    for before, after in zip(seen, right, strict=True):
        assert before.shape == (len(after), 2)
        assert np.array_equal(before[:, 0], after)


@pytest.mark.parametrize(
    ("kind", "value", "wanted"),
    [
        ("text", "red", "red"),
        ("number", 7.0, 7.0),
        ("bool", True, True),
        ("date", 7.0, 7.0),
        ("texts", ("red", "blue"), "red"),
    ],
)
def test_a_column_answers_for_the_rows_that_were_there(kind: FieldKind, value: Value, wanted: Scalar) -> None:
    column = make_column(kind)
    column.extend([value, None], np.array([0, 1]))
    column.extend([value], np.array([0, 0]))
    assert column.compare("eq", wanted, 2).tolist() == [True, False]
    assert column.present(2).tolist() == [True, False]
    assert column.compare("eq", wanted, 4).tolist() == [True, False, True, True]
    assert column.counts(np.array([0, 1]))[wanted] == 1
