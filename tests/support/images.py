"""Pictures of one colour."""

from __future__ import annotations

import io

from PIL import Image


def make_png(colour: str | tuple[int, ...] = "red", size: tuple[int, int] = (16, 16)) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, "PNG")
    return out.getvalue()
