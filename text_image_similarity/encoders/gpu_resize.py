"""Resize pixels that are on a GPU with a Triton kernel, to the same bytes as `resize` and Pillow's 8-bit resize.

One kernel computes each of Pillow's passes, along either axis, with the same 32-bit integers. The kernel needs
`triton`, which torch installs on Linux. Nothing in this package uses it yet, because it has run only in Triton's
interpreter, not on a GPU.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import triton
import triton.language as tl
from PIL import Image
from torch import Tensor

from ..resize import Region, passes_of
from ..resize.tables import BITS

_BLOCK = 512


def resize_on_device(pixels: Tensor, size: tuple[int, int], resample: Image.Resampling) -> Tensor:
    """Resize an image on the device that holds it.

    Args:
        pixels: The image, shape (h, w, 3) uint8.
        size: Width and height of the result.
        resample: Pillow's filter, bicubic or bilinear.

    Returns:
        The same bytes as from Pillow's `Image.resize`, shape (height, width, 3) uint8.
    """
    height, width, _ = pixels.shape
    for vertical, first, count, weights in _passes_on(pixels.device, (width, height), size, resample):
        pixels = _passed(pixels.contiguous(), 0 if vertical else 1, first, count, weights)
    return pixels


def _passed(pixels: Tensor, axis: int, first: Tensor, count: Tensor, weights: Tensor) -> Tensor:
    shape = list(pixels.shape)
    before, shape[axis] = shape[axis], len(first)
    found = torch.empty(shape, dtype=torch.uint8, device=pixels.device)
    inner = 3 if axis else 3 * shape[1]  # number of values from one pixel to the next along the axis
    grid = (triton.cdiv(found.numel(), _BLOCK),)
    _pass[grid](
        pixels, found, first, count, weights, found.numel(), before, len(first), inner, weights.shape[1],
        bits=BITS, block=_BLOCK,
    )  # fmt: skip
    return found


@lru_cache(maxsize=1024)
def _passes_on(
    device: torch.device, before: tuple[int, int], after: tuple[int, int], resample: Image.Resampling
) -> list[tuple[bool, Tensor, Tensor, Tensor]]:
    """Return the passes for a whole image, with weights on the device; the weights are small, so they stay there."""
    passes = passes_of(before, after, resample, Region(0, 0, *after))
    found = []
    for each in passes:
        first, count, weights = (torch.from_numpy(part).to(device) for part in each.weights)
        found.append((each.vertical, first, count, weights))
    return found


@triton.jit  # type: ignore[untyped-decorator]
def _pass(  # type: ignore[no-untyped-def]  # noqa: PLR0913 - a kernel takes pointers one by one
    pixels, found, first, count, weights, values, before, after, inner, most,
    bits: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    at = tl.program_id(0) * block + tl.arange(0, block)
    there = at < values
    new, line = (at // inner) % after, at // (inner * after)
    begin = tl.load(first + new, mask=there, other=0)
    taps = tl.load(count + new, mask=there, other=0)
    source = pixels + (line * before + begin) * inner + at % inner
    sums = tl.full((block,), 1 << (bits - 1), tl.int32)
    for tap in range(most):
        used = there & (tap < taps)
        weight = tl.load(weights + new * most + tap, mask=used, other=0)
        sums += weight * tl.load(source + tap * inner, mask=used, other=0).to(tl.int32)
    byte = tl.minimum(tl.maximum(sums >> bits, 0), 255)
    tl.store(found + at, byte.to(tl.uint8), mask=there)
