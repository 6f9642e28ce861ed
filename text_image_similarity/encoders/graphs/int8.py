"""Round the weights of an ONNX file to int8, from file to file, so that models beyond 2 GB can be rounded too."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import load_external_data_for_model

from .arrays import array_of, largest

_SMALLEST = 4096  # values; smaller weights gain nothing
_LARGEST = 2**31 - 2**20
# Along which axis each operator's weights are multiplied out, so that every output has a scale of its own.
_AXES = {"Conv": 0, "Gather": 0, "LSTM": 1, "GRU": 1}


def round_matrices(whole: Path, rounded: Path) -> None:
    """Make matrix products integer: weights are rounded per output, activations as they come.

    The activations of all that is encoded together share one range, so such a graph must be run an item at a time.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    large = whole.stat().st_size > _LARGEST or whole.with_name(f"{whole.name}.data").exists()
    model = onnx.load(whole, load_external_data=not large)
    del model.graph.value_info[:]  # shapes that the tool would check with other rules than they were made by
    model.metadata_props.add(key="onnx.quant.pre_process", value="onnxruntime.quant")  # or it warns on the root logger
    if large:
        onnx.save(model, whole)
    quantize_dynamic(
        whole if large else model,
        rounded,
        op_types_to_quantize=["MatMul", "Gemm"],
        per_channel=True,
        reduce_range=True,  # seven bits: with eight, processors without VNNI overflow and give other numbers
        weight_type=QuantType.QInt8,
        use_external_data_format=large,
    )


def round_weights(whole: Path, rounded: Path) -> None:
    """Store weights that are still float32 as int8 with a scale for each output; the graph multiplies them out again."""
    model = onnx.load(whole, load_external_data=False)
    graph = model.graph
    axes: dict[str, int | None] = {}
    for node in graph.node:
        for name in node.input:
            matrix = node.op_type in ("MatMul", "Gemm")
            transposed = any(given.name == "transB" and given.i for given in node.attribute)
            axes.setdefault(name, (0 if transposed else -1) if matrix else _AXES.get(node.op_type))
    of_cells = {name for node in graph.node if node.op_type in ("LSTM", "GRU") for name in node.input}
    restored = []
    for initializer in list(graph.initializer):
        axis = axes.get(initializer.name)
        if axis is None or initializer.data_type != TensorProto.FLOAT or np.prod(initializer.dims) < _SMALLEST:
            continue
        value = array_of(initializer, whole.parent)
        if value.ndim < (3 if initializer.name in of_cells else 2):  # not biases
            continue
        axis %= value.ndim
        small, scale = _round(value, axis)
        name = initializer.name
        graph.initializer.remove(initializer)
        graph.initializer.extend(
            [numpy_helper.from_array(small, f"{name}.int8"), numpy_helper.from_array(scale, f"{name}.scale")]
        )
        restored.append(helper.make_node("DequantizeLinear", [f"{name}.int8", f"{name}.scale"], [name], axis=axis))
    load_external_data_for_model(model, str(whole.parent))  # what is left
    nodes = [*restored, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    large = model.ByteSize() > _LARGEST
    onnx.save(model, rounded, save_as_external_data=large, location=f"{rounded.name}.data")


def _round(value: NDArray[np.float32], axis: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    others = tuple(place for place in range(value.ndim) if place != axis)
    scale = (largest(value, others, keepdims=True) / 127).clip(min=1e-12).astype(np.float32)
    scaled = value / scale
    return np.rint(scaled, out=scaled).astype(np.int8), scale.reshape(-1)
