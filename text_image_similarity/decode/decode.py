"""Decode an image file, or an image in memory, to upright RGB pixels within the limits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image, ImageFile

from ..config import Limits
from ..errors import ErrorCode, RowError
from .av1 import check_coded_size
from .colours import to_rgb, turn_of
from .formats import ends_early, sniff
from .readers import Source, check_size, readers_within
from .variants import unread_variant


def decode(data: bytes, limits: Limits, *, shorter_side: int | None = None) -> Image.Image:
    """Decode an image file to RGB.

    Args:
        data: The file's bytes: JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF, or HEIF if its plug-in is installed.
        limits: Limits; those on pixels and on the longest side are used.
        shorter_side: Allow a JPEG to be decoded at half, a quarter or an eighth of its size if its shorter side stays
            at least this many pixels long; None decodes it at full size.

    Returns:
        An upright image in mode RGB, with 8 bits per channel.

    Raises:
        RowError: `empty_body`, `not_an_image`, `unsupported_format`, `truncated`, `corrupt`, `too_many_pixels` or
            `decoder_crash`.
    """
    if not data:
        raise RowError(ErrorCode.EMPTY_BODY, "0 bytes")
    name = sniff(data)
    with _as_row_error(name, data), _opened(name, data, limits) as image:
        check_size(image.size, limits)
        if name == "AVIF":
            check_coded_size(data, image.size, limits)
        if shorter_side is not None:
            width, height = (-(-side * shorter_side // min(image.size)) for side in image.size)  # rounded up
            image.draft(image.mode, (width, height))
        image.load()
        return _upright_rgb(image)


def decode_image(image: Image.Image, limits: Limits) -> Image.Image:
    """Convert an image in memory to RGB.

    An image straight from `Image.open` is treated like its file in `decode`, including EXIF orientation. An image made
    from another one is not turned, because that may already have been done.

    Raises:
        RowError: `truncated`, `corrupt`, `too_many_pixels` or `decoder_crash`.
    """
    with _as_row_error(image.format or "image", b""):
        check_size(image.size, limits)
        image.load()
        return to_rgb(image) if image.format is None else _upright_rgb(image)


def _upright_rgb(image: Image.Image) -> Image.Image:
    turn = turn_of(image)
    rgb = to_rgb(image)
    return rgb if turn is None else rgb.transpose(turn)


def _opened(name: str, data: bytes, limits: Limits) -> ImageFile.ImageFile:
    """Open a file by reading its header."""
    if name == "HEIF":  # the reader comes from its plug-in
        opened: ImageFile.ImageFile = Image.OPEN[name][0](Source(data), "")
        return opened
    if (reader := readers_within(limits).get(name)) is None:
        raise RowError(ErrorCode.UNSUPPORTED_FORMAT, f"{name} is not supported by this build of Pillow")
    return reader(Source(data), "")


@contextmanager
def _as_row_error(name: str, data: bytes) -> Iterator[None]:
    """Map any exception of Pillow to a row's error code; this is the only place that does so."""
    try:
        yield
    except RowError as error:
        if data and error.code is ErrorCode.UNSUPPORTED_FORMAT and ends_early(name, data, ""):
            raise RowError(ErrorCode.TRUNCATED, f"{name}: the file ends early") from error
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as exc:
        raise RowError(ErrorCode.TOO_MANY_PIXELS, str(exc)) from exc
    except MemoryError as exc:
        raise RowError(ErrorCode.DECODER_CRASH, f"{name}: there is not enough memory to decode it") from exc
    except Exception as exc:  # Pillow's parsers raise anything; a hostile file must fail one row, not the run
        said = str(exc) or type(exc).__name__
        if ends_early(name if data else "", data, said):
            raise RowError(ErrorCode.TRUNCATED, f"{name}: {said}") from exc
        if variant := unread_variant(name if data else "", data, said):
            raise variant from exc
        raise RowError(ErrorCode.CORRUPT, f"{name}: {said}") from exc
