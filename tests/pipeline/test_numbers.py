"""Matrices, classification, images with images, texts with texts, RefCLIPScore: worked by hand, and beside torchmetrics."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.pipeline.test_scorer import Counting
from tests.support.images import inline, make_png
from tests.support.records import COLOURS, CONFIG, codes
from text_image_similarity import (
    Classification,
    Config,
    ConfigError,
    InputTypeError,
    Record,
    Scorer,
    Tile,
    UsageError,
    classify,
    create_predictor,
    image_similarity,
    score_images,
    score_pairs,
    similarity_matrix,
    similarity_tiles,
    text_similarity,
)
from text_image_similarity.encoders.testing import ColourEncoder
from text_image_similarity.records import references_of

_IMAGES = [inline(colour) for colour in COLOURS]
_TEXTS = [f"a {colour} thing" for colour in COLOURS[:5]]
_HALF = math.sqrt(0.5)


def _tiles(side: int, images: Sequence[Any] = _IMAGES, texts: Sequence[Any] = _TEXTS) -> list[Tile]:
    return list(similarity_tiles(images, texts, CONFIG, side=side, encoder=ColourEncoder()))


@pytest.mark.parametrize("side", [1, 2, 3, 100])
def test_tiles_make_up_the_matrix_and_each_value_is_that_of_the_pair(side: int) -> None:
    matrix = similarity_matrix(_IMAGES, _TEXTS, CONFIG, encoder=ColourEncoder())
    pairs = [Record(image, text) for image in _IMAGES for text in _TEXTS]
    scored = [result.similarity for result in score_pairs(pairs, CONFIG, encoder=ColourEncoder())]
    assert np.array_equal(matrix.ravel(), np.array(scored, np.float32))
    tiles, found = _tiles(side), np.full_like(matrix, -9)
    for tile in tiles:
        height, width = tile.scores.shape
        assert height <= side >= width
        found[tile.row : tile.row + height, tile.column : tile.column + width] = tile.scores
    assert np.array_equal(found, matrix)
    assert [(tile.row, tile.column) for tile in tiles] == sorted((tile.row, tile.column) for tile in tiles)


def test_a_tile_says_why_an_image_or_a_caption_has_no_scores() -> None:
    first, second = _tiles(2, [inline("red"), "none.png", inline("blue")], ["red", ""])
    assert np.isnan(first.scores).tolist() == [[False, True], [True, True]]
    assert np.isnan(second.scores).tolist() == [[False, True]]
    assert (first.image_errors[0], str(first.image_errors[1])[:14]) == (None, "file_not_found")
    assert [str(error)[:13] for error in first.text_errors] == ["None", "empty_caption"]


def test_tiles_are_made_as_they_are_asked_for_from_endless_images() -> None:
    encoder = Counting()

    def images() -> Iterator[bytes]:
        for number in range(10**9):
            yield make_png((number % 256, number // 256 % 256, 7))

    with Scorer(CONFIG, encoder=encoder) as scorer:
        tiles = similarity_tiles(images(), ["red", "blue", "cyan"], scorer, side=2)
        assert [(tile.row, tile.column) for tile, _ in zip(tiles, range(4), strict=False)] == [
            (0, 0),
            (0, 2),
            (2, 0),
            (2, 2),
        ]
        tiles.close()
        assert sum(encoder.images) < 50
        assert encoder.texts == ["red", "blue", "cyan"]
        assert scorer.similarity_matrix([inline("red")], ["red"]).tolist() == [[1.0]]  # the session stays open


def test_labels_are_ensembles_of_prompts_worked_by_hand() -> None:
    # Red is [1, 0, 0], yellow [s, s, 0] with s = sqrt(1/2). Their mean is [1 + s, s, 0] / 2, of length sqrt(1 + 2s + 2s²) / 2.
    length = math.sqrt((1 + _HALF) ** 2 + _HALF**2)
    expected = np.array(
        [(1 + _HALF) / length, 0.0]
    )  # with a red image; blue's prompts: [0, 0, 1] and green's [0, s, s]
    blue = np.array([0, _HALF, 1 + _HALF]) / length
    expected[1] = blue[0]
    powers = np.exp(3 * expected)
    (found,) = classify(
        [inline("red")],
        ["red", "blue"],
        CONFIG,
        templates=["a {} dot", "{} and green"],
        logit_scale=3,
        encoder=ColourEncoder(),
    )
    assert found.label == "red"
    np.testing.assert_allclose(found.probabilities, powers / powers.sum(), rtol=1e-6)
    assert found.probability == max(found.probabilities)


def test_an_image_that_cannot_be_classified_is_a_row_among_the_others() -> None:
    images = [inline("red"), "none.png", inline("blue")]
    found = list(classify(images, ["blue", "red"], CONFIG, logit_scale=100, encoder=ColourEncoder()))
    assert [each.label for each in found] == ["red", None, "blue"]
    assert [(each.error or "").partition(":")[0] for each in found] == ["", "file_not_found", ""]
    assert math.isnan(found[1].probability)
    assert found[1].probabilities == ()
    assert found[0] == Classification("red", found[0].probability, found[0].probabilities)
    assert found[0].probability > 0.999


@pytest.mark.parametrize(
    ("labels", "given", "said"),
    [
        ([], {}, "labels must be"),
        (["a", "a"], {}, "different texts that are not empty"),
        (["a", " "], {}, "different texts that are not empty"),
        (["a"], {"templates": []}, "templates must be"),
        (["a"], {"templates": ["a photo"]}, "'a photo' has no {}"),
    ],
)
def test_labels_and_templates_that_make_no_sense_are_refused_at_once(
    labels: list[str], given: dict[str, Any], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        classify([], labels, CONFIG, encoder=ColourEncoder(), **given)


def test_a_scale_comes_from_the_model_or_is_asked_for() -> None:
    with pytest.raises(ConfigError, match="has no logit_scale"):
        classify([], ["red"], CONFIG, encoder=ColourEncoder())
    with pytest.raises(ConfigError, match="must be a positive number"):
        classify([], ["red"], CONFIG, logit_scale=0, encoder=ColourEncoder())
    with pytest.raises(InputTypeError, match="put it in a list"):
        classify([], "red", CONFIG, encoder=ColourEncoder())
    mini = Config(model="mini")
    with Scorer(mini) as scorer:
        images = ["challenge_set/sailing.jpg", "challenge_set/fast_food.jpg"]
        labels, templates = ["sailboat", "hamburger"], ("a photo of a {}.", "a {} in the sun")
        found = list(classify(images, labels, scorer, templates=templates))
        assert [each.label for each in found] == labels
        # The same with NumPy, from the embeddings.
        prompts = [template.format(label) for label in labels for template in templates]
        texts = np.stack([*scorer.embed_texts(prompts)]).reshape(2, 2, -1).mean(axis=1)  # type: ignore[list-item]
        texts /= np.linalg.norm(texts, axis=1, keepdims=True)
        logits = scorer.encoder.logit_scale * np.stack([*scorer.embed_images(images)]) @ texts.T  # type: ignore[attr-defined, list-item]
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        expected = powers / powers.sum(axis=1, keepdims=True)
        np.testing.assert_allclose([each.probabilities for each in found], expected, rtol=1e-4)


def test_images_are_compared_with_images_and_texts_with_texts() -> None:
    images = list(
        image_similarity(
            [inline("red"), inline("red"), "none.png", inline("cyan")],
            [inline("yellow"), "also_none.png", inline("red"), inline("cyan")],
            CONFIG,
            encoder=(encoder := Counting()),
        )
    )
    assert [round(result.similarity, 4) for result in images if result.error is None] == [0.7071, 1.0]
    assert codes(images) == [None, "file_not_found", "file_not_found", None]
    assert "also_none.png" in str(images[1].error)
    assert sum(encoder.images) == 3  # red, yellow, cyan: each once
    texts = list(text_similarity(["red", ""], ["magenta", "red"], CONFIG, encoder=ColourEncoder()))
    assert (round(texts[0].similarity, 4), codes(texts)) == (0.7071, [None, "empty_caption"])
    for call in (image_similarity, text_similarity):
        with pytest.raises(ValueError, match="2 items cannot be compared with 1 others"):
            call(["a", "b"], ["a"], CONFIG, encoder=ColourEncoder())
        with pytest.raises(ValueError, match="shorter"):
            list(call(iter(["a", "b"]), iter(["a"]), CONFIG, encoder=ColourEncoder()))


def _references(*rows: tuple[str, tuple[str, ...]]) -> list[Record]:
    return [Record(inline("red"), caption, references) for caption, references in rows]


def test_ref_clipscore_by_hand() -> None:
    records = _references(
        ("yellow", ("green", "magenta")),  # CLIPScore 2.5 * s, nearest reference green: s
        ("red", ("red", "blue")),  # 2.5 and 1
        ("blue", ("blue",)),  # 0 and 1
        ("red", ()),
        ("", ("red",)),
    )
    found = list(score_pairs(records, Config(score="ref_clipscore"), encoder=ColourEncoder()))
    harmonic = 2 * (2.5 * _HALF) * _HALF / (2.5 * _HALF + _HALF)
    np.testing.assert_allclose([result.similarity for result in found[:3]], [harmonic, 5 / 3.5, 0], rtol=1e-6)
    assert codes(found) == [None, None, None, "empty_caption", "empty_caption"]
    assert "reference" in str(found[3].error)
    plain = list(score_pairs(records, Config(), encoder=(encoder := Counting())))
    assert codes(plain) == [None, None, None, None, "empty_caption"]
    assert "green" not in encoder.texts  # references cost nothing where they do not count


def test_ref_clipscore_equals_the_formula_of_the_paper_in_numpy() -> None:
    rng, words = np.random.default_rng(3), list(COLOURS)
    rows = [(str(rng.choice(words)), tuple(map(str, rng.choice(words, 1 + n % 3)))) for n in range(40)]
    found = list(score_pairs(_references(*rows), Config(score="ref_clipscore"), encoder=ColourEncoder()))
    encoder = ColourEncoder()
    for (caption, references), result in zip(rows, found, strict=True):
        text = encoder.encode_text([caption])[0].astype(float)
        clips = 2.5 * max(float(text[0]), 0)  # the image is [1, 0, 0]
        reference = max(float((encoder.encode_text(references).astype(float) @ text).max()), 0)
        expected = 2 * clips * reference / (clips + reference) if clips + reference else 0
        assert result.similarity == pytest.approx(expected, abs=1e-6)


def test_references_come_as_lists_json_or_texts() -> None:
    assert references_of(["a", None, "", "b"], np.array(["c"])) == ("a", "b", "c")
    assert references_of('["a", "b"]', "[sic] a dog", "[1, 2]", None, float("nan"), 7) == (
        "a",
        "b",
        "[sic] a dog",
        "[1, 2]",
        "7",
    )


def test_a_text_that_begins_like_a_list_without_end_is_a_reference() -> None:
    many = "[" + "{}," * 1_000_000 + "{}]"
    deep = "[" * 100_000
    assert references_of(many, deep) == (many, deep)


def test_doors_without_references_refuse_ref_clipscore() -> None:
    config = Config(model="mini", score="ref_clipscore")
    for refused in (
        lambda: similarity_matrix([], [], config),
        lambda: similarity_tiles([], [], config),
        lambda: image_similarity([], [], config),
        lambda: create_predictor("mini", config=config),
        lambda: score_images([], [], config),
    ):
        with pytest.raises(ConfigError, match="needs reference captions"):
            refused()


def test_torchmetrics_gives_the_same_for_pairs_images_and_texts(tiny_clip: Path) -> None:
    """Before it clamps: it clamps the mean over all pairs, and Hessel et al. each pair."""
    import torch
    from torchmetrics.multimodal import CLIPScore
    from transformers import CLIPImageProcessorPil, CLIPModel, CLIPProcessor, CLIPTokenizer

    model = CLIPModel.from_pretrained(tiny_clip)
    processor = CLIPProcessor(
        CLIPImageProcessorPil.from_pretrained(tiny_clip), CLIPTokenizer.from_pretrained(tiny_clip)
    )

    class Tensors:
        """The model as torchmetrics 1.9 expects it: transformers 5 returns more than the features."""

        config = model.config

        def to(self, *_: object) -> Tensors:
            return self

        def get_image_features(self, *args: Any, **given: Any) -> Any:
            return model.get_image_features(*args, **given).pooler_output

        def get_text_features(self, *args: Any, **given: Any) -> Any:
            return model.get_text_features(*args, **given).pooler_output

    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (40, 50, 3), np.uint8) for _ in range(3)]
    tensors = [torch.tensor(image).permute(2, 0, 1) for image in images]
    texts = ["a red dog", "a blue cat", "grass"]
    config = Config(model=str(tiny_clip), backend="torch", device="cpu")

    def theirs(one: Any, other: Any) -> list[float]:
        found = []
        for source, target in zip(one, other, strict=True):
            metric = CLIPScore(lambda: (Tensors(), processor))
            metric.update(source, target)
            found.append(float(metric.score) / 100)  # before it is clamped
        return found

    with Scorer(config) as scorer:
        pairs = list(scorer.score_images(images, texts))
        assert min(result.similarity for result in pairs) < -0.02  # that is what makes the difference below
        np.testing.assert_allclose([r.similarity for r in pairs], theirs(tensors, texts), atol=2e-5)
        both = image_similarity(images, images[::-1], scorer)
        np.testing.assert_allclose([r.similarity for r in both], theirs(tensors, tensors[::-1]), atol=2e-5)
        both = text_similarity(texts, texts[::-1], scorer)
        np.testing.assert_allclose([r.similarity for r in both], theirs(texts, texts[::-1]), atol=2e-5)
