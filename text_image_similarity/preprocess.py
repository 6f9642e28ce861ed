"""Preprocess images for a model: resize, centre crop, scale, normalise.

The steps are OpenAI's original Pillow pipeline as `transformers` keeps it in `CLIPImageProcessorPil`, split in two: the
part that makes 8-bit pixels of the model's size runs on loader threads; the arithmetic runs per batch, with the model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .errors import ErrorCode, ModelError, RowError
from .resize import Pixels as Pixels  # other modules import it from here
from .resize import Region, resized
from .system import refuse_planted_driver

Fit = Literal["squash", "inside", "cover"]
ImageLike = Image.Image | Pixels

_ANTIALIASED = {Image.Resampling.BICUBIC: "bicubic", Image.Resampling.BILINEAR: "bilinear"}
# A JPEG reduced to this many times the model's size, or more, leaves the ranking of scores unchanged; at the size
# itself (512 pixels reduced to 256 for a model of 224) the rank correlation falls to 0.998.
_SPARE = 1.5
_MOST_VALUE = 1e6  # of a mean or a standard deviation; ordinary ones lie between 0 and 1
MOST_SIDE = 2048  # of an image for a model, in pixels; several times what models take
_MAX_ASPECT = 32  # above this, an image is cropped before it is resized; up to it, results equal the reference


@dataclass(frozen=True, slots=True)
class Preprocess:
    """The preprocessing that a model requires.

    Args:
        size: Side in pixels that the shorter edge is resized to, or (height, width) to fit the image to.
        crop: Height and width of the centre crop; None disables it.
        mean: Mean of each channel, for pixels scaled to 0..1.
        std: Standard deviation of each channel.
        resample: Pillow's resampling filter.
        fast: Whether images may be reduced while they are decoded, and resized with torch instead of Pillow. Scores
            change slightly; docs/performance.md says by how much.
        fit: How an image is fitted to a (height, width): squeezed to it (`squash`), scaled to lie `inside` it, or
            scaled to `cover` it. In the last two cases the aspect ratio is kept, and the image is padded or cropped to
            `crop`.
        fill: Value of the border, 0..255.
        patches: Side of a patch and maximum number of patches of an image, for models that take images of any shape as
            patches (NaFlex); `size` and `crop` are then ignored.
        rounded: Whether an offset of a crop that ends in half a pixel is rounded to an even number, as in torchvision,
            instead of down.
    """

    size: int | tuple[int, int]
    crop: tuple[int, int] | None
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resample: Image.Resampling = Image.Resampling.BICUBIC
    fast: bool = False
    fit: Fit = "squash"
    fill: int = 0
    rounded: bool = False
    patches: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        """Check that the images are not too large, because the description may come with a stranger's model.

        Raises:
            ModelError: A side is too long, there are too many patches, or the mean or the standard deviation is not one
                number per channel.
        """
        check_channels(self.mean, self.std)
        size = (self.size,) if isinstance(self.size, int) else self.size
        check_sides(*size, *(self.crop or ()))
        if self.patches is not None:
            side, most = self.patches
            check_sides(side, math.isqrt(side * side * most))

    def pixels(self, image: Image.Image) -> Pixels:
        """Resize and crop an RGB image to the model's size, shape (h, w, 3) uint8.

        With `patches`, the shape is (1 + most, side * side, 3): the first row contains the numbers of patches down and
        across, and each of the other rows is a patch.

        Raises:
            RowError: Without a crop, the image is so long that it would have more pixels than any model takes.
        """
        if self.patches is not None:
            return _patched(image, *self.patches, self.resample)
        resized_height, resized_width = self._resized(image.height, image.width)
        height, width = self.crop or (resized_height, resized_width)
        if height * width > MOST_SIDE**2:
            raise RowError(
                ErrorCode.TOO_MANY_PIXELS,
                f"resized for the model, the image would have {width:,} x {height:,} pixels",
            )
        top, left = self._before(resized_height - height), self._before(resized_width - width)
        if max(image.size) > _MAX_ASPECT * min(image.size) and self.crop and self.fit != "inside":
            # A very long image would be enlarged to gigabytes before the crop, so the crop's part is cut out of the
            # source instead.
            y, x = image.height / resized_height, image.width / resized_width  # source pixels per resized pixel
            box = (left * x, top * y, (left + width) * x, (top + height) * y)
            return np.asarray(image.resize((width, height), self.resample, box=box))
        size = resized_width, resized_height
        if image.size != size and self.fast and self.resample in _ANTIALIASED and self.fit != "inside":
            whole = _interpolated(image, (resized_height, resized_width), self.resample)
            return np.ascontiguousarray(whole[top : top + height, left : left + width])  # the copy releases the rest
        if height > resized_height or width > resized_width:
            return self._bordered(resized(image, size, self.resample), height, width)
        return resized(image, size, self.resample, Region(left, top, width, height))

    @property
    def side(self) -> tuple[int, int]:
        """Height and width of the images that the model takes, in pixels."""
        wanted = self.crop or self.size
        return (wanted, wanted) if isinstance(wanted, int) else wanted

    @property
    def unchanged(self) -> tuple[int, int] | None:
        """Height and width of the images that `pixels` returns unchanged, or None."""
        whole = (self.size, self.size) if isinstance(self.size, int) else self.size
        return whole if self.patches is None and self.crop in (None, whole) else None

    @property
    def scale_and_shift(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Scale and shift that normalise bytes: value times scale minus shift, per channel, each of shape (3,)."""
        mean, std = np.asarray(self.mean, np.float32), np.asarray(self.std, np.float32)
        return np.float32(1) / (np.float32(255) * std), mean / std

    @property
    def decode_side(self) -> int | None:
        """Shorter side, in pixels, that images may be reduced to while they are decoded; None keeps their size."""
        if not self.fast or self.patches is not None:
            return None
        return math.ceil(_SPARE * (self.size if isinstance(self.size, int) else max(self.size)))

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        if isinstance(self.size, tuple):
            if self.fit == "squash":
                return self.size
            ratios = height / self.size[0], width / self.size[1]
            ratio = max(ratios) if self.fit == "inside" else min(ratios)
            return max(1, round(height / ratio)), max(1, round(width / ratio))
        short, long = sorted((height, width))
        scaled = int(self.size * long / short)  # truncated, as torchvision and transformers do
        return (scaled, self.size) if height > width else (self.size, scaled)

    def _before(self, spare: int) -> int:
        """Return how many of `spare` pixels are cut off at the beginning."""
        return round(spare / 2) if self.rounded else spare // 2

    def _bordered(self, pixels: Pixels, height: int, width: int) -> Pixels:
        whole: Pixels = np.full((height, width, 3), self.fill, np.uint8)
        top, left = (height - pixels.shape[0]) // 2, (width - pixels.shape[1]) // 2
        whole[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
        return whole


def check_sides(*sides: int) -> None:
    """Check the sides of the images that a model takes.

    Raises:
        ModelError: A side is too long.
    """
    if (longest := max(sides)) > MOST_SIDE:
        raise ModelError(
            f"the model's settings ask for images with a side of {longest:,} pixels, more than {MOST_SIDE:,}; correct "
            "the size in its settings"
        )


def check_channels(mean: Any, std: Any) -> None:
    """Check the mean and the standard deviation of a model's images.

    Raises:
        ModelError: One of them is not three ordinary numbers.
    """
    for values in (mean, std):
        if not isinstance(values, (list, tuple)) or len(values) != 3 or not all(map(_is_ordinary, values)):
            raise ModelError(
                "the model's settings have a mean or a standard deviation of images that is not three numbers; correct it"
            )


def _is_ordinary(value: Any) -> bool:
    return isinstance(value, (int, float)) and abs(value) <= _MOST_VALUE  # false for NaN


def _patched(image: Image.Image, side: int, most: int, resample: Image.Resampling) -> Pixels:
    down, across = _patches_that_fit(image.height, image.width, side, most)
    pixels = resized(image, (across * side, down * side), resample)
    rows: Pixels = np.zeros((1 + most, side * side, 3), np.uint8)
    rows[0, :2, :2] = [divmod(down, 256), divmod(across, 256)]
    cut = pixels.reshape(down, side, across, side, 3).transpose(0, 2, 1, 3, 4)  # (down, across, side, side, 3)
    rows[1 : 1 + down * across] = cut.reshape(down * across, side * side, 3)
    return rows


def _patches_that_fit(height: int, width: int, side: int, most: int) -> tuple[int, int]:
    """Return how many patches, down and across, an image of this shape gets, by the same arithmetic as SigLIP 2."""

    def patches(scale: float) -> tuple[int, int]:
        return max(1, math.ceil(height * scale / side)), max(1, math.ceil(width * scale / side))

    low, high = 1e-6, 100.0
    while high - low >= 1e-5:
        scale = (low + high) / 2
        if math.prod(patches(scale)) <= most:
            low = scale
        else:
            high = scale
    return patches(low)


def _interpolated(image: Image.Image, size: tuple[int, int], resample: Image.Resampling) -> Pixels:
    """Resize with torch, which is faster than Pillow.

    Even for noise, 95 % of the values differ from Pillow's by at most 1 (0.4 on average).
    """
    refuse_planted_driver()
    import torch  # imported here, because only fast preprocessing needs it

    rows = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]  # (1, 3, h, w) over (h, w, 3) in memory
    whole = torch.nn.functional.interpolate(rows, size, mode=_ANTIALIASED[resample], antialias=True)
    pixels: Pixels = whole[0].permute(1, 2, 0).numpy()
    return pixels


def as_image(image: ImageLike) -> Image.Image:
    """Return a PIL image unchanged, and an RGB array (h, w, 3) uint8 as a PIL image.

    Raises:
        TypeError: The value has another type.
        ValueError: The array has another shape or type.
    """
    if isinstance(image, Image.Image):
        return image
    if not isinstance(image, np.ndarray):
        raise TypeError(
            f"an image must be a PIL image, an array (h, w, 3) uint8 or encoded bytes, not {type(image).__name__}"
        )
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"an image array must be (h, w, 3) uint8, not {image.shape} {image.dtype}")
    return Image.fromarray(image)
