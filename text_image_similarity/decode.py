"""Bytes -> RGB pixels. The only place that opens an image.

The format is read from the content, never from a name. Caps hold before a pixel is decoded. Only the first frame of an
animation counts, EXIF orientation is applied, transparency is matted on white, 16-bit grey is scaled to 8 bits.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from .config import Limits
from .errors import ErrorCode, RowError

# First bytes of the formats that are read, with their names.
_MAGIC = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"II*\x00", "TIFF"),
    (b"MM\x00*", "TIFF"),
)
_BMP_HEADERS = frozenset(size.to_bytes(4, "little") for size in (12, 40, 52, 56, 64, 108, 124))
# First bytes of pictures that people send and that are not read.
_OTHER_MAGIC = (
    (b"8BPS", "PSD"),
    (b"\x00\x00\x01\x00", "ICO"),
    (b"\x00\x00\x00\x0cjP  ", "JPEG 2000"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\x00\x00\x00\x0cJXL ", "JPEG XL"),
    (b"%PDF", "PDF"),
    (b"%!PS", "PostScript"),
    (b"qoif", "QOI"),
)


# EXIF orientation -> what turns the picture upright (EXIF 2.32, tag 0x0112).
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode(data: bytes, limits: Limits, *, shorter_side: int | None = None) -> Image.Image:
    """Decode a picture file to RGB.

    Args:
        data: The file's bytes: JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF, or HEIF where its plug-in is installed.
        limits: Caps on pixels and on the longest side.
        shorter_side: Let a JPEG be decoded at a half, a quarter or an eighth of its size, but to no shorter side than
            this; None decodes it whole.

    Returns:
        A picture in mode RGB, upright, 8 bits a channel.

    Raises:
        RowError: `empty_body`, `not_an_image`, `unsupported_format`, `truncated`, `corrupt` or `too_many_pixels`.
    """
    if not data:
        raise RowError(ErrorCode.EMPTY_BODY, "0 bytes")
    name = _sniff(data)
    with _as_row_error(name, data), Image.open(io.BytesIO(data), formats=[name]) as image:
        _check_size(image.size, limits)
        if shorter_side is not None:
            width, height = (-(-side * shorter_side // min(image.size)) for side in image.size)  # rounded up
            image.draft(image.mode, (width, height))
        image.load()
        return to_rgb(_upright(image))


def decode_image(image: Image.Image, limits: Limits) -> Image.Image:
    """Bring a picture in memory to RGB.

    One that comes straight from `Image.open` is treated as `decode` treats its file, EXIF orientation included. One that
    was made from another keeps its pixels as they are: nobody knows whether it was turned already.

    Raises:
        RowError: `truncated`, `corrupt` or `too_many_pixels`.
    """
    with _as_row_error(image.format or "picture", b""):
        _check_size(image.size, limits)
        image.load()
        return to_rgb(image if image.format is None else _upright(image))


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert a picture of any mode to RGB: alpha on white, 16-bit grey scaled, CMYK and palettes resolved.

    Raises:
        ValueError: Pillow has no conversion from the picture's mode.
    """
    if image.mode in ("I;16", "I;16L", "I;16B", "I;16N", "I"):
        return _from_grey(np.asarray(image).astype(np.float64), full=65535.0)
    if image.mode == "F":
        values = np.nan_to_num(np.asarray(image).astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
        return _from_grey(values, full=1.0 if values.max(initial=0.0) <= 1.0 else 255.0)
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _from_grey(values: np.ndarray[Any, np.dtype[np.float64]], *, full: float) -> Image.Image:
    grey = np.clip(np.round(values * (255.0 / full)), 0, 255).astype(np.uint8)  # (h, w), full -> 255
    return Image.fromarray(grey).convert("RGB")


def _upright(image: Image.Image) -> Image.Image:
    try:
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # whatever broken EXIF trips over says nothing about the pixels
        return image
    return image if turn is None else image.transpose(turn)


def _check_size(size: tuple[int, int], limits: Limits) -> None:
    width, height = size
    if width * height > limits.max_pixels:
        raise RowError(ErrorCode.TOO_MANY_PIXELS, f"{width} x {height} is over {limits.max_pixels:,} pixels")
    if max(size) > limits.max_side:
        raise RowError(ErrorCode.TOO_MANY_PIXELS, f"{width} x {height} has a side over {limits.max_side:,} pixels")


def _sniff(data: bytes) -> str:
    """Name the format that the content claims to be, or raise what it is instead."""
    for magic, name in _MAGIC:
        if data.startswith(magic):
            return name
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[:2] == b"BM" and data[14:18] in _BMP_HEADERS:
        return "BMP"
    if data[4:8] == b"ftyp":
        return _iso_brand(data)
    raise _no_picture(data)


def _no_picture(data: bytes) -> RowError:
    """Say what content is that is none of the formats."""
    for magic, name in _OTHER_MAGIC:
        if data.startswith(magic):
            return RowError(ErrorCode.UNSUPPORTED_FORMAT, f"{name} is not read; convert it to JPEG or PNG")
    head = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if any(tag in head for tag in (b"<!doctype html", b"<html", b"<head", b"<body", b"<div")):
        return RowError(ErrorCode.NOT_AN_IMAGE, "the content is an HTML page")
    if b"<svg" in head:
        return RowError(ErrorCode.UNSUPPORTED_FORMAT, "SVG is not read; render it to PNG")
    if len(data) < 12 and any(magic.startswith(data) for magic, _ in _MAGIC):
        return RowError(ErrorCode.TRUNCATED, f"only {len(data)} bytes")
    start = data[:40].decode("ascii", "replace")
    said = f"is text: {start!r}" if start.replace("\n", " ").isprintable() else f"starts with {data[:16]!r}"
    return RowError(ErrorCode.NOT_AN_IMAGE, f"the content {said}")


def _iso_brand(data: bytes) -> str:
    """Tell AVIF and HEIF from the other files that start with an ISO `ftyp` box."""
    brands = data[8 : int.from_bytes(data[:4]) if data[:4] < b"\0\0\1\0" else 12]
    if b"avif" in brands or b"avis" in brands:
        return "AVIF"
    if not any(brand in brands for brand in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1")):
        raise RowError(ErrorCode.NOT_AN_IMAGE, f"the content is an ISO media file of brand {data[8:12]!r}")
    if "HEIF" not in Image.OPEN:
        raise RowError(ErrorCode.UNSUPPORTED_FORMAT, "HEIF needs the plug-in pillow-heif, registered before scoring")
    return "HEIF"


@contextmanager
def _as_row_error(name: str, data: bytes) -> Iterator[None]:
    """Map whatever Pillow raises to a row's code, once, here."""
    try:
        yield
    except RowError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as exc:
        raise RowError(ErrorCode.TOO_MANY_PIXELS, str(exc)) from exc
    except UnidentifiedImageError as exc:
        raise RowError(_damage(name, data, ""), f"{name}: its header cannot be read") from exc
    except Exception as exc:  # Pillow's parsers let all kinds escape; a hostile file must cost one row, not the run
        raise RowError(_damage(name, data, str(exc)), f"{name}: {exc or type(exc).__name__}") from exc


def _damage(name: str, data: bytes, said: str) -> ErrorCode:
    """Tell a file that ends early from one that is damaged, by its own end marker or declared length."""
    match name if data else "":
        case "JPEG":
            ends_early = b"\xff\xd9" not in data[-4096:]
        case "PNG":
            ends_early = b"IEND" not in data[-64:]
        case "GIF":
            ends_early = not data.rstrip(b"\x00").endswith(b";")
        case "WEBP":
            ends_early = len(data) < int.from_bytes(data[4:8], "little") + 8
        case "BMP":
            ends_early = len(data) < int.from_bytes(data[2:6], "little")
        case "AVIF" | "HEIF":
            ends_early = len(data) < _boxes_end(data)
        case _:
            ends_early = "truncated" in said.lower()
    return ErrorCode.TRUNCATED if ends_early else ErrorCode.CORRUPT


def _boxes_end(data: bytes) -> int:
    """Return where the top-level boxes of an ISO file say that it ends."""
    end = 0
    while end + 8 <= len(data):
        size = int.from_bytes(data[end : end + 4])
        if size < 8:  # to the end of the file, or a 64-bit size: no telling
            return len(data)
        end += size
    return end
