"""A stand-in for a GPU: an encoder that takes a fixed time per image, without the GIL, and returns a constant vector.

The stand-in shows how fast an encoder can be fed on a machine without a GPU. Images are prepared for it as for CLIP.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from text_image_similarity.decode import to_rgb
from text_image_similarity.encoders import ModelInfo
from text_image_similarity.preprocess import ImageLike, Pixels, Preprocess, as_image
from text_image_similarity.similarity import Embeddings

_WIDTH = 512
_CLIP = Preprocess(size=224, crop=(224, 224), mean=(0.5,) * 3, std=(0.25,) * 3)


@dataclass(frozen=True, slots=True)
class ClipPreparer:
    """Prepares images for CLIP ViT-B/32."""

    decode_side: int | None = None

    def prepare(self, image: Image.Image) -> Pixels:
        return _CLIP.pixels(to_rgb(image))


@dataclass(frozen=True, slots=True)
class FakeDevice:
    """A `PreparingEncoder` on a device with a fixed rate.

    Args:
        images_per_s: The number of images that the device encodes per second; captions take no time.
    """

    images_per_s: float
    embed_dim: int = _WIDTH
    decode_side: int | None = None
    batch_invariant: bool = False  # so that no result is reused from one part to the next

    @property
    def info(self) -> ModelInfo:
        return ModelInfo(model="fake device", device="cpu", precision="fp32")

    @property
    def preparer(self) -> ClipPreparer:
        return ClipPreparer()

    def prepare(self, image: Image.Image) -> Pixels:
        return self.preparer.prepare(image)

    def encode_pixels(self, pixels: Sequence[Pixels]) -> Embeddings:
        batch = np.stack(list(pixels))  # the copy to the device
        time.sleep(len(batch) / self.images_per_s)
        return _alike(len(batch))

    def encode_image(self, images: Sequence[ImageLike]) -> Embeddings:
        return self.encode_pixels([self.prepare(as_image(image)) for image in images])

    def tokenize(self, texts: Sequence[str]) -> Sequence[Any]:
        return texts

    def encode_tokens(self, rows: Sequence[Any]) -> Embeddings:
        return _alike(len(rows))

    def encode_text(self, texts: Sequence[str]) -> Embeddings:
        return _alike(len(texts))


@dataclass(frozen=True, slots=True)
class FreeEncoder:
    """A `PreparingEncoder` that takes no time, so that only the work around it is measured."""

    preprocess: Preprocess = _CLIP
    vectors: Embeddings = field(default_factory=lambda: _alike(4096), repr=False)
    embed_dim: int = _WIDTH
    decode_side: int | None = None
    batch_invariant: bool = True

    @property
    def info(self) -> ModelInfo:
        return ModelInfo(model="free", device="cpu", precision="fp32", fingerprint="free")

    def prepare(self, image: Image.Image) -> Pixels:
        return self.preprocess.pixels(to_rgb(image))

    def encode_pixels(self, pixels: Sequence[Pixels]) -> Embeddings:
        return self.vectors[: len(pixels)]

    def encode_image(self, images: Sequence[ImageLike]) -> Embeddings:
        return self.vectors[: len(images)]

    def tokenize(self, texts: Sequence[str]) -> Sequence[Any]:
        return texts

    def encode_tokens(self, rows: Sequence[Any]) -> Embeddings:
        return self.vectors[: len(rows)]

    def encode_text(self, texts: Sequence[str]) -> Embeddings:
        return self.vectors[: len(texts)]


def _alike(count: int) -> Embeddings:
    return np.full((count, _WIDTH), _WIDTH**-0.5, np.float32)
