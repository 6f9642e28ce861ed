"""Change a training picture by chance, as a photographer might have: another crop, mirrored, other light."""

from __future__ import annotations

import math
import random

from PIL import Image, ImageEnhance


def augment(picture: Image.Image, side: int, rng: random.Random) -> Image.Image:
    """Crop 50 to 100 % of a picture to a square, mirror it half of the time, and change brightness, contrast and colour.

    Args:
        picture: In mode RGB.
        side: Of the result, in pixels.
        rng: What decides.
    """
    area, aspect = rng.uniform(0.5, 1.0), math.exp(rng.uniform(-0.2, 0.2))
    width = min(picture.width, picture.width * math.sqrt(area * aspect))
    height = min(picture.height, picture.height * math.sqrt(area / aspect))
    x, y = rng.uniform(0, picture.width - width), rng.uniform(0, picture.height - height)
    picture = picture.resize((side, side), Image.Resampling.BICUBIC, box=(x, y, x + width, y + height))
    if rng.random() < 0.5:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        picture = enhance(picture).enhance(rng.uniform(0.7, 1.3))
    return picture
