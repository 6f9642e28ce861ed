"""Check, from an ONNX file alone, that TensorRT would run the model in the precision in which it was exported.

TensorRT 11 takes the type of each value from the file, as TensorRT 10 does with `--stronglyTyped`. The check reads
types but no weights, and needs neither TensorRT nor a GPU. The check says nothing about speed, or about operators that
TensorRT does not support.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

import onnx
from onnx import TensorProto

OPSETS = range(17, 26)  # since opset 17, layer norm is one operator; TensorRT 11 reads opsets up to 25
_MATRICES = {
    "MatMul": 2,
    "Gemm": 3,
    "Conv": 3,
    "Attention": 3,
    "LSTM": 4,
    "GRU": 4,
}  # how many inputs hold vectors or matrices
_LARGE = 1024  # values; no shape is computed from larger constants
_INPUTS = {TensorProto.UINT8, TensorProto.INT32, TensorProto.INT64}

Types: TypeAlias = dict[str, int]


def lint_typing(path: Path) -> list[str]:
    """Return the problems with a graph's types, one sentence each; empty if there are none.

    Args:
        path: An ONNX file. If it holds half-precision weights, all matrix products must be in half precision.

    Raises:
        OSError: The file cannot be read.
        google.protobuf.message.DecodeError: The file is not an ONNX file.
    """
    model = onnx.load(path, load_external_data=False)
    for initializer in model.graph.initializer:  # only their shapes matter for the types
        if math.prod(initializer.dims) > _LARGE:
            initializer.ClearField("raw_data")
    half = any(initializer.data_type == TensorProto.FLOAT16 for initializer in model.graph.initializer)
    types = _types(onnx.shape_inference.infer_shapes(model).graph)
    found = [*_head(model), *_ends(model.graph), *_kinds(model.graph, types), *_casts(model.graph, types)]
    if half:
        found += _float_matrices(model.graph, types)
    return found


def _types(graph: onnx.GraphProto) -> Types:
    values = (*graph.input, *graph.output, *graph.value_info)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    return types | {initializer.name: initializer.data_type for initializer in graph.initializer}


def _head(model: onnx.ModelProto) -> Iterator[str]:
    for opset in model.opset_import:
        if opset.domain in ("", "ai.onnx") and opset.version not in OPSETS:
            yield f"opset {opset.version} is outside {OPSETS[0]} to {OPSETS[-1]}, which TensorRT 10 and 11 read"
    for domain in sorted({node.domain for node in model.graph.node} - {"", "ai.onnx"}):
        yield f"operators of {domain} are not ONNX's own"


def _ends(graph: onnx.GraphProto) -> Iterator[str]:
    for value in graph.input:
        if value.type.tensor_type.elem_type not in _INPUTS:
            yield f"input {value.name} is {_name(value.type.tensor_type.elem_type)}, not uint8 pixels or integer ids"
    for value in graph.output:
        if value.type.tensor_type.elem_type != TensorProto.FLOAT:
            yield f"output {value.name} is {_name(value.type.tensor_type.elem_type)}, not float32"


def _kinds(graph: onnx.GraphProto, types: Types) -> Iterator[str]:
    wide = [name for name, kind in types.items() if kind == TensorProto.DOUBLE]
    if wide:
        yield f"{len(wide)} values are float64, such as {wide[0]}"
    for node in graph.node:
        if node.op_type == "IsNaN":
            yield f"{_called(node)} checks for NaN, which prevents attention from running as one kernel"
        if node.op_type in ("If", "Loop", "Scan"):
            yield f"{_called(node)} contains a subgraph, which is not checked"
        if node.op_type == "LayerNormalization" and _attribute(node, "stash_type", 1) != 1:
            yield f"{_called(node)} sums in half precision (stash_type is not 1)"
        if any(types.get(name) == TensorProto.UINT8 for name in node.output):
            yield f"{_called(node)} returns uint8, which is expected only at the input"


def _casts(graph: onnx.GraphProto, types: Types) -> Iterator[str]:
    """Find casts from half to float32 whose result is only cast back to half."""
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    ends = {value.name for value in graph.output}
    for node in graph.node:
        if node.op_type != "Cast" or types.get(node.input[0]) != TensorProto.FLOAT16:
            continue
        after = readers.get(node.output[0], [])
        back = [reader.op_type == "Cast" and _attribute(reader, "to", 0) == TensorProto.FLOAT16 for reader in after]
        if _attribute(node, "to", 0) == TensorProto.FLOAT and back and all(back) and node.output[0] not in ends:
            yield f"{_called(node)} casts half to float32 and back without using it"


def _float_matrices(graph: onnx.GraphProto, types: Types) -> Iterator[str]:
    unknown: Counter[str] = Counter()
    for node in graph.node:
        for name in node.input[: _MATRICES.get(node.op_type, 0)]:
            kind = types.get(name, TensorProto.UNDEFINED)
            if name and kind == TensorProto.UNDEFINED:
                unknown[node.op_type] += 1
            elif name and kind != TensorProto.FLOAT16:
                yield f"{_called(node)} reads {name} in {_name(kind)} in a half-precision file"
                break
    for kind_of, count in unknown.items():
        yield f"the types of {count} inputs of {kind_of} cannot be inferred"


def _attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == name), default)


def _called(node: onnx.NodeProto) -> str:
    return f"{node.op_type} {node.name or node.output[0]}"


def _name(kind: int) -> str:
    name = str(TensorProto.DataType.Name(kind)).lower()
    return {"float": "float32", "double": "float64"}.get(name, name)
