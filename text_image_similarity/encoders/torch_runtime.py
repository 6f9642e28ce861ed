"""What every torch encoder needs: a device, a precision, and a batch that fits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ..config import Config
from ..errors import ConfigError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Runtime:
    """Where and in which precision a model runs."""

    device: torch.device
    dtype: torch.dtype

    @property
    def precision(self) -> str:
        return "fp16" if self.dtype == torch.float16 else "fp32"


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


def to_unit_rows(features: Tensor) -> NDArray[np.float32]:
    """Bring features (n, d) to the CPU as float32 unit vectors; a non-finite row stays non-finite."""
    return F.normalize(features.float(), dim=-1).cpu().numpy()
