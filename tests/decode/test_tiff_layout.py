"""TIFFs that libtiff, which decodes the pixels, could read differently from Pillow, whose sizes are checked."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Sequence
from functools import cache

import pytest
from PIL import Image

from tests.support.images import saved
from text_image_similarity import ErrorCode, Limits, RowError
from text_image_similarity.decode import decode
from text_image_similarity.decode.scans import check_pieces

LIMITS = Limits()
FORMS = {1: "B", 3: "H", 4: "I", 16: "Q", 17: "q", 18: "Q"}  # TIFF types -> struct formats
Entry = tuple[int, int, Sequence[int]]  # tag, type, values


def tiff(entries: Sequence[Entry], content: bytes, *, big: bool = False) -> bytes:
    """Write a TIFF whose entries stay in order; the first strip or tile that is at 0 is where the content is."""
    head, number, offset, inline = ("Q", "HHQ", "Q", 8) if big else ("H", "HHI", "I", 4)
    start = 16 if big else 8
    before = b"II+\0\x08\0\0\0" + struct.pack("<Q", 16) if big else b"II*\0" + struct.pack("<I", 8)
    size = struct.calcsize("<" + number) + inline
    behind = start + struct.calcsize(head) + size * len(entries) + inline
    arrays = sum(len(values) * struct.calcsize(FORMS[kind]) for _, kind, values in entries if len(values) > 1)
    at = behind + arrays + 8 * sum(struct.calcsize(FORMS[kind]) > inline for _, kind, values in entries)
    listed, kept = b"", b""
    for tag, kind, values in entries:
        if tag in (273, 324):
            values = [at + value for value in values]
        packed = struct.pack(f"<{len(values)}{FORMS[kind]}", *values)
        if len(packed) > inline:
            packed, kept = struct.pack("<" + offset, behind + len(kept)), kept + packed
        listed += struct.pack("<" + number, tag, kind, len(values)) + packed.ljust(inline, b"\0")
    body = (before + struct.pack("<" + head, len(entries)) + listed + bytes(inline) + kept).ljust(at, b"\0")
    return body + content


def grey(*more: Entry, width: int = 64, compression: int = 8) -> list[Entry]:
    """Return the entries of a picture that is one pixel high, and `more`, by tag."""
    first: list[Entry] = [
        (256, 4, [width]), (257, 4, [1]), (258, 3, [8]), (259, 3, [compression]), (262, 3, [1]), (277, 3, [1])
    ]  # fmt: skip
    return sorted([*first, *more], key=lambda entry: entry[0])


@cache
def packed_zeros(count: int) -> bytes:
    return zlib.compress(bytes(count), 9)


def tiled(*sizes: Entry, big: bool = False) -> bytes:
    """Write a picture of four tiles that share their bytes."""
    content = packed_zeros(16 * 200_000)
    return tiff(grey(*sizes, (324, 4, [0] * 4), (325, 4, [len(content)] * 4)), content, big=big)


def outcome(data: bytes) -> str:
    try:
        return str(decode(data, LIMITS).size)
    except RowError as error:
        return str(error)


@pytest.mark.parametrize("tag", [322, 323])
@pytest.mark.parametrize("kind", [17, 18])
@pytest.mark.parametrize("big", [True, False])
def test_a_size_in_a_type_that_only_libtiff_reads_is_refused(tag: int, kind: int, big: bool) -> None:
    sizes = {322: 16, 323: 200_000}
    data = tiled(*((each, kind if each == tag else 4, [size]) for each, size in sizes.items()), big=big)
    assert outcome(data) == f"corrupt: TIFF: tag {tag} has a type or a length that is not supported"


@pytest.mark.parametrize("big", [True, False])
def test_sizes_in_every_type_that_both_read_are_read(big: bool) -> None:
    for kind in (3, 4, 16):
        assert outcome(tiled((322, kind, [16]), (323, kind, [16]), big=big)) == "(64, 1)"
        assert " of 16 x 20000000 in an image of " in outcome(tiled((322, kind, [16]), (323, 4, [20_000_000]), big=big))


def test_an_entry_that_pillow_skips_because_of_the_data_before_it_is_refused() -> None:
    """Pillow adds up what the entries point to; libtiff does not mind."""
    content = packed_zeros(16 * 200_000)
    described: Entry = (270, 1, [0] * 5)
    entries = [
        *grey((322, 4, [16]), (324, 4, [0]), (325, 4, [len(content)]), width=16),
        described,
        (323, 16, [2 * 10**7]),
    ]
    data = tiff(entries, content)
    place = data.index(struct.pack("<HHI", 270, 1, 5))
    whole = struct.pack("<HHII", 270, 1, len(data), 0)
    assert outcome(data[:place] + whole + data[place + 12 :]) == (
        "corrupt: TIFF: tag 323 has a type or a length that is not supported"
    )


def test_a_repeated_size_is_refused() -> None:
    """Of which Pillow reads the second one if it skips the first, and libtiff never does."""
    for first in ((323, 17, [200_000]), (323, 4, [200_000])):
        assert outcome(tiled((322, 4, [16]), first, (323, 4, [16]))) == "corrupt: TIFF: tag 323 is repeated"


def test_other_entries_may_have_any_type() -> None:
    """BigTIFFs list their smaller pages with type 18, for example."""
    content = zlib.compress(bytes(64))
    more: list[Entry] = [(270, 1, [0] * 5), (270, 1, [0] * 5), (330, 18, [0]), (338, 3, [])]
    data = tiff(grey((273, 4, [0]), (279, 4, [len(content)]), *more), content, big=True)
    assert outcome(data) == "(64, 1)"


@pytest.mark.parametrize(("kind", "big"), [(4, False), (4, True), (16, True)])
def test_the_number_of_strips_is_limited_whatever_the_type_of_their_offsets(kind: int, big: bool) -> None:
    def strips(count: int) -> str:
        return outcome(tiff(grey((273, kind, [0] * count), (279, 4, [64] * count), compression=1), bytes(64), big=big))

    assert strips(125_001) == "corrupt: the image has more than 125,000 strips or tiles"
    assert "strips or tiles" not in strips(125_000)


def test_short_offsets_of_strips_are_counted_too() -> None:
    data = tiff(grey((273, 4, [0] * 62_501), (279, 4, [64]), compression=1), bytes(64))
    short = data.replace(struct.pack("<HHI", 273, 4, 62_501), struct.pack("<HHI", 273, 3, 125_002))
    assert outcome(short) == "corrupt: the image has more than 125,000 strips or tiles"


def segment(marker: int, body: bytes) -> bytes:
    return bytes([255, marker]) + struct.pack(">H", len(body) + 2) + body


def jpeg(scans: int, *, progressive: bool, width: int = 2000) -> bytes:
    """Write a JPEG of one row of zeros whose scans after the first three take a few bytes each."""
    one = bytes([1] + [0] * 15) + b"\0"
    parts = [1] if progressive else [1, 2, 3]
    frame = struct.pack(">BHHB", 8, 1, width, len(parts)) + b"".join(bytes([part, 17, 0]) for part in parts)
    head = segment(0xDB, b"\0" + bytes([1] * 64)) + segment(0xC2 if progressive else 0xC0, frame)
    head += segment(0xC4, b"\0" + one) + segment(0xC4, b"\x10" + one)
    found = b""
    for scan in range(scans):
        last = 0 if progressive else 63
        found += segment(0xDA, bytes([1, parts[scan % len(parts)], 0, 0, last, 0])) + bytes(64)
    return b"\xff\xd8" + head + found + b"\xff\xd9"


def in_strips(count: int, content: bytes, *, colours: int) -> bytes:
    """Write a TIFF of strips of one row, all of which are the same JPEG."""
    entries: list[Entry] = [
        (256, 4, [2000]), (257, 4, [count]), (258, 3, [8] * colours), (259, 3, [7]), (262, 3, [1 if colours == 1 else 2]),
        (273, 4, [0] * count), (277, 3, [colours]), (278, 4, [1]), (279, 4, [len(content)] * count),
    ]  # fmt: skip
    return tiff(entries, content)


@pytest.mark.parametrize("progressive", [True, False])
def test_the_scans_of_jpegs_that_strips_share_are_counted(progressive: bool) -> None:
    colours = 1 if progressive else 3
    few = in_strips(100, jpeg(3, progressive=progressive), colours=colours)
    assert "too_many_pixels" not in outcome(few)
    many = in_strips(2000, jpeg(99, progressive=progressive), colours=colours)
    assert outcome(many) == "too_many_pixels: the strips or tiles of 2000 x 1 pixels have too many scans or segments"


@pytest.mark.parametrize("rows", [8, 16, 1000])
def test_jpegs_in_honest_strips_are_read(rows: int) -> None:
    picture = Image.linear_gradient("L").resize((1000, 1000)).convert("RGB")
    data = saved(picture, "TIFF", compression="jpeg", tiffinfo={278: rows})
    assert len(Image.open(io.BytesIO(data)).tag_v2[273]) == -(-1000 // -(-rows // 8) // 8)  # type: ignore[attr-defined]
    assert outcome(data) == "(1000, 1000)"


@pytest.mark.parametrize(
    ("make", "starts"),
    [
        (lambda: bytes(1 << 16), range(1000)),  # no marker at all
        (lambda: b"\xff\xfe\0\2" * 20_000, range(0, 80_000, 4)),  # a comment after the other
    ],
)
def test_looking_for_scans_is_bounded(make: Callable[[], bytes], starts: range) -> None:
    with pytest.raises(RowError, match="too many scans or segments") as caught:
        check_pieces(make(), starts, (16, 16))
    assert caught.value.code is ErrorCode.TOO_MANY_PIXELS
