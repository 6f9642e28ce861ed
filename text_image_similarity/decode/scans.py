"""The scans of a JPEG, each of which may cost a pass over all pixels but take hardly any bytes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from ..errors import ErrorCode, RowError

_MOST_SCANNED = 2_500_000_000  # scans of a JPEG times its pixels: 50 scans of the largest image; encoders write 10
# Markers of a JPEG that are followed by a segment, and those that end the JPEG: its end marker, and the start of
# another JPEG, which libjpeg refuses. libjpeg skips other markers within a scan.
_MARKER = re.compile(rb"\xff([\xc0-\xcf\xd8-\xfe])")
_SCAN, _ENDS = b"\xda", (b"\xd8", b"\xd9")
_MOST_SEGMENTS = 10_000  # segments examined between scans; cameras write a few hundred
_MOST_MARKERS = 1_000_000  # markers examined in all pieces of a TIFF: 20 in each of 50,000
_MOST_OVERLAP = 4  # total size of a TIFF's pieces, each counted once, as a multiple of the file's size
_SCAN_COST = 4096  # lowest cost of a scan, in pixels
_BLOCK = 8  # pixels of a side are coded in multiples of this


def check_scans(scans: int, size: tuple[int, int]) -> None:
    """Check the number of scans of a JPEG.

    Raises:
        RowError: `too_many_pixels`.
    """
    if _are_too_many(scans, size[0] * size[1]):
        raise RowError(ErrorCode.TOO_MANY_PIXELS, f"{scans:,} scans of {size[0]} x {size[1]} pixels are too many")


def check_pieces(content: bytes, starts: Iterable[int], size: tuple[int, int]) -> None:
    """Check the scans of all JPEGs in a TIFF together; several strips or tiles may share one JPEG.

    Args:
        content: The file.
        starts: Offset of each strip or tile.
        size: Width and height of each strip or tile, in pixels.

    Raises:
        RowError: `too_many_pixels`.
    """
    width, height = (-(-side // _BLOCK) * _BLOCK for side in size)
    scans, markers_left, bytes_left = 0, _MOST_MARKERS, _MOST_OVERLAP * len(content)
    for start, times in Counter(starts).items():
        found, markers, end = _walk(content, start + 2, markers_left)
        markers_left -= markers
        bytes_left -= max(0, end - start)
        scans += times * max(1, found)
        if min(markers_left, bytes_left) <= 0 or _are_too_many(scans, width * height):
            detail = f"the strips or tiles of {size[0]} x {size[1]} pixels have too many scans or segments"
            raise RowError(ErrorCode.TOO_MANY_PIXELS, detail)


def later_scans(content: bytes, start: int) -> int:
    """Count the scans of a JPEG after the first, as libjpeg finds them, ignoring data after the end, such as a video.

    Args:
        content: The file.
        start: Offset of the first scan's data.
    """
    scans, markers, end = _walk(content, start, _MOST_SEGMENTS)
    return scans if markers < _MOST_SEGMENTS else scans + content.count(b"\xff" + _SCAN, end)


def _are_too_many(scans: int, pixels: int) -> bool:
    return scans * max(pixels, _SCAN_COST) > _MOST_SCANNED


def _walk(content: bytes, start: int, most: int) -> tuple[int, int, int]:
    """Return the numbers of scans and of markers (at most `most`) in a JPEG after an offset, and where they end."""
    scans = 0
    for markers in range(most):
        found = _MARKER.search(content, start)
        if found is None or found[1] in _ENDS:
            return scans, markers, found.end() if found else len(content)
        scans += found[1] == _SCAN
        start = found.end() + int.from_bytes(content[found.end() : found.end() + 2])  # the segment's length
    return scans, most, start
