"""What an encoder is, and what it says of itself."""

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
    """What a model is, where it runs, and how: the same in reports, summaries, HTTP answers and on clusters.

    Args:
        model: Hub id, folder or alias.
        revision: Commit of a hub model, or None.
        device: Where it runs: `cpu`, `cuda:0`, `mps`.
        precision: `fp32`, `fp16` or `int8`.
        backend: What runs it: `torch`, `onnx` or `openvino`.
        preprocess: `exact` or `fast`.
        fingerprint: What its embeddings depend on in addition to pixels and words, or None if that is unknown. Embeddings with
            equal fingerprints may share a cache.
        export: Of an export, what it was made of and for; None for a model itself.
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
        """Return what reports say of a model: all but its fingerprint, and `export` of an export alone."""
        values = asdict(self)
        del values["fingerprint"]
        if self.export is None:
            del values["export"]
        return values


class CutIds(list[int]):
    """Token ids of a caption that is longer than the model reads, cut at its context length."""


class Encoder(Protocol):
    """A dual encoder: images and texts become vectors in one space. Safe to share between threads."""

    @property
    def info(self) -> ModelInfo:
        """What the model is; `ModelInfo(model="mine")` will do for one of your own."""

    @property
    def embed_dim(self) -> int:
        """Width of the shared space."""

    def encode_image(self, images: Sequence[ImageLike]) -> Embeddings:
        """Encode images (PIL images of any size and mode, or RGB arrays (h, w, 3) uint8) to unit vectors.

        Pixels count as they are: EXIF orientation is a matter of files, which `score_pairs` and `score_images` read.

        Returns:
            Shape (n, embed_dim), float32; a row is not finite where the model gave no finite answer.
        """

    def encode_text(self, texts: Sequence[str]) -> Embeddings:
        """Encode captions to unit vectors, shape (n, embed_dim), float32."""


@runtime_checkable
class PreparingEncoder(Encoder, Protocol):
    """An encoder whose images and captions can be made ready ahead of time, on other threads."""

    @property
    def batch_invariant(self) -> bool:
        """Whether a vector is the same to the last bit whatever is encoded together with it."""

    @property
    def decode_side(self) -> int | None:
        """Shorter side, in pixels, that images may be reduced to while they are decoded; None: decode them whole."""

    def prepare(self, image: Image.Image) -> Pixels:
        """Bring one image to the model's size, (h, w, 3) uint8: cheap to hold, safe to call on any thread."""

    def encode_pixels(self, pixels: Sequence[Pixels]) -> Embeddings:
        """Encode what `prepare` returned, as `encode_image` would the images."""

    def tokenize(self, texts: Sequence[str]) -> Sequence[Any]:
        """Turn captions into what the model reads, one item each; safe to call on any thread.

        The item of a caption that was cut may be a `CutIds`: such captions are counted.
        """

    def encode_tokens(self, rows: Sequence[Any]) -> Embeddings:
        """Encode items that `tokenize` returned, as `encode_text` would the captions."""


@runtime_checkable
class OverlappingEncoder(PreparingEncoder, Protocol):
    """An encoder that can compute a batch while this process prepares the next one."""

    @property
    def overlaps(self) -> bool:
        """Whether it does so here, so that a batch should begin before the result of the last one is read."""

    def begin_pixels(self, pixels: Sequence[Pixels]) -> Callable[[], Embeddings]:
        """Begin what `encode_pixels` does, and return a function that waits for the result."""

    def begin_tokens(self, rows: Sequence[Any]) -> Callable[[], Embeddings]:
        """Begin what `encode_tokens` does, and return a function that waits for the result."""
