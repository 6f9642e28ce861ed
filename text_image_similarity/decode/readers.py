"""Pillow's readers, with switches of their own.

Pillow keeps `MAX_IMAGE_PIXELS`, `LOAD_TRUNCATED_IMAGES` and its warnings in module globals, for the whole process, where
anyone may set them at any time. Setting them back here would race with other threads and break other people's code. So the
methods of the readers are copied with globals of their own: there the switches are ours, the check of a size is
`Limits`', and nothing is warned of or logged. libtiff alone still writes to standard error: its handler belongs to the
process too, and only a worker process (`isolation`) can turn it off.
"""

from __future__ import annotations

import abc
import io
import struct
from collections.abc import Callable, Mapping
from functools import lru_cache
from types import FunctionType, SimpleNamespace
from typing import IO, Any

from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from ..config import Limits
from ..errors import ErrorCode, RowError
from .formats import ORIENTATION, STRIPS, TILE_HEIGHT, TILE_WIDTH, TILES, exif_orientation

Reader = Callable[[IO[bytes], str], ImageFile.ImageFile]

_MOST_READS = 1_000_000  # of one file, a second or so; real pictures take a few thousand
# More of them for a run-length BMP, which Pillow unpacks in Python, slowly.
_RLE_READS, _RLE_PIXELS = 3_000_000, 16_000_000
_MOST_SCANNED = 2_500_000_000  # scans of a JPEG times its pixels: 50 of the largest picture, where programs write 10
_SCAN_COST = 4096  # pixels that a scan costs at least
_MOST_TEXTS = 32  # text chunks of a PNG that are unpacked, up to 1 MiB each; only an orientation is looked for in them
_MOST_PIECES = 125_000  # strips or tiles of a TIFF: 50 megapixels in tiles of 32 x 32 are 50,000
_SPARE_TILE = 1 << 24  # pixels that a tile of a TIFF may have over those of the picture
_QUIET = SimpleNamespace(**dict.fromkeys(("warn", "debug", "error", "warning", "info"), lambda *_, **__: None))


class Source(io.BytesIO):
    """A file in memory that ends the reading of one that falls into millions of pieces."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.reads_left = _MOST_READS

    def read(self, size: int | None = -1, /) -> bytes:
        self.reads_left -= 1
        if self.reads_left < 0:
            raise RowError(ErrorCode.CORRUPT, "the file falls into a million pieces or more")
        return super().read(size)


def check_size(size: tuple[int, int], limits: Limits) -> None:
    """Hold a picture's size against the caps.

    Raises:
        RowError: `too_many_pixels`.
    """
    width, height = size
    if width * height > limits.max_pixels:
        raise RowError(ErrorCode.TOO_MANY_PIXELS, f"{width} x {height} is over {limits.max_pixels:,} pixels")
    if max(size) > limits.max_side:
        raise RowError(ErrorCode.TOO_MANY_PIXELS, f"{width} x {height} has a side over {limits.max_side:,} pixels")


@lru_cache(maxsize=16)
def readers_within(limits: Limits) -> Mapping[str, Reader]:
    """Return what opens a file of each format; it raises `too_many_pixels` before any pixel is allocated.

    A format is left out where this Pillow was built without it.
    """

    def check(size: tuple[int, int], **_: object) -> None:
        check_size(size, limits)

    names: dict[str, Any] = {
        "Image": SimpleNamespace(**vars(Image) | {"_decompression_bomb_check": check, "Exif": _Orientation}),
        "ImageFile": SimpleNamespace(**vars(ImageFile) | {"LOAD_TRUNCATED_IMAGES": False}),
        "LOAD_TRUNCATED_IMAGES": False,
        "warnings": _QUIET,
        "logger": _QUIET,
    }
    chunks = _copied(PngImagePlugin.ChunkStream, names)
    names["PngStream"] = type("PngStream", (_Chunks, _copied(PngImagePlugin.PngStream, names, chunks)), {})
    names["ImageFileDirectory_v2"] = _copied(TiffImagePlugin.ImageFileDirectory_v2, names)
    base = _copied(ImageFile.ImageFile, names)
    own: dict[str, tuple[type, ...]] = {
        "JPEG": (_Jpeg, _copied(JpegImagePlugin.JpegImageFile, names, base)),
        "PNG": (_copied(PngImagePlugin.PngImageFile, names, base),),
        "GIF": (_copied(GifImagePlugin.GifImageFile, names, base),),
        "BMP": (_Bmp, _copied(BmpImagePlugin.BmpImageFile, names, base)),
        "TIFF": (_Tiff, _copied(TiffImagePlugin.TiffImageFile, names, base)),
    }
    if WebPImagePlugin.SUPPORTED:
        own["WEBP"] = (_WebP, _copied(WebPImagePlugin.WebPImageFile, names, base))
    if AvifImagePlugin.SUPPORTED:
        own["AVIF"] = (_Avif, _copied(AvifImagePlugin.AvifImageFile, names, base))
    found: dict[str, Reader] = {name: abc.ABCMeta(name, bases, {}) for name, bases in own.items()}
    return found


def _copied(plugin: type, names: Mapping[str, Any], *bases: type) -> type:
    """Return a subclass whose methods see `names` in place of their module's globals."""
    methods = {
        name: _with_globals(method, names) for name, method in vars(plugin).items() if isinstance(method, FunctionType)
    }
    return abc.ABCMeta(plugin.__name__, (plugin, *bases), methods)


def _with_globals(function: FunctionType, names: Mapping[str, Any]) -> FunctionType:
    given = {**function.__globals__, **names}
    copy = FunctionType(function.__code__, given, function.__name__, function.__defaults__, function.__closure__)
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


class _Jpeg(JpegImagePlugin.JpegImageFile):
    """A JPEG whose scans are counted: each of thousands may cost a pass over all pixels and take hardly a byte."""

    def _open(self) -> None:
        super()._open()
        assert isinstance(self.fp, Source)
        scans = 1 + self.fp.getvalue().count(b"\xff\xda", self.fp.tell())
        if scans * max(self.width * self.height, _SCAN_COST) > _MOST_SCANNED:
            detail = f"{scans:,} scans of {self.width} x {self.height} pixels are too many"
            raise RowError(ErrorCode.TOO_MANY_PIXELS, detail)

    def _read_dpi_from_exif(self) -> None:
        """Leave it: nobody asks, and broken EXIF would be warned of."""


class _Chunks(PngImagePlugin.PngStream):
    """Chunks of a PNG, of which those with text or a colour profile never cost the picture."""

    texts = 0

    def call(self, cid: bytes, pos: int, length: int) -> bytes:
        if cid not in (b"iCCP", b"iTXt", b"tEXt", b"zTXt"):
            return super().call(cid, pos, length)
        self.texts += cid != b"iCCP"
        assert self.fp is not None
        if cid != b"iCCP" and self.texts <= _MOST_TEXTS:
            try:
                return super().call(cid, pos, length)
            except (SyntaxError, ValueError):  # too much of it, or not as the specification has it
                self.fp.seek(pos)
        return ImageFile._safe_read(self.fp, length)


class _Bmp(BmpImagePlugin.BmpImageFile):
    """A BMP with a cap of its own where it is compressed."""

    def _open(self) -> None:
        super()._open()
        if self.tile[0].codec_name == "bmp_rle":
            if self.width * self.height > _RLE_PIXELS:
                detail = f"a run-length BMP of {self.width} x {self.height} is over {_RLE_PIXELS:,} pixels"
                raise RowError(ErrorCode.TOO_MANY_PIXELS, detail)
            assert isinstance(self.fp, Source)
            self.fp.reads_left += _RLE_READS


class _Tiff(TiffImagePlugin.TiffImageFile):
    """A TIFF whose pieces are bounded before they are listed, and that is turned later, with the others."""

    def _setup(self) -> None:
        pieces = max(len(self.tag.tagdata.get(tag, b"")) for tag in (STRIPS, TILES)) // 2
        if pieces > _MOST_PIECES * 4:  # of up to 8 bytes each
            raise RowError(ErrorCode.CORRUPT, f"the picture falls into more than {_MOST_PIECES:,} pieces")
        super()._setup()
        width, height = (self.tag_v2.get(tag, 0) for tag in (TILE_WIDTH, TILE_HEIGHT))
        if width * height > self.width * self.height + _SPARE_TILE:
            raise RowError(ErrorCode.TOO_MANY_PIXELS, f"tiles of {width} x {height} in a picture of {self.size}")

    def load_end(self) -> None:
        self._size = self._tile_size


class _WebP(WebPImagePlugin.WebPImageFile):
    """A WebP that lets go of its decoder, which holds two canvases, before the picture is allocated."""

    def load_prepare(self) -> None:
        self._decoder = None
        super().load_prepare()


class _Avif(AvifImagePlugin.AvifImageFile):
    """An AVIF that lets go of its decoder before the picture is allocated."""

    def load_prepare(self) -> None:
        self._decoder = None
        super().load_prepare()


class _Orientation(dict[int, int]):
    """As much of `Image.Exif` as the reader of AVIF needs to write down the orientation of its boxes."""

    def load(self, exif: bytes) -> None:
        self[ORIENTATION] = exif_orientation(exif)

    def tobytes(self) -> bytes:
        return b"MM\0*" + struct.pack(">IHHHIHHI", 8, 1, ORIENTATION, 3, 1, self[ORIENTATION], 0, 0)
