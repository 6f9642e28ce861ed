"""Whole files that are not read are named for what they are; damaged ones stay damaged; a PNG's side notes cost nothing."""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Callable, Iterator
from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageFile, UnidentifiedImageError

from tests.support.corpus import bmp, chunk, png, ramp, raw_tiff, tiff
from tests.support.images import gradient, saved
from text_image_similarity import Limits, RowError
from text_image_similarity.decode import decode
from text_image_similarity.decode.isolation import IsolatedDecoder

LIMITS = Limits()
ROWS = [row.tobytes() for row in ramp()]
SIZE = ramp().shape[1::-1]


def failure(data: bytes) -> RowError:
    with pytest.raises(RowError) as caught:
        decode(data, LIMITS)
    return caught.value


def written(kind: str, mode: str = "RGB", **options: object) -> bytes:
    return saved(gradient().convert(mode), kind, **options)


# Other formats

TGA = written("TGA")
ISO = b"\0\0\0\x18ftyp"
OTHERS = {
    "PPM": written("PPM"), "PGM": written("PPM", "L"), "PBM": written("PPM", "1"),
    "PPM, plain": b"P3\n# by hand\n2 1\n255\n1 2 3 4 5 6\n", "PBM, a line of notes": b"P1\n#x\n#y\n2 2\n0 1 1 0",
    "PAM": b"P7\nWIDTH 1\nHEIGHT 1\nDEPTH 1\nMAXVAL 255\nENDHDR\n\0", "PFM": b"Pf\n2 2\n-1.0\n" + bytes(16),
    "TGA": TGA, "TGA, old": TGA.replace(b"TRUEVISION-XFILE.\0", b""), "TGA, grey": written("TGA", "L")[:-26],
    "TGA, palette": written("TGA", "P")[:-26], "TGA, run lengths": written("TGA", compression="tga_rle")[:-26],
    "PCX": written("PCX"), "SGI": written("SGI"), "ICO": written("ICO"), "ICNS": written("ICNS"), "CUR": b"\0\0\2\0\1\0" + bytes(60),
    "DDS": written("DDS"), "QOI": written("QOI"), "MSP": written("MSP", "1"), "XBM": written("XBM", "1"), "IM": b"Image type: RGB image\r\n" + bytes(60),
    "BLP": written("BLP", "P"), "DIB": written("DIB"), "XPM": b"/* XPM */\nstatic char *a[] = {};",
    "JPEG 2000": written("JPEG2000"), "JPEG 2000, a codestream": written("JPEG2000", no_jp2=True),
    "JPEG XL": b"\xff\x0a" + bytes(60), "JPEG XL, boxes": b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(60), "JPEG XR": b"II\xbc\1" + bytes(60),
    "PSD": b"8BPS\0\1" + bytes(60), "PSD, large": b"8BPS\0\2" + bytes(60), "OpenEXR": b"\x76\x2f\x31\1" + bytes(60),
    "Radiance HDR": b"#?RADIANCE\n" + bytes(60), "DCX": b"\xb1\x68\xde\x3a" + bytes(60), "Sun raster": b"\x59\xa6\x6a\x95" + bytes(60),
    "DjVu": b"AT&TFORM" + bytes(60), "FITS": b"SIMPLE  =" + b" " * 60, "MNG": b"\x8aMNG\r\n\x1a\n" + bytes(60),
    "DICOM": bytes(128) + b"DICM" + bytes(60), "EMF": b"\1\0\0\0" + bytes(36) + b" EMF" + bytes(60), "ILBM": b"FORM\0\0\0\x60ILBM" + bytes(60),
    "SVG": b"<?xml version='1.0'?><!DOCTYPE svg [" + b"<!ENTITY a 'b'>" * 90 + b"]><svg>", "SVG, a namespace": b"<svg:svg xmlns:svg=''/>",
    "SVG, compressed": gzip.compress(b"<svg xmlns='http://www.w3.org/2000/svg'/>"), "SVG, UTF-16": "<svg/>".encode("utf-16"),
    "SVG, a page inside": b"<svg><foreignObject><div/></foreignObject></svg>", "SVG, after notes": b"<!-- " + b"x" * 9000 + b" -->\n<svg/>",
    "JPEG 2000, no first box": ISO + b"jp2 \0\0\0\0" + bytes(60), "WMF": b"\1\0\x09\0\0\3" + bytes(60),
    "PDF": written("PDF"), "PDF, behind junk": b"\n\n junk\n" + written("PDF"), "PostScript": written("EPS"),
    "EPS": b"\xc5\xd0\xd3\xc6" + bytes(60), "big-endian BigTIFF": b"MM\0+" + bytes(60),
    "MP4 video": ISO + b"mp42\0\0\0\0" + bytes(60), "QuickTime video": ISO + b"qt  \0\0\0\0" + bytes(60),
    "QuickTime video, old": b"\0\0\0\x18mdat" + bytes(60), "AVI video": b"RIFF\x60\0\0\0AVI LIST" + bytes(60),
    "WebM or Matroska video": b"\x1a\x45\xdf\xa3" + bytes(60), "FLV video": b"FLV\1\5" + bytes(60), "MPEG video": b"\0\0\1\xba" + bytes(60),
    "MPEG transport stream": (b"\x47" + bytes(187)) * 3, "CR3": ISO + b"crx \0\0\0\1" + bytes(60), "ORF": b"IIRO\x08\0\0\0" + bytes(60),
    "HEIF needs the plug-in": ISO + b"heic\0\0\0\0mif1heic" + bytes(60),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_an_image_in_another_format_is_named(name: str) -> None:
    error = failure(OTHERS[name])
    assert error.code == "unsupported_format"
    assert error.detail.startswith(name.partition(",")[0])


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"P1 is a letter and a digit", "is text"),
        (b"P6 and 7 8", "is text"),
        (b"\0\0\2\0" + bytes(100), "is not an image"),  # a header of TGA without a size
        (b"\n\5\1\x08" + b"\xff" * 100, "is not an image"),  # PCX, with its left side at the right
        (b"\0\1\0\0\0\x0e" + bytes(200), "is not an image"),  # a font
        (b"PK\3\4" + bytes(60), "is a ZIP archive"),
        (gzip.compress(b"{}", mtime=0), "is compressed with gzip"),
        (b"\x93NUMPY\1\0" + bytes(60), "is a NumPy array"),
        (b"PAR1" + bytes(60), "is a Parquet file"),
        (b"a.jpg" + bytes(252) + b"ustar", "is a tar archive"),
        (b"RIFF\0\0\0\0WAVEfmt ", "is a WAV file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "is a Git LFS pointer"),
        (ISO + b"M4A \0\0\0\0" + bytes(60), "is an audio file"),
        (b"<html><body><svg></svg></body></html>", "is an HTML page"),
        (b"it says <svg", "is text"),
    ],
)
def test_what_is_no_image_says_so(data: bytes, said: str) -> None:
    error = failure(data)
    assert error.code == "not_an_image"
    assert error.detail.startswith(f"the content {said}")


# Variants


def deep(kind: str, photometric: int = 1, **more: tuple[int, ...]) -> bytes:
    shape = ramp() if photometric in (2, 8) else ramp()[..., 0]
    return raw_tiff(shape.astype(kind), photometric, order="<", **more)


def packed(compression: int) -> bytes:
    body = b"not what this compression would make of it"
    tags = {
        256: (4,),
        257: (4,),
        258: (8,),
        259: (compression,),
        262: (1,),
        273: (0,),
        277: (1,),
        278: (4,),
        279: (len(body),),
    }
    return tiff(tags | {273: (len(tiff(tags, b"")),)}, body)


def planes(values: np.ndarray, photometric: int, **more: tuple[int, ...]) -> bytes:
    """Spell out a TIFF of values (h, w, colours) with a strip for each colour."""
    height, width, colours = values.shape
    plane = height * width * values.dtype.itemsize
    tags = {256: (width,), 257: (height,), 258: (8 * values.dtype.itemsize,) * colours, 259: (1,), 262: (photometric,), 273: (0,) * colours,
            277: (colours,), 278: (height,), 279: (plane,) * colours, 284: (2,)}  # fmt: skip
    tags |= {int(name[1:]): value for name, value in more.items()}
    start = len(tiff(tags, b""))
    tags[273] = tuple(start + i * plane for i in range(colours))
    return tiff(tags, np.moveaxis(values, -1, 0).tobytes())


def frame(marker: int, bits: int = 8, count: int = 3, height: int = 4) -> bytes:
    """Spell out a JPEG with a frame header and the end of an image."""
    header = struct.pack(">BHHB", bits, height, 4, count) + b"".join(bytes((i, 0x11, 0)) for i in range(count))
    scan = b"\xff\xda" + struct.pack(">HB", 6 + 2 * count, count) + bytes(2 * count + 3)
    return (
        b"\xff\xd8\xff" + bytes((marker,)) + struct.pack(">H", 2 + len(header)) + header + scan + bytes(9) + b"\xff\xd9"
    )


def apple(data: bytes) -> bytes:
    """Make a PNG that of Apple's tools, whose pixels are deflated without a header and in another order."""
    at = data.index(b"IDAT") - 4
    length = int.from_bytes(data[at : at + 4])
    body = data[at + 10 : at + 8 + length - 4]
    return data[:8] + chunk(b"CgBI", b"P\0\x20\2") + data[8:at] + chunk(b"IDAT", body) + data[at + 12 + length :]


VARIANTS: dict[str, tuple[bytes, str]] = {
    "tiff float16": (deep("<f2", t339=(3,)), "float 16-bit"),
    "tiff float64": (deep("<f8", t339=(3,)), "float 64-bit"),
    "tiff uint64": (deep("<u8"), "unsigned 64-bit"),
    "tiff float rgb": (deep("<f4", 2, t339=(3, 3, 3)), "float 32-bit samples per pixel (RGB)"),
    "tiff uint32 rgb": (deep("<u4", 2), "unsigned 32-bit samples per pixel (RGB)"),
    "tiff complex": (deep("<c8", t339=(6,)), "complex float 64-bit"),
    "tiff lab16": (deep("<u2", 8), "CIELAB"),
    "tiff sensor": (deep("<u2", 32803), "raw sensor"),
    "tiff five bands": (raw_tiff(np.dstack([ramp(), ramp()[..., :2]]), 1), "5 unsigned 8-bit"),
    "tiff white is zero": (deep("<u2", 0), "white as zero"),
    "tiff planes": (planes(ramp().astype("<u2"), 2), "separate planes"),
    "tiff grey and alpha planes": (planes(ramp()[..., :2], 1, t338=(2,)), "separate planes"),
    "tiff jpeg 2000": (packed(34712), "JPEG 2000 compression"),
    "tiff jpeg xl": (packed(50002), "JPEG XL compression"),
    "tiff lerc": (packed(34887), "LERC compression"),
    "tiff nef": (packed(34713), "Nikon's compression"),
    "jpeg 12 bits": (frame(0xC1, bits=12), "12 bits per sample"),
    "jpeg two components": (frame(0xC0, count=2), "2 components"),
    "jpeg hierarchical": (frame(0xC5), "hierarchical coding"),
    "jpeg-ls": (frame(0xF7), "JPEG-LS coding"),
    "jpeg dnl": (frame(0xC0, height=0), "DNL"),
    "png apple": (apple(written("PNG")), "Apple's CgBI"),
    "bmp jpeg": (bmp((4, 4), 0, 4, saved(gradient(), "JPEG")), "JPEG compression"),
    "bmp png": (bmp((4, 4), 0, 5, saved(gradient(), "PNG")), "PNG compression"),
    "bmp os/2": (b"BM" + struct.pack("<IHHIIIIHH", 78, 0, 0, 30, 16, 4, 4, 1, 24) + bytes(48), "24 bits per pixel"),
    "bmp 2 bits": (bmp((4, 4), 2, 0, bytes(16), bytes(16)), "2 bits per pixel"),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_a_whole_file_of_a_variant_that_is_not_read_is_not_corrupt(name: str) -> None:
    data, said = VARIANTS[name]
    error = failure(data)
    assert error.code == "unsupported_format"
    assert error.detail.startswith("this variant of ")
    assert said in error.detail
    assert error.detail.endswith("convert it to JPEG or PNG")


@pytest.mark.parametrize("name", [name for name in VARIANTS if name.startswith("tiff")])
def test_one_that_ends_early_is_truncated(name: str) -> None:
    assert failure(VARIANTS[name][0][:-20]).code == "truncated"


@pytest.mark.parametrize("tag", [258, 259, 262, 277, 339])
def test_a_tiff_whose_tag_has_no_values_gets_a_code(tag: int) -> None:
    data = bytearray(written("TIFF"))
    (directory,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, directory)
    for at in range(directory + 2, directory + 2 + 12 * count, 12):
        number, kind, _, value = struct.unpack_from("<HHII", data, at)
        if number == tag:
            struct.pack_into("<HHII", data, at, number, kind, 0, value)
        elif number == 273:  # where the image is: without it Pillow refuses the file, and its tags are looked at
            struct.pack_into("<H", data, at, 65_000)
    assert failure(bytes(data)).code in {"corrupt", "unsupported_format", "truncated", "not_an_image"}


def damaged(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + b"\xff" * 40 + data[middle + 40 :]


@pytest.mark.parametrize(
    "data",
    [
        deep("<f2", t339=(77,)),  # a kind of number that there is not
        deep("<u8", 777),
        packed(12345),
        frame(0xC0, bits=77),
        frame(0xC0, count=2).replace(b"\x00\x0e\x08", b"\x00\x0b\x08"),
        bmp((4, 4), 7, 0, bytes(64)),
        damaged(saved(gradient(), "TIFF", compression="tiff_adobe_deflate")),
        damaged(saved(Image.effect_noise((64, 64), 90), "JPEG")),
        damaged(saved(Image.effect_noise((64, 64), 90), "WEBP", lossless=True)),
    ],
)
def test_a_header_that_makes_no_sense_is_damage(data: bytes) -> None:
    assert failure(data).code == "corrupt"


@pytest.mark.slow
def test_a_worker_names_them_too() -> None:
    decoder = IsolatedDecoder(LIMITS, workers=1)
    try:
        for data in (OTHERS["TGA"], VARIANTS["tiff lerc"][0]):
            with pytest.raises(RowError) as caught:
                decoder.decode(data)
            assert str(caught.value) == str(failure(data))
    finally:
        decoder.close()


# Chunks of a PNG that the pixels do not need


def spoilt(kind: bytes, body: bytes) -> bytes:
    whole = chunk(kind, body)
    return whole[:-4] + bytes(byte ^ 0xFF for byte in whole[-4:])


CHUNKS = {
    b"gAMA": struct.pack(">I", 45455), b"cHRM": bytes(32), b"sRGB": b"\0", b"pHYs": struct.pack(">IIB", 1, 1, 1), b"tIME": bytes(7),
    b"bKGD": bytes(6), b"tEXt": b"a\0b", b"zTXt": b"a\0\0" + zlib.compress(b"b"), b"iTXt": b"a\0\0\0\0\0b", b"iCCP": b"p\0\0" + zlib.compress(b"x"),
    b"eXIf": b"MM\0*", b"sBIT": bytes(3), b"prVt": b"private", b"acTL": bytes(8), b"fcTL": bytes(26), b"tRNS": bytes(6),
}  # fmt: skip


def pixels(*before: bytes, behind: bytes = b"") -> np.ndarray:
    data = png(SIZE, 8, 2, ROWS, *before)
    return np.asarray(decode(data[:-12] + behind + data[-12:], LIMITS))


@pytest.mark.parametrize("kind", CHUNKS)
@pytest.mark.parametrize("where", ["before", "behind"])
def test_a_bad_checksum_of_an_ancillary_chunk_costs_nothing(kind: bytes, where: str) -> None:
    chunks = spoilt(kind, CHUNKS[kind])
    found = pixels(chunks) if where == "before" else pixels(behind=chunks)
    np.testing.assert_array_equal(found, ramp())


@pytest.mark.parametrize("kind", CHUNKS)
def test_an_ancillary_chunk_that_is_too_short_costs_nothing(kind: bytes) -> None:
    np.testing.assert_array_equal(pixels(chunk(kind, CHUNKS[kind][:-1][:1]), behind=chunk(kind, b"")), ramp())


def test_a_chunk_with_a_bad_checksum_is_not_believed() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned, body = pixels(chunk(b"eXIf", exif.tobytes()[6:])), exif.tobytes()[6:]
    assert turned.shape != ramp().shape
    np.testing.assert_array_equal(pixels(spoilt(b"eXIf", body)), ramp())


def test_critical_chunks_still_need_their_checksums() -> None:
    data = png(SIZE, 8, 2, ROWS)
    assert failure(data[:29] + b"\0\0\0\0" + data[33:]).code == "corrupt"
    assert failure(png((4, 4), 8, 3, [bytes(4)] * 4, spoilt(b"PLTE", bytes(9)))).code == "corrupt"


def test_an_animation_with_a_bad_checksum_is_its_first_frame() -> None:
    frames = [Image.fromarray(ramp()), Image.new("RGB", SIZE)]
    data = saved(frames[0], "PNG", save_all=True, append_images=frames[1:])
    for kind in (b"acTL", b"fcTL"):
        at = data.index(kind)
        length = int.from_bytes(data[at - 4 : at])
        bad = data[: at + 4 + length] + b"\0\0\0\0" + data[at + 8 + length :]
        np.testing.assert_array_equal(np.asarray(decode(bad, LIMITS)), ramp())


@pytest.fixture
def pillows_switch() -> Iterator[Callable[[], bool]]:
    earlier = ImageFile.LOAD_TRUNCATED_IMAGES
    yield lambda: ImageFile.LOAD_TRUNCATED_IMAGES
    assert earlier == ImageFile.LOAD_TRUNCATED_IMAGES


def test_pillow_itself_stays_as_strict_as_it_was(pillows_switch: Callable[[], bool]) -> None:
    data = png(SIZE, 8, 2, ROWS, spoilt(b"tIME", bytes(7)))
    decode(data, LIMITS)
    assert not pillows_switch()
    with pytest.raises(UnidentifiedImageError):
        Image.open(BytesIO(data))
