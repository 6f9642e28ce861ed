"""An encoder for tests and dry runs, with predictable scores.

An image's vector is its mean colour, and a caption's is the sum of the colours it names. "red" scores 1 with a red
image and 0 with a green one; "yellow", which is red and green, scores 0.7071 with a red one. Neither a model nor torch
is needed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

from ..decode import to_rgb
from ..preprocess import ImageLike, Pixels, Preprocess, as_image
from ..similarity import Embeddings
from .protocols import ModelInfo

COLOURS = {
    "red": (1, 0, 0),
    "green": (0, 1, 0),
    "blue": (0, 0, 1),
    "yellow": (1, 1, 0),
    "magenta": (1, 0, 1),
    "cyan": (0, 1, 1),
    "white": (1, 1, 1),
}


@dataclass(frozen=True, slots=True)
class ColourEncoder:
    """An encoder of colours. A black image, or a caption that names no colour, is encoded as white.

    Example:
        >>> encoder = ColourEncoder()
        >>> encoder.encode_text(["a red and green flag"]).round(4)
        array([[0.7071, 0.7071, 0.    ]], dtype=float32)
    """

    embed_dim: int = 3
    decode_side: int | None = None
    batch_invariant: bool = True
    fingerprint: str | None = "colour"

    @property
    def info(self) -> ModelInfo:
        return ModelInfo(model="colour", device="cpu", precision="fp32", fingerprint=self.fingerprint)

    @property
    def preparer(self) -> ColourEncoder:
        """The encoder itself, with which feeders prepare images."""
        return self

    def prepare(self, image: Image.Image) -> Pixels:
        return Preprocess(size=(8, 8), crop=None, mean=(0.0,) * 3, std=(1.0,) * 3).pixels(to_rgb(image))

    def encode_pixels(self, pixels: Sequence[Pixels]) -> Embeddings:
        return _unit([picture.mean(axis=(0, 1)) for picture in pixels])

    def encode_image(self, images: Sequence[ImageLike]) -> Embeddings:
        return self.encode_pixels([self.prepare(as_image(image)) for image in images])

    def tokenize(self, texts: Sequence[str]) -> Sequence[str]:
        return texts

    def encode_tokens(self, rows: Sequence[str]) -> Embeddings:
        return self.encode_text(rows)

    def encode_text(self, texts: Sequence[str]) -> Embeddings:
        return _unit([sum(np.array(COLOURS.get(w, (0, 0, 0))) for w in re.findall("[a-z]+", t.lower())) for t in texts])


def _unit(rows: Sequence[ArrayLike]) -> Embeddings:
    vectors = np.array([row if np.any(row) else (1, 1, 1) for row in rows], dtype=np.float32).reshape(-1, 3)
    unit: Embeddings = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit
