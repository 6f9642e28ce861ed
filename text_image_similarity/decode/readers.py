"""Pillow's readers with separate settings.

Pillow keeps `MAX_IMAGE_PIXELS`, `LOAD_TRUNCATED_IMAGES` and its warnings in module globals, which any code in the
process may change at any time. Changing these globals back here would race with other threads and break other people's
code. The methods of the readers are therefore copied with separate globals, which have our settings, check sizes by
`Limits`, and neither warn nor log. Only libtiff still writes to standard error: its handler belongs to the process, and
only a worker process (`isolation`) can turn it off.
"""

from __future__ import annotations

import abc
import io
import struct
import zlib
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
from .formats import ORIENTATION, exif_orientation
from .scans import check_scans, later_scans
from .tiff import Tiff

Reader = Callable[[IO[bytes], str], ImageFile.ImageFile]

_MOST_READS = 1_000_000  # reads of one file, which take about a second; real images take a few thousand
# More reads for a run-length BMP, which Pillow unpacks slowly in Python.
_RLE_READS, _RLE_PIXELS = 3_000_000, 16_000_000
_MOST_TEXTS = 32  # text chunks of a PNG to unpack, up to 1 MiB each; they may hold the orientation
_ANCILLARY = 0x20  # bit of a chunk's first letter that marks it as not critical (PNG 1.2, section 3.3)
_APP1 = 0xFFE1
_MOST_EXIF = 1 << 16  # bytes joined from the segments of a JPEG; one holds 64 KiB, and the orientation comes first
_TEXTS = frozenset({b"iTXt", b"tEXt", b"zTXt"})
_ANIMATION = frozenset({b"acTL", b"fcTL", b"fdAT"})
_QUIET = SimpleNamespace(**dict.fromkeys(("warn", "debug", "error", "warning", "info"), lambda *_, **__: None))


class Source(io.BytesIO):
    """A file in memory that allows a limited number of reads, because a hostile file may have millions of pieces."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.reads_left = _MOST_READS

    def read(self, size: int | None = -1, /) -> bytes:
        self.reads_left -= 1
        if self.reads_left < 0:
            raise RowError(ErrorCode.CORRUPT, "the file has a million pieces or more")
        return super().read(size)


def check_size(size: tuple[int, int], limits: Limits) -> None:
    """Check an image's size against the limits.

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
    """Return, by format, functions that open a file or raise `too_many_pixels` before any pixel is allocated.

    A format is left out if this Pillow was built without it.
    """

    def check(size: tuple[int, int], **_: object) -> None:
        check_size(size, limits)

    names: dict[str, Any] = {
        "Image": SimpleNamespace(**vars(Image) | {"_decompression_bomb_check": check, "Exif": _Orientation}),
        "ImageFile": SimpleNamespace(**vars(ImageFile) | {"LOAD_TRUNCATED_IMAGES": False}),
        "LOAD_TRUNCATED_IMAGES": False,
        "warnings": _QUIET,
        "logger": _QUIET,
        "MARKER": {**JpegImagePlugin.MARKER, _APP1: ("APP1", "EXIF or XMP", _read_app1)},
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
        "TIFF": (Tiff, _copied(TiffImagePlugin.TiffImageFile, names, base)),
    }
    if WebPImagePlugin.SUPPORTED:
        own["WEBP"] = (_WebP, _copied(WebPImagePlugin.WebPImageFile, names, base))
    if AvifImagePlugin.SUPPORTED:
        own["AVIF"] = (_Avif, _copied(AvifImagePlugin.AvifImageFile, names, base))
    found: dict[str, Reader] = {name: abc.ABCMeta(name, bases, {}) for name, bases in own.items()}
    return found


def _copied(plugin: type, names: Mapping[str, Any], *bases: type) -> type:
    """Return a subclass whose methods use `names` in place of their module's globals."""
    methods = {
        name: _with_globals(method, names) for name, method in vars(plugin).items() if isinstance(method, FunctionType)
    }
    return abc.ABCMeta(plugin.__name__, (plugin, *bases), methods)


def _with_globals(function: FunctionType, names: Mapping[str, Any]) -> FunctionType:
    given = {**function.__globals__, **names}
    copy = FunctionType(function.__code__, given, function.__name__, function.__defaults__, function.__closure__)
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


def _read_app1(jpeg: JpegImagePlugin.JpegImageFile, marker: int) -> None:
    """Read only the first segments of EXIF or XMP, because Pillow copies all earlier EXIF for each additional one."""
    if len(jpeg.info.get("exif", b"")) < _MOST_EXIF:
        JpegImagePlugin.APP(jpeg, marker)
    else:
        JpegImagePlugin.Skip(jpeg, marker)


class _Jpeg(JpegImagePlugin.JpegImageFile):
    """A JPEG whose scans are counted, because each may cost a pass over all pixels but take hardly any bytes."""

    def _open(self) -> None:
        super()._open()
        assert isinstance(self.fp, Source)
        check_scans(1 + later_scans(self.fp.getvalue(), self.fp.tell()), self.size)

    def _read_dpi_from_exif(self) -> None:
        """Do nothing: the resolution is not needed, and broken EXIF would cause a warning."""


class _Chunks(PngImagePlugin.PngStream):
    """The chunks of a PNG; errors in chunks that the pixels do not need never fail the image.

    A chunk with a wrong checksum is skipped, as in libpng, and so is one whose content does not follow the
    specification.
    """

    texts = 0

    def call(self, cid: bytes, pos: int, length: int) -> bytes:
        if not cid[0] & _ANCILLARY:
            return super().call(cid, pos, length)
        assert self.fp is not None
        self.texts += cid in _TEXTS
        if self._is_wanted(cid, pos, length):
            try:
                return super().call(cid, pos, length)
            except (SyntaxError, ValueError, LookupError):
                self.fp.seek(pos)
                if cid in _ANIMATION:
                    self.im_n_frames = None  # treat the file as a still image from here on
        return ImageFile._safe_read(self.fp, length)

    def crc(self, cid: bytes, data: bytes) -> None:
        if cid[0] & _ANCILLARY:
            self.crc_skip(cid, data)  # `call` has already decided whether to use the chunk
        else:
            super().crc(cid, data)

    def _is_wanted(self, cid: bytes, pos: int, length: int) -> bool:
        if cid == b"iCCP" or (cid in _TEXTS and self.texts > _MOST_TEXTS):
            return False
        if cid in _ANIMATION and cid != b"acTL":
            return self.im_n_frames is not None
        assert isinstance(self.fp, Source)
        content = self.fp.getbuffer()[pos : pos + length + 4]
        ends_early = len(content) < length + 4
        return ends_early or zlib.crc32(content[:-4], zlib.crc32(cid)) == int.from_bytes(content[-4:])


class _Bmp(BmpImagePlugin.BmpImageFile):
    """A BMP with separate limits on pixels and reads if it is compressed."""

    def _open(self) -> None:
        super()._open()
        if self.tile[0].codec_name == "bmp_rle":
            if self.width * self.height > _RLE_PIXELS:
                detail = f"a run-length BMP of {self.width} x {self.height} is over {_RLE_PIXELS:,} pixels"
                raise RowError(ErrorCode.TOO_MANY_PIXELS, detail)
            assert isinstance(self.fp, Source)
            self.fp.reads_left += _RLE_READS


class _WebP(WebPImagePlugin.WebPImageFile):
    """A WebP that frees its decoder, which holds two canvases, before the image is allocated."""

    def load_prepare(self) -> None:
        self._decoder = None
        super().load_prepare()


class _Avif(AvifImagePlugin.AvifImageFile):
    """An AVIF that frees its decoder before the image is allocated."""

    def load_prepare(self) -> None:
        self._decoder = None
        super().load_prepare()


class _Orientation(dict[int, int]):
    """The part of `Image.Exif` that the AVIF reader needs to record the orientation from its boxes."""

    def load(self, exif: bytes) -> None:
        self[ORIENTATION] = exif_orientation(exif)

    def tobytes(self) -> bytes:
        return b"MM\0*" + struct.pack(">IHHHIHHI", 8, 1, ORIENTATION, 3, 1, self[ORIENTATION], 0, 0)
