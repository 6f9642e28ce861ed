"""Picture files of every format, mode and defect, made on the spot, with what each should decode to."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tests.support.images import saved

MIB = 1 << 20
WIDTH, HEIGHT = 40, 24


@dataclass(frozen=True)
class Case:
    """A file and the pixels (h, w, 3) that it stands for, each off by `within` at most."""

    name: str
    data: bytes
    pixels: NDArray[np.uint8]
    within: int = 0


def ramp(*, colours: int = 3) -> NDArray[np.uint8]:
    """Make values (h, w, colours) that differ along both sides and between colours."""
    y, x, colour = np.mgrid[0:HEIGHT, 0:WIDTH, 0:colours]
    return np.asarray((x * 6 + y * 3 + colour * 40) % 256, np.uint8)


def smooth(colours: int = 3) -> NDArray[np.uint8]:
    """Make values (h, w, colours) that survive lossy compression."""
    y, x, colour = np.mgrid[0:HEIGHT, 0:WIDTH, 0:colours]
    return np.asarray(x * 3 + y * 2 + colour * 20, np.uint8)


def grey(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Spread one value a pixel, (h, w), to three."""
    return values[..., None].repeat(3, 2)


def matted(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Lay RGBA values (h, w, 4) on white."""
    alpha = values[..., 3:].astype(float)
    return np.asarray(np.round((values[..., :3] * alpha + 255 * (255 - alpha)) / 255), np.uint8)


def chunk(kind: bytes, body: bytes) -> bytes:
    """Spell out a chunk of a PNG."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(size: tuple[int, int], depth: int, kind: int, rows: Iterable[bytes], *before: bytes) -> bytes:
    """Spell out a PNG with unfiltered rows and other chunks before them."""
    header = struct.pack(">IIBBBBB", *size, depth, kind, 0, 0, 0)
    packed = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        [chunk(b"IHDR", header), *before, chunk(b"IDAT", packed), chunk(b"IEND", b"")]
    )


def tiff(
    tags: Mapping[int, tuple[int, ...]], body: bytes, *, order: str = "<", kinds: dict[int, int] | None = None
) -> bytes:
    """Spell out a TIFF: whole numbers by tag (4 bytes each unless `kinds` says 3, 2 bytes), then `body` at `body_at`."""
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8) + struct.pack(order + "H", len(tags))
    entries, behind = b"", b""
    start = len(head) + 12 * len(tags) + 4
    for tag, values in sorted(tags.items()):
        kind = (kinds or {}).get(tag, 4)
        packed = struct.pack(f"{order}{len(values)}{'H' if kind == 3 else 'I'}", *values)
        if len(packed) > 4:
            packed, behind = struct.pack(order + "I", start + len(behind)), behind + packed
        entries += struct.pack(order + "HHI", tag, kind, len(values)) + packed.ljust(4, b"\0")
    return head + entries + bytes(4) + behind + body


def raw_tiff(values: NDArray[np.generic], photometric: int, *, order: str = "<", **more: tuple[int, ...]) -> bytes:
    """Spell out an uncompressed TIFF in one strip, of values (h, w) or (h, w, colours)."""
    height, width, colours = (*values.shape, 1)[:3]
    bits = 8 * values.dtype.itemsize
    body = values.astype(f"{order}{values.dtype.kind}{values.dtype.itemsize}").tobytes()
    tags = {256: (width,), 257: (height,), 258: (bits,) * colours, 259: (1,), 262: (photometric,), 273: (0,),
            277: (colours,), 278: (height,), 279: (len(body),)}  # fmt: skip
    tags |= {int(name[1:]): value for name, value in more.items()}
    kinds = dict.fromkeys((258, 259, 262, 277, 284, 338, 339, 274), 3)
    tags[273] = (len(tiff(tags, b"", order=order, kinds=kinds)),)
    return tiff(tags, body, order=order, kinds=kinds)


def tiled_tiff(values: NDArray[np.uint8], side: int) -> bytes:
    """Spell out an uncompressed TIFF of grey values (h, w) in square tiles."""
    height, width = values.shape
    padded = np.zeros((-(-height // side) * side, -(-width // side) * side), np.uint8)
    padded[:height, :width] = values
    tiles = [padded[y : y + side, x : x + side].tobytes() for y in range(0, len(padded), side)
             for x in range(0, padded.shape[1], side)]  # fmt: skip
    tags = {256: (width,), 257: (height,), 258: (8,), 259: (1,), 262: (1,), 277: (1,), 322: (side,), 323: (side,),
            324: (0,) * len(tiles), 325: (side * side,) * len(tiles)}  # fmt: skip
    start = len(tiff(tags, b""))
    tags[324] = tuple(start + i * side * side for i in range(len(tiles)))
    return tiff(tags, b"".join(tiles))


def bmp(size: tuple[int, int], bits: int, compression: int, body: bytes, palette: bytes = b"") -> bytes:
    """Spell out a BMP."""
    start = 54 + len(palette)
    return (
        b"BM" + struct.pack("<IHHI", start + len(body), 0, 0, start)
        + struct.pack("<IiiHHIIiiII", 40, *size, 1, bits, compression, len(body), 0, 0, len(palette) // 4, 0)
        + palette + body
    )  # fmt: skip


def turned_exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def pictures() -> list[Case]:
    """Make a valid file of every format and mode."""
    return [*_png(), *_jpeg(), *_tiff(), *_bmp(), *_others()]


def _png() -> Iterable[Case]:
    rgb, rgba = ramp(), ramp(colours=4)
    image = Image.fromarray(rgb)
    yield Case("png rgb", saved(image, "PNG"), rgb)
    yield Case("png rgba", saved(Image.fromarray(rgba), "PNG"), matted(rgba))
    yield Case("png la", saved(Image.fromarray(rgba[..., 2:], "LA"), "PNG"),
               matted(np.dstack([grey(rgba[..., 2]), rgba[..., 3]])))  # fmt: skip
    yield Case("png l", saved(Image.fromarray(rgb[..., 0]), "PNG"), grey(rgb[..., 0]))
    wide = np.arange(WIDTH * HEIGHT, dtype=np.uint16).reshape(HEIGHT, WIDTH) * 68
    scaled = grey(np.round(wide / 257).astype(np.uint8))
    yield Case("png i16", saved(Image.fromarray(wide), "PNG"), scaled)
    clear = scaled.copy()
    clear[wide == 680] = 255
    rows = [row.astype(">u2").tobytes() for row in wide]
    yield Case("png i16 trns", png((WIDTH, HEIGHT), 16, 0, rows, chunk(b"tRNS", struct.pack(">H", 680))), clear)
    wide3 = rgb.astype(np.uint16) * 257
    yield Case("png rgb16", png((WIDTH, HEIGHT), 16, 2, [row.astype(">u2").tobytes() for row in wide3]), rgb)
    wide4 = rgba.astype(np.uint16) * 257
    yield Case("png rgba16", png((WIDTH, HEIGHT), 16, 6, [row.astype(">u2").tobytes() for row in wide4]), matted(rgba))
    keyed = rgb.copy()
    keyed[(rgb == rgb[3, 3]).all(2)] = 255
    key = struct.pack(">HHH", *map(int, rgb[3, 3]))
    yield Case("png rgb trns", png((WIDTH, HEIGHT), 8, 2, [r.tobytes() for r in rgb], chunk(b"tRNS", key)), keyed)
    for bits in (1, 2, 4):
        levels = rgb[..., 0] >> (8 - bits)
        rows = [np.packbits(np.unpackbits(row[:, None], axis=1)[:, 8 - bits :].ravel()).tobytes() for row in levels]
        expected = grey((levels.astype(int) * 255 // (2**bits - 1)).astype(np.uint8))
        yield Case(f"png grey{bits}", png((WIDTH, HEIGHT), bits, 0, rows), expected)
        palette = np.arange(3 * 2**bits, dtype=np.uint8).reshape(-1, 3) * 5
        plte = chunk(b"PLTE", palette.tobytes())
        yield Case(f"png palette{bits}", png((WIDTH, HEIGHT), bits, 3, rows, plte), palette[levels])
        alphas = np.linspace(0, 255, 2**bits).astype(np.uint8)
        table = matted(np.dstack([palette[None], alphas[None]]))[0]
        trns = chunk(b"tRNS", alphas.tobytes())
        yield Case(f"png palette{bits} trns", png((WIDTH, HEIGHT), bits, 3, rows, plte, trns), table[levels])
    yield Case("png animated", saved(image, "PNG", save_all=True, append_images=[Image.new("RGB", image.size)]), rgb)
    yield Case("png turned", saved(image, "PNG", exif=turned_exif(6)), np.rot90(rgb, -1))
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="3"/></x:xmpmeta>'
    text = chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp)
    yield Case("png xmp turned", png((WIDTH, HEIGHT), 8, 2, [r.tobytes() for r in rgb], text), rgb[::-1, ::-1])
    profile = chunk(b"iCCP", b"p\0\0" + zlib.compress(bytes(3 * MIB)))
    yield Case("png large profile", png((WIDTH, HEIGHT), 8, 2, [r.tobytes() for r in rgb], profile), rgb)
    bombs = [chunk(kind, head + zlib.compress(bytes(8 * MIB))) * 3
             for kind, head in ((b"zTXt", b"k\0\0"), (b"iTXt", b"k\0\1\0\0\0"), (b"zTXt", b"\0\0"))]  # fmt: skip
    yield Case("png text bombs", png((WIDTH, HEIGHT), 8, 2, [r.tobytes() for r in rgb], *bombs), rgb)


def _jpeg() -> Iterable[Case]:
    rgb = smooth()
    image = Image.fromarray(rgb)
    for name, options in (("", {}), (" progressive", {"progressive": True}), (" 4:4:4", {"subsampling": 0})):
        yield Case(f"jpeg rgb{name}", saved(image, "JPEG", quality=98, **options), rgb, within=12)
    yield Case("jpeg grey", saved(Image.fromarray(rgb[..., 0]), "JPEG", quality=98), grey(rgb[..., 0]), within=4)
    yield Case("jpeg turned", saved(image, "JPEG", quality=98, exif=turned_exif(8)), np.rot90(rgb), within=12)
    second = Image.new("RGB", image.size)
    yield Case("jpeg mpo", saved(image, "MPO", quality=98, save_all=True, append_images=[second]), rgb, within=12)
    inks = Image.new("CMYK", (16, 16), (0, 128, 200, 30))
    expected = np.full((16, 16, 3), [255 * 225 / 255, 127 * 225 / 255, 55 * 225 / 255], np.uint8)
    cmyk = saved(inks, "JPEG", quality=98)
    yield Case("jpeg cmyk", cmyk, expected, within=4)
    adobe = cmyk.index(b"Adobe")
    # Transform 2: the numbers, stored as 255 - ink, are luma 255, chroma 127 and 55, and black 225 now. JFIF makes red,
    # green and blue of the first three; 255 less that are inks, which Adobe inverts, so that they are light at once.
    rgb = np.clip([255 + 1.402 * (55 - 128), 255 - 0.714136 * (55 - 128), 255 + 1.772 * (127 - 128)], 0, 255)
    ycck = np.full((16, 16, 3), (255 - rgb) * 225 / 255, np.uint8)
    yield Case("jpeg ycck", cmyk[: adobe + 11] + b"\2" + cmyk[adobe + 12 :], ycck, within=6)


def _tiff() -> Iterable[Case]:
    rgb, rgba = ramp(), ramp(colours=4)
    image, lum = Image.fromarray(rgb), rgb[..., 0]
    for compression in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "zstd", "lzma"):
        yield Case(f"tiff {compression}", saved(image, "TIFF", compression=compression), rgb)
    yield Case("tiff jpeg", saved(Image.fromarray(smooth()), "TIFF", compression="jpeg", quality=98), smooth(), 16)
    for packing in (None, "tiff_lzw"):
        yield Case(f"bigtiff {packing}", saved(image, "TIFF", big_tiff=True, compression=packing), rgb)
    for orientation, expected in ((3, rgb[::-1, ::-1]), (6, np.rot90(rgb, -1)), (5, rgb.transpose(1, 0, 2))):
        for compression in ("raw", "tiff_lzw"):
            data = saved(image, "TIFF", compression=compression, tiffinfo={274: orientation})
            yield Case(f"tiff turned {orientation} {compression}", data, expected)
    for order in "<>":
        yield Case(f"tiff grey {order}", raw_tiff(lum, 1, order=order), grey(lum))
        yield Case(f"tiff white is zero {order}", raw_tiff(lum, 0, order=order), grey(255 - lum))
        wide = lum.astype(np.uint16) * 257
        yield Case(f"tiff i16 {order}", raw_tiff(wide, 1, order=order), grey(lum))
        yield Case(f"tiff rgb16 {order}", raw_tiff(rgb.astype(np.uint16) * 257, 2, order=order), rgb)
        floats = (lum / 255).astype(np.float32)
        yield Case(f"tiff float {order}", raw_tiff(floats, 1, order=order, t339=(3,)), grey(lum))
        yield Case(f"tiff float 255 {order}", raw_tiff(lum.astype(np.float32), 1, order=order, t339=(3,)), grey(lum))
    wide = lum.astype(np.uint16) * 257
    yield Case("tiff i16 turned", raw_tiff(wide, 1, t274=(6,)), grey(np.rot90(lum, -1)))
    yield Case("tiff int32", raw_tiff(lum.astype(np.int32) * 257, 1, t339=(2,)), grey(lum))
    yield Case("tiff rgba", raw_tiff(rgba, 2, t338=(2,)), matted(rgba))
    yield Case("tiff bits", saved(Image.fromarray(lum > 99), "TIFF"), grey((lum > 99).astype(np.uint8) * 255))
    yield Case("tiff group4", saved(Image.fromarray(lum > 99), "TIFF", compression="group4"),
               grey((lum > 99).astype(np.uint8) * 255))  # fmt: skip
    inks = np.full((HEIGHT, WIDTH, 4), (0, 255, 255, 0), np.uint8)
    red = np.full((HEIGHT, WIDTH, 3), (255, 0, 0), np.uint8)
    yield Case("tiff cmyk", raw_tiff(inks, 5), red)
    yield Case("tiff lab", saved(Image.fromarray(red).convert("LAB"), "TIFF"), red, within=8)
    yield Case("tiff tiles", tiled_tiff(lum, 16), grey(lum))
    palette = Image.fromarray(rgb).quantize(40)
    yield Case("tiff palette", saved(palette, "TIFF"), np.asarray(palette.convert("RGB")))
    yield Case("tiff two pages", saved(image, "TIFF", save_all=True, append_images=[Image.new("L", (9, 9))]), rgb)


def _bmp() -> Iterable[Case]:
    rgb = ramp()
    image, lum = Image.fromarray(rgb), rgb[..., 0]
    yield Case("bmp 24", saved(image, "BMP"), rgb)
    yield Case("bmp grey", saved(Image.fromarray(lum), "BMP"), grey(lum))
    yield Case("bmp bits", saved(Image.fromarray(lum > 99), "BMP"), grey((lum > 99).astype(np.uint8) * 255))
    bgrx = np.dstack([rgb[..., ::-1], np.zeros_like(lum)])
    yield Case("bmp 32", bmp((WIDTH, HEIGHT), 32, 0, bgrx[::-1].tobytes()), rgb)
    yield Case("bmp top down", bmp((WIDTH, -HEIGHT), 32, 0, bgrx.tobytes()), rgb)
    fives = (rgb >> 3).astype(np.uint16)
    packed = (fives[..., 0] << 10 | fives[..., 1] << 5 | fives[..., 2])[::-1].astype("<u2").tobytes()
    yield Case("bmp 16", bmp((WIDTH, HEIGHT), 16, 0, packed), (fives * 255 // 31).astype(np.uint8), within=1)
    palette = np.dstack([np.arange(256), np.arange(256)[::-1], np.full(256, 7), np.zeros(256)]).astype(np.uint8)[0]
    runs = b"".join(b"".join(bytes((1, value)) for value in row) + b"\0\0" for row in lum[::-1]) + b"\0\1"
    yield Case("bmp rle8", bmp((WIDTH, HEIGHT), 8, 1, runs, palette.tobytes()), palette[lum][..., 2::-1])


def _others() -> Iterable[Case]:
    rgb, rgba, flat = ramp(), ramp(colours=4), smooth()
    image, veiled = Image.fromarray(rgb), Image.fromarray(rgba)
    indexed = image.quantize(60)
    seen = np.asarray(indexed.convert("RGB"))
    last = Image.new("RGB", image.size)
    yield Case("gif", saved(indexed, "GIF"), seen)
    yield Case("gif interlaced", saved(indexed, "GIF", interlace=1), seen)
    yield Case("gif animated", saved(indexed, "GIF", save_all=True, append_images=[last], disposal=2), seen)
    clear = seen.copy()
    clear[np.asarray(indexed) == 7] = 255
    yield Case("gif transparent", saved(indexed, "GIF", transparency=7), clear)
    yield Case("webp lossless", saved(image, "WEBP", lossless=True), rgb)
    yield Case("webp lossless alpha", saved(veiled, "WEBP", lossless=True, exact=True), matted(rgba))
    yield Case("webp", saved(Image.fromarray(flat), "WEBP", quality=98), flat, within=12)
    yield Case("webp animated", saved(image, "WEBP", lossless=True, save_all=True, append_images=[last]), rgb)
    extras = {"exif": turned_exif(6), "icc_profile": bytes(999), "lossless": True}
    yield Case("webp turned", saved(image, "WEBP", **extras), np.rot90(rgb, -1))
    for name, options in (("", {}), (" 4:4:4", {"subsampling": "4:4:4"})):
        yield Case(f"avif{name}", saved(Image.fromarray(flat), "AVIF", quality=98, **options), flat, within=12)
    yield Case("avif turned", saved(Image.fromarray(flat), "AVIF", quality=98, exif=turned_exif(6)),
               np.rot90(flat, -1), within=12)  # fmt: skip
    alpha = np.dstack([flat, np.full((HEIGHT, WIDTH), 128, np.uint8)])
    yield Case("avif alpha", saved(Image.fromarray(alpha), "AVIF", quality=98), matted(alpha), within=12)
    frames = {"save_all": True, "append_images": [last]}
    yield Case("avif animated", saved(Image.fromarray(flat), "AVIF", quality=98, **frames), flat, within=12)


def bombs() -> dict[str, Callable[[], bytes]]:
    """Return what makes files that ask for far more than they give: time, memory, or patience with their parts."""
    red = Image.new("RGB", (64, 64), "red")
    jpg, plain, gif = saved(red, "JPEG"), saved(red, "PNG"), saved(red, "GIF")
    header, rest = plain[:33], plain[33:]
    frame = max(i for i in range(len(gif) - 9) if gif[i : i + 5] == b",\0\0\0\0")
    huge = struct.pack("<HH", 65_535, 65_535)
    disposed = gif[:frame] + b"!\xf9\4\x09\0\0\0\0" + gif[frame : frame + 5] + huge + gif[frame + 9 :]
    canvas = saved(red.convert("RGBA"), "WEBP", save_all=True, append_images=[Image.new("RGBA", red.size)])

    def scans() -> bytes:
        black = saved(Image.new("RGB", (4000, 4000)), "JPEG", progressive=True)
        return black[:-2] + black[black.rindex(b"\xff\xc4") : -2] * 1000 + b"\xff\xd9"

    def tile(compression: int) -> bytes:
        zeros = zlib.compress(bytes(300 * MIB), 1)
        tags = {256: (16,), 257: (16,), 258: (8,), 259: (compression,), 262: (1,), 277: (1,), 322: (30_000,),
                323: (10_000,), 324: (0,), 325: (len(zeros),)}  # fmt: skip
        return tiff(tags | {324: (len(tiff(tags, b"")),)}, zeros)

    def tiles(height: int) -> bytes:
        """One tile, so often that it covers a picture which is 1,600 pixels wide and 16 high."""
        data = zlib.compress(bytes(16 * height), 9)
        tags = {256: (1600,), 257: (16,), 258: (8,), 259: (8,), 262: (1,), 277: (1,), 322: (16,), 323: (height,),
                324: (1 << 31,) * 100, 325: (len(data),) * 100}  # fmt: skip
        return tiff(tags | {324: (len(tiff(tags, b"")),) * 100}, data)

    def strips(count: int) -> bytes:
        tags = {256: (64,), 257: (64,), 258: (8,), 259: (1,), 262: (1,), 277: (1,), 278: (1,), 279: (64,)}
        return tiff(tags | {273: tuple(range(200, 200 + count))}, b"")

    return {
        "jpeg junk": lambda: jpg[:20] + bytes(20 * MIB) + jpg[20:],
        "jpeg fill": lambda: jpg[:20] + b"\xff" * 20 * MIB + jpg[20:],
        "jpeg segments": lambda: jpg[:20] + b"\xff\xfe\0\2" * 5 * MIB + jpg[20:],
        "jpeg exif": lambda: jpg[:2] + b"\xff\xe1\0\x09Exif\0\0x" * 2 * MIB + jpg[2:],
        "jpeg scans": scans,
        "png chunks": lambda: header + chunk(b"abCd", b"") * 1_500_000 + rest,
        "png empty data": lambda: header + chunk(b"IDAT", b"") * 1_500_000 + rest,
        "png profiles": lambda: header + chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(MIB), 9)) * 18_000 + rest,
        "png texts": lambda: header + chunk(b"zTXt", b"\0\0" + zlib.compress(bytes(MIB), 9)) * 18_000 + rest,
        "png texts behind": lambda: plain[:-12] + chunk(b"zTXt", b"\0\0" + zlib.compress(bytes(MIB), 9)) * 18_000,
        "gif comments": lambda: gif[:13] + b"!\xfe" + b"\1x" * 10 * MIB + b"\0" + gif[13:],
        "gif frame": lambda: gif[: frame + 5] + huge + gif[frame + 9 :],
        "gif disposal": lambda: disposed,
        "webp canvas": lambda: canvas[:24] + b"\xff" * 6 + canvas[30:],
        "tiff tile": lambda: tile(8),
        "tiff raw tile": lambda: tile(1),
        "tiff shared tiles": lambda: tiles(65_536),
        "tiff few shared tiles": lambda: tiles(8192),
        "tiff strips": lambda: strips(1_000_000),
        "tiff many strips": lambda: strips(120_000),
        "bigtiff tags": lambda: b"II+\0\x08\0\0\0" + struct.pack("<QQ", 16, 900_000)
        + b"".join(struct.pack("<HHQQ", i % 60_000, 3, 1, 1) for i in range(900_000)),
        "bmp runs": lambda: bmp((7000, 7000), 8, 1, b"\1\5\0\0" * 7000, bytes(range(256)) * 4),
        "bmp many runs": lambda: bmp((4000, 4000), 8, 1, b"\1\5" * 10 * MIB, bytes(range(256)) * 4),
    }  # fmt: skip
