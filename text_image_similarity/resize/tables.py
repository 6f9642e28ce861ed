"""The weights and the order of passes of Pillow's 8-bit resize, with which other code can compute the same bytes.

Pillow (`src/libImaging/Resample.c`) resizes in two passes, one for each axis. A pass computes weighted sums of the
pixels around each new pixel, with fixed-point weights; its results are rounded to bytes, which the other pass then
reads.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

BITS = 22  # fractional bits of a weight: 32 minus 8 for the value, and minus 2 because weights may be negative
# Longest side of images whose weights are kept, in pixels; weights take 16 bytes for each pixel of a side.
_LONG = 4096


class Region(NamedTuple):
    """A rectangle of an image, in pixels."""

    left: int
    top: int
    width: int
    height: int


class Weights(NamedTuple):
    """The weights of one pass, for each of `after` new pixels.

    Attributes:
        first: First old pixel with a weight, shape (after,).
        counts: Number of old pixels with a weight, shape (after,).
        weights: Weights of these old pixels times 2**22, shape (after, most); beyond `counts` they are zero.
    """

    first: NDArray[np.int32]
    counts: NDArray[np.int32]
    weights: NDArray[np.int32]

    def between(self, begin: int, end: int) -> Weights:
        """Return the weights of some of the new pixels."""
        return Weights(self.first[begin:end], self.counts[begin:end], self.weights[begin:end])

    def moved(self, by: int) -> Weights:
        """Return the weights with the old pixels shifted by `by`."""
        return self._replace(first=self.first + np.int32(by))

    @property
    def source(self) -> tuple[int, int]:
        """The range of old pixels that have a weight for any new pixel."""
        return int(self.first[0]), int(self.first[-1] + self.counts[-1])


class Pass(NamedTuple):
    """One pass of a resize.

    Attributes:
        vertical: Whether the pass computes new rows; otherwise it computes new columns.
        begin: First column (in a vertical pass) or row that is needed.
        length: Number of columns or rows that are needed.
        weights: The weights.
    """

    vertical: bool
    begin: int
    length: int
    weights: Weights


def _bicubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return Keys' cubic convolution with a = -0.5, in Pillow's order of operations."""
    a = -0.5
    near, far = ((a + 2.0) * x - (a + 3.0)) * x * x + 1, (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))


def _bilinear(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(x < 1.0, 1.0 - x, 0.0)


_Filter = Callable[[NDArray[np.float64]], NDArray[np.float64]]
# Each filter as a function of the distance, with the distance beyond which it is zero.
FILTERS: dict[Image.Resampling, tuple[_Filter, float]] = {
    Image.Resampling.BICUBIC: (_bicubic, 2.0),
    Image.Resampling.BILINEAR: (_bilinear, 1.0),
}


def passes_of(
    before: tuple[int, int], after: tuple[int, int], resample: Image.Resampling, part: Region
) -> tuple[Pass, ...]:
    """Return the passes that resize an image and keep a part of the result, in Pillow's order.

    Args:
        before: Width and height of the image.
        after: Width and height of the whole result.
        resample: A filter of `FILTERS`.
        part: The part of the result.
    """
    make = _known_passes if max(before) <= _LONG else _passes
    return make(before, after, resample, part)


def _passes(
    before: tuple[int, int], after: tuple[int, int], resample: Image.Resampling, part: Region
) -> tuple[Pass, ...]:
    across = weights_of(before[0], after[0], resample).between(part.left, part.left + part.width)
    down = weights_of(before[1], after[1], resample).between(part.top, part.top + part.height)
    if before[1] == after[1]:
        return () if before[0] == after[0] else (Pass(False, part.top, part.height, across),)
    if before[0] == after[0]:
        return (Pass(True, part.left, part.width, down),)
    if is_vertical_first(before, after):
        left, right = across.source
        return Pass(True, left, right - left, down), Pass(False, 0, part.height, across.moved(-left))
    top, bottom = down.source
    return Pass(False, top, bottom - top, across), Pass(True, 0, part.width, down.moved(-top))


_known_passes = lru_cache(maxsize=256)(_passes)


def weights_of(before: int, after: int, resample: Image.Resampling) -> Weights:
    """Return the weights that resize a row of `before` pixels to `after` pixels.

    Every step uses double precision and Pillow's order, because each weight must be exactly the same number.
    """
    function, reach = FILTERS[resample]
    scale = before / after
    wider = max(scale, 1.0)
    support = reach * wider
    centre = (np.arange(after) + 0.5) * scale
    first = np.maximum((centre - support + 0.5).astype(np.int64), 0)
    count = np.minimum((centre + support + 0.5).astype(np.int64), before) - first
    taps = np.arange(math.ceil(support) * 2 + 1)
    weights = function(np.abs((taps + first[:, None] - centre[:, None] + 0.5) * (1.0 / wider)))  # (after, most)
    weights[taps >= count[:, None]] = 0.0
    total = np.cumsum(weights, axis=1)[:, -1:]  # adds one after the other; `sum` adds in another order
    weights = np.divide(weights, total, out=weights, where=total != 0.0) * (1 << BITS)
    fixed = np.where(weights < 0.0, weights - 0.5, weights + 0.5).astype(np.int32)
    return Weights(first.astype(np.int32), count.astype(np.int32), fixed)


def is_vertical_first(before: tuple[int, int], after: tuple[int, int]) -> bool:
    """Tell whether Pillow 13 resizes from one (width, height) to another with its vertical pass first.

    Before Pillow 13 the horizontal pass came first, unless an image was more than a hundred times as high as wide.
    """
    lost = before[1] - after[1]
    return lost > 0 and lost > 2 * (before[0] - after[0])
