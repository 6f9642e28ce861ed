"""Adapt an encoder that has only `encode_image` and `encode_text` to `PreparingEncoder`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from ..similarity import Embeddings
from .protocols import Encoder, ModelInfo, PreparingEncoder


def as_preparing(encoder: Encoder) -> PreparingEncoder:
    """Return the encoder itself if it is a `PreparingEncoder`, otherwise wrap it in an `UnpreparedEncoder`."""
    return encoder if isinstance(encoder, PreparingEncoder) else UnpreparedEncoder(encoder)


@dataclass(frozen=True, slots=True)
class UnpreparedEncoder:
    """A `PreparingEncoder` that prepares nothing, so images are queued at full size.

    Args:
        encoder: The encoder that does the work.
    """

    encoder: Encoder
    batch_invariant: bool = False
    decode_side: int | None = None

    @property
    def info(self) -> ModelInfo:
        return self.encoder.info

    @property
    def embed_dim(self) -> int:
        return self.encoder.embed_dim

    def encode_image(self, images: Sequence[Any]) -> Embeddings:
        return self.encoder.encode_image(images)

    def encode_text(self, texts: Sequence[str]) -> Embeddings:
        return self.encoder.encode_text(texts)

    def prepare(self, image: Image.Image) -> Any:
        return image

    def encode_pixels(self, pixels: Sequence[Any]) -> Embeddings:
        return self.encoder.encode_image(pixels)

    def tokenize(self, texts: Sequence[str]) -> Sequence[str]:
        return texts

    def encode_tokens(self, rows: Sequence[str]) -> Embeddings:
        return self.encoder.encode_text(rows)
