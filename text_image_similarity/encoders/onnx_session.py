"""A graph on ONNX Runtime, on one thread: who has several cores shares a batch out over several calls."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def open_session(graph: Path, initializers: Mapping[str, NDArray[np.generic]] | None = None) -> Any:
    """Open a graph.

    Args:
        graph: The file.
        initializers: The weights that it does not hold itself, by name.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # else its import leaves a device id in the home folder
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    if initializers:
        values = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in initializers.values()]
        options.add_external_initializers(list(initializers), values)
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
