"""Decide where a model runs, before the hub is contacted and, where possible, without importing torch."""

from __future__ import annotations

import os
import sys
from typing import Any

from ..config import Config
from ..errors import ConfigError
from ..system import is_installed, refuse_planted_driver, require

# Files of NVIDIA's driver, Jetson boards, AMD's driver, and Windows GPUs in WSL.
_GPU_FILES = ("/dev/nvidiactl", "/dev/nvmap", "/dev/nvgpu", "/dev/kfd", "/dev/dxg")

_EXPORTED = ("clip", "dual_encoder", "open_clip", "siglip")  # the other families are untested


def check_placement(config: Config) -> None:
    """Check that this machine supports the device, precision and backend that `config` requests, for any model.

    Raises:
        ConfigError: This machine does not support one of these.
    """
    device = config.device
    if device in ("auto", "cpu") and config.precision != "fp16":
        runs_on_onnx(config, {})
        return
    if device == "mps" and sys.platform != "darwin":
        raise ConfigError("device='mps' is Apple's GPU, which this machine does not have; use auto or cpu")
    if device != "mps" and _has_no_gpu_file():
        missing = "an NVIDIA or AMD GPU, but this process finds none"
        if device == "auto":
            raise ConfigError(f"precision='fp16' needs {missing}; use auto or fp32")
        raise ConfigError(f"device={device!r} needs {missing}; use auto or cpu")
    require(f"device={device!r} with precision={config.precision!r}", "torch")
    from .device import choose_placement

    choose_placement(config)


def runs_on_onnx(config: Config, shape: dict[str, Any]) -> bool:
    """Return whether a model runs as ONNX graphs, on ONNX Runtime or, if requested, on OpenVINO.

    Args:
        config: `backend`, `precision` and `device` are used.
        shape: The model's `config.json`; empty if it is not known yet.

    Raises:
        ConfigError: ONNX Runtime or OpenVINO was requested, but is missing or does not support this model or device.
    """
    asked = config.backend in ("onnx", "openvino") or config.precision == "int8"
    if config.backend == "torch":
        return False
    if shape.get("model_type", "clip") not in _EXPORTED:
        if asked:
            where = "OpenVINO" if config.backend == "openvino" else "ONNX Runtime"
            raise ConfigError(
                f"{config.model} cannot run on {where}; use backend='torch' and a precision other than int8"
            )
        return False
    if config.precision == "fp16" or not (config.device == "cpu" or (config.device == "auto" and _no_gpu())):
        if asked:
            raise ConfigError(
                "backend='onnx', backend='openvino' and precision='int8' run on the CPU; this machine has a GPU, so set device='cpu'"
            )
        return False
    if config.backend == "openvino":
        require("backend='openvino'", "openvino", extra="openvino")
        return True
    if asked:
        require("backend='onnx' or precision='int8'", "onnxruntime", extra="onnx")
    return is_installed("onnxruntime")


def _no_gpu() -> bool:
    """Return whether this machine has no GPU; torch takes seconds to import, so it is used only if necessary."""
    if _has_no_gpu_file():
        return True
    if not is_installed("torch"):
        return True  # nothing else would use a GPU
    refuse_planted_driver()
    import torch

    return not (torch.cuda.is_available() or torch.backends.mps.is_available())


def _has_no_gpu_file() -> bool:
    return sys.platform == "linux" and not any(map(os.path.exists, _GPU_FILES))
