"""The coded size of the images in an AVIF file, read from the AV1 stream instead of the boxes around it.

The boxes of an AVIF file declare a size, but the decoder allocates the size in which the stream is coded. This module
follows the boxes of ISO 14496-12 and ISO 23008-12 to all AV1 items, and to the first image of each track, and reads the
headers there (AV1 Bitstream Specification, 5.3 to 5.9). No pixels are decoded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..config import Limits
from ..errors import ErrorCode, RowError

_MOST_UNITS = 20_000  # most boxes, items and units of the stream to read; a real file has a few hundred
_LONGEST_HEADER = 512  # a sequence header is shorter than this even with all optional fields
_SEQUENCE_HEADER = 1
_FRAMES = frozenset(
    {3, 6, 7}
)  # a header, a frame with its header, and a copy of a header, which a decoder may treat as a header
_SELECT = 2
_HOLDERS = frozenset({b"moov", b"trak", b"mdia", b"minf", b"stbl", b"meta"})
_ONCE_IN_META = (b"idat", b"iinf", b"iloc")
_ONCE = ((b"stsd",), (b"stsz",), (b"stco", b"co64"))
_MOST_HELD = 2.5  # multiple of `max_pixels`, to allow for colours, alpha, and a grid's tiles beyond the edge
# A file may code this many times the pixels that it declares, to allow for alpha and tiles far beyond the edge, and
# this many pixels in any case.
_MOST_TIMES, _ALWAYS = 8, 1 << 20


def check_coded_size(data: bytes, size: tuple[int, int], limits: Limits) -> None:
    """Check the size in which an AVIF is coded against the limits and against its declared size.

    Raises:
        RowError: `too_many_pixels`; `corrupt` if the coded size is many times the declared size.
        ValueError: The file's structure is invalid, or it has too many pieces.
    """
    groups = coded_areas(data)
    largest, most = max(max(group, default=0) for group in groups), max(map(sum, groups))
    if largest > limits.max_pixels or most > _MOST_HELD * limits.max_pixels:
        detail = f"{size[0]} x {size[1]} is coded as {most:,} pixels, more than the limit of {limits.max_pixels:,}"
        raise RowError(ErrorCode.TOO_MANY_PIXELS, detail)
    if most > max(_MOST_TIMES * size[0] * size[1], _ALWAYS):
        raise RowError(
            ErrorCode.CORRUPT, f"AVIF: the file declares {size[0]} x {size[1]} pixels but is coded as {most:,} pixels"
        )


def coded_areas(data: bytes) -> tuple[list[int], list[int]]:
    """Return the largest pixel count of each frame that an AVIF's decoder may hold, in items and in tracks.

    Raises:
        ValueError: The file's structure is invalid, or it has too many pieces.
    """
    budget = _Budget(_MOST_UNITS, 4 * len(data))
    whole, items, tracks = memoryview(data), [], []
    try:
        for kind, body in _boxes(whole, budget):
            if kind == b"meta":
                items += [area for stream in _items(whole, body, budget) for area in _areas(stream, budget)]
            elif kind == b"stbl":
                table = _table(body, budget)
                tracks += [area for stream in _first_sample(whole, table, budget) for area in _areas(stream, budget)]
    except IndexError as exc:
        raise ValueError("a header ends early") from exc
    if not items and not tracks:
        raise ValueError("the file has no image")
    return items, tracks


class _Budget:
    """The numbers of units and bytes that may still be read."""

    def __init__(self, units: int, size: int) -> None:
        self._units, self._size = units, size

    def spend(self, size: int = 0) -> None:
        self._units -= 1
        self._size -= size
        if self._units < 0 or self._size < 0:
            raise ValueError(f"the file has more than {_MOST_UNITS:,} pieces, or its pieces overlap")


class _Bits:
    """Reader of numbers from a string of bits, highest bit first."""

    def __init__(self, data: memoryview) -> None:
        self._data, self._at = data, 0

    def take(self, bits: int) -> int:
        end = self._at + bits
        if end > 8 * len(self._data):
            raise IndexError(end)
        value = int.from_bytes(self._data[self._at >> 3 : end + 7 >> 3])
        self._at = end
        return value >> (-end & 7) & (1 << bits) - 1

    def bytes(self, count: int) -> int:
        return self.take(8 * count)


@dataclass(slots=True)
class _Sequence:
    """The fields of a sequence header that apply to the frames after it."""

    reduced: bool
    width: int = 0
    height: int = 0
    widest: int = 0  # largest width and height of a frame that states its own size
    highest: int = 0
    id_bits: int = 0
    time_bits: int = 0
    screen_content: int = _SELECT
    integer_mv: int = _SELECT


def _boxes(data: memoryview, budget: _Budget, *, deep: bool = True) -> Iterator[tuple[bytes, memoryview]]:
    """Yield the kind and body of each box, and of the boxes that it contains."""
    at = 0
    while at + 8 <= len(data):
        budget.spend()
        size, head = int.from_bytes(data[at : at + 4]), 8
        if size == 1:
            size, head = int.from_bytes(data[at + 8 : at + 16]), 16
        end = len(data) if size == 0 else at + size
        if end < at + head:
            raise ValueError("a box ends before it begins")
        kind, body = bytes(data[at + 4 : at + 8]), data[at + head : end]
        yield kind, body
        if deep and kind in _HOLDERS:
            yield from _boxes(body[_before(kind, body) :], budget)
        at = end


def _before(kind: bytes, body: memoryview) -> int:
    """Return how many bytes of a box come before the boxes that it contains."""
    return 4 if kind == b"meta" else 0 if kind != b"iinf" else 8 if body[0] else 6


def _items(data: memoryview, meta: memoryview, budget: _Budget) -> Iterator[memoryview]:
    """Yield the AV1 streams of all items.

    As a decoder does, this looks only at the boxes directly in `meta`; a decoder refuses more than one of each.
    """
    boxes = list(_boxes(meta[4:], budget, deep=False))
    if any(sum(kind == only for kind, _ in boxes) > 1 for only in _ONCE_IN_META):
        raise ValueError("the file gives the location of its images twice")
    found = dict(boxes)
    none = memoryview(b"")
    own, infos, locations = (found.get(kind, none) for kind in _ONCE_IN_META)
    entries = _boxes(infos[_before(b"iinf", infos) :], budget, deep=False) if infos else ()
    coded = {_coded_item(body) for kind, body in entries if kind == b"infe"}
    for item, inside, extents in _locations(locations, budget) if locations else ():
        if item in coded:
            source = own if inside else data
            parts = [source[start : start + size] for start, size in extents]
            budget.spend(sum(map(len, parts)))
            if any(parts):
                yield memoryview(b"".join(parts))


def _coded_item(infe: memoryview) -> int | None:
    """Return the number of an item if it is coded in AV1, otherwise None."""
    wide = 4 if infe[0] == 3 else 2
    return int.from_bytes(infe[4 : 4 + wide]) if bytes(infe[6 + wide : 10 + wide]) == b"av01" else None


def _locations(iloc: memoryview, budget: _Budget) -> Iterator[tuple[int, bool, list[tuple[int, int]]]]:
    """Yield each item's number, whether its bytes are in the box `idat`, and the offset and length of each extent."""
    bits = _Bits(iloc)
    version = bits.take(32) >> 24
    offset, length, base, index = (bits.take(4) for _ in range(4))
    wide = 4 if version == 2 else 2
    for _ in range(bits.bytes(wide)):
        budget.spend()
        item = bits.bytes(wide)
        inside = bool(version and bits.take(16) & 15)
        bits.take(16)
        start = bits.bytes(base)
        extents = []
        for _ in range(bits.take(16)):
            budget.spend()
            if version:
                bits.bytes(index)
            at = start + bits.bytes(offset)
            extents.append((at, bits.bytes(length)))
        yield item, inside, extents


def _table(body: memoryview, budget: _Budget) -> dict[bytes, memoryview]:
    """Return the boxes of a track's table by kind; refuse duplicates that locate images, which a decoder would join."""
    boxes = list(_boxes(body, budget, deep=False))
    if any(sum(kind in alike for kind, _ in boxes) > 1 for alike in _ONCE):
        raise ValueError("a track gives the location of its images twice")
    return dict(boxes)


def _first_sample(data: memoryview, table: dict[bytes, memoryview], budget: _Budget) -> Iterator[memoryview]:
    """Yield the AV1 stream of a track's first image."""
    none = memoryview(b"")
    sizes = table.get(b"stsz", none)
    wide, starts = (4, table[b"stco"]) if b"stco" in table else (8, table.get(b"co64", none))
    if b"av01" in bytes(table.get(b"stsd", none)) and len(sizes) >= 12 and len(starts) >= 8 + wide:
        size = int.from_bytes(sizes[4:8]) or int.from_bytes(sizes[12:16])
        start = int.from_bytes(starts[8 : 8 + wide])
        budget.spend(min(size, len(data)))
        yield data[start : start + size]


def _areas(stream: memoryview, budget: _Budget) -> list[int]:
    """Return the number of pixels of each frame of a stream, which must have at least one frame with a size."""
    areas = list(_frames(stream, budget))
    if not any(areas):
        raise ValueError("an image in the file has no size")
    return areas


def _frames(stream: memoryview, budget: _Budget) -> Iterator[int]:
    """Yield the number of pixels of each frame of a stream."""
    sequence, at = None, 0
    while at < len(stream):
        budget.spend()
        head = stream[at]
        kind, at = head >> 3 & 15, at + (2 if head & 4 else 1)
        size, at = _leb128(stream, at) if head & 2 else (len(stream) - at, at)
        header = _Bits(stream[at : at + min(size, _LONGEST_HEADER)])
        if kind == _SEQUENCE_HEADER:
            sequence = _sequence(header)
        elif kind in _FRAMES and sequence is not None:
            yield _frame_area(header, sequence)
        at += size


def _leb128(data: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for place in range(8):
        value |= (data[at + place] & 127) << 7 * place
        if data[at + place] < 128:
            return value, at + place + 1
    raise ValueError("a length field does not end")


def _sequence(bits: _Bits) -> _Sequence:
    bits.take(4)  # profile, still image
    sequence = _Sequence(bool(bits.take(1)))
    if sequence.reduced:
        bits.take(5)
    else:
        _operating_points(bits, sequence)
    across, down = bits.take(4) + 1, bits.take(4) + 1
    sequence.width, sequence.height = bits.take(across) + 1, bits.take(down) + 1
    sequence.widest, sequence.highest = 1 << across, 1 << down
    if not sequence.reduced:
        if bits.take(1):
            sequence.id_bits = bits.take(4) + 2
            sequence.id_bits += bits.take(3) + 1
        bits.take(7)  # tools
        if bits.take(1):
            bits.take(2)  # of order hints
        sequence.screen_content = _SELECT if bits.take(1) else bits.take(1)
        if sequence.screen_content:
            sequence.integer_mv = _SELECT if bits.take(1) else bits.take(1)
    return sequence


def _operating_points(bits: _Bits, sequence: _Sequence) -> None:
    delay_bits = 0
    if bits.take(1):  # timing
        bits.take(64)
        equal = bits.take(1)
        if equal:
            zeros = 0
            while zeros < 32 and not bits.take(1):
                zeros += 1
            bits.take(zeros if zeros < 32 else 0)
        if bits.take(1):  # a decoder's model
            delay_bits = bits.take(5) + 1
            bits.take(37)
            sequence.time_bits = bits.take(5) + 1
            if equal:
                sequence.time_bits = 0
    delays = bits.take(1)
    for _ in range(bits.take(5) + 1):
        bits.take(12)
        if bits.take(5) > 7:
            bits.take(1)
        if delay_bits and bits.take(1):
            bits.take(2 * delay_bits + 1)
        if delays and bits.take(1):
            bits.take(4)


def _frame_area(bits: _Bits, sequence: _Sequence) -> int:
    """Return the maximum number of pixels of a frame; 0 for a frame that only shows an earlier one."""
    area = sequence.width * sequence.height
    if sequence.reduced:
        return area
    if bits.take(1):
        return 0
    kind, shown = bits.take(2), bits.take(1)
    bits.take(sequence.time_bits if shown else 1)
    if not (kind == 3 or (kind == 0 and shown)):
        bits.take(1)  # error resilience
    bits.take(1)
    screen_content = bits.take(1) if sequence.screen_content == _SELECT else sequence.screen_content
    if screen_content and sequence.integer_mv == _SELECT:
        bits.take(1)
    bits.take(sequence.id_bits)
    own_size = kind == 3 or bits.take(1)
    return sequence.widest * sequence.highest if own_size else area
