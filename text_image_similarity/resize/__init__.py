"""Resize images to exactly the bytes that Pillow gives.

Images are resized by Pillow or, if numba is installed, by code that it compiles, which gives the same bytes in a third
of the time. `tables` has everything that other code, for another processor, needs to do the same.
"""

from __future__ import annotations

from .resize import Pixels, resized
from .tables import Pass, Region, Weights, passes_of

__all__ = [
    "Pass",
    "Pixels",
    "Region",
    "Weights",
    "passes_of",
    "resized",
]
