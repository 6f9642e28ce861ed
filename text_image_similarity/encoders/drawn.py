"""Generate image-caption pairs for checking exports: simple images, with captions that describe them.

The pairs are the same on every machine with the same major version of Pillow, so an export can be checked on a machine
that does not have its source.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageDraw

_COLOURS = {
    "red": (214, 39, 40),
    "green": (44, 160, 44),
    "blue": (31, 119, 220),
    "yellow": (240, 220, 40),
    "purple": (130, 60, 180),
    "orange": (255, 140, 20),
    "pink": (250, 150, 200),
    "brown": (120, 75, 40),
    "black": (20, 20, 20),
    "white": (245, 245, 245),
}
_SHAPES = ("circle", "square", "triangle", "ring", "bar")
_PLACES = {
    "on the left": (0.27, 0.5),
    "on the right": (0.73, 0.5),
    "at the top": (0.5, 0.27),
    "at the bottom": (0.5, 0.73),
}
_SIZES = ((320, 240), (240, 320), (256, 256), (400, 224), (500, 200), (200, 460))  # width, height; some exceed 2:1


def drawn_pairs(count: int) -> Iterator[tuple[Image.Image, str]]:
    """Yield `count` different RGB images with their captions; the pairs are the same on every call."""
    rng, seen = random.Random(0), set[str]()
    while len(seen) < count:
        ground, first, second = rng.sample(sorted(_COLOURS), 3)
        shapes, places = rng.choices(_SHAPES, k=2), rng.sample(sorted(_PLACES), 2)
        caption = (
            f"a {first} {shapes[0]} {places[0]} and a {second} {shapes[1]} {places[1]}, in front of a {ground} wall"
        )
        if caption not in seen:
            seen.add(caption)
            image = _wall(_COLOURS[ground], _SIZES[len(seen) % len(_SIZES)], seed=len(seen))
            for colour, shape, place in zip((first, second), shapes, places, strict=True):
                _draw(image, shape, _COLOURS[colour], _PLACES[place], rng.uniform(0.12, 0.22))
            yield image, caption


def _wall(colour: tuple[int, int, int], size: tuple[int, int], *, seed: int) -> Image.Image:
    """Return an image of a lit, grainy surface."""
    width, height = size
    light = np.linspace(0.75, 1.15, height)[:, None, None]
    grain = np.random.default_rng(seed).integers(-12, 13, (height, width, 1))
    return Image.fromarray((np.array(colour) * light + grain).clip(0, 255).astype(np.uint8))


def _draw(
    image: Image.Image, shape: str, colour: tuple[int, int, int], place: tuple[float, float], radius: float
) -> None:
    pen, r = ImageDraw.Draw(image), radius * min(image.size)
    x, y = place[0] * image.width, place[1] * image.height
    if shape == "circle":
        pen.ellipse((x - r, y - r, x + r, y + r), fill=colour)
    elif shape == "square":
        pen.rectangle((x - r, y - r, x + r, y + r), fill=colour)
    elif shape == "triangle":
        pen.polygon([(x, y - r), (x - r, y + r), (x + r, y + r)], fill=colour)
    elif shape == "ring":
        pen.ellipse((x - r, y - r, x + r, y + r), outline=colour, width=max(2, int(r / 3)))
    else:
        pen.rectangle((x - r, y - r / 4, x + r, y + r / 4), fill=colour)
