"""Recognise file formats, and files that end early, from their content alone.

Nothing here decodes pixels. Structures are parsed only as far as necessary: TIFF 6.0 and BigTIFF directories, PNG
chunks, JPEG segments, the boxes of ISO 14496-12.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator

from PIL import Image

from ..errors import ErrorCode, RowError
from .signatures import unread_content, unread_iso_media

# First bytes of the supported formats, with their names.
_MAGIC = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"II*\x00", "TIFF"),
    (b"MM\x00*", "TIFF"),
    (b"II+\x00", "TIFF"),  # BigTIFF
)
_BMP_HEADERS = frozenset(size.to_bytes(4, "little") for size in (12, 16, 40, 52, 56, 64, 108, 124))
# Tags of TIFF and EXIF.
BITS, COMPRESSION, PHOTOMETRIC, SAMPLES, PLANES, SAMPLE_FORMAT = 258, 259, 262, 277, 284, 339
ORIENTATION, STRIPS, STRIP_ROWS, STRIP_BYTES = 274, 273, 278, 279
TILE_WIDTH, TILE_HEIGHT, TILES, TILE_BYTES = 322, 323, 324, 325
_MOST_VALUES = 125_000  # values of a tag that are read; images with more strips or tiles are refused
_WHOLE_NUMBERS = {1: "B", 3: "H", 4: "I", 16: "Q"}  # TIFF types -> struct formats
_OTHER_TYPES = {2: "s", 5: "Q", 6: "b", 7: "s", 8: "h", 9: "i", 10: "q", 11: "f", 12: "d", 13: "I", 17: "q", 18: "Q"}


def sniff(data: bytes) -> str:
    """Return the name of the format that the content claims to have.

    Raises:
        RowError: `not_an_image`, `unsupported_format` or `truncated`, with a description of the content.
    """
    for magic, name in _MAGIC:
        if data.startswith(magic):
            return name
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[:2] == b"BM" and data[14:18] in _BMP_HEADERS:
        return "BMP"
    if data[4:8] == b"ftyp":
        return _iso_brand(data)
    if len(data) < 12 and (data[:4] == b"RIFF" or any(magic.startswith(data) for magic, _ in _MAGIC)):
        raise RowError(ErrorCode.TRUNCATED, f"only {len(data)} bytes")
    raise unread_content(data)


def ends_early(name: str, data: bytes, said: str) -> bool:
    """Tell whether a broken file ends early rather than being damaged, by its end marker or declared lengths.

    Args:
        name: Format of the file.
        data: The file, which could not be decoded.
        said: The decoder's message, which decides if the format declares no length.
    """
    match name:
        case "JPEG":
            return _jpeg_ends_early(data)
        case "PNG":
            return _png_ends_early(data)
        case "GIF":
            return not data.rstrip(b"\x00").endswith(b";")
        case "WEBP":
            return len(data) < int.from_bytes(data[4:8], "little") + 8
        case "AVIF" | "HEIF" if len(data) < _boxes_end(data):
            return True
        case "BMP" if len(data) < int.from_bytes(data[2:6], "little"):
            return True
        case "TIFF" if _tiff_ends_early(data):
            return True
    return "truncated" in said.lower()


def exif_orientation(exif: bytes) -> int:
    """Return the orientation in EXIF data (EXIF 2.32, tag 0x0112), or 1 if there is none or it cannot be read."""
    start = 0
    while exif.startswith(b"Exif\0\0", start):
        start += 6
    values = read_directory(exif[start:], (ORIENTATION,)).get(ORIENTATION)
    return values[0] if values else 1


def _iso_brand(data: bytes) -> str:
    """Return `AVIF` or `HEIF` for a file that starts with an ISO `ftyp` box, and refuse any other file."""
    brands = data[8 : int.from_bytes(data[:4]) if data[:4] < b"\0\0\1\0" else 12]
    if b"avif" in brands or b"avis" in brands:
        return "AVIF"
    if not any(brand in brands for brand in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1")):
        raise unread_iso_media(data[8:12])
    if "HEIF" not in Image.OPEN:
        raise RowError(ErrorCode.UNSUPPORTED_FORMAT, "HEIF needs the plug-in pillow-heif, registered before scoring")
    return "HEIF"


def _jpeg_ends_early(data: bytes) -> bool:
    """Tell whether a JPEG ends before its first scan, or without an end marker after it."""
    at = 2
    while (at := data.find(b"\xff", at)) >= 0 and at + 4 <= len(data):
        marker = data[at + 1]
        if marker == 0xDA:
            return data.rfind(b"\xff\xd9") < at
        # Fill bytes and markers without a segment have no length.
        alone = marker in (0x00, 0x01, 0xFF) or 0xD0 <= marker <= 0xD9
        at += 1 if marker == 0xFF else 2 if alone else 2 + int.from_bytes(data[at + 2 : at + 4])
    return not data.endswith(b"\xff\xd9")


def _png_ends_early(data: bytes) -> bool:
    at = 8
    while at + 12 <= len(data):
        kind = data[at + 4 : at + 8]
        if kind == b"IEND" or not kind.isalpha():
            return False
        at += 12 + int.from_bytes(data[at : at + 4])
    return True


def _tiff_ends_early(data: bytes) -> bool:
    """Tell whether the first directory of a TIFF, or a strip or tile in it, lies beyond the end of the file."""
    try:
        found = read_directory(data, (STRIPS, STRIP_BYTES, TILES, TILE_BYTES), cut_off=True)
    except EOFError:
        return True
    return any(
        start + size > len(data)
        for starts, sizes in ((STRIPS, STRIP_BYTES), (TILES, TILE_BYTES))
        for start, size in zip(found.get(starts, ()), found.get(sizes, ()), strict=False)
    )


def read_directory(data: bytes, tags: Collection[int], *, cut_off: bool = False) -> dict[int, tuple[int, ...]]:
    """Read whole numbers from the first directory of a TIFF structure.

    Args:
        data: The structure, classic or BigTIFF; for any other data, the result is empty.
        tags: Tags to read; if a tag is repeated, the first one counts; only the first 125,000 values are read.
        cut_off: Whether to raise EOFError, instead of leaving a value out, if any value, even one of another tag, lies
            beyond the end.
    """
    found: dict[int, tuple[int, ...]] = {}
    kinds = _WHOLE_NUMBERS | _OTHER_TYPES if cut_off else _WHOLE_NUMBERS
    order, big = _tiff_form(data)
    try:
        for tag, kind, length, start in entries(data):
            if kind not in kinds or not (cut_off or tag in tags):
                continue
            size = length * struct.calcsize(order + kinds[kind])
            if size > (8 if big else 4):
                (start,) = struct.unpack_from(order + ("Q" if big else "I"), data, start)
            if start + size > len(data):
                raise struct.error(f"tag {tag} ends at byte {start + size}, after the end of the data")
            # Values are read once for each tag, no matter how many entries point at them.
            if tag in tags and tag not in found and kind in _WHOLE_NUMBERS:
                found[tag] = struct.unpack_from(f"{order}{min(length, _MOST_VALUES)}{kinds[kind]}", data, start)
    except (struct.error, OverflowError) as exc:
        if cut_off:
            raise EOFError from exc
    return found


def entries(data: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Yield the entries of the first directory of a TIFF structure; none for any other data.

    An entry is its tag, its type, its number of values, and the offset of its last field, which holds either the values
    or their offset. Only the first 65,535 entries are read.

    Raises:
        struct.error: The directory ends early.
        OverflowError: The directory would be beyond the end.
    """
    order, big = _tiff_form(data)
    if not order:
        return
    head, entry, number = ("Q", 20, "HHQ") if big else ("H", 12, "HHI")
    content = data.ljust(16, b"\xff") if len(data) < 16 else data  # a cut-off offset then points beyond the end
    (at,) = struct.unpack_from(order + ("Q" if big else "I"), content, 8 if big else 4)
    (count,) = struct.unpack_from(order + head, content, at)
    at += struct.calcsize(head)
    for place in range(at, at + min(count, 65_535) * entry, entry):
        yield *struct.unpack_from(order + number, content, place), place + struct.calcsize(order + number)


def _tiff_form(data: bytes) -> tuple[str, bool]:
    """Return a TIFF structure's byte order for `struct`, "" for any other data, and whether it is a BigTIFF."""
    order = {b"II": "<", b"MM": ">"}.get(data[:2], "")
    return order, data[2:4] == struct.pack(f"{order}H", 43)


def _boxes_end(data: bytes) -> int:
    """Return the end of an ISO file according to its top-level boxes."""
    end = 0
    while end + 8 <= len(data):
        size = int.from_bytes(data[end : end + 4])
        if size < 8 or not data[end + 4 : end + 8].isalnum():  # open-ended, of 64-bit size, or no box
            return len(data)
        end += size
    return end + 8 if end < len(data) else end  # the header of the next box is cut off
