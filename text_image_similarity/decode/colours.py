"""Convert images of any mode to upright RGB with 8 bits per channel, with little extra memory."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from .formats import ORIENTATION, exif_orientation

# EXIF orientation -> transposition that turns the image upright (EXIF 2.32, tag 0x0112).
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_AT_ONCE = 1 << 20  # values converted to 8 bits at a time; in float64 they take 8 MB


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image of any mode to RGB: blend alpha with white, scale 16-bit grey, convert CMYK and palettes.

    Raises:
        ValueError: Pillow cannot convert from the image's mode.
    """
    if image.mode in ("I;16", "I;16L", "I;16B", "I;16N", "I"):
        return _from_grey(image, full=65535.0)
    if image.mode == "F":
        greatest = max(float(part.max(where=np.isfinite(part), initial=0.0)) for _, part in _strips(image))
        return _from_grey(image, full=1.0 if greatest <= 1.0 else 255.0)
    if image.has_transparency_data:
        picture = image if image.mode == "RGBA" else image.convert("RGBA")
        white = Image.new("RGB", picture.size, "white")
        white.paste(picture, mask=picture)
        return white
    return image if image.mode == "RGB" else image.convert("RGB")


def turn_of(image: Image.Image) -> Image.Transpose | None:
    """Return the transposition for an image's EXIF, XMP or TIFF orientation; None if there is none that can be read."""
    try:
        return _TURNS.get(_orientation(image))
    except Exception:  # broken EXIF does not mean that the pixels are broken
        return None


def _orientation(image: Image.Image) -> int:
    """Find the orientation where Pillow's `getexif` looks for it, without its warnings."""
    if isinstance(image, TiffImageFile):  # Pillow drops the tag of an image that it has turned itself
        found = image.tag_v2.get(ORIENTATION, 1)
        return found if isinstance(found, int) else 1
    exif = image.info.get("exif")
    if exif is None and (raw := image.info.get("Raw profile type exif")):  # as ImageMagick writes it in a PNG
        exif = bytes.fromhex("".join(raw.split("\n")[3:]))
    if exif and (orientation := exif_orientation(exif)) != 1:
        return orientation
    xmp = image.info.get("XML:com.adobe.xmp") or image.info.get("xmp") or b""
    match = re.search(rb'tiff:Orientation(?:="|>)([0-9])', xmp.encode() if isinstance(xmp, str) else xmp)
    return int(match[1]) if match else 1


def _from_grey(image: Image.Image, *, full: float) -> Image.Image:
    """Scale grey values so that `full` becomes 255; values that a PNG declares transparent become white."""
    clear = image.info.get("transparency")
    grey = np.empty((image.height, image.width), np.uint8)
    for rows, part in _strips(image):
        with np.errstate(invalid="ignore"):  # raised by a signalling NaN
            finite = np.nan_to_num(part.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
        grey[rows] = np.clip(np.round(finite * (255.0 / full)), 0, 255)
        if isinstance(clear, int):
            grey[rows][part == clear] = 255
    return Image.fromarray(grey).convert("RGB")


def _strips(image: Image.Image) -> Iterator[tuple[slice, NDArray[Any]]]:
    """Yield an image's values in strips of rows, because all values at once would take three times its memory."""
    step = max(1, _AT_ONCE // image.width)
    for top in range(0, image.height, step):
        box = (0, top, image.width, min(top + step, image.height))
        # Not `crop`, which checks Image.MAX_IMAGE_PIXELS; at this scale, the nearest pixel is the pixel itself.
        part = image.resize((image.width, box[3] - top), Image.Resampling.NEAREST, box=box)
        yield slice(top, box[3]), np.asarray(part)
