"""torch as an engine: a device, a precision, and batches that fit.

Pictures go to the device as bytes, from pinned memory where it is a GPU, and become numbers there: a quarter of the
transfer of float32. Nothing waits for the device before the last batch of a call is queued.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..config import Config
from ..errors import ConfigError
from ..preprocess import Pixels, Preprocess
from ..similarity import Embeddings
from .tokens import Ids, Tokens

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Runtime:
    """Where and in which precision a model runs."""

    device: torch.device
    dtype: torch.dtype


def choose_runtime(config: Config) -> Runtime:
    """Resolve `device="auto"` and `precision="auto"` on this machine.

    Raises:
        ConfigError: The device asked for is not there, or has no such precision.
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
    if config.precision == "int8":
        raise ConfigError("precision='int8' needs the CPU and engine='onnx' or 'auto'")
    if config.precision == "fp16" and device.type == "cpu":
        raise ConfigError("precision='fp16' needs CUDA or MPS; use auto or fp32 on the CPU")
    half = config.precision == "fp16" or (config.precision == "auto" and device.type != "cpu")
    return Runtime(device, torch.float16 if half else torch.float32)


class Tower(nn.Module):
    """One half of a model.

    Args:
        model: The whole of it.
        encode: (model, values) -> features (n, embed_dim).
    """

    def __init__(self, model: nn.Module, encode: Callable[[Any, Tensor], Tensor]):
        super().__init__()
        self.model = model
        self.encode = encode

    def forward(self, values: Tensor) -> Tensor:
        return self.encode(self.model, values)


class ImageTower(nn.Module):
    """An image tower that takes pictures as bytes and normalises them, always in float32.

    Args:
        tower: Normalised pixels (n, 3, h, w) -> features (n, embed_dim).
        preprocess: Holds the mean and deviation to normalise with.
        runtime: Where the tower stands, and what it computes in.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, tower: nn.Module, preprocess: Preprocess, runtime: Runtime):
        super().__init__()
        self.tower = tower
        self.dtype = runtime.dtype
        scale, shift = (torch.from_numpy(part).view(3, 1, 1).to(runtime.device) for part in preprocess.scale_and_shift)
        self.register_buffer("scale", scale, persistent=False)
        self.register_buffer("shift", shift, persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        values = pixels.permute(0, 3, 1, 2).float() * self.scale - self.shift  # (n, h, w, 3) -> (n, 3, h, w)
        features: Tensor = self.tower(values.to(self.dtype))
        return features


@dataclass(frozen=True, slots=True)
class TorchEngine:
    """Two towers on a device.

    Args:
        runtime: Where and in which precision they run.
        image_tower: Bytes (n, h, w, 3) on the device -> features (n, embed_dim).
        text_tower: Padded token ids (n, t) on the device -> features (n, embed_dim).
        tokens: What pads the ids.
        pictures: Most pictures at once, or None for as many as are given.
        captions: The same of captions.
    """

    runtime: Runtime
    image_tower: ImageTower
    text_tower: nn.Module
    tokens: Tokens
    pictures: int | None = None
    captions: int | None = None

    @property
    def name(self) -> str:
        return "torch"

    @property
    def device(self) -> str:
        return str(self.runtime.device)

    @property
    def precision(self) -> str:
        return "fp16" if self.runtime.dtype == torch.float16 else "fp32"

    def image(self, pixels: Sequence[Pixels]) -> Embeddings:
        return self._run(lambda part: self.image_tower(self._sent(np.stack(part))), pixels, self.pictures)

    def text(self, rows: Sequence[Ids]) -> Embeddings:
        return self._run(lambda part: self.text_tower(self._sent(self.tokens.padded(part))), rows, self.captions)

    def _sent(self, batch: NDArray[Any]) -> Tensor:
        tensor = torch.from_numpy(batch)
        if self.runtime.device.type == "cuda":
            tensor = tensor.pin_memory()
        return tensor.to(self.runtime.device, non_blocking=True)

    @torch.inference_mode()
    def _run(self, tower: Callable[[Sequence[T]], Tensor], items: Sequence[T], at_once: int | None) -> Embeddings:
        step = at_once or len(items)
        parts = [halve_on_oom(tower, items[start : start + step]) for start in range(0, len(items), step)]
        features: Embeddings = torch.cat(parts).float().cpu().numpy()
        return features


def halve_on_oom(encode: Callable[[Sequence[T]], Tensor], items: Sequence[T]) -> Tensor:
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
