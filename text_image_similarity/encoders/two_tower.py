"""The `Encoder` for all models of this package, which combines preprocessing, tokens and a backend.

A backend is torch on any device (`torch_backend`), ONNX Runtime (`onnx_backend`) or OpenVINO (`openvino_backend`) on
the CPU, TensorRT (`tensorrt_backend`), or an inference server (`triton_backend`). This module takes care of order,
shapes and unit length for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn, Protocol, runtime_checkable

import numpy as np
from PIL import Image

from ..config import PreprocessMode
from ..decode import to_rgb
from ..errors import InputTypeError
from ..preprocess import ImageLike, Pixels, Preprocess, as_image
from ..similarity import Embeddings
from .protocols import ModelInfo
from .tokens import Ids, Tokens, by_length

_ARITHMETIC = 3  # version of decoding, preprocessing, tokens and backends; a new number invalidates cached embeddings


class Backend(Protocol):
    """A library or server that runs a model's two towers; safe to share between threads."""

    @property
    def name(self) -> str:
        """`torch`, `onnx`, `openvino`, `tensorrt` or `triton`."""

    @property
    def device(self) -> str:
        """Device that it runs on: `cpu`, `cuda:0`, `mps`, or `remote` for an inference server."""

    @property
    def precision(self) -> str:
        """`fp32`, `fp16` or `int8`."""

    @property
    def batch_invariant(self) -> bool:
        """Whether features are the same to the last bit regardless of what else is encoded with them."""

    @property
    def weight_bytes(self) -> int:
        """Memory that the parameters take, in bytes."""

    def image(self, pixels: Sequence[Pixels]) -> Embeddings:
        """Encode n > 0 images of the model's size to features (n, embed_dim), float32, not normalised."""

    def text(self, rows: Sequence[Ids]) -> Embeddings:
        """Encode n > 0 captions, given shortest first, to features (n, embed_dim), float32, not normalised."""


@runtime_checkable
class OverlappingBackend(Backend, Protocol):
    """A backend whose device computes in parallel with this process."""

    @property
    def overlaps(self) -> bool:
        """Whether it helps to start a batch before the result of the previous one is read."""

    def begin_image(self, pixels: Sequence[Pixels]) -> Callable[[], Embeddings]:
        """Start the work of `image`, and return a function that waits for the result."""

    def begin_text(self, rows: Sequence[Ids]) -> Callable[[], Embeddings]:
        """Start the work of `text`, and return a function that waits for the result."""


@dataclass(frozen=True, slots=True)
class TwoTowerEncoder:
    """A `PreparingEncoder` that runs a model on a backend.

    Args:
        model: Hub id, folder or alias.
        revision: Commit of a hub model, or None.
        embed_dim: Dimension of the embeddings.
        context_length: Longest caption in tokens; longer ones are cut.
        logit_scale: Factor that cosines are multiplied by before a softmax or sigmoid.
        preprocess: The model's preprocessing.
        tokens: `Tokens` of the model.
        backend: Backend that runs the towers.
        weights: Fingerprint of the model's files, or None for a model that is being trained.
        logit_bias: Number added to scaled cosines before a sigmoid; None for models that were trained with a softmax.
        export: Source and target of an export; None for other models.
    """

    model: str
    revision: str | None
    embed_dim: int
    context_length: int
    logit_scale: float
    preprocess: Preprocess
    tokens: Tokens
    backend: Backend
    weights: str | None = None
    logit_bias: float | None = None
    export: str | None = None

    @property
    def info(self) -> ModelInfo:
        backend = self.backend
        mode: PreprocessMode = "fast" if self.preprocess.fast else "exact"
        # With a queue, captions are padded to other widths, which may change last digits.
        queued = ("queue",) if isinstance(backend, OverlappingBackend) and backend.overlaps else ()
        parts = (
            _ARITHMETIC,
            self.weights,
            backend.name,
            backend.device.partition(":")[0],
            backend.precision,
            mode,
            *queued,
        )
        return ModelInfo(
            model=self.model,
            revision=self.revision,
            device=backend.device,
            precision=backend.precision,
            backend=backend.name,
            preprocess=mode,
            fingerprint=None if self.weights is None else " ".join(map(str, parts)),
            export=self.export,
        )

    @property
    def batch_invariant(self) -> bool:
        return self.backend.batch_invariant

    @property
    def weight_bytes(self) -> int:
        """Memory that the model's parameters take, in bytes, not counting copies that a library makes to run faster."""
        return self.backend.weight_bytes

    @property
    def decode_side(self) -> int | None:
        return self.preprocess.decode_side

    def prepare(self, image: Image.Image) -> Pixels:
        return self.preprocess.pixels(to_rgb(image))

    @property
    def overlaps(self) -> bool:
        """Whether batches are computed in parallel, so that the next one should be started before a result is read."""
        return isinstance(self.backend, OverlappingBackend) and self.backend.overlaps

    def begin_pixels(self, pixels: Sequence[Pixels]) -> Callable[[], Embeddings]:
        """Start the work of `encode_pixels`, and return a function that waits for the result."""
        if not (pixels and isinstance(self.backend, OverlappingBackend)):
            return lambda: self.encode_pixels(pixels)
        begun = self.backend.begin_image(pixels)
        return lambda: unit_rows(begun())

    def begin_tokens(self, rows: Sequence[Ids]) -> Callable[[], Embeddings]:
        """Start the work of `encode_tokens`, and return a function that waits for the result."""
        if not (rows and isinstance(self.backend, OverlappingBackend)):
            return lambda: self.encode_tokens(rows)
        order = by_length(rows)
        begun = self.backend.begin_text([rows[i] for i in order])
        return lambda: self._in_order(begun(), order)

    def encode_pixels(self, pixels: Sequence[Pixels]) -> Embeddings:
        return unit_rows(self.backend.image(pixels)) if pixels else self._none()

    def encode_image(self, images: Sequence[ImageLike]) -> Embeddings:
        return self.encode_pixels([self.prepare(as_image(image)) for image in images])

    def tokenize(self, texts: Sequence[str]) -> list[Ids]:
        return self.tokens.encode(texts)

    def encode_tokens(self, rows: Sequence[Ids]) -> Embeddings:
        if not rows:
            return self._none()
        order = by_length(rows)
        return self._in_order(self.backend.text([rows[i] for i in order]), order)

    def encode_text(self, texts: Sequence[str]) -> Embeddings:
        if isinstance(texts, str):  # otherwise each letter would be encoded as a text
            raise InputTypeError.of("texts", "a list of texts", texts, "put it in a list")
        return self.encode_tokens(self.tokenize(texts))

    def probability(self, cosines: Embeddings) -> Embeddings | None:
        """Return the model's own probability that pairs with these cosines match; None if it has no `logit_bias`.

        For SigLIP the probability is 1 / (1 + exp(-(scale * cosine + bias))). This probability is low for most matching
        pairs, because the model was trained on batches in which very few pairs match.
        """
        if self.logit_bias is None:
            return None
        likely: Embeddings = 1 / (1 + np.exp(-(self.logit_scale * cosines + self.logit_bias)))
        return likely

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"the encoder of {self.model} cannot be pickled or copied; send its Config, and call load_encoder where it is used"
        )

    def _in_order(self, features: Embeddings, order: Sequence[int]) -> Embeddings:
        """Return unit rows in the order of the captions; row i of `features` belongs to caption `order[i]`."""
        vectors = np.empty((len(order), self.embed_dim), np.float32)
        vectors[order] = unit_rows(features)
        return vectors

    def _none(self) -> Embeddings:
        return np.empty((0, self.embed_dim), np.float32)


def unit_rows(features: Embeddings) -> Embeddings:
    """Scale rows to length 1; rows that are not finite remain so."""
    with np.errstate(invalid="ignore"):
        unit: Embeddings = features / np.linalg.norm(features, axis=1, keepdims=True).clip(min=1e-12)
    return unit
