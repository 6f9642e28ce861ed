"""Pillow's TIFF reader, limited to files that libtiff would read in the same way and with bounded work."""

from __future__ import annotations

import io
from collections import Counter

from PIL import TiffImagePlugin

from ..errors import ErrorCode, RowError
from .formats import (
    BITS,
    COMPRESSION,
    PHOTOMETRIC,
    PLANES,
    SAMPLE_FORMAT,
    SAMPLES,
    STRIP_BYTES,
    STRIP_ROWS,
    STRIPS,
    TILE_BYTES,
    TILE_HEIGHT,
    TILE_WIDTH,
    TILES,
    entries,
)
from .scans import check_pieces
from .variants import variant_error

_MOST_PIECES = 125_000  # strips or tiles: 50 megapixels in tiles of 32 x 32 are 50,000
_SPARE_TILE = 1 << 24  # pixels that the tiles may have beyond those of the image
_SIZES, _FILL_ORDER, _PREDICTOR, _EXTRA_SAMPLES = (256, 257), 266, 317, 338
# Tags that determine how much libtiff decodes, and from where.
_LAYOUT = frozenset(
    {*_SIZES, BITS, COMPRESSION, PHOTOMETRIC, _FILL_ORDER, STRIPS, SAMPLES, STRIP_ROWS, STRIP_BYTES, PLANES, _PREDICTOR}
    | {TILE_WIDTH, TILE_HEIGHT, TILES, TILE_BYTES, _EXTRA_SAMPLES, SAMPLE_FORMAT}
)


class Tiff(TiffImagePlugin.TiffImageFile):
    """A TIFF whose pieces are limited before they are listed; its orientation is applied later, as in other formats."""

    def _setup(self) -> None:
        size = max(len(self.tag.tagdata.get(tag, b"")) for tag in (STRIPS, TILES))  # values of up to 8 bytes each
        if size > 8 * _MOST_PIECES or max(len(self.tag_v2.get(tag, ())) for tag in (STRIPS, TILES)) > _MOST_PIECES:
            raise RowError(ErrorCode.CORRUPT, f"the image has more than {_MOST_PIECES:,} strips or tiles")
        super()._setup()
        if variant := self._misread_variant():
            raise variant_error("TIFF", variant)
        assert isinstance(self.fp, io.BytesIO)
        if self.use_load_libtiff:
            self._check_entries(self.fp.getvalue())
        self._check_tiles()
        if self.info["compression"] == "jpeg":
            self._check_scans(self.fp.getvalue())

    def _check_entries(self, content: bytes) -> None:
        """Refuse a layout that libtiff, which decodes the pixels, would read differently from Pillow.

        Pillow skips entries of unknown types and those that point to more data than the file has, and then reads a
        repeated entry that libtiff ignores.
        """
        found = [(tag, length) for tag, _, length, _ in entries(content) if tag in _LAYOUT]
        for tag, times in Counter(tag for tag, _ in found).items():
            if times > 1:
                raise ValueError(f"tag {tag} is repeated")
        if skipped := [tag for tag, length in found if length and tag not in self.tag_v2]:
            raise ValueError(f"tag {skipped[0]} has a type or a length that is not supported")

    def _check_scans(self, content: bytes) -> None:
        tiled = TILE_WIDTH in self.tag_v2 or TILE_HEIGHT in self.tag_v2
        rows = self.tag_v2.get(STRIP_ROWS, self._tile_size[1])
        strip = self._tile_size[0], min(rows, self._tile_size[1])
        size = (self.tag_v2.get(TILE_WIDTH, 0), self.tag_v2.get(TILE_HEIGHT, 0)) if tiled else strip
        check_pieces(content, (*self.tag_v2.get(STRIPS, ()), *self.tag_v2.get(TILES, ())), size)

    def _check_tiles(self) -> None:
        """Refuse tiles with far more pixels than the image: each takes time, even if several share their bytes."""
        width, height = (self.tag_v2.get(tag, 0) for tag in (TILE_WIDTH, TILE_HEIGHT))
        if width > 0 and height > 0:
            across, down = -(-self._tile_size[0] // width), -(-self._tile_size[1] // height)
            if across * down * width * height > self.width * self.height + _SPARE_TILE:
                tiles = "a tile" if across * down == 1 else f"{across * down:,} tiles"
                detail = f"{tiles} of {width} x {height} in an image of {self.width} x {self.height}"
                raise RowError(ErrorCode.TOO_MANY_PIXELS, detail)

    def _misread_variant(self) -> str:
        """Describe a variant that Pillow would misread, with wrong pixels; return "" for any other."""
        deep, packed = self.mode in ("I", "I;16", "I;16B", "F"), self.info["compression"] != "raw"
        if deep and self.tag_v2.get(PHOTOMETRIC) == 0:
            return "16 bits or more per sample, with white as zero"
        if deep and packed and self.tag_v2.prefix == b"MM" and (self.tag_v2.get(SAMPLE_FORMAT) or (1,))[0] != 1:
            return "compressed big-endian numbers that are signed or float"
        if self.tag_v2.get(PLANES) == 2:
            if not packed and max(self.tag_v2.get(BITS) or (1,)) > 8:
                return "16 bits per sample in separate planes"
            if self.mode == "LA":
                return "grey and alpha in separate planes"
        return ""

    def load_end(self) -> None:
        self._size = self._tile_size
