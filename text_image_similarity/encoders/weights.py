"""Read the weights of a dual encoder from `model.safetensors` as NumPy arrays, for any backend."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import load_file

SCALE = ".scale"
# Suffixes that mark, in `encoder.json`, a change that the exporter has made to a weight.
TRANSPOSED = ".transposed"  # a matrix
SHIFTED = ".shifted"  # a kernel with a row and a column of zeros in front: SAME padding


def read_weights(path: Path, shapes: Mapping[str, tuple[int, ...]] | None = None) -> dict[str, NDArray[Any]]:
    """Read a model's weights by name: floats and int8 matrices as float32, other integers unchanged.

    Args:
        path: The file.
        shapes: Shapes of the model's weights by name, with which the file's header is compared before anything is read.

    Raises:
        SafetensorError, OSError: The file is damaged or missing.
        ValueError: The weights do not fit the model, or their scales do not fit the weights.
    """
    if shapes is not None:
        with safe_open(path, "numpy") as file:
            stored = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 - not a mapping
        _check_shapes({name: tuple(shape) for name, shape in stored.items()}, shapes)
    return dequantised(load_file(path))


def _check_shapes(stored: Mapping[str, tuple[int, ...]], shapes: Mapping[str, tuple[int, ...]]) -> None:
    found = {name: shape for name, shape in stored.items() if name in shapes or name.removesuffix(SCALE) not in shapes}
    if strange := sorted(found.keys() ^ shapes.keys()):
        lacking = "lack" if strange[0] in shapes else "have the unknown tensor"
        raise ValueError(f"the weights do not fit config.json: they {lacking} {strange[0]:.100}")
    if other := sorted(name for name in shapes if found[name] != shapes[name]):
        name = other[0]
        raise ValueError(
            f"the weights do not fit config.json: the shape of {name} is {found[name]}, not {shapes[name]}"
        )


def dequantised(stored: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Convert stored weights to float32. Integers without a scale, such as counters, are unchanged.

    Raises:
        ValueError: A matrix does not have one scale for each of its rows.
    """
    weights: dict[str, NDArray[Any]] = {}
    for name, value in stored.items():
        scale = stored.get(name + SCALE)
        of = stored.get(name.removesuffix(SCALE)) if name.endswith(SCALE) else None
        if value.dtype == np.int8 and scale is not None:
            if scale.shape != value.shape[:1]:
                raise ValueError(
                    f"{name:.100} has the shape {value.shape}, but its scales have the shape {scale.shape}"
                )
            per_row = scale.astype(np.float32).reshape(-1, *[1] * (value.ndim - 1))
            weights[name] = np.multiply(value, per_row, dtype=np.float32)
        elif of is None or of.dtype != np.int8:  # not a scale; some networks have a parameter of this name
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
