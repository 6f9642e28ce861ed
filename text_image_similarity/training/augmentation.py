"""Augment training images: random crops, mirroring, and changes of brightness, contrast and colour."""

from __future__ import annotations

import math
import random

from PIL import Image, ImageEnhance


def augment(image: Image.Image, side: int, rng: random.Random) -> Image.Image:
    """Resize a random crop of 50 to 100 % of an image to a square, mirror it half of the time, and vary its colours.

    Args:
        image: Image in mode RGB.
        side: Side of the result, in pixels.
        rng: Random number generator.
    """
    area, aspect = rng.uniform(0.5, 1.0), math.exp(rng.uniform(-0.2, 0.2))
    width = min(image.width, image.width * math.sqrt(area * aspect))
    height = min(image.height, image.height * math.sqrt(area / aspect))
    x, y = rng.uniform(0, image.width - width), rng.uniform(0, image.height - height)
    image = image.resize((side, side), Image.Resampling.BICUBIC, box=(x, y, x + width, y + height))
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        image = enhance(image).enhance(rng.uniform(0.7, 1.3))
    return image
