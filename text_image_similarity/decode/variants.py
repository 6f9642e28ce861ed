"""Variants of supported formats that Pillow cannot read, distinguished from damaged files by their headers.

This module is used after a complete file could not be decoded. A valid header names a variant from the format's
specification; any other header means that the file is damaged.
"""

from __future__ import annotations

import struct

from PIL.TiffImagePlugin import COMPRESSION_INFO

from ..errors import ErrorCode, RowError
from .formats import BITS, COMPRESSION, PHOTOMETRIC, SAMPLE_FORMAT, SAMPLES, read_directory

# TIFF compressions that Pillow does not support, or that its libtiff may be built without.
_TIFF_COMPRESSIONS = {
    2: "CCITT run lengths", 6: "JPEG as in TIFF 6.0", 9: "JBIG", 10: "JBIG", 262: "Kodak's", 32766: "NeXT's",
    32767: "Sony's", 32769: "packed raw", 32770: "Samsung's", 32809: "ThunderScan", 32867: "Kodak's", 33003: "JPEG 2000",
    33004: "JPEG 2000", 33005: "JPEG 2000", 34661: "JBIG", 34676: "LogLuv", 34677: "LogLuv", 34712: "JPEG 2000",
    34713: "Nikon's", 34718: "Microsoft's", 34719: "Microsoft's", 34720: "Microsoft's", 34887: "LERC", 34892: "lossy JPEG",
    34933: "PNG", 34934: "JPEG XR", 22610: "JPEG XR", 50001: "WebP", 50002: "JPEG XL", 50013: "Pixtiff", 52546: "JPEG XL",
    65000: "Kodak's", 65535: "Pentax's",
}  # fmt: skip
_TIFF_COLOURS = {
    0: "grey", 1: "grey", 2: "RGB", 3: "palette", 4: "mask", 5: "CMYK", 6: "YCbCr", 8: "CIELAB", 9: "ICCLAB",
    10: "ITULAB", 32803: "raw sensor", 32844: "LogL", 32845: "LogLuv", 34892: "linear raw", 51177: "depth",
}  # fmt: skip
_TIFF_NUMBERS = {1: "unsigned", 2: "signed", 3: "float", 4: "undefined", 5: "complex", 6: "complex float"}
_UNKNOWN_LAYOUT = ("unknown pixel mode", "unknown data organization", "unknown raw mode", "Invalid value for samples")
_JPEG_PROCESSES = {0xC3: "lossless", 0xC5: "hierarchical", 0xC6: "hierarchical", 0xC7: "hierarchical", 0xC9: "arithmetic",
                   0xCA: "arithmetic", 0xCB: "arithmetic", 0xCD: "hierarchical", 0xCE: "hierarchical", 0xCF: "hierarchical",
                   0xF7: "JPEG-LS"}  # fmt: skip
_JPEG_FRAMES = frozenset({*range(0xC0, 0xD0), 0xF7}) - {0xC4, 0xC8, 0xCC}
_BMP_COMPRESSIONS = {0: "no", 1: "RLE8", 2: "RLE4", 3: "bit fields", 4: "JPEG", 5: "PNG", 6: "bit fields", 11: "CMYK",
                     12: "CMYK RLE8", 13: "CMYK RLE4"}  # fmt: skip


def unread_variant(name: str, data: bytes, said: str) -> RowError | None:
    """Return the error for a variant that Pillow cannot read; None if the file is damaged.

    Args:
        name: Format of the file.
        data: The complete file.
        said: Pillow's message.
    """
    variant = _variant_of(name, data, said)
    return variant_error(name, variant) if variant else None


def variant_error(name: str, variant: str) -> RowError:
    """Return the error for an intact file in a variant of its format that is not supported."""
    return RowError(
        ErrorCode.UNSUPPORTED_FORMAT, f"this variant of {name} is not supported ({variant}); convert it to JPEG or PNG"
    )


def _variant_of(name: str, data: bytes, said: str) -> str:
    match name:
        case "TIFF":
            return _tiff_variant(data, said)
        case "JPEG":
            return _jpeg_variant(data)
        case "PNG" if data[12:16] == b"CgBI":
            return "Apple's CgBI variant"
        case "BMP" if said.startswith("Unsupported BMP"):
            return _bmp_variant(data)
    return ""


def _tiff_variant(data: bytes, said: str) -> str:
    try:
        found = read_directory(data, (COMPRESSION, PHOTOMETRIC, BITS, SAMPLE_FORMAT, SAMPLES), cut_off=True)
    except EOFError:
        return ""
    tags = {tag: values for tag, values in found.items() if values}  # a tag may have no values
    compression = tags.get(COMPRESSION, (1,))[0]
    if compression in _TIFF_COMPRESSIONS and (compression not in COMPRESSION_INFO or said.startswith("decoder error")):
        return f"{_TIFF_COMPRESSIONS[compression]} compression"
    if not said.startswith(_UNKNOWN_LAYOUT) or compression not in COMPRESSION_INFO:
        return ""
    colours = _TIFF_COLOURS.get(tags.get(PHOTOMETRIC, (-1,))[0])
    kinds = {_TIFF_NUMBERS.get(kind) for kind in tags.get(SAMPLE_FORMAT, (1,))}
    bits, samples = set(tags.get(BITS, (1,))), tags.get(SAMPLES, (1,))[0]
    if colours is None or None in kinds or not all(0 < each <= 128 for each in bits) or not 0 < samples <= 65_535:
        return ""
    spelled = "/".join(str(each) for each in sorted(bits))
    return f"{samples} {'/'.join(sorted(map(str, kinds)))} {spelled}-bit samples per pixel ({colours})"


def _jpeg_variant(data: bytes) -> str:
    """Describe a JPEG by its frame header: marker, precision and number of components (ITU-T T.81, B.2.2)."""
    at = 2
    while 0 <= (at := data.find(b"\xff", at)) <= len(data) - 10:
        marker = data[at + 1]
        if marker == 0xDA:
            return ""
        if marker in _JPEG_FRAMES:
            length, bits, height, width, count = struct.unpack_from(">HBHHB", data, at + 2)
            if length != 8 + 3 * count or not 2 <= bits <= 16 or not count or not width:
                return ""
            if marker in _JPEG_PROCESSES:
                return f"{_JPEG_PROCESSES[marker]} coding"
            if bits == 12:
                return "12 bits per sample"
            if height == 0:
                return "its height is in a DNL segment"
            return f"{count} components" if bits == 8 and count not in (1, 3, 4) else ""
        alone = marker in (0x00, 0x01, 0xFF) or 0xD0 <= marker <= 0xD9
        at += 1 if marker == 0xFF else 2 if alone else 2 + int.from_bytes(data[at + 2 : at + 4])
    return ""


def _bmp_variant(data: bytes) -> str:
    bits, compression = struct.unpack_from("<HI", data[: 14 + data[14]].ljust(64, b"\0"), 28)  # short headers lack both
    if compression not in _BMP_COMPRESSIONS or bits not in (0, 1, 2, 4, 8, 16, 24, 32, 64):
        return ""
    return f"{bits} bits per pixel, {_BMP_COMPRESSIONS[compression]} compression"
