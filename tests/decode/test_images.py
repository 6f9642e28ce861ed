"""Every format people send becomes upright RGB; every damaged file becomes a code."""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from tests.support.images import SAMPLES, gradient, saved
from tests.support.paths import ROOT
from text_image_similarity import ErrorCode, Limits, RowError
from text_image_similarity.decode import decode, decode_image, to_rgb

LIMITS = Limits()
CHALLENGE = ROOT / "challenge_set"


def code_of(data: bytes, limits: Limits = LIMITS) -> ErrorCode:
    with pytest.raises(RowError) as caught:
        decode(data, limits)
    return caught.value.code


def png_header(width: int, height: int) -> bytes:
    """Spell out a PNG that claims a size and holds almost nothing."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {"quality": 95}),
        ("JPEG", {"quality": 95, "progressive": True}),
        ("PNG", {}),
        ("WEBP", {"lossless": True}),
        ("WEBP", {"quality": 95}),
        ("GIF", {}),
        ("BMP", {}),
        ("TIFF", {}),
        ("AVIF", {"quality": 95}),
    ],
)
def test_formats(kind: str, options: dict[str, object]) -> None:
    image = decode(saved(gradient(), kind, **options), LIMITS)
    assert image.mode == "RGB"
    assert image.size == (40, 24)
    assert np.abs(np.asarray(image).astype(int) - np.asarray(gradient())).mean() < 6


def test_the_name_does_not_matter_but_the_content() -> None:
    assert decode(saved(gradient(), "PNG"), LIMITS).getpixel((0, 0)) == (255, 0, 0)


def test_transparency_is_matted_on_white() -> None:
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    half = Image.new("RGBA", (4, 4), (255, 0, 0, 128))
    assert decode(saved(clear, "PNG"), LIMITS).getpixel((0, 0)) == (255, 255, 255)
    assert decode(saved(half, "PNG"), LIMITS).getpixel((0, 0)) == (255, 127, 127)
    assert decode(saved(Image.new("LA", (4, 4), (0, 0)), "PNG"), LIMITS).getpixel((0, 0)) == (255, 255, 255)
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([255, 0, 0, 0, 0, 255])
    assert decode(saved(palette, "PNG", transparency=0), LIMITS).getpixel((0, 0)) == (255, 255, 255)
    assert decode(saved(palette, "PNG"), LIMITS).getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_not_clipped(kind: str) -> None:
    values = np.array([[0, 257, 32896, 65535]], np.uint16).repeat(3, 0)
    image = decode(saved(Image.fromarray(values), kind), LIMITS)
    assert [image.getpixel((x, 0)) for x in range(4)] == [(v, v, v) for v in (0, 1, 128, 255)]


def pixel(image: Image.Image, x: int, y: int) -> tuple[int, ...]:
    """Return a pixel of an image with several bands."""
    found = image.getpixel((x, y))
    assert isinstance(found, tuple)
    return found


def test_floats_and_bits() -> None:
    floats = Image.fromarray(np.array([[0.0, 0.5, 1.0, np.nan]], np.float32))
    assert [pixel(to_rgb(floats), x, 0)[0] for x in range(4)] == [0, 128, 255, 0]
    odd = Image.fromarray(np.array([[0x7F800001, 0xFF800000, 0x3F800000]], np.uint32).view(np.float32))
    assert [pixel(to_rgb(odd), x, 0)[0] for x in range(3)] == [0, 0, 255]  # a signalling NaN, -infinity, 1
    wide = Image.fromarray(np.array([[0.0, 127.6, 300.0]], np.float32))
    assert [pixel(to_rgb(wide), x, 0)[0] for x in range(3)] == [0, 128, 255]
    assert decode(saved(Image.new("1", (3, 3), 1), "PNG"), LIMITS).getpixel((0, 0)) == (255, 255, 255)


def test_cmyk_keeps_its_colours() -> None:
    image = decode(saved(Image.new("RGB", (16, 16), "red").convert("CMYK"), "JPEG", quality=95), LIMITS)
    red, green, blue = pixel(image, 8, 8)
    assert red > 240
    assert green < 15
    assert blue < 15


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_the_picture_upright(orientation: int) -> None:
    turn = Image.Transpose
    stored = {
        2: turn.FLIP_LEFT_RIGHT, 3: turn.ROTATE_180, 4: turn.FLIP_TOP_BOTTOM, 5: turn.TRANSPOSE,
        6: turn.ROTATE_90, 7: turn.TRANSVERSE, 8: turn.ROTATE_270,
    }  # fmt: skip
    upright = gradient()
    lying = upright.transpose(stored[orientation]) if orientation in stored else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = decode(saved(lying, "PNG", exif=exif), LIMITS)
    np.testing.assert_array_equal(np.asarray(image), np.asarray(upright))


def test_broken_exif_is_ignored() -> None:
    assert decode(saved(gradient(), "JPEG", exif=b"Exif\0\0garbage"), LIMITS).size == (40, 24)


def test_an_orientation_counts_though_another_tag_is_wrong() -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "seventy-two"
    data = saved(gradient(), "JPEG", exif=exif)
    wrong = data.replace(b"\x01\x0e\x00\x02", b"\x01\x1a\x00\x02")  # the description becomes a resolution, still text
    assert wrong != data
    assert decode(wrong, LIMITS).size == (24, 40)


def test_broken_exif_of_every_kind_is_ignored() -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E], exif[0x011A] = 6, "a description", 72.0
    data = saved(gradient(), "JPEG", exif=exif)
    start = data.index(b"Exif\0\0") + 6
    length = int.from_bytes(data[start - 8 : start - 6])  # of the segment, these two bytes and "Exif\0\0" included
    for place in range(start, start - 8 + length):
        for value in (0, 1, 9, 41, 255):
            broken = bytearray(data)
            broken[place] = value
            assert decode(bytes(broken), LIMITS).width in (40, 24)


def test_the_first_frame_counts() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    for kind in ("GIF", "WEBP", "PNG", "TIFF"):
        data = saved(frames[0], kind, save_all=True, append_images=frames[1:])
        red, _, blue = pixel(decode(data, LIMITS), 4, 4)
        assert red > 200 > 50 > blue, kind


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "AVIF"])
@pytest.mark.parametrize("share", [0.3, 0.7, 0.95])
def test_files_that_end_early(kind: str, share: float) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    data = saved(noise, kind)
    assert code_of(data[: int(len(data) * share)]) == "truncated"


def test_damage_inside_a_file() -> None:
    data = bytearray(saved(gradient(200, 200), "PNG"))
    middle = data.index(b"IDAT") + 20
    data[middle : middle + 40] = b"\xff" * 40
    assert code_of(bytes(data)) == "corrupt"


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"<!DOCTYPE html><html><body>404</body></html>", "not_an_image"),
        (b"\xef\xbb\xbf  <html>", "not_an_image"),
        (b"just text", "not_an_image"),
        (b"\x00" * 500, "not_an_image"),
        (b"{}", "not_an_image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "unsupported_format"),
        (b"<?xml version='1.0'?>\n<!-- drawn -->\n<svg/>", "unsupported_format"),
        (b"%PDF-1.7", "unsupported_format"),
        (b"8BPS\x00\x01" + b"\x00" * 40, "unsupported_format"),
        (b"\x00\x00\x01\x00\x01\x00", "unsupported_format"),
        (b"\x00\x00\x00\x1cftypheic" + b"\x00" * 40, "unsupported_format"),
        (b"<html><body><svg></svg></body></html>", "not_an_image"),
        (b"<!-- ad --><div><svg></svg></div>", "not_an_image"),
        (b"", "empty_body"),
        (b"BMW is a make of cars" * 20, "not_an_image"),
        (b"\x00\x00\x00\x18ftypisom\x00\x00\x02\x00isomiso2" + b"\x00" * 40, "unsupported_format"),
        (b"\x89PN", "truncated"),
        (b"\xff\xd8\xff", "truncated"),
        (b"\xff\xd8\xff\xe0" + b"\x00" * 100, "truncated"),
        (b"GIF89a" + b"\xff" * 50 + b";", "corrupt"),
    ],
)
def test_what_is_not_a_picture(data: bytes, code: str) -> None:
    assert code_of(data) == code


def test_sizes_are_checked_before_pixels_are_made() -> None:
    for size in ((10_000, 10_000), (50_000, 50_000), (8000, 8000), (30_001, 1), (1, 30_001)):
        assert code_of(png_header(*size)) == "too_many_pixels", size
    tight = replace(LIMITS, max_pixels=40 * 24 - 1)
    assert code_of(saved(gradient(), "PNG"), tight) == "too_many_pixels"
    assert decode(saved(gradient(), "PNG"), replace(LIMITS, max_pixels=40 * 24, max_side=40)).size == (40, 24)


def test_a_picture_in_memory_is_brought_to_rgb_like_its_file() -> None:
    for sample in SAMPLES:
        opened = Image.open(io.BytesIO(sample))
        np.testing.assert_array_equal(np.asarray(decode_image(opened, LIMITS)), np.asarray(decode(sample, LIMITS)))
    with pytest.raises(RowError, match="truncated"):
        decode_image(Image.open(io.BytesIO(saved(gradient(200, 200), "PNG")[:-300])), LIMITS)
    turned = Image.open(io.BytesIO(SAMPLES[-1])).rotate(90, expand=True)
    assert turned.getexif()[0x0112] == 6  # Pillow hands the tag on, though the pixels have been turned
    assert decode_image(turned, LIMITS).size == turned.size
    with pytest.raises(RowError, match="too_many_pixels"):
        decode_image(gradient(), replace(LIMITS, max_side=39))


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((3000, 2000), (750, 500)),  # an eighth would be 250 pixels high
        ((2000, 3000), (500, 750)),
        ((1344, 1344), (336, 336)),  # a quarter, which just covers
        ((1340, 1340), (670, 670)),
        ((640, 480), (640, 480)),
        ((100, 50), (100, 50)),
    ],
)
def test_a_jpeg_is_reduced_to_no_less_than_what_covers(size: tuple[int, int], expected: tuple[int, int]) -> None:
    image = Image.linear_gradient("L").resize(size).convert("RGB")
    data = saved(image, "JPEG")
    reduced = decode(data, Limits(), shorter_side=336)
    assert reduced.size == expected
    assert decode(data, Limits()).size == size
    assert abs(np.asarray(reduced).mean() - np.asarray(image).mean()) < 1
    assert decode(saved(image, "PNG"), Limits(), shorter_side=336).size == size


def test_a_reduced_picture_is_turned_upright_and_matted_all_the_same() -> None:
    image = Image.new("RGB", (1600, 800), "red")
    image.paste("blue", (0, 0, 800, 800))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = decode(saved(image, "JPEG", exif=exif), Limits(), shorter_side=336)
    assert turned.size == (400, 800)
    assert pixel(turned, 200, 100)[2] > 200  # blue on top
    grey, cmyk = (decode(saved(image.convert(mode), "JPEG"), Limits(), shorter_side=336) for mode in ("L", "CMYK"))
    assert grey.size == cmyk.size == (800, 400)
    assert grey.mode == cmyk.mode == "RGB"
    assert pixel(cmyk, 700, 200)[0] > 200


def test_a_reduced_picture_still_meets_the_caps() -> None:
    data = saved(Image.new("RGB", (3000, 2000)), "JPEG")
    with pytest.raises(RowError, match="too_many_pixels"):
        decode(data, Limits(max_pixels=5_000_000), shorter_side=336)


def directory(kind: int, *, tag: int, size: int = 8 << 20, byte_size: int = 1) -> bytes:
    """Spell out a TIFF directory of 65,535 entries, each of which has all of the same values."""
    start = 8 + 2 + 65_535 * 12 + 4
    entry = struct.pack("<HHII", tag, kind, size // byte_size, start)
    return b"II*\0" + struct.pack("<IH", 8, 65_535) + entry * 65_535 + bytes(4) + b"\1" * size


def with_exif(png: bytes, exif: bytes) -> bytes:
    chunk = struct.pack(">I", len(exif)) + b"eXIf" + exif + struct.pack(">I", zlib.crc32(b"eXIf" + exif))
    return png[:33] + chunk + png[33:]


def test_entries_that_point_at_the_same_values_cost_no_time() -> None:
    """Read for each entry, these would take hours."""
    png = saved(gradient(), "PNG")
    for kind, byte_size in ((1, 1), (4, 4)):
        assert decode(with_exif(png, directory(kind, tag=0x0112, byte_size=byte_size)), LIMITS).size == (40, 24)
    for kind, byte_size in ((1, 1), (17, 8)):
        assert code_of(directory(kind, tag=40_000, byte_size=byte_size)) is ErrorCode.CORRUPT
    assert code_of(directory(1, tag=273)[:-1]) is ErrorCode.TRUNCATED


def test_names_before_exif_cost_no_time() -> None:
    """Taken off one at a time, these would take an hour."""
    png, exif = saved(gradient(), "PNG"), Image.Exif()
    exif[0x0112] = 6
    assert decode(with_exif(png, b"Exif\0\0" * 1_500_000 + exif.tobytes()), LIMITS).size == (24, 40)


def test_exif_in_many_segments_costs_no_time() -> None:
    """Put together one at a time, these would take minutes; the first one has the orientation."""
    exif = Image.Exif()
    exif[0x0112] = 6
    jpeg = saved(gradient(), "JPEG", exif=exif)
    rest = b"\xff\xe1" + struct.pack(">H", 29) + b"Exif\0\0" + b"x" * 21
    start = jpeg.index(b"\xff\xdb")
    assert decode(jpeg[:start] + rest * 200_000 + jpeg[start:], LIMITS).size == (24, 40)
