"""Encode the pairs on which an export is compared, all in batches and the first few also alone, measuring the time."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import TypeVar

import numpy as np

from ..config import Config
from ..dataset import ImageLoader, read_dataset
from ..encoders import PreparingEncoder
from ..encoders.drawn import drawn_pairs
from ..errors import RowError, TableError
from ..preprocess import Pixels
from ..similarity import Embeddings
from .gate import EncodedPairs

DRAWN = "generated pairs"
_DRAWN = 128
_MOST = 1_000  # pairs of the caller's table
_ALONE = 4
_AT_ONCE = 32

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class CheckPairs:
    """Pairs for a comparison, with images that are prepared for the model.

    Args:
        name: Where the pairs come from.
        pixels: n images.
        captions: n captions.
    """

    name: str
    pixels: Sequence[Pixels]
    captions: Sequence[str]

    @property
    def digest(self) -> str:
        """SHA-256 of the pixels."""
        whole = hashlib.sha256()
        for pixels in self.pixels:
            whole.update(pixels.tobytes())
        return whole.hexdigest()


def drawn(encoder: PreparingEncoder) -> CheckPairs:
    """Return the generated pairs, prepared for a model."""
    images, captions = zip(*drawn_pairs(_DRAWN), strict=True)
    return CheckPairs(DRAWN, [encoder.prepare(image) for image in images], captions)


def pairs_of(source: str | PathLike[str], config: Config, encoder: PreparingEncoder) -> CheckPairs:
    """Return the first images of a table, each with its first caption.

    Args:
        source: A data set, as for `read_dataset`.
        config: The settings for fetching and decoding.
        encoder: Encoder that prepares the images.

    Raises:
        UsageError, TableError: The table cannot be read, or fewer than two of its images can be loaded.
    """
    pixels, captions, failed = [], [], 0
    with ImageLoader(config) as loader:
        for image in read_dataset(source, config=config):
            try:
                pixels.append(encoder.prepare(loader.load(image)))
                captions.append(image.captions[0])
            except RowError:
                failed += 1
            if len(captions) == _MOST:
                break
    if len(captions) < 2:
        raise TableError(
            f"of the images in {source}, {len(captions)} can be loaded and {failed} cannot; at least two are needed"
        )
    return CheckPairs(str(source), pixels, captions)


def encoded(encoder: PreparingEncoder, pairs: CheckPairs) -> EncodedPairs:
    """Encode pairs with one model, all in batches and the first few also alone."""
    rows = encoder.tokenize(pairs.captions)
    image_alone = np.concatenate([encoder.encode_pixels([one]) for one in pairs.pixels[:_ALONE]])
    text_alone = np.concatenate([encoder.encode_tokens([one]) for one in rows[:_ALONE]])
    image, image_ms = _timed(encoder.encode_pixels, pairs.pixels)
    text, text_ms = _timed(encoder.encode_tokens, rows)
    return EncodedPairs(image, text, image_alone, text_alone, image_ms, text_ms)


def _timed(encode: Callable[[Sequence[T]], Embeddings], items: Sequence[T]) -> tuple[Embeddings, float]:
    began = time.perf_counter()
    found = [encode(items[start : start + _AT_ONCE]) for start in range(0, len(items), _AT_ONCE)]
    return np.concatenate(found), 1000 * (time.perf_counter() - began) / len(items)
