"""Files whose header claims another size than they are coded in: no claim lets more pixels through than the caps."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable

import pytest
from PIL import Image

from tests.support.images import gradient, saved
from text_image_similarity import Limits, RowError
from text_image_similarity.decode import decode
from text_image_similarity.decode.av1 import coded_areas

SIDE = 1200
LARGE = Image.new("RGB", (SIDE, SIDE), "red")
LIMITS = Limits(max_pixels=1_000_000)
CLAIM = 64


def claiming(avif: bytes, side: int = CLAIM) -> bytes:
    """Write another size in an AVIF's `ispe` box."""
    at = avif.index(b"ispe") + 8
    return avif[:at] + struct.pack(">II", side, side) + avif[at + 8 :]


def with_stream(avif: bytes, stream: bytes) -> bytes:
    """Let an AVIF's one item be other bytes, behind its end."""
    at = avif.index(b"iloc") + 18
    box = struct.pack(">I4s", 8 + len(stream), b"free") + stream
    return avif[:at] + struct.pack(">II", len(avif) + 8, len(stream)) + avif[at + 8 :] + box


def stream_of(avif: bytes) -> bytes:
    start, size = struct.unpack_from(">II", avif, avif.index(b"iloc") + 18)
    return avif[start : start + size]


def unit(kind: int, *fields: tuple[int, int]) -> bytes:
    """Make a unit of an AV1 stream of (value, bits)."""
    bits = "".join(f"{value:0{count}b}" for value, count in fields) + "1"
    body = int(bits.ljust(-(-len(bits) // 8) * 8, "0"), 2).to_bytes(-(-len(bits) // 8))
    return bytes([kind << 3 | 2, len(body)]) + body


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
@pytest.mark.parametrize("options", [{}, {"save_all": True}, {"subsampling": "4:4:4", "range": "limited"}])
def test_an_honest_avif_is_read(mode: str, options: dict[str, object]) -> None:
    picture = gradient(60, 40).convert(mode)
    if mode == "RGBA":
        picture.putalpha(picture.convert("L"))
    if options.get("save_all"):
        options = {**options, "append_images": [picture.rotate(180)]}
    data = saved(picture, "AVIF", **options)
    items, tracks = coded_areas(data)
    assert items == [60 * 40] * (2 if mode == "RGBA" else 1)
    assert tracks == (items if options.get("save_all") else [])
    assert decode(data, Limits(max_pixels=60 * 40)).size == (60, 40)


def test_an_avif_is_held_against_what_it_is_coded_in() -> None:
    data = claiming(saved(LARGE, "AVIF", speed=10))
    with pytest.raises(
        RowError, match=r"too_many_pixels: 64 x 64 is coded as 1,440,000 pixels, more than the limit of 1,000,000"
    ):
        decode(data, LIMITS)
    with pytest.raises(
        RowError, match="corrupt: AVIF: the file declares 64 x 64 pixels but is coded as 1,440,000 pixels"
    ):
        decode(data, Limits())


@pytest.mark.parametrize("brand", [b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1", b"miaf", b"avio"])
def test_a_brand_of_heif_is_refused_by_its_name_whatever_is_coded(brand: bytes) -> None:
    data = claiming(saved(LARGE, "AVIF", speed=10))
    size = int.from_bytes(data[:4])
    renamed = data[:8] + brand + bytes(4) + brand * ((size - 16) // 4) + data[size:]
    with pytest.raises(RowError, match=r"unsupported_format: .*(HEIF needs the plug-in|brand)"):
        decode(renamed, LIMITS)
    also = data[:8] + brand + bytes(4) + b"avif" * ((size - 16) // 4) + data[size:]  # which is held as any AVIF
    with pytest.raises(RowError, match="too_many_pixels: 64 x 64 is coded as 1,440,000 pixels"):
        decode(also, LIMITS)


def test_a_track_of_an_avif_is_held_too() -> None:
    data = saved(LARGE, "AVIF", speed=10, save_all=True, append_images=[LARGE.rotate(90)])
    data = data.replace(b"meta", b"free").replace(
        struct.pack(">II", SIDE << 16, SIDE << 16), struct.pack(">II", 64 << 16, 64 << 16)
    )
    assert coded_areas(data) == ([], [SIDE * SIDE])


def test_frames_that_an_avif_hides_count() -> None:
    data = saved(gradient(200, 200), "AVIF", speed=10)
    stream = stream_of(data)
    start = 2 + 2 + stream[3]  # a temporal delimiter, a sequence header
    assert stream[start] >> 3 & 15 == 6
    hidden = with_stream(data, stream[:start] + stream[start:] * 40)
    assert coded_areas(hidden) == ([200 * 200] * 40, [])
    with pytest.raises(
        RowError, match="corrupt: AVIF: the file declares 200 x 200 pixels but is coded as 1,600,000 pixels"
    ):
        decode(hidden, Limits())


def test_a_frame_with_a_size_of_its_own_counts_as_the_largest_that_it_may_have() -> None:
    sequence = unit(
        1, (0, 3), (0, 1), (0, 1),  # profile, still picture, reduced header
        (1, 1), (1, 32), (1, 32), (0, 1), (1, 1), (9, 5), (1, 32), (9, 5), (4, 5),  # timing and a decoder's model
        (0, 1), (0, 5), (0, 12), (8, 5), (0, 1), (0, 1),  # one operating point
        (14, 4), (13, 4), (63, 15), (31, 14),  # up to 32768 x 16384, claimed 64 x 32
        (0, 1), (0, 7), (0, 1), (1, 1), (1, 1),  # ids, tools, order hints, screen content and whole vectors as frames say
    )  # fmt: skip
    start = [(0, 1), (0, 2), (1, 1), (0, 5), (0, 1), (0, 1)]  # shown, a key frame, its time
    own, same = unit(6, *start, (1, 1)), unit(6, *start, (0, 1))
    again = unit(3, (1, 1))
    data = with_stream(saved(gradient(64, 32), "AVIF", speed=10), sequence + same + again + own)
    assert coded_areas(data) == ([64 * 32, 0, 32768 * 16384], [])
    with pytest.raises(RowError, match="too_many_pixels: 64 x 32 is coded as 536,872,960"):
        decode(data, Limits())


def test_a_frame_whose_header_is_called_a_copy_counts() -> None:
    """A decoder takes the copy of a header for the header if it has seen none."""
    data = saved(LARGE, "AVIF", speed=10)
    stream = stream_of(data)
    start = 2 + 2 + stream[3]  # a temporal delimiter, a sequence header
    copied = stream[:start] + bytes([7 << 3 | 2]) + stream[start + 1 :]
    assert coded_areas(with_stream(data, copied)) == ([SIDE * SIDE], [])


def test_a_track_says_once_where_its_images_are() -> None:
    """A decoder joins several lists, so that the first image is that of another list than the one that is looked at."""
    data = saved(LARGE, "AVIF", speed=10, save_all=True, append_images=[LARGE.rotate(90)])
    assert coded_areas(data)[1] == [SIDE * SIDE]
    with pytest.raises(ValueError, match="a track gives the location of its images twice"):
        coded_areas(data.replace(b"stss", b"stco"))  # whose layout is the same


def box(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(body), kind) + body


def iloc(*extents: tuple[int, int], inside: bool = False) -> bytes:
    """Say where the pieces of the one item are: in the file, or in the box `idat`."""
    head = struct.pack(">IBBHHHHH", 1 << 24, 0x44, 0, 1, 1, inside, 0, len(extents))
    return box(b"iloc", head + b"".join(struct.pack(">II", *extent) for extent in extents))


def located(avif: bytes, where: bytes, in_meta: bytes = b"", behind: bytes = b"") -> bytes:
    """Replace the box `iloc` of an AVIF, and add boxes at the end of its box `meta` and of the file."""
    at, meta = avif.index(b"iloc") - 4, avif.index(b"meta") - 4
    after, end = (start + int.from_bytes(avif[start : start + 4]) for start in (at, meta))
    body = avif[meta + 8 : at] + where + avif[after:end] + in_meta
    return avif[:meta] + box(b"meta", body) + avif[end:] + behind


def test_the_bytes_of_an_item_are_those_that_a_decoder_takes() -> None:
    """It takes only the `idat` directly in `meta`, and no bytes for an extent of length 0."""
    data = claiming(saved(LARGE, "AVIF", speed=10))
    stream, small = stream_of(data), stream_of(saved(gradient(CLAIM, CLAIM), "AVIF", speed=10))
    decoy, own = box(b"moov", box(b"idat", small)), box(b"idat", stream)
    hidden = located(data, iloc((0, len(stream)), inside=True), decoy + own)
    assert coded_areas(hidden) == ([SIDE * SIDE], [])
    with pytest.raises(RowError, match="too_many_pixels: 64 x 64 is coded as 1,440,000 pixels"):
        decode(hidden, LIMITS)
    start = len(located(data, iloc((0, 0), (0, 0)))) + 8
    pad = b"\x7a\xff\xff\xff\x7f"  # a unit of 256 MiB, which would hide what follows
    where = iloc((start, 0), (start + len(pad), len(stream)))
    assert coded_areas(located(data, where, behind=box(b"mdat", pad + stream))) == ([SIDE * SIDE], [])
    honest = saved(gradient(64, 32), "AVIF", speed=10)
    stream = stream_of(honest)
    in_two = iloc((0, 9), (0, 0), (9, len(stream) - 9), inside=True)
    assert decode(located(honest, in_two, box(b"idat", stream)), LIMITS).size == (64, 32)


@pytest.mark.parametrize(
    ("extents", "more", "said"),
    [
        ([(0, 2)], box(b"idat", b"\x12\0") * 2, "the file gives the location of its images twice"),
        ([(0, 2)], box(b"idat", b"\x12\0") + iloc((0, 2)), "the file gives the location of its images twice"),
        ([(0, 2)], box(b"idat", b"\x12\0"), "an image in the file has no size"),
        ([(0, 0)], box(b"idat", b"\x12\0"), "the file has no image"),
    ],
)
def test_an_avif_whose_coded_size_cannot_be_told_is_refused(
    extents: list[tuple[int, int]], more: bytes, said: str
) -> None:
    data = located(saved(gradient(64, 32), "AVIF", speed=10), iloc(*extents, inside=True), more)
    with pytest.raises(ValueError, match=said):
        coded_areas(data)
    with pytest.raises(RowError, match="corrupt: AVIF"):
        decode(data, Limits())


@pytest.mark.parametrize("stream", [b"\x12\0" * 30_000, b"\x0a\x01\xff", b"\x0a" + b"\xff" * 9])
def test_a_stream_that_makes_no_sense_costs_its_row(stream: bytes) -> None:
    with pytest.raises(RowError, match="corrupt: AVIF"):
        decode(with_stream(saved(gradient(64, 32), "AVIF", speed=10), stream), Limits())


def png(*sizes: int) -> bytes:
    data = saved(LARGE, "PNG")
    heads = []
    for size in sizes:
        body = b"IHDR" + struct.pack(">II", size, size) + data[24:29]
        heads.append(struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body)))
    return data[:8] + b"".join(heads) + data[33:]


def jpeg(*sizes: int) -> bytes:
    data = saved(LARGE, "JPEG")
    at = data.index(b"\xff\xc0")
    end = at + 2 + int.from_bytes(data[at + 2 : at + 4])
    frames = [data[at : at + 5] + struct.pack(">HH", size, size) + data[at + 9 : end] for size in sizes]
    return data[:at] + b"".join(frames) + data[end:]


def webp(*sizes: int) -> bytes:
    body = saved(LARGE, "WEBP", lossless=True, method=0)[12:]
    canvas = b"VP8X" + struct.pack("<II", 10, 0) + (sizes[0] - 1).to_bytes(3, "little") * 2
    return b"RIFF" + struct.pack("<I", 4 + len(canvas) + len(body)) + b"WEBP" + canvas + body


def gif(*sizes: int) -> bytes:
    data = saved(LARGE.convert("P"), "GIF")
    return data[:6] + struct.pack("<HH", *sizes * 2) + data[10:]


def tiff(*sizes: int) -> bytes:
    data = saved(LARGE, "TIFF", compression="jpeg")
    for tag in (256, 257):
        at = next(at for at in (data.find(struct.pack("<HHI", tag, kind, 1)) for kind in (3, 4)) if at > 0)
        data = data[:at] + struct.pack("<HHII", tag, 4, 1, *sizes) + data[at + 12 :]
    return data


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (lambda: png(CLAIM, SIDE), "too_many_pixels: 1200 x 1200"),
        (lambda: jpeg(CLAIM, SIDE), "too_many_pixels: 1200 x 1200"),
        (lambda: jpeg(SIDE, CLAIM), "corrupt"),
        (lambda: webp(CLAIM), "corrupt"),
        (lambda: webp(16_000), "too_many_pixels: 16000 x 16000"),
        (lambda: gif(CLAIM), "too_many_pixels: 1200 x 1200"),
        (lambda: tiff(CLAIM), "corrupt"),
    ],
)
def test_other_formats_cannot_hide_a_larger_picture(data: Callable[[], bytes], said: str) -> None:
    with pytest.raises(RowError, match=said):
        decode(data(), LIMITS)
