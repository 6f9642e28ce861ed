"""Choose the device and the precision with which torch runs a model."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..config import Config
from ..errors import ConfigError
from .forks import adapt_to_fork


@dataclass(frozen=True, slots=True)
class Placement:
    """The device and precision with which a model runs."""

    device: torch.device
    dtype: torch.dtype


def choose_placement(config: Config) -> Placement:
    """Resolve `device="auto"` and `precision="auto"` on this machine.

    Raises:
        ConfigError: The device is not available, or does not support the precision.
    """
    name = config.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    device = torch.device(name)
    adapt_to_fork(device)
    there = {
        "cpu": 1,
        "mps": int(torch.backends.mps.is_available()),
        "cuda": torch.cuda.device_count(),
    }[device.type]
    if (device.index or 0) >= there:
        raise ConfigError(f"device={config.device!r} is not available: {_lack(device.type, there)}; use auto or cpu")
    if config.precision == "fp16" and device.type == "cpu":
        raise ConfigError("precision='fp16' needs CUDA or MPS; use auto or fp32 on the CPU")
    half = config.precision == "fp16" or (config.precision == "auto" and device.type != "cpu")
    return Placement(device, torch.float16 if half else torch.float32)


def _lack(kind: str, count: int) -> str:
    if count:
        return f"torch sees {count} such device{'s' * (count > 1)}, cuda:0{f' to cuda:{count - 1}' * (count > 1)}"
    if kind == "cuda" and not torch.backends.cuda.is_built():
        return f"the installed torch, {torch.__version__}, was built without CUDA"
    return "torch finds no such device"
