"""Bytes -> RGB pixels. The only place that opens an image.

The format is read from the content, never from a name. Caps hold before a pixel is decoded. Only the first frame of an
animation counts, EXIF orientation is applied, transparency is matted on white, 16-bit grey is scaled to 8 bits.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from .config import Limits
from .errors import ErrorCode, RowError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF")  # HEIF opens where its plug-in is registered

# First bytes of the formats that are read, with their names.
_MAGIC = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"BM", "BMP"),
    (b"II*\x00", "TIFF"),
    (b"MM\x00*", "TIFF"),
)
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


def decode(data: bytes, limits: Limits) -> Image.Image:
    """Decode a picture file to RGB.

    Args:
        data: The file's bytes: JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF, or HEIF where its plug-in is installed.
        limits: Caps on pixels and on the longest side.

    Returns:
        A picture in mode RGB, upright, 8 bits a channel.

    Raises:
        RowError: `not_an_image`, `unsupported_format`, `truncated`, `corrupt` or `too_many_pixels`.
    """
    name = _sniff(data)
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_size(image.size, limits)
            image.load()
            return to_rgb(_upright(image))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as exc:
        raise RowError(ErrorCode.TOO_MANY_PIXELS, str(exc)) from exc
    except UnidentifiedImageError as exc:
        raise _unreadable(name, data, f"no {name} decoder accepts its header") from exc
    # Pillow's plug-ins let whatever their parsers trip over escape; a hostile file must cost one row, not the run.
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, OverflowError) as exc:
        raise _unreadable(name, data, str(exc)) from exc
    except (MemoryError, ArithmeticError, AttributeError, RuntimeError) as exc:
        raise RowError(ErrorCode.CORRUPT, f"{name}: {exc or type(exc).__name__}") from exc


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
        return ImageOps.exif_transpose(image)
    except (OSError, SyntaxError, ValueError, KeyError, TypeError, IndexError, ArithmeticError):
        return image.copy()  # broken EXIF says nothing about the pixels


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
    if data[4:8] == b"ftyp":
        return "AVIF" if data[8:12] in (b"avif", b"avis") else "HEIF"
    for magic, name in _OTHER_MAGIC:
        if data.startswith(magic):
            raise RowError(ErrorCode.UNSUPPORTED_FORMAT, f"{name} is not read; convert it to JPEG or PNG")
    head = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if b"<svg" in head:
        raise RowError(ErrorCode.UNSUPPORTED_FORMAT, "SVG is not read; render it to PNG")
    if head.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        raise RowError(ErrorCode.NOT_AN_IMAGE, "the content is an HTML page")
    if len(data) < 12 and any(magic.startswith(data) for magic, _ in _MAGIC):
        raise RowError(ErrorCode.TRUNCATED, f"only {len(data)} bytes")
    start = data[:40].decode("ascii", "replace")
    said = f"is text: {start!r}" if start.replace("\n", " ").isprintable() else f"starts with {data[:16]!r}"
    raise RowError(ErrorCode.NOT_AN_IMAGE, f"the content {said}")


def _unreadable(name: str, data: bytes, detail: str) -> RowError:
    """Tell a file that ends early from one that is damaged, by its own end marker or declared length."""
    if name == "HEIF" and "HEIF" not in Image.OPEN:
        return RowError(ErrorCode.UNSUPPORTED_FORMAT, "HEIF needs the plug-in pillow-heif, registered before scoring")
    match name:
        case "JPEG":
            ends_early = b"\xff\xd9" not in data[-64:]
        case "PNG":
            ends_early = b"IEND" not in data[-64:]
        case "GIF":
            ends_early = not data.rstrip(b"\x00").endswith(b";")
        case "WEBP":
            ends_early = len(data) < int.from_bytes(data[4:8], "little") + 8
        case "BMP":
            ends_early = len(data) < int.from_bytes(data[2:6], "little")
        case _:
            ends_early = "truncated" in detail.lower()
    return RowError(ErrorCode.TRUNCATED if ends_early else ErrorCode.CORRUPT, f"{name}: {detail}")
