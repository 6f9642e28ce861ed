"""Run models on an inference server such as Triton, which receives pixels and token ids and returns unit vectors.

Images are decoded and captions tokenized on this machine, as the export's folder specifies. Before the first score, the
server encodes a few generated pairs whose vectors are stored in the folder, so a server with different models is
detected.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

from ..errors import ModelError
from ..preprocess import Pixels, Preprocess
from ..similarity import Embeddings
from .drawn import drawn_pairs
from .kserve import InferenceServer, connect
from .onnx_backend import Workers
from .tokens import Ids, Tokens

REFERENCE = "reference.safetensors"  # the source's vectors for the generated pairs
_AT_ONCE = 32  # images or captions per request
_CALLS = 4  # concurrent requests
_WIDTH = 16  # captions are padded to a multiple of this many tokens: few widths, so that the server can batch requests
_PROBED = 4  # generated pairs
_LEAST_COSINE = 0.98  # even int8 exports reach this


@dataclass(frozen=True, slots=True)
class TritonBackend:
    """A backend that runs two towers on an inference server.

    Args:
        server: The server, which runs the models `image` and `text`.
        tokens: `Tokens` that pad the ids.
        precision: Precision of the models.
        workers: The threads that send requests.
        embed_dim: Dimension of the embeddings.
    """

    server: InferenceServer
    tokens: Tokens
    precision: str
    workers: Workers
    embed_dim: int

    @property
    def name(self) -> str:
        return "triton"

    @property
    def device(self) -> str:
        return "remote"

    @property
    def batch_invariant(self) -> bool:
        return False  # the server decides what is computed together

    @property
    def weight_bytes(self) -> int:
        return 0  # no weights are on this machine

    def image(self, pixels: Sequence[Pixels]) -> Embeddings:
        batches = (np.stack(pixels[start : start + _AT_ONCE]) for start in range(0, len(pixels), _AT_ONCE))
        return self._run("image", "pixels", batches)

    def text(self, rows: Sequence[Ids]) -> Embeddings:
        return self._run("text", "input_ids", self.tokens.batches(rows, most=_AT_ONCE, step=_WIDTH))

    def _run(self, tower: str, name: str, batches: Iterable[NDArray[Any]]) -> Embeddings:
        def ask(batch: NDArray[Any]) -> Embeddings:
            found = self.server.infer(tower, name, batch, f"{tower}_embeds")
            if found.shape != (wanted := (len(batch), self.embed_dim)):
                raise ModelError(
                    f"{self.server.url} returned the shape {found.shape} for model {tower!r}, not {wanted}; serve the "
                    "models of the export"
                )
            unit = np.linalg.norm(found, axis=1, keepdims=True) > 0.5  # valid vectors have length 1
            return np.where(unit, found, np.float32(np.nan))

        return np.concatenate(self.workers.map(ask, list(batches)))


def open_triton(url: str, folder: Path, tokens: Tokens, preprocess: Preprocess, precision: str) -> TritonBackend:
    """Connect to a server, and check that its models are those of an export.

    Args:
        url: URL of the server: `http://host:8000` or `grpc://host:8001`.
        folder: The export.
        tokens: The export's `Tokens`.
        preprocess: The export's preprocessing.
        precision: The export's precision.

    Raises:
        ModelError: The server does not have these models, or has different ones.
        DeviceLostError: The server does not respond.
    """
    images, captions = zip(*drawn_pairs(_PROBED), strict=True)
    rows = tokens.encode(captions)
    with safe_open(folder / REFERENCE, framework="np") as file:
        expected = {name: file.get_slice(name)[:_PROBED] for name in ("image", "text")}
    backend = TritonBackend(connect(url), tokens, precision, Workers(_CALLS), expected["image"].shape[1])
    order = sorted(range(len(rows)), key=lambda place: len(rows[place]))
    found = {
        "image": backend.image([preprocess.pixels(image) for image in images]),
        "text": backend.text([rows[place] for place in order]),
    }
    expected["text"] = expected["text"][order]
    for tower, vectors in found.items():
        least = float((vectors * expected[tower]).sum(axis=1).min())
        if not least >= _LEAST_COSINE:
            raise ModelError(
                f"the model {tower!r} at {url} is not that of {folder}: the cosine of their vectors for the same {tower} is "
                f"{least:.3f}; serve that folder's models"
            )
    return backend
