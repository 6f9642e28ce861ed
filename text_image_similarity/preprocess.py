"""Pixels -> what a model eats: resize, centre crop, scale, normalise.

This is OpenAI's original Pillow pipeline as `transformers` keeps it in `CLIPImageProcessorPil`, split in two: the part
that makes 8-bit pixels of the model's size runs on loader threads; the arithmetic runs per batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]  # (h, w, 3), RGB
ImageLike = Image.Image | Pixels

_MAX_ASPECT = 32  # beyond it a picture is cropped before it is resized; up to it, results equal the reference


@dataclass(frozen=True, slots=True)
class Preprocess:
    """How one model wants its pictures.

    Args:
        size: Side in pixels that the shorter edge is resized to, or (height, width) to squeeze the picture into.
        crop: Height and width of the centre crop, or None for none.
        mean: Mean of each channel, of pixels scaled to 0..1.
        std: Standard deviation of each channel.
        resample: Pillow's resampling filter.
    """

    size: int | tuple[int, int]
    crop: tuple[int, int] | None
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resample: Image.Resampling = Image.Resampling.BICUBIC

    def pixels(self, image: Image.Image) -> Pixels:
        """Resize and crop an RGB picture to the model's size, shape (h, w, 3) uint8."""
        resized_height, resized_width = self._resized(image.height, image.width)
        height, width = self.crop or (resized_height, resized_width)
        top, left = (resized_height - height) // 2, (resized_width - width) // 2
        if max(image.size) > _MAX_ASPECT * min(image.size) and self.crop:
            # A ribbon would be blown up to gigabytes before the crop: cut the crop's share out of the source instead.
            y, x = image.height / resized_height, image.width / resized_width  # source pixels per resized pixel
            box = (left * x, top * y, (left + width) * x, (top + height) * y)
            return np.asarray(image.resize((width, height), self.resample, box=box))
        if (resized_height, resized_width) != (image.height, image.width):
            image = image.resize((resized_width, resized_height), self.resample)
        if (height, width) != (resized_height, resized_width):
            image = image.crop((left, top, left + width, top + height))
        return np.asarray(image)

    def normalise(self, batch: Sequence[Pixels]) -> NDArray[np.float32]:
        """Stack pixels of the model's size to shape (n, 3, h, w) float32, scaled and normalised."""
        scale = 1 / (255 * np.asarray(self.std, np.float32))
        shift = np.asarray(self.mean, np.float32) / np.asarray(self.std, np.float32)
        values = np.stack(batch).astype(np.float32) * scale - shift  # (n, h, w, 3)
        return np.ascontiguousarray(values.transpose(0, 3, 1, 2))

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        if isinstance(self.size, tuple):
            return self.size
        short, long = sorted((height, width))
        scaled = int(self.size * long / short)  # truncated, as torchvision and transformers do
        return (scaled, self.size) if height > width else (self.size, scaled)


def as_image(image: ImageLike) -> Image.Image:
    """Return a PIL image as it is, and an RGB array (h, w, 3) uint8 as a PIL image.

    Raises:
        TypeError: It is something else.
        ValueError: An array has another shape or type.
    """
    if isinstance(image, Image.Image):
        return image
    if not isinstance(image, np.ndarray):
        raise TypeError(
            f"an image is a PIL image, an array (h, w, 3) uint8 or encoded bytes, not {type(image).__name__}"
        )
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"an image array must be (h, w, 3) uint8, not {image.shape} {image.dtype}")
    return Image.fromarray(image)
