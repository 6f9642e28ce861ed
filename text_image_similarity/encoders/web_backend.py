"""Run an export for browsers in Python, to check it and to score with it. The graphs expect normalised images."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..preprocess import check_channels
from ..system import usable_cores
from .onnx_backend import OnnxBackend, Workers
from .settings_files import read_settings
from .tokens import Tokens

PREPROCESSOR = "preprocessor_config.json"
# The file suffix and the name that transformers.js uses for each precision.
_SUFFIXES = {"fp32": "", "fp16": "_fp16", "int8": "_quantized"}
DTYPES = {"fp32": "fp32", "fp16": "fp16", "int8": "q8"}
_STEMS = {"image": "vision_model", "text": "text_model"}


def web_graph(folder: Path, tower: str, precision: str) -> Path:
    """Return the path where transformers.js expects the graph of a tower, `image` or `text`."""
    return folder / "onnx" / f"{_STEMS[tower]}{_SUFFIXES[precision]}.onnx"


def open_web(folder: Path, tokens: Tokens, precision: str) -> OnnxBackend:
    """Open both graphs of an export for transformers.js.

    Args:
        folder: The export.
        tokens: `Tokens` that pad the ids.
        precision: `fp32`, `fp16` or `int8`.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # otherwise ONNX Runtime stores a device id in the home folder
    import onnxruntime

    how = read_settings(folder / PREPROCESSOR)
    check_channels(how["image_mean"], how["image_std"])
    mean, std = (np.asarray(how[name], np.float32) for name in ("image_mean", "image_std"))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors are raised anyway, and a graph's names could control the terminal
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    paths = [web_graph(folder, tower, precision) for tower in ("image", "text")]
    image, text = (onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"]) for path in paths)
    weight_bytes = sum(path.stat().st_size for path in paths)
    normalising = _Normalising(image, mean, std)
    return OnnxBackend(normalising, text, tokens, Workers(usable_cores()), precision, weight_bytes)


@dataclass(frozen=True, slots=True)
class _Normalising:
    """A session that accepts bytes (n, h, w, 3), and normalises them for a session that expects pixels (n, 3, h, w).

    Args:
        session: The session to run, whose input is `pixel_values`.
        mean, std: Mean and standard deviation of each channel, shape (3,), for pixels scaled to 0..1.
    """

    session: Any
    mean: NDArray[np.float32]
    std: NDArray[np.float32]

    def run(self, names: None, given: dict[str, Any]) -> Any:
        values = (given["pixels"] * np.float32(1 / 255) - self.mean) / self.std  # as transformers.js does it
        return self.session.run(names, {"pixel_values": np.ascontiguousarray(values.transpose(0, 3, 1, 2))})
