"""Images of one colour, a gradient and noise, and the files and references that hold them."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from PIL import Image

_TURNED = Image.Exif()
_TURNED[0x0112], _TURNED[0x010E] = 6, "a description"


def make_png(colour: str | tuple[int, ...] = "red", size: tuple[int, int] = (16, 16)) -> bytes:
    return saved(Image.new("RGB", size, colour), "PNG")


def inline(colour: str | tuple[int, ...]) -> str:
    """Return a reference that holds an image of one colour."""
    return "data:image/png;base64," + base64.b64encode(make_png(colour)).decode()


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def gradient(width: int = 40, height: int = 24) -> Image.Image:
    """Make an image that is bright red at the top left, dark at the bottom right."""
    values = np.linspace(255, 0, width * height).reshape(height, width).astype(np.uint8)
    return Image.merge("RGB", [Image.fromarray(values), *(Image.new("L", (width, height)) for _ in range(2))])


def noise(count: int, seed: int = 0) -> list[Image.Image]:
    """Make images of many sizes: coarse random blocks, so that resizing matters."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(20, 500, (count, 2))
    coarse = [rng.integers(0, 256, (9, 13, 3), dtype=np.uint8) for _ in range(count)]
    return [Image.fromarray(c).resize((int(w), int(h))) for c, (w, h) in zip(coarse, sizes, strict=True)]


SAMPLES = [
    *(saved(gradient(), kind) for kind in ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF")),
    *(saved(gradient(), kind, exif=_TURNED) for kind in ("JPEG", "PNG", "WEBP")),
]
