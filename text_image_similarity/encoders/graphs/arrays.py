"""Read the weights of an ONNX file as arrays; weights in a file next to it are memory-mapped, not copied."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper


def array_of(weight: TensorProto, folder: Path) -> NDArray[Any]:
    """Return a weight as an array, from a file that was loaded without its external data.

    Args:
        weight: The weight, as in the file.
        folder: The file's folder.
    """
    if weight.data_location != TensorProto.EXTERNAL:
        return numpy_helper.to_array(weight)
    where = {entry.key: entry.value for entry in weight.external_data}
    kind = helper.tensor_dtype_to_np_dtype(weight.data_type)
    offset = int(where.get("offset", 0))
    return np.memmap(folder / where["location"], kind, "r", offset, shape=tuple(weight.dims))


def largest(value: NDArray[Any], axes: tuple[int, ...] | None = None, *, keepdims: bool = False) -> NDArray[Any]:
    """Return the largest magnitudes of an array along axes, without copying the array; NaN if any value is NaN."""
    found: NDArray[Any] = np.maximum(value.max(axis=axes, keepdims=keepdims), -value.min(axis=axes, keepdims=keepdims))
    return found
