"""Convert the two graphs of an export to those that transformers.js runs.

transformers.js normalises images itself, so the image graph begins after that step. transformers.js cuts captions
without keeping the end token, whose state represents the caption, so the text graph puts that token back if it is
missing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ..errors import ModelError

_IDS = "ids_with_end"


def vision_graph(path: Path, output: str) -> onnx.ModelProto:
    """Return an image graph that takes `pixel_values`, float32 (batch, 3, height, width), instead of bytes.

    Args:
        path: `image.onnx` of an export.
        output: Name of the output that holds the vectors.

    Raises:
        ModelError: The graph does not begin with normalisation, as exported graphs do.
    """
    model = onnx.load(path)
    graph, (bytes_in,) = model.graph, model.graph.input
    consumed, value = [], bytes_in.name
    for operator in ("Cast", "Transpose", "Mul", "Sub"):
        node = next((n for n in graph.node if n.op_type == operator and value in n.input), None)
        if node is None:
            raise ModelError(f"{path} cannot be converted for browsers: it does not begin with normalisation")
        consumed.append(node)
        value = node.output[0]
    for node in consumed:
        graph.node.remove(node)
    for node in graph.node:
        if bytes_in.name in node.input and not _asks_for_batch(node):
            raise ModelError(
                f"{path} cannot be converted for browsers: an operator other than those of normalisation reads the images' bytes"
            )
        for at, name in enumerate(node.input):
            if name in (value, bytes_in.name):
                node.input[at] = "pixel_values"
    batch, height, width, channels = (dim.dim_param or dim.dim_value for dim in bytes_in.type.tensor_type.shape.dim)
    shape = [batch, channels, height, width]
    bytes_in.CopyFrom(helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, shape))
    _drop_unused(graph)
    _rename_output(graph, output)
    return model


def text_graph(path: Path, output: str, end: int | None) -> onnx.ModelProto:
    """Return a text graph that puts the end token back into captions that were cut without keeping it.

    Args:
        path: `text.onnx` of an export.
        output: Name of the output that holds the vectors.
        end: The token that ends every caption, put last in rows that lack it; None for tokenizers without one.
    """
    model = onnx.load(path)
    graph = model.graph
    if end is not None:
        ids = graph.input[0].name
        for node in graph.node:
            for at, name in enumerate(node.input):
                if name == ids:
                    node.input[at] = _IDS
        nodes = [*_with_end(graph, ids, end), *graph.node]
        del graph.node[:]
        graph.node.extend(nodes)
    _rename_output(graph, output)
    return model


def _with_end(graph: Any, ids: str, end: int) -> list[Any]:
    """Return the nodes that put the end token last in rows that lack it."""

    def constant(name: str, value: Any) -> str:
        graph.initializer.append(numpy_helper.from_array(np.asarray(value, np.int64), f"{_IDS}.{name}"))
        return f"{_IDS}.{name}"

    last, behind, columns = (
        constant("last", [-1]),
        constant("behind", [np.iinfo(np.int64).max]),
        constant("columns", [1]),
    )
    return [
        helper.make_node("Equal", [ids, constant("end", end)], [f"{_IDS}.is_end"]),
        helper.make_node("Cast", [f"{_IDS}.is_end"], [f"{_IDS}.counted"], to=TensorProto.INT32),
        helper.make_node("ReduceMax", [f"{_IDS}.counted", columns], [f"{_IDS}.held"], keepdims=1),
        helper.make_node("Cast", [f"{_IDS}.held"], [f"{_IDS}.holds"], to=TensorProto.BOOL),
        helper.make_node("Slice", [ids, constant("first", [0]), last, columns], [f"{_IDS}.before"]),
        helper.make_node("Slice", [ids, last, behind, columns], [f"{_IDS}.given"]),
        helper.make_node("Where", [f"{_IDS}.holds", f"{_IDS}.given", f"{_IDS}.end"], [f"{_IDS}.right"]),
        helper.make_node("Concat", [f"{_IDS}.before", f"{_IDS}.right"], [_IDS], axis=1),
    ]


def _asks_for_batch(node: Any) -> bool:
    """Return whether a node reads only the number of images, which is the first dimension of bytes and pixels alike."""
    given = {attribute.name: attribute.i for attribute in node.attribute}
    return node.op_type == "Shape" and given.get("start", 0) == 0 and given.get("end") == 1


def _drop_unused(graph: Any) -> None:
    used = {name for node in graph.node for name in node.input}
    kept = [value for value in graph.initializer if value.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _rename_output(graph: Any, name: str) -> None:
    old = graph.output[0].name
    if old == name:
        return
    for node in graph.node:
        for names in (node.input, node.output):
            for at, value in enumerate(names):
                if value == old:
                    names[at] = name
    graph.output[0].name = name
