"""Pillow's resize in NumPy, from the package's tables: slow, and easy to compare with its source."""

from __future__ import annotations

import numpy as np

from text_image_similarity.resize import Pixels, Weights, is_vertical_first
from text_image_similarity.resize.tables import BITS


def resized_by_tables(pixels: Pixels, across: Weights, down: Weights) -> Pixels:
    """Resize an array (h, w, 3) with the weights of both passes."""
    height, width = pixels.shape[:2]
    passes = [(1, across, width), (0, down, height)]
    if is_vertical_first((width, height), (across.first.size, down.first.size)):
        passes.reverse()
    for axis, weights, before in passes:
        if weights.first.size != before:
            pixels = one_pass(pixels, axis, weights)
    return pixels


def one_pass(pixels: Pixels, axis: int, weights: Weights) -> Pixels:
    rows = np.moveaxis(pixels, axis, 0).astype(np.int32)
    sums = np.full((weights.first.size, *rows.shape[1:]), 1 << (BITS - 1), np.int32)
    for at, (first, count, row) in enumerate(zip(*weights, strict=True)):
        for tap in range(count):
            sums[at] += row[tap] * rows[first + tap]
    return np.moveaxis(np.clip(sums >> BITS, 0, 255).astype(np.uint8), 0, axis)
