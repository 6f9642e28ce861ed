"""What the gate makes of vectors."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from text_image_similarity.encoders.two_tower import unit_rows
from text_image_similarity.export.gate import BOUNDS, EncodedPairs, compare
from text_image_similarity.similarity import Embeddings

RNG = np.random.default_rng(5)


def drawn(count: int = 200) -> Embeddings:
    return unit_rows(RNG.standard_normal((count, 64), np.float32))


def pairs(image: Embeddings, text: Embeddings) -> EncodedPairs:
    return EncodedPairs(image, text, image[:4], text[:4], 1.0, 1.0)


def test_a_loss_of_recall_counts_where_the_source_knows_more_than_chance() -> None:
    image = drawn()
    source = pairs(image, image)
    swapped = image.copy()
    swapped[:6] = image[6:12]
    found = compare("data", source, pairs(image, swapped), BOUNDS["int8"])
    assert found.recall_counts
    assert any(said.startswith("recall@10 falls by 0.0") for said in found.failures)


def test_where_recall_is_chance_cosines_scores_and_ranks_decide() -> None:
    image, text = drawn(), drawn()
    source = pairs(image, text)
    near = pairs(image, unit_rows(text + np.float32(0.02) * drawn()))
    found = compare("data", source, near, replace(BOUNDS["int8"], recall=-1.0))  # any recall would be a loss
    assert not found.recall_counts
    assert not found.as_dict()["recall_counts"]
    assert found.passed
    far = compare("data", source, pairs(image, unit_rows(text + np.float32(0.5) * drawn())), BOUNDS["int8"])
    assert {said.split()[1] for said in far.failures} == {"smallest", "score", "rank"}
