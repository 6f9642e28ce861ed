"""Preprocessing equals OpenAI's Pillow pipeline as transformers keeps it, pixel for pixel."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import CLIPImageProcessorPil, SiglipImageProcessorPil

from text_image_similarity import ModelError
from text_image_similarity.errors import RowError
from text_image_similarity.preprocess import Preprocess

CLIP = Preprocess(
    size=224,
    crop=(224, 224),
    mean=(0.48145466, 0.4578275, 0.40821073),
    std=(0.26862954, 0.26130258, 0.27577711),
)
REFERENCE = CLIPImageProcessorPil()


def normalised(preprocess: Preprocess, image: Image.Image) -> np.ndarray:
    scale, shift = preprocess.scale_and_shift
    return (preprocess.pixels(image) * scale - shift).transpose(2, 0, 1)[None]  # (1, 3, h, w)


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


@settings(max_examples=60)
@given(st.integers(1, 700), st.integers(1, 700), st.integers(0, 9))
def test_clip_equals_the_reference(width: int, height: int, seed: int) -> None:
    if max(width, height) > 32 * min(width, height):
        return
    image = picture(width, height, seed)
    expected = REFERENCE([image], return_tensors="np")["pixel_values"]
    np.testing.assert_allclose(normalised(CLIP, image), expected, atol=2e-6)


@pytest.mark.parametrize("size", [(3000, 1), (1, 3000)])
def test_a_long_image_is_not_enlarged_to_gigabytes(size: tuple[int, int]) -> None:
    whole = replace(CLIP, crop=None)
    assert whole.pixels(picture(300, 100)).shape == (224, 672, 3)
    with pytest.raises(RowError, match="too_many_pixels: resized for the model, the image would have"):
        whole.pixels(Image.new("RGB", size))
    assert CLIP.pixels(Image.new("RGB", size)).shape == (224, 224, 3)


def test_siglip_equals_the_reference() -> None:
    squeeze = Preprocess(size=(48, 32), crop=None, mean=(0.5,) * 3, std=(0.5,) * 3)
    processor = SiglipImageProcessorPil(size={"height": 48, "width": 32}, resample=3)
    for size in ((100, 60), (20, 300), (32, 48)):
        expected = processor([picture(*size)], return_tensors="np")["pixel_values"]
        np.testing.assert_allclose(normalised(squeeze, picture(*size)), expected, atol=2e-6)


def test_a_crop_smaller_than_the_resize_equals_the_reference() -> None:
    ours = replace(CLIP, size=256)
    reference = CLIPImageProcessorPil(size={"shortest_edge": 256}, crop_size=224)
    for size in ((300, 500), (224, 224), (640, 200)):
        expected = reference([picture(*size)], return_tensors="np")["pixel_values"]
        np.testing.assert_allclose(normalised(ours, picture(*size)), expected, atol=2e-6)


@pytest.mark.parametrize("size", [(30_000, 1), (1, 30_000), (5000, 100)])
def test_ribbons_do_not_blow_up(size: tuple[int, int]) -> None:
    grey = Image.new("RGB", size, (90, 120, 150))
    pixels = CLIP.pixels(grey)
    assert pixels.shape == (224, 224, 3)
    assert (pixels == (90, 120, 150)).all()


def test_the_ribbon_shortcut_sees_the_same_middle() -> None:
    image = Image.fromarray(np.tile(np.linspace(0, 255, 3300).astype(np.uint8)[None, :, None], (100, 1, 3)))
    shortcut = CLIP.pixels(image).astype(int)
    width = 224 * 33
    whole = image.resize((width, 224), Image.Resampling.BICUBIC)
    left = (width - 224) // 2
    assert np.abs(shortcut - np.asarray(whole.crop((left, 0, left + 224, 224)))).max() <= 1


@settings(max_examples=40)
@given(st.integers(1, 700), st.integers(1, 700), st.integers(0, 9))
def test_the_fast_resampler_is_near(width: int, height: int, seed: int) -> None:
    if max(width, height) > 32 * min(width, height):
        return
    image = picture(width, height, seed)
    exact, fast = (how.pixels(image).astype(int) for how in (CLIP, replace(CLIP, fast=True)))
    assert fast.shape == exact.shape
    apart = np.abs(fast - exact)  # in noise, which is the hardest to resize
    assert apart.mean() <= 0.5
    assert (apart > 1).mean() <= 0.05


def test_exact_pictures_are_decoded_whole() -> None:
    assert CLIP.decode_side is None
    assert replace(CLIP, fast=True).decode_side == 336
    assert replace(CLIP, fast=True, size=(100, 300)).decode_side == 450


def test_a_filter_that_torch_lacks_stays_with_pillow() -> None:
    lanczos = replace(CLIP, resample=Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(
        replace(lanczos, fast=True).pixels(picture(400, 300)), lanczos.pixels(picture(400, 300))
    )


@pytest.mark.parametrize(
    ("preprocess", "size"),
    [
        ({"size": 32, "crop": (32, 32)}, (32, 32)),
        ({"size": 32, "crop": None}, (32, 32)),
        ({"size": (24, 32), "crop": None}, (24, 32)),
        ({"size": (32, 32), "crop": (32, 32), "fit": "inside"}, (32, 32)),
        ({"size": (32, 32), "crop": (32, 32), "fit": "cover", "fast": True}, (32, 32)),
        ({"size": 36, "crop": (32, 32)}, None),
        ({"size": 32, "crop": (32, 32), "patches": (4, 64)}, None),
    ],
)
def test_images_of_one_size_stay_as_they_are(preprocess: dict[str, Any], size: tuple[int, int] | None) -> None:
    chosen = Preprocess(mean=(0.5,) * 3, std=(0.5,) * 3, **preprocess)
    assert chosen.unchanged == size
    pixels = np.random.default_rng(0).integers(0, 256, (*(size or (32, 32)), 3), np.uint8)
    assert np.array_equal(chosen.pixels(Image.fromarray(pixels)), pixels) == (size is not None)


@pytest.mark.parametrize(
    "other",
    [{"size": 4000}, {"size": (8, 4000)}, {"crop": (4000, 8)}, {"patches": (4000, 1)}, {"patches": (16, 20_000)}],
)
def test_a_model_cannot_ask_for_huge_images(other: dict[str, Any]) -> None:
    how: dict[str, Any] = {"size": 2048, "crop": (2048, 2048), "patches": (16, 16_384)}
    plain: dict[str, Any] = {"mean": (0.0,) * 3, "std": (1.0,) * 3}
    assert Preprocess(**how, **plain).side == (2048, 2048)
    with pytest.raises(ModelError, match=r"images with a side of .* pixels, more than 2,048; correct the size"):
        Preprocess(**{**how, **other}, **plain)


@pytest.mark.parametrize(
    "wrong", [[[0.5] * 3], [0.5] * 4, [], [0.5, 0.5, "0.5"], [0.5, 0.5, float("nan")], [0.5, 0.5, 10**399], 0.5, None]
)
def test_means_and_deviations_are_one_number_per_channel(wrong: Any) -> None:
    how: dict[str, Any] = {"size": 32, "crop": None, "mean": (0.5,) * 3, "std": (0.5,) * 3}
    for name in ("mean", "std"):
        with pytest.raises(ModelError, match="a mean or a standard deviation of images that is not three numbers"):
            Preprocess(**{**how, name: wrong})
