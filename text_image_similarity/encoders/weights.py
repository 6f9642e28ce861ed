"""Read the weights of a dual encoder from `model.safetensors` as NumPy arrays, for any backend."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

SCALE = ".scale"
# Suffixes that mark, in `encoder.json`, a change that the exporter has made to a weight.
TRANSPOSED = ".transposed"  # a matrix
SHIFTED = ".shifted"  # a kernel with a row and a column of zeros in front: SAME padding


def read_weights(path: Path) -> dict[str, NDArray[Any]]:
    """Read a model's weights by name: floats and int8 matrices as float32, other integers unchanged.

    Raises:
        SafetensorError, OSError: The file is damaged or missing.
    """
    return dequantised(load_file(path))


def dequantised(stored: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Convert stored weights to float32. Integers without a scale, such as counters, are unchanged."""
    weights: dict[str, NDArray[Any]] = {}
    for name, value in stored.items():
        scale = stored.get(name + SCALE)
        of = stored.get(name.removesuffix(SCALE))
        if value.dtype == np.int8 and scale is not None:
            per_row = scale.astype(np.float32).reshape(-1, *[1] * (value.ndim - 1))
            weights[name] = np.multiply(value, per_row, dtype=np.float32)
        elif (
            not name.endswith(SCALE) or of is None or of.dtype != np.int8
        ):  # some networks have a parameter of this name
            weights[name] = value.astype(np.float32, copy=False) if value.dtype.kind == "f" else value
    return weights


def arranged(weights: Mapping[str, NDArray[Any]], name: str) -> NDArray[Any]:
    """Return the weight that a name in `encoder.json` refers to, in the form that an exported graph needs.

    Raises:
        KeyError: The weight does not exist.
    """
    if name.endswith(TRANSPOSED):
        return np.ascontiguousarray(weights[name.removesuffix(TRANSPOSED)].T)
    if name.endswith(SHIFTED):
        return np.pad(weights[name.removesuffix(SHIFTED)], ((0, 0), (0, 0), (1, 0), (1, 0)))
    return weights[name]
