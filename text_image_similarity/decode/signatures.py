"""Recognise unsupported content by its first bytes: an image in another format, or not an image.

Image formats, documents that contain images, and videos are `unsupported_format`; everything else is `not_an_image`.
Formats without a signature (TGA, PCX) are recognised by headers in which every field is plausible.
"""

from __future__ import annotations

import re
import struct
import zlib

from ..errors import ErrorCode, RowError

_HEAD = 16_384  # bytes that are examined
_CONVERT, _RENDER, _FRAME = "convert it to JPEG or PNG", "render it to PNG", "take a frame from it"
# First bytes of common image formats that are not supported.
_IMAGES = (
    (b"8BPS", "PSD"),
    (b"\x00\x00\x01\x00", "ICO"),
    (b"icns", "ICNS"),
    (b"\x00\x00\x00\x0cjP  ", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\x00\x00\x00\x0cJXL ", "JPEG XL"),
    (b"II\xbc", "JPEG XR"),
    (b"\xff\x10\xff\x50", "JPEG XS"),
    (b"MM\x00+", "big-endian BigTIFF"),
    (b"DDS ", "DDS"),
    (b"\xabKTX ", "KTX"),
    (b"\x13\xab\xa1\x5c", "ASTC"),
    (b"PVR\x03", "PVR"),
    (b"\x01\xda\x00\x01", "SGI"),
    (b"\x01\xda\x01\x01", "SGI"),
    (b"\x01\xda\x00\x02", "SGI"),
    (b"\x01\xda\x01\x02", "SGI"),
    (b"\x59\xa6\x6a\x95", "Sun raster"),
    (b"\xb1\x68\xde\x3a", "DCX"),
    (b"qoif", "QOI"),
    (b"\x76\x2f\x31\x01", "OpenEXR"),
    (b"#?RADIANCE", "Radiance HDR"),
    (b"#?RGBE", "Radiance HDR"),
    (b"farbfeld", "farbfeld"),
    (b"FLIF", "FLIF"),
    (b"BPG\xfb", "BPG"),
    (b"\x8aMNG\r\n\x1a\n", "MNG"),
    (b"\x8bJNG\r\n\x1a\n", "JNG"),
    (b"gimp xcf", "XCF"),
    (b"AT&TFORM", "DjVu"),
    (b"SIMPLE  =", "FITS"),
    (b"/* XPM */", "XPM"),
    (b"! XPM2", "XPM"),
    (b"Image type: ", "IM"),
    (b"BLP1", "BLP"),
    (b"BLP2", "BLP"),
    (b"DanM", "MSP"),
    (b"LinS", "MSP"),
    (b"\xd7\xcd\xc6\x9a", "WMF"),
    (b"\x01\x00\x09\x00\x00\x03", "WMF"),
    (b"FWS", "Flash"),
    (b"CWS", "Flash"),
    (b"IIRO", "ORF, a camera's raw format,"),
    (b"IIRS", "ORF, a camera's raw format,"),
    (b"IIU\x00", "RW2, a camera's raw format,"),
    (b"FUJIFILMCCD-RAW", "RAF, a camera's raw format,"),
    (b"FOVb", "X3F, a camera's raw format,"),
)
_DOCUMENTS = ((b"%PDF", "PDF"), (b"%!PS", "PostScript"), (b"\x04%!PS", "PostScript"), (b"\xc5\xd0\xd3\xc6", "EPS"))
_VIDEOS = (
    (b"\x1a\x45\xdf\xa3", "WebM or Matroska"),
    (b"FLV\x01", "FLV"),
    (b"OggS", "Ogg"),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "WMV"),
    (b"\x00\x00\x01\xba", "MPEG"),
    (b"\x00\x00\x01\xb3", "MPEG"),
)
_OTHERS = (
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "compressed with gzip"),
    (b"BZh", "compressed with bzip2"),
    (b"\xfd7zXZ\x00", "compressed with xz"),
    (b"\x28\xb5\x2f\xfd", "compressed with Zstandard"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!", "a RAR archive"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"PAR1", "a Parquet file"),
    (b"\x89HDF\r\n", "an HDF5 file"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an Office document"),
    (b"ID3", "an MP3 file"),
    (b"fLaC", "a FLAC file"),
    (b"version https://git-lfs.github.com/spec/", "a Git LFS pointer; fetch the file itself with git lfs pull"),
)
_DIB_DEPTHS = tuple(bytes((bits, 0)) for bits in (1, 4, 8, 16, 24, 32))
_IMAGE_BRANDS = {
    b"jp2 ": "JPEG 2000",
    b"jpx ": "JPEG 2000",
    b"jpm ": "JPEG 2000",
    b"jxl ": "JPEG XL",
    b"crx ": "CR3, a camera's raw format,",
}
_AUDIO_BRANDS = (b"M4A ", b"M4B ", b"M4P ")
_NETPBM = re.compile(
    rb"P([1-6])(?:\s|#[^\n]*\n)+\d+(?:\s|#[^\n]*\n)+\d|P(7)\s(?:332\s|[^\0]*?WIDTH)|P([fF])\s+\d+\s+\d+\s+-?\d"
)
_NETPBM_NAMES = {b"1": "PBM", b"2": "PGM", b"3": "PPM", b"4": "PBM", b"5": "PGM", b"6": "PPM", b"7": "PAM"}
_XBM = re.compile(rb"(?:/\*.*?\*/\s*)?#define\s+\w*_?width\s+\d", re.DOTALL)
_SVG = re.compile(rb"<(?:\w+:)?svg[\s>/]")
_PAGE_TAGS = (b"<!doctype html", b"<html", b"<head", b"<body", b"<div")


def unread_content(data: bytes) -> RowError:
    """Return the error for content that is not in a supported format."""
    for find in (_by_signature, _by_text, _by_header):
        if error := find(data):
            return error
    # The text is not quoted: it may come from a local file or a private host, and the error is sent to the requester.
    start = data[:40].decode("ascii", "replace")
    return _not_an_image("is text" if start.replace("\n", " ").isprintable() else "is not an image")


def _by_signature(data: bytes) -> RowError | None:
    for known, form, cure in ((_IMAGES, "{}", _CONVERT), (_DOCUMENTS, "{}", _CONVERT), (_VIDEOS, "{} video", _FRAME)):
        for magic, name in known:
            if data.startswith(magic):
                return _unsupported(form.format(name), cure)
    if data.startswith(b"\x1f\x8b") and _is_svg(_unzipped_head(data)):
        return _unsupported("SVG", _RENDER)
    return next((_not_an_image(f"is {said}") for magic, said in _OTHERS if data.startswith(magic)), None)


def _by_text(data: bytes) -> RowError | None:
    text = _text_head(data)
    if _is_svg(text):
        return _unsupported("SVG", _RENDER)
    if any(tag in text for tag in _PAGE_TAGS):
        return _not_an_image("is an HTML page")
    return _unsupported("PDF", _CONVERT) if b"%pdf-" in text[:1024] else None


def _by_header(data: bytes) -> RowError | None:
    if name := _video_by_header(data):
        return _unsupported(name, _FRAME)
    if data[257:262] == b"ustar" or data[8:12] == b"WAVE":
        return _not_an_image("is a tar archive" if data[257:262] == b"ustar" else "is a WAV file")
    return _unsupported(name, _CONVERT) if (name := _image_by_header(data)) else None


def unread_iso_media(brand: bytes) -> RowError:
    """Return the error for an ISO 14496-12 file that is not a supported image: video, audio or a raw image."""
    shown = brand.decode("ascii", "replace").strip()
    if brand in _AUDIO_BRANDS:
        return _not_an_image(f"is an audio file (brand {shown!r})")
    if brand in _IMAGE_BRANDS:
        return _unsupported(_IMAGE_BRANDS[brand], _CONVERT)
    name = "QuickTime video" if brand == b"qt  " else "MP4 video"
    return _unsupported(f"{name} (brand {shown!r})", _FRAME)


def _unsupported(name: str, cure: str) -> RowError:
    return RowError(ErrorCode.UNSUPPORTED_FORMAT, f"{name} is not supported; {cure}")


def _not_an_image(said: str) -> RowError:
    return RowError(ErrorCode.NOT_AN_IMAGE, f"the content {said}")


def _text_head(data: bytes) -> bytes:
    """Return the beginning of a text in lower case; for UTF-16, without the zero bytes."""
    head = data[:_HEAD]
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        head = head[2:].replace(b"\0", b"")
    return head.removeprefix(b"\xef\xbb\xbf").lstrip(b" \t\r\n").lower()


def _is_svg(text: bytes) -> bool:
    """Tell whether the first element of an XML document is `svg`."""
    while text.startswith((b"<?", b"<!--", b"<!doctype svg")):
        inside = text.startswith(b"<!d") and b"[" in text[: text.find(b">")]  # internal declarations
        end = b"?>" if text.startswith(b"<?") else b"-->" if text.startswith(b"<!-") else b"]>" if inside else b">"
        text = text.partition(end)[2].lstrip()
    return _SVG.match(text) is not None


def _unzipped_head(data: bytes) -> bytes:
    try:
        return zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(data[:_HEAD], _HEAD).lower()
    except zlib.error:
        return b""


def _video_by_header(data: bytes) -> str:
    if data[:4] == b"RIFF" and data[8:12] == b"AVI ":
        return "AVI video"
    if data[4:8] in (b"moov", b"mdat", b"wide", b"skip", b"free") and data[:1] == b"\0":
        return "QuickTime video"
    return "MPEG transport stream" if len(data) > 376 and data[0] == data[188] == data[376] == 0x47 else ""


def _image_by_header(data: bytes) -> str:
    """Return the name of an image format with no signature at the start, as recognised by its header; "" for others."""
    if found := _NETPBM.match(data[:_HEAD]):
        kind = found[1] or found[2]
        return _NETPBM_NAMES[kind] if kind else "PFM"
    marks = {
        "XBM": _XBM.match(data[:_HEAD]),
        "ILBM": data[:4] == b"FORM" and data[8:12] in (b"ILBM", b"PBM "),
        "FLI or FLC": data[4:6] in (b"\x11\xaf", b"\x12\xaf") and data[12:14] == b"\x08\0",
        "EMF": data[:4] == b"\1\0\0\0" and data[40:44] == b" EMF",
        "CUR": data[:4] == b"\0\0\2\0" and data[4:6] != b"\0\0",
        "DIB, a BMP without its file header,": data[:4] == b"\x28\0\0\0" and data[14:16] in _DIB_DEPTHS,
        "OS/2 bitmap array": data[:2] == b"BA" and data[14:16] == b"BM",
        "DICOM": data[128:132] == b"DICM",
        "PCX": _is_pcx(data),
        "TGA": _is_tga(data),
    }
    return next((name for name, found in marks.items() if found), "")


def _is_pcx(data: bytes) -> bool:
    if (
        len(data) < 128
        or data[0] != 10
        or data[1] not in (0, 2, 3, 4, 5)
        or data[2] != 1
        or data[3] not in (1, 2, 4, 8)
    ):
        return False
    left, top, right, bottom = struct.unpack_from("<4H", data, 4)
    return left <= right and top <= bottom and data[64] == 0


def _is_tga(data: bytes) -> bool:
    """Tell whether a file is a TGA, by its footer or by a header that is plausible throughout."""
    if data[-18:] == b"TRUEVISION-XFILE.\0":
        return True
    if len(data) < 18:
        return False
    named, mapped, kind, first, colours, entry, left, _, width, height, depth, flags = struct.unpack_from(
        "<BBBHHBHHHHBB", data
    )
    if kind not in (1, 2, 3, 9, 10, 11) or mapped not in (0, 1) or (kind in (1, 9)) > mapped:
        return False
    if (mapped == 0 and (first, colours, entry) != (0, 0, 0)) or (mapped and entry not in (15, 16, 24, 32)):
        return False
    depths = (8,) if kind in (1, 9) else (8, 16) if kind in (3, 11) else (15, 16, 24, 32)
    body = width * height * ((depth + 7) // 8) if kind < 8 else 1
    whole = 18 + named + (colours * ((entry + 7) // 8) if mapped else 0) + body
    return depth in depths and flags < 64 and left == 0 < width * height and len(data) >= min(whole, 1 << 16)
