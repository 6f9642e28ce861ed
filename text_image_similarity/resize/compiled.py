"""The two passes of `tables` as machine code, which numba compiles for this processor when this module is imported.

An image is an array (height, width) of 32-bit numbers. Each number is a pixel of four bytes as Pillow stores it; the
last byte has no meaning. Both passes add up weighted rows, because processors can do so for many values at a time; the
horizontal pass transposes a few rows for that, and then transposes the result back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

from .tables import BITS

if numba.config.DISABLE_JIT:  # type: ignore[attr-defined]  # set from the environment
    raise ImportError("NUMBA_DISABLE_JIT is set")

_HALF = 1 << (BITS - 1)
_TILE = 48  # rows transposed at once, so that they stay in the cache; powers of two compete for the same cache lines
_PIXELS = numba.types.Array(numba.uint32, 2, "C", readonly=True)
_PASS = numba.uint32[:, ::1](_PIXELS, numba.int64, numba.int64, numba.int32[::1], numba.int32[::1], numba.int32[:, ::1])


def _compiled(signature: Any) -> Callable[[Any], Any]:
    """Return a decorator that compiles a function and keeps the code on disk if possible."""

    def compile_it(function: Any) -> Any:
        try:
            return numba.njit(signature, nogil=True, cache=True)(function)
        except (OSError, RuntimeError):  # there is no folder for the code, or it cannot be written
            return numba.njit(signature, nogil=True)(function)

    return compile_it


@_compiled(_PASS)
def vertically(pixels: Any, begin: int, width: int, first: Any, count: Any, weights: Any) -> Any:
    """Return `width` columns from `begin` on, with one row for each set of weights."""
    found = np.empty((first.size, width), np.uint32)
    rows, out = pixels.view(np.uint8), found.view(np.uint8)
    sums = np.empty(4 * width, np.int32)
    for y in range(first.size):
        sums[:] = _HALF
        for tap in range(count[y]):
            row, weight = rows[first[y] + tap, 4 * begin : 4 * (begin + width)], weights[y, tap]
            for at in range(sums.size):
                sums[at] += np.int32(weight * np.int32(row[at]))
        for at in range(sums.size):
            out[y, at] = np.uint8(min(max(sums[at] >> BITS, 0), 255))
    return found


@_compiled(_PASS)
def horizontally(pixels: Any, begin: int, height: int, first: Any, count: Any, weights: Any) -> Any:
    """Return `height` rows from `begin` on, with one column for each set of weights."""
    left, width = first[0], first[-1] + count[-1] - first[0]  # range of the columns that have a weight
    found = np.empty((height, first.size), np.uint32)
    before, after = np.empty((width, _TILE), np.uint32), np.empty((first.size, _TILE), np.uint32)
    columns, out = before.view(np.uint8), after.view(np.uint8)
    sums = np.empty(4 * _TILE, np.int32)
    for top in range(0, height, _TILE):
        tile = min(_TILE, height - top)
        for y in range(tile):
            row = pixels[begin + top + y, left : left + width]
            for x in range(width):
                before[x, y] = row[x]
        for x in range(first.size):
            sums[:] = _HALF
            for tap in range(count[x]):
                column, weight = first[x] - left + tap, weights[x, tap]
                for at in range(4 * tile):
                    sums[at] += np.int32(weight * np.int32(columns[column, at]))
            for at in range(4 * tile):
                out[x, at] = np.uint8(min(max(sums[at] >> BITS, 0), 255))
        for y in range(tile):
            for x in range(first.size):
                found[top + y, x] = after[x, y]
    return found


@_compiled(numba.uint8[:, :, ::1](_PIXELS))
def without_padding(pixels: Any) -> Any:
    """Return the first three bytes of each pixel, shape (height, width, 3)."""
    height, width = pixels.shape
    found = np.empty((height, width, 3), np.uint8)
    for y in range(height):
        for x in range(width):
            for channel in range(3):
                found[y, x, channel] = np.uint8(pixels[y, x] >> (8 * channel))
    return found
