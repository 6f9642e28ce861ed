"""What every torch encoder shares: a device, a precision, batches that fit, and the way from pictures to unit vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ..config import Config
from ..decode import to_rgb
from ..errors import ConfigError
from ..preprocess import ImageLike, Pixels, Preprocess, as_image
from ..similarity import Embeddings

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Runtime:
    """Where and in which precision a model runs."""

    device: torch.device
    dtype: torch.dtype


def choose_runtime(config: Config) -> Runtime:
    """Resolve `device="auto"` and `precision="auto"` on this machine.

    Raises:
        ConfigError: The device asked for is not there, or fp16 was asked for on the CPU.
    """
    name = config.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    device = torch.device(name)
    there = {
        "cpu": True,
        "mps": torch.backends.mps.is_available(),
        "cuda": (device.index or 0) < torch.cuda.device_count(),
    }
    if not there[device.type]:
        raise ConfigError(f"device={config.device!r} is not available on this machine; use auto or cpu")
    if config.precision == "fp16" and device.type == "cpu":
        raise ConfigError("precision='fp16' needs CUDA or MPS; use auto or fp32 on the CPU")
    half = config.precision == "fp16" or (config.precision == "auto" and device.type != "cpu")
    return Runtime(device, torch.float16 if half else torch.float32)


@dataclass(frozen=True, slots=True)
class TorchEncoder:
    """An `Encoder` made of a model's two feature functions.

    Args:
        model, revision, embed_dim, context_length, logit_scale: As in `Encoder`.
        runtime: Where the model runs.
        preprocess: How it wants its pictures.
        image_features: Normalised pixels (n, 3, h, w) on the device, in its precision -> (n, embed_dim).
        text_features: n captions -> (n, embed_dim).
    """

    model: str
    revision: str | None
    embed_dim: int
    context_length: int
    logit_scale: float
    runtime: Runtime
    preprocess: Preprocess
    image_features: Callable[[Tensor], Tensor]
    text_features: Callable[[list[str]], Tensor]

    @property
    def device(self) -> str:
        return str(self.runtime.device)

    @property
    def precision(self) -> str:
        return "fp16" if self.runtime.dtype == torch.float16 else "fp32"

    def prepare(self, image: Image.Image) -> Pixels:
        return self.preprocess.pixels(to_rgb(image))

    def encode_pixels(self, pixels: Sequence[Pixels]) -> Embeddings:
        def features(chunk: list[Pixels]) -> Tensor:
            batch = torch.from_numpy(self.preprocess.normalise(chunk))  # (n, 3, h, w)
            return self.image_features(batch.to(self.runtime.device, self.runtime.dtype))

        return self._unit_rows(features, list(pixels))

    def encode_image(self, images: Sequence[ImageLike]) -> Embeddings:
        return self.encode_pixels([self.prepare(as_image(image)) for image in images])

    def encode_text(self, texts: Sequence[str]) -> Embeddings:
        return self._unit_rows(self.text_features, list(texts))

    @torch.inference_mode()
    def _unit_rows(self, features: Callable[[list[T]], Tensor], items: list[T]) -> Embeddings:
        """Encode to float32 unit vectors on the CPU; a row that is not finite stays so."""
        rows: Embeddings = F.normalize(halve_on_oom(features, items).float(), dim=-1).cpu().numpy()
        return rows


def halve_on_oom(encode: Callable[[list[T]], Tensor], items: list[T]) -> Tensor:
    """Encode `items` to (n, d), in halves again and again while the device runs out of memory.

    Raises:
        torch.OutOfMemoryError: A single item does not fit.
    """
    try:
        return encode(items)
    except torch.OutOfMemoryError:
        if len(items) == 1:
            raise
    # Outside the handler: there the traceback would still hold the failed batch's tensors.
    torch.cuda.empty_cache()
    middle = len(items) // 2
    return torch.cat([halve_on_oom(encode, items[:middle]), halve_on_oom(encode, items[middle:])])
