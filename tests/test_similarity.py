"""Cosines and score kinds against worked examples and torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from text_image_similarity import ConfigError
from text_image_similarity.similarity import as_floats, cosine, score


def test_cosine_equals_torch() -> None:
    rng = np.random.default_rng(0)
    image, text = (rng.normal(size=(50, 512)).astype(np.float32) for _ in range(2))
    image, text = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (image, text))
    expected = torch.nn.functional.cosine_similarity(torch.tensor(image), torch.tensor(text)).numpy()
    np.testing.assert_allclose(cosine(image, text), expected, atol=1e-6)
    assert cosine(image, text).dtype == np.float32


def test_cosine_of_a_vector_with_itself_is_at_most_one() -> None:
    rng = np.random.default_rng(0)
    v = rng.normal(size=(1000, 64)).astype(np.float32)
    v /= np.linalg.norm(v, axis=1, keepdims=True)
    assert cosine(v, v).max() <= 1
    assert np.isnan(cosine(np.array([[np.nan, 0]], np.float32), np.ones((1, 2), np.float32))[0])


def test_score_kinds_by_hand() -> None:
    cosines = np.array([1.0, 0.3, 0.0, -0.3, -1.0], np.float32)
    assert score(cosines, "cosine").tolist() == cosines.tolist()
    assert score(cosines, "unit").tolist() == [1.0, 0.65, 0.5, 0.35, 0.0]
    np.testing.assert_allclose(score(cosines, "clip_score"), [100, 30, 0, 0, 0], rtol=1e-6)
    np.testing.assert_allclose(score(cosines, "clipscore"), [2.5, 0.75, 0, 0, 0], rtol=1e-6)
    with pytest.raises(ConfigError, match="clipscore"):
        score(cosines, "dot")  # type: ignore[arg-type]


def test_many_scores_have_the_same_decimals_as_single_ones() -> None:
    rng = np.random.default_rng(0)
    spread = [rng.uniform(-1, 1, 20_000), rng.uniform(-130, 130, 20_000), 10 ** rng.uniform(-12, 20, 20_000)]
    short = [np.round(rng.uniform(-100, 100, 5000), places) for places in range(7)]
    halves = [np.arange(1, 4000) / 2.0**bits for bits in range(24)]  # exactly between two decimals
    scores = np.concatenate([*spread, *short, *halves, [0.0, -0.0, np.nan, np.inf, -np.inf]]).astype(np.float32)
    assert list(map(str, as_floats(scores))) == [str(float(str(score))) for score in scores]
