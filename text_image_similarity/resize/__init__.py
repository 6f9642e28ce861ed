"""Resizing of images to the bytes that Pillow gives.

Pillow does it, or machine code that numba makes where it is installed: the same bytes in a third of the time. `tables`
holds what other code, for another processor, needs to do the same.
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
