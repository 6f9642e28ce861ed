"""Pillow's resize in NumPy, from the package's tables: slow, and easy to compare with its source."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from text_image_similarity.resize import Pass, Pixels, Weights
from text_image_similarity.resize.tables import BITS


def resized_by(passes: Iterable[Pass], pixels: Pixels) -> Pixels:
    """Resize an array (h, w, 3)."""
    for vertical, begin, length, weights in passes:
        needed = slice(begin, begin + length)
        pixels = one_pass(pixels[:, needed], 0, weights) if vertical else one_pass(pixels[needed], 1, weights)
    return pixels


def one_pass(pixels: Pixels, axis: int, weights: Weights) -> Pixels:
    rows = np.moveaxis(pixels, axis, 0).astype(np.int32)
    sums = np.full((weights.first.size, *rows.shape[1:]), 1 << (BITS - 1), np.int32)
    for at, (first, count, row) in enumerate(zip(*weights, strict=True)):
        for tap in range(count):
            sums[at] += row[tap] * rows[first + tap]
    return np.moveaxis(np.clip(sums >> BITS, 0, 255).astype(np.uint8), 0, axis)
