"""The protocols that encoders implement, and the description of a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol, runtime_checkable

from PIL import Image

from ..config import PreprocessMode
from ..preprocess import ImageLike, Pixels
from ..similarity import Embeddings


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model, and how it runs, as described in reports, summaries and HTTP responses.

    Args:
        model: Hub id, folder or alias.
        revision: Commit of a hub model, or None.
        device: Device that the model runs on: `cpu`, `cuda:0`, `mps`, or `remote` for an inference server.
        precision: `fp32`, `fp16` or `int8`.
        backend: Backend that runs the model: `torch`, `onnx`, `openvino`, `tensorrt` or `triton`.
        preprocess: `exact` or `fast`.
        fingerprint: String that identifies everything that the model's embeddings depend on, apart from the images and
            captions; None if unknown. Embeddings with equal fingerprints may share a cache.
        export: Source and target of an export; None for other models.
    """

    model: str
    revision: str | None = None
    device: str | None = None
    precision: str | None = None
    backend: str | None = None
    preprocess: PreprocessMode = "exact"
    fingerprint: str | None = None
    export: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the fields for reports: all except the fingerprint, and `export` only if it is set."""
        values = asdict(self)
        del values["fingerprint"]
        if self.export is None:
            del values["export"]
        return values


class CutIds(list[int]):
    """Token ids of a caption that was too long for the model and was cut at its context length."""


class Encoder(Protocol):
    """A dual encoder, which maps images and texts to vectors in one space. Safe to share between threads."""

    @property
    def info(self) -> ModelInfo:
        """Description of the model; `ModelInfo(model="mine")` is enough for a model of your own."""

    @property
    def embed_dim(self) -> int:
        """Dimension of the embeddings."""

    def encode_image(self, images: Sequence[ImageLike]) -> Embeddings:
        """Encode images (PIL images of any size and mode, or RGB arrays (h, w, 3) uint8) to unit vectors.

        Pixels are used as they are. EXIF orientation is applied when a file is read, as in `score_pairs` and
        `score_images`.

        Returns:
            Shape (n, embed_dim), float32; a row is not finite if the model's output for it was not.
        """

    def encode_text(self, texts: Sequence[str]) -> Embeddings:
        """Encode captions to unit vectors, shape (n, embed_dim), float32."""


@runtime_checkable
class PreparingEncoder(Encoder, Protocol):
    """An encoder whose images and captions can be prepared in advance, on other threads."""

    @property
    def batch_invariant(self) -> bool:
        """Whether a vector is the same to the last bit regardless of what else is encoded with it."""

    @property
    def decode_side(self) -> int | None:
        """Shorter side, in pixels, that images may be reduced to while they are decoded; None keeps their size."""

    def prepare(self, image: Image.Image) -> Pixels:
        """Bring an image to the model's size, (h, w, 3) uint8; safe to call on any thread."""

    def encode_pixels(self, pixels: Sequence[Pixels]) -> Embeddings:
        """Encode results of `prepare`, as `encode_image` would encode the images."""

    def tokenize(self, texts: Sequence[str]) -> Sequence[Any]:
        """Turn captions into items for `encode_tokens`, one per caption; safe to call on any thread.

        The item of a caption that was cut may be a `CutIds`, so that cut captions can be counted.
        """

    def encode_tokens(self, rows: Sequence[Any]) -> Embeddings:
        """Encode results of `tokenize`, as `encode_text` would encode the captions."""


@runtime_checkable
class OverlappingEncoder(PreparingEncoder, Protocol):
    """An encoder that can compute a batch while this process prepares the next one."""

    @property
    def overlaps(self) -> bool:
        """Whether it helps to start a batch before the result of the previous one is read."""

    def begin_pixels(self, pixels: Sequence[Pixels]) -> Callable[[], Embeddings]:
        """Start the work of `encode_pixels`, and return a function that waits for the result."""

    def begin_tokens(self, rows: Sequence[Any]) -> Callable[[], Embeddings]:
        """Start the work of `encode_tokens`, and return a function that waits for the result."""
