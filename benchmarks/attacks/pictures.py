"""Images for attacks: distinct small ones, and some that claim a false size."""

from __future__ import annotations

import io
import random
import struct
from functools import cache

from PIL import Image


@cache
def picture(number: int) -> bytes:
    """Return a small JPEG that is always the same for the same number, and different for different numbers."""
    out = io.BytesIO()
    noise = Image.frombytes("RGB", (16, 16), random.Random(number).randbytes(768))
    noise.resize((224, 224)).save(out, "JPEG", quality=85)
    return out.getvalue()


def webp(side: int) -> bytes:
    """Return a WebP of a few bytes and a single colour, whose header claims a different size (RFC 9649, 3.4)."""
    out = io.BytesIO()
    Image.new("RGB", (8, 8)).save(out, "WEBP", lossless=True)
    made = bytearray(out.getvalue())
    assert made[12:16] == b"VP8L"
    sides = (side - 1) | (side - 1) << 14
    made[21:25] = (int.from_bytes(made[21:25], "little") & ~0xFFFFFFF | sides).to_bytes(4, "little")
    return bytes(made)


@cache
def lying_avif() -> bytes:
    """Return an AVIF that claims to be 64 x 64 but has 4 megapixels."""
    out = io.BytesIO()
    Image.new("RGB", (2048, 2048)).save(out, "AVIF", speed=10)
    made = out.getvalue()
    at = made.index(b"ispe") + 8
    return made[:at] + struct.pack(">II", 64, 64) + made[at + 8 :]
