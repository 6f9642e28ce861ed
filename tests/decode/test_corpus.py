"""Every format, mode and defect; other people's settings of Pillow; bombs; mutations of valid files."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import warnings
import zlib
from collections.abc import Callable, Iterator
from importlib import import_module

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile, PngImagePlugin

from tests.support import corpus
from tests.support.clock import HANG_S
from tests.support.corpus import Case, chunk, png
from tests.support.images import saved
from tests.support.paths import ROOT
from text_image_similarity import ErrorCode, Limits, RowError
from text_image_similarity.decode import decode, to_rgb
from text_image_similarity.decode.isolation import IsolatedDecoder
from text_image_similarity.decode.readers import Source, readers_within
from text_image_similarity.preprocess import Preprocess

LIMITS = Limits()
CASES = corpus.pictures()
BOMBS = corpus.bombs()
by_name = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def outcome(data: bytes, limits: Limits = LIMITS) -> ErrorCode | np.ndarray:
    try:
        return np.asarray(decode(data, limits))
    except RowError as error:
        return error.code


@by_name
def test_every_format_and_mode(case: Case) -> None:
    image = decode(case.data, LIMITS)
    assert image.mode == "RGB"
    found = np.asarray(image).astype(int)
    assert found.shape == case.pixels.shape
    assert np.abs(found - case.pixels).max() <= case.within


@by_name
def test_caps_hold_for_every_format_and_mode(case: Case) -> None:
    height, width = case.pixels.shape[:2]
    assert outcome(case.data, Limits(max_pixels=width * height - 1)) == "too_many_pixels"
    assert outcome(case.data, Limits(max_side=max(height, width) - 1)) == "too_many_pixels"
    assert decode(case.data, Limits(max_pixels=width * height, max_side=max(height, width))).size == (width, height)


@by_name
@pytest.mark.parametrize("share", [0.1, 0.4, 0.7, 0.95])
def test_a_file_that_ends_early_is_truncated_and_no_less(case: Case, share: float) -> None:
    found = outcome(case.data[: int(len(case.data) * share)])
    if isinstance(found, ErrorCode):
        assert found == "truncated"
    else:  # what was cut off is not of the first frame, or says nothing of the pixels
        assert np.abs(found.astype(int) - case.pixels).max() <= case.within
        assert (
            "animated" in case.name
            or "mpo" in case.name
            or "pages" in case.name
            or "behind" in case.name
            or share > 0.9
        )


@pytest.fixture(params=["tight", "none", "one", "truncated allowed", "warnings are errors"])
def switched(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Set Pillow's switches as somebody else in this process may have."""
    if request.param == "truncated allowed":
        monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    elif request.param != "warnings are errors":
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", {"tight": 500, "none": None, "one": 1}[request.param])
    readers_within.cache_clear()  # somebody may have been faster than the first picture
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield
    readers_within.cache_clear()


@pytest.mark.usefixtures("switched")
def test_other_peoples_switches_change_nothing() -> None:
    for case in CASES:
        found = outcome(case.data)
        assert isinstance(found, np.ndarray), (case.name, found)
        assert np.abs(found.astype(int) - case.pixels).max() <= case.within, case.name
        for share in (0.1, 0.4, 0.7):
            found = outcome(case.data[: int(len(case.data) * share)])
            if isinstance(found, np.ndarray):
                assert found.shape == case.pixels.shape
                assert "animated" in case.name or "mpo" in case.name or "pages" in case.name, case.name
            else:
                assert found == "truncated", case.name
    damaged = bytearray(saved(Image.effect_noise((200, 200), 90).convert("RGB"), "PNG"))
    middle = len(damaged) // 2
    damaged[middle : middle + 40] = b"\xff" * 40
    assert outcome(bytes(damaged)) == "corrupt"
    for name in ("gif frame", "gif disposal", "webp canvas"):
        assert outcome(BOMBS[name]()) == "too_many_pixels"


def test_a_cap_above_pillows_own_holds() -> None:
    side = 13_500  # 182 megapixels; Pillow warns from 179 and refuses from 358
    data = saved(Image.new("1", (side, side)), "PNG")
    assert outcome(data) == "too_many_pixels"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode(data, Limits(max_pixels=200_000_000)).size == (side, side)


def test_preprocessing_does_not_ask_pillow_for_a_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    preprocess = Preprocess(size=32, crop=(32, 32), mean=(0.0,) * 3, std=(1.0,) * 3)
    picture = Image.linear_gradient("L").convert("RGB").resize((64, 40))
    assert preprocess.pixels(picture).shape == (32, 32, 3)


MILLION = "corrupt: the file has a million pieces or more"
ENDS = {
    "png profiles": (64, 64),
    "png texts": (64, 64),
    "png texts behind": (64, 64),
    "jpeg scans": "too_many_pixels: 1,010 scans of 4000 x 4000 pixels",
    "gif frame": "too_many_pixels: 65535 x 65535 is over",
    "gif disposal": "too_many_pixels: 65535 x 65535 is over",
    "webp canvas": "too_many_pixels: 16777216 x 16777216 is over",
    "tiff tile": "too_many_pixels: a tile of 30000 x 10000",
    "tiff raw tile": "too_many_pixels: a tile of 30000 x 10000",
    "tiff shared tiles": "too_many_pixels: 100 tiles of 16 x 65536 in an image of 1600 x 16",
    "tiff few shared tiles": (1600, 16),
    "tiff strips": "corrupt: the image has more than 125,000 strips or tiles",
    "bmp runs": "too_many_pixels: a run-length BMP of 7000 x 7000",
}


@pytest.fixture
def sources(monkeypatch: pytest.MonkeyPatch) -> list[Source]:
    """Return the files that are decoded from here on, which know how often they were read."""
    made: list[Source] = []

    class Noted(Source):
        def __init__(self, data: bytes) -> None:
            super().__init__(data)
            made.append(self)

    monkeypatch.setattr(import_module("text_image_similarity.decode.decode"), "Source", Noted)
    return made


@pytest.mark.slow
@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_ends_by_what_is_counted(name: str) -> None:
    try:
        ended: object = decode(BOMBS[name](), LIMITS).size
    except RowError as error:
        ended = str(error)
    expected = ENDS.get(name, MILLION)
    assert ended == expected if isinstance(expected, tuple) else str(ended).startswith(str(expected))


COMMENT = b"\xff\xfe\x00\x04\xff\xd9"  # whose text looks like the end


@pytest.mark.parametrize(
    ("between", "behind", "refused"),
    [
        (b"", b"", False),
        (b"", b"\xff\xda" * 100, False),  # a video, for example
        (COMMENT, b"", False),
        (b"more", b"", True),
        (COMMENT + b"more", b"", True),
        (b"\xff\x02\x7f\xf0more", b"", True),  # no segment to libjpeg, which looks for the next marker
        (b"\xff\xfe\x00\x02" * 20_000 + b"more", b"", True),
    ],
)
def test_scans_are_counted_up_to_the_end_of_a_jpeg(
    between: bytes, behind: bytes, refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("text_image_similarity.decode.scans._MOST_SCANNED", 15 * 4096)
    content = saved(Image.effect_noise((40, 40), 40).convert("RGB"), "JPEG", progressive=True)
    last = content[content.rindex(b"\xff\xda") : -2]
    data = content[:-2] + between.replace(b"more", 10 * last) + b"\xff\xd9" + behind
    found = outcome(data)
    assert (isinstance(found, ErrorCode) and found == "too_many_pixels") == refused


@pytest.fixture
def own_readers() -> Iterator[None]:
    """Have readers made from Pillow as it is changed by the test, and not kept."""
    readers_within.cache_clear()
    yield
    readers_within.cache_clear()


@pytest.mark.usefixtures("own_readers")
@pytest.mark.parametrize("name", ["png texts", "png texts behind", "png profiles"])
def test_few_texts_of_a_png_are_unpacked(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    unpacked: list[int] = []
    unpack = PngImagePlugin._safe_zlib_decompress

    def count(data: bytes) -> bytes:
        unpacked.append(len(data))
        return unpack(data)

    monkeypatch.setattr(PngImagePlugin, "_safe_zlib_decompress", count)
    decode(BOMBS[name](), LIMITS)
    assert len(unpacked) == (0 if name == "png profiles" else 32)


def large() -> dict[str, bytes]:
    """Make pictures of 50 megapixels in the modes that take most memory."""
    width, height = 8000, 6250
    black = Image.new("RGB", (width, height))
    deep = [bytes(width * 8)] * height
    return {
        "png 16-bit rgba": png((width, height), 16, 6, deep),
        "png 16-bit grey, turned": png((width, height), 16, 0, (row[: width * 2] for row in deep), chunk(
            b"eXIf", corpus.turned_exif(6).tobytes()[6:])),
        "tiff float": saved(Image.new("F", (width, height)), "TIFF", compression="tiff_adobe_deflate"),
        "jpeg cmyk progressive": saved(Image.new("CMYK", (width, height)), "JPEG", progressive=True),
        "webp": saved(black, "WEBP", method=0),
        "avif": saved(black, "AVIF", speed=10),
    }  # fmt: skip


@pytest.mark.extended
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the address space is limited on Linux alone")
def test_the_largest_pictures_fit_with_room() -> None:
    decoder = IsolatedDecoder(Limits(decode_memory=800 << 20, decode_s=HANG_S * 10), workers=1)
    try:
        for name, data in large().items():
            image = decoder.decode(data)
            assert sorted(image.size) == [6250, 8000], name
    finally:
        decoder.close()


@pytest.mark.slow
def test_nothing_is_written_to_the_terminal() -> None:
    """But by libtiff, whose handler is the process's."""
    code = (
        "import logging, sys, warnings\nwarnings.simplefilter('always')\nlogging.getLogger().setLevel(1)\n"
        "from tests.support import corpus\nfrom text_image_similarity import Limits, RowError\n"
        "from text_image_similarity.decode import decode\n"
        "for case in corpus.pictures():\n"
        "    for at in range(4, min(len(case.data), 400), 7) if 'tiff' not in case.name or 'raw' in case.name else ():\n"
        "        for value in (0, 255):\n"
        "            data = bytearray(case.data)\n            data[at] = value\n"
        "            try:\n                decode(bytes(data), Limits())\n            except RowError:\n                pass\n"
    )
    root = ROOT
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_alpha_on_white_equals_pillows_composition() -> None:
    values = np.stack(np.meshgrid(np.arange(256), np.arange(256), indexing="ij"), -1).astype(np.uint8)  # value, alpha
    image = Image.fromarray(values[..., [0, 0, 0, 1]])
    expected = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    np.testing.assert_array_equal(np.asarray(to_rgb(image)), np.asarray(expected))


@pytest.mark.parametrize(
    ("cut", "code"),
    [
        (lambda data: data[:20] + b"\xff\xe1\x40\0" + data[20:400], "truncated"),  # a segment longer than the file
        (lambda data: data[:-2], "truncated"),
        (lambda data: data[: data.rindex(b"\xff\xda") + 2], "truncated"),
        (lambda data: data[:2] + b"\xff\xe1\0\x09Exif\xff\xd9x" + data[2:900], "truncated"),  # the mark of a thumbnail
        (lambda data: data[:20] + data[-60:], "corrupt"),
    ],
)
def test_jpegs_that_end_in_their_header(cut: Callable[[bytes], bytes], code: str) -> None:
    noise = np.random.default_rng(0).integers(
        0, 256, (64, 64), np.uint8
    )  # in some noise the last two bytes hold no pixels
    assert outcome(cut(saved(Image.fromarray(noise), "JPEG"))) == code


def test_a_damaged_length_is_no_early_end() -> None:
    data = saved(Image.effect_noise((64, 64), 90), "PNG")
    header_gone = data[:12] + bytes(4) + data[16:]
    assert outcome(header_gone) == "corrupt"
    assert outcome(data[:33] + bytes(100)) == "corrupt"
    wrong_sum = data[:40] + b"\0" + data[41:]
    assert outcome(wrong_sum) == "corrupt"
    assert outcome(b"MM\0+" + bytes(60)) == "unsupported_format"


# More of them: MUTATIONS=20000 python -m pytest tests/decode/test_corpus.py
MUTATIONS = int(os.environ.get("MUTATIONS", "500"))
SEEDS = [case.data for case in CASES if len(case.data) < 8000]


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """Change a valid file: bytes flipped, cut out, inserted, doubled, or taken from another file."""
    data = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        end = at + draw(st.integers(1, 64))
        match draw(st.sampled_from(["flip", "number", "cut", "insert", "double", "splice", "end"])):
            case "flip":
                data[at : at + 1] = bytes([draw(st.integers(0, 255))])
            case "number":
                number = draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF]))
                size = draw(st.sampled_from([1, 2, 4]))
                data[at : at + size] = (number & (256**size - 1)).to_bytes(
                    size, draw(st.sampled_from(["big", "little"]))
                )
            case "cut":
                del data[at:end]
            case "insert":
                data[at:at] = draw(st.binary(max_size=64))
            case "double":
                data[at:at] = data[at:end] * draw(st.integers(1, 50))
            case "splice":
                other = draw(st.sampled_from(SEEDS))
                data[at:end] = other[at : at + draw(st.integers(1, 400))]
            case "end":
                del data[at:]
    return bytes(data)


@pytest.mark.slow
@settings(max_examples=MUTATIONS, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=mutated())
def test_mutations_give_a_picture_or_a_code_after_few_reads(sources: list[Source], data: bytes) -> None:
    sources.clear()
    try:
        image = decode(data, LIMITS)
        assert image.mode == "RGB"
        assert image.width * image.height <= LIMITS.max_pixels
    except RowError as error:
        assert error.code in (  # noqa: PT017 - any other exception fails the test, as it should
            "empty_body", "not_an_image", "unsupported_format", "truncated", "corrupt", "too_many_pixels",
        )  # fmt: skip
    assert all(Source(data).reads_left - source.reads_left <= 2 * len(data) + 100 for source in sources)


def test_broken_text_in_a_png_does_not_cost_the_picture() -> None:
    rows = [bytes(12)] * 4
    for text in (b"zTXt", b"iTXt", b"tEXt", b"iCCP"):
        for body in (b"", b"\0", b"key", b"key\0\x09junk", b"key\0\1\1\0\0" + zlib.compress(b"x"), b"\xff" * 99):
            assert decode(png((4, 4), 8, 2, rows, chunk(text, body)), LIMITS).size == (4, 4), (text, body)
    assert io.BytesIO(png((4, 4), 8, 2, rows)).read(4) == b"\x89PNG"
