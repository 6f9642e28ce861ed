"""Cosines and score kinds against worked examples and torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from text_image_similarity import ConfigError
from text_image_similarity.similarity import cosine, score


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
