"""Decode image files to RGB pixels. No other package decodes an image.

The format is recognised by content, never by name, and only that format's reader gets the file. Size limits are checked
before a pixel is allocated, regardless of what other code has configured in Pillow. Of an animation, only the first
frame is decoded; EXIF orientation is applied, transparent pixels are blended with white, and 16-bit grey is scaled to 8
bits.
"""

from __future__ import annotations

from .colours import to_rgb
from .decode import decode, decode_image
from .isolation import IsolatedDecoder

__all__ = [
    "IsolatedDecoder",
    "decode",
    "decode_image",
    "to_rgb",
]
