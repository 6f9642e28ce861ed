"""Bytes -> RGB pixels. The only place that opens an image.

The format is read from the content, never from a name, and handed to that format's reader alone. Caps hold before a pixel
is allocated, whatever others have set Pillow to. Only the first frame of an animation counts, EXIF orientation is applied,
transparency is matted on white, 16-bit grey is scaled to 8 bits.
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
