"""Resize with Pillow, or by compiled code once it has been shown to give the same bytes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .tables import FILTERS, Region, passes_of

logger = logging.getLogger("text_image_similarity")

Pixels = NDArray[np.uint8]  # (h, w, 3), RGB

_FEW = 500  # number of images that Pillow resizes in about the two seconds that loading compiled code takes
_LIBRARIES = ("numba", "pyarrow")
_SETTINGS = ".numba_config.yaml"
# Sizes before and after for the trials: smaller, larger, both orders of passes, one axis only, tiles, single pixels.
_TRIALS = (
    ((97, 70), (31, 22)),
    ((33, 90), (30, 20)),
    ((20, 13), (51, 60)),
    ((64, 30), (40, 30)),
    ((50, 61), (50, 40)),
    ((1, 40), (3, 1)),
)


Resizer = Callable[[Image.Image, tuple[int, int], Image.Resampling, Region], Pixels]


def resized(
    image: Image.Image, size: tuple[int, int], resample: Image.Resampling, part: Region | None = None
) -> Pixels:
    """Resize an RGB image, and return a part of the result, shape (h, w, 3), with the bytes of Pillow's `Image.resize`.

    Args:
        image: The image.
        size: Width and height of the whole result.
        resample: Pillow's filter.
        part: The part to return; None returns all of it.
    """
    part = part or Region(0, 0, *size)
    compiled = _COMPILED.resizer() if image.mode == "RGB" and resample in FILTERS and image.size != size else None
    return (compiled or _by_pillow)(image, size, resample, part)


def _by_pillow(image: Image.Image, size: tuple[int, int], resample: Image.Resampling, part: Region) -> Pixels:
    pixels: Pixels = np.asarray(image.resize(size, resample) if image.size != size else image)
    if part.width * part.height < size[0] * size[1]:
        # Not `crop`, which checks Image.MAX_IMAGE_PIXELS, a global that other code may have set. The part is copied to
        # release the rest of the image.
        rows, columns = slice(part.top, part.top + part.height), slice(part.left, part.left + part.width)
        return np.ascontiguousarray(pixels[rows, columns])
    return pixels


class _Compiled:
    """Compiled code, loaded after a few images and used if it passes its trials; safe to share between threads."""

    def __init__(self) -> None:
        self._images = 0
        self._tried = False
        self._resizer: Resizer | None = None
        self._lock = Lock()

    def resizer(self) -> Resizer | None:
        """Return the compiled resizer; None if there is none, or not yet."""
        if self._tried:
            return self._resizer
        self._images += 1
        # One thread loads it while the others continue without it.
        if self._images <= _FEW or not self._lock.acquire(blocking=False):
            return None
        try:
            if not self._tried and all(find_spec(name) for name in _LIBRARIES):
                self._resizer = load_compiled()
            self._tried = True
        finally:
            self._lock.release()
        return self._resizer


def load_compiled() -> Resizer | None:
    """Return the compiled resizer if it gives Pillow's bytes in a few trials; otherwise, log why and return None."""
    try:
        resizer = _by_compiled_code()
        rng = np.random.default_rng(0)
        for before, after in _TRIALS:
            image = Image.fromarray(rng.choice(np.array([0, 1, 90, 254, 255], np.uint8), (before[1], before[0], 3)))
            part = Region(0, after[1] // 3, after[0] - after[0] // 4, after[1] - after[1] // 3)
            for resample in FILTERS:
                if not np.array_equal(resizer(image, after, resample, part), _by_pillow(image, after, resample, part)):
                    raise ValueError(f"resizing {before} to {after} gave different pixels from Pillow's")
    except Exception as exc:  # any exception of a library that does not fit this Python, NumPy or processor
        logger.warning(
            "images are resized by Pillow, because numba cannot do so on this machine: %s: %s", type(exc).__name__, exc
        )
        return None
    return resizer


def _by_compiled_code() -> Resizer:
    if Path(_SETTINGS).exists():
        # Numba would read settings from this file, among them a folder of compiled code stored as pickles, so a folder
        # of images made by somebody else could run code.
        raise RuntimeError(f"{_SETTINGS} in the working folder is not trusted; set NUMBA_ variables instead")
    import pyarrow  # both are imported only here, because not everyone needs them, and they are slow to import

    from . import compiled

    def words(image: Image.Image) -> NDArray[np.uint32] | None:
        """Return an image's memory if it is contiguous, which is not the case for more than 4 megapixels."""
        try:
            flat: Any = pyarrow.array(image).values.to_numpy()
        except ValueError:
            return None
        return flat.view(np.uint32).reshape(image.height, image.width)  # type: ignore[no-any-return]

    def resizer(image: Image.Image, size: tuple[int, int], resample: Image.Resampling, part: Region) -> Pixels:
        found = words(image)
        if found is None:  # a copy would take as much memory as the image
            return _by_pillow(image, size, resample, part)
        for each in passes_of(image.size, size, resample, part):
            run = compiled.vertically if each.vertical else compiled.horizontally
            found = run(found, each.begin, each.length, *each.weights)
        pixels: Pixels = compiled.without_padding(found)
        return pixels

    return resizer


_COMPILED = _Compiled()
