"""Round an ONNX file to int8, from file to file, so that models over 2 GB can be rounded too.

Matrix products are computed with integers, from weights with a scale for each output and activations with a scale for
each token. A token's scale is its own largest value, so it does not depend on what is encoded together with it, and
batches may have any size. The graph uses standard operators (QuantizeLinear, DequantizeLinear), which ONNX Runtime runs
as integer products. The patches of images are multiplied as bytes, without rounding. All other large weights, such
as those of other convolutions, are only stored as int8.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from .arrays import array_of, largest
from .file import write_graph
from .patches import Patches, find_patches

_SMALLEST = 4096  # values; rounding smaller weights gains nothing
# The axis of each operator's weights that corresponds to its outputs, so that every output has its own scale.
_AXES = {"Conv": 0, "Gather": 0, "LSTM": 1, "GRU": 1}
_STORED = 127
# Weights have seven bits: with eight, a sum of two products exceeds 16 bits on processors without VNNI and is clipped.
_MULTIPLIED = 63
# The constants that the operators of rounded products use.
_CONSTANTS: dict[str, NDArray[Any]] = {
    "int8.last_axis": np.array([-1], np.int64),
    "int8.tiny": np.array(1e-12, np.float32),
    "int8.step": np.array(1 / 127, np.float32),
    "int8.zero": np.array(128, np.uint8),
    # The output of a GELU is rarely far below zero, so most of the 256 steps are above zero.
    "int8.gelu_share": np.array(223 / 32, np.float32),
    "int8.gelu_step": np.array(1 / 223, np.float32),
    "int8.gelu_zero": np.array(32, np.uint8),
}


def round_graph(whole: Path, rounded: Path, *, activations: bool, multiply_bytes: bool = True) -> None:
    """Round a graph's weights and, if requested, the activations that they are multiplied with.

    Args:
        whole: The file with the graph in float32; its weights may be in a file next to it.
        rounded: The file to write.
        activations: Whether to compute matrix products with integers; if not, weights become floats again when the
            graph is loaded.
        multiply_bytes: Whether integer products use the bytes of images' patches directly, with the normalisation in
            the weights.
    """
    model = onnx.load(whole, load_external_data=False)
    rounding = _Rounding(model.graph, whole.parent)
    patches = find_patches(model.graph, whole.parent) if activations and multiply_bytes else None
    rounding.run(activations=activations, patches=patches)
    write_graph(model, rounded, whole.parent, made=rounding.small)


class _Rounding:
    """A graph that is being rounded to int8.

    Args:
        graph: The graph, loaded without its external data; it is changed in place.
        folder: Folder of the external data.
    """

    def __init__(self, graph: onnx.GraphProto, folder: Path) -> None:
        self.graph, self.folder = graph, folder
        floats = (each for each in graph.initializer if each.data_type == TensorProto.FLOAT)
        self.weights = {each.name: each for each in floats if len(each.dims) > 1 and np.prod(each.dims) >= _SMALLEST}
        self.nodes: list[NodeProto] = []
        self.small: dict[str, Callable[[], NDArray[Any]]] = {}  # functions that return weights in int8
        self.made: set[str] = set()  # values and initializers that nodes share
        makers = {name: node for node in graph.node for name in node.output}
        self.from_gelu = {
            name
            for name, node in makers.items()
            if node.op_type == "Gelu"
            or (
                node.op_type == "Mul"
                and any(makers[each].op_type == "Sigmoid" for each in node.input if each in makers)
            )
        }

    def run(self, *, activations: bool, patches: Patches | None) -> None:
        """Round the graph."""
        done = {node.output[0] for node in patches.nodes} if patches else set()
        if patches:
            self._multiply_patches(patches)
        for node in self.graph.node:
            if node.output[0] in done:
                continue
            if activations and self._is_product(node):
                self._multiply(node)
            elif node.op_type == "Gather" and node.input[0] in self.weights and not _given(node).get("axis"):
                self._look_up(node)
            else:
                self._store(node)
        if activations:
            self.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in _CONSTANTS.items())
        taken = {name for node in self.nodes for name in node.input}
        restored = self.made & self.weights.keys()
        kept = [each for each in self.graph.initializer if each.name in taken and each.name not in restored]
        del self.graph.initializer[:], self.graph.node[:]
        self.graph.initializer.extend(kept)
        self.graph.node.extend(self.nodes)

    def _is_product(self, node: NodeProto) -> bool:
        """Return whether a node multiplies activations by a matrix of weights."""
        if node.op_type not in ("MatMul", "Gemm") or node.input[1] not in self.weights:
            return False
        given = _given(node)
        plain = given.get("alpha", 1) == given.get("beta", 1) == 1 and not given.get("transA")
        return plain and len(self.weights[node.input[1]].dims) == 2

    def _multiply(self, node: NodeProto) -> None:
        """Add a product of integers: the input is divided by its rows' maxima, and the product multiplied by them."""
        activation, weight, *bias = node.input
        (result,) = node.output
        rows = f"{activation}.rows"
        if rows not in self.made:
            self.made.add(rows)
            self.nodes += self._rounded_rows(activation, rows)
        transposed = bool(_given(node).get("transB"))
        matrix = f"{weight}.{'transposed' if transposed else 'matrix'}"
        if f"{matrix}.int8" not in self.made:
            value = array_of(self.weights[weight], self.folder)
            self._add_matrix(value.T if transposed else value, matrix)
        scaled = f"{result}.without_bias" if bias else result
        self.nodes += [
            helper.make_node("MatMul", [f"{rows}.restored", f"{matrix}.restored"], [f"{result}.of_rows"]),
            helper.make_node("Mul", [f"{result}.of_rows", f"{rows}.largest"], [scaled]),
        ]
        if bias:
            self.nodes.append(helper.make_node("Add", [scaled, *bias], [result]))

    def _add_matrix(self, value: NDArray[np.float32], matrix: str) -> NDArray[np.float32]:
        """Add a matrix that is multiplied in integers, and return the scale of each output."""
        scale = self._add_rounded(value, matrix, axis=1, most=_MULTIPLIED).reshape(-1)
        self._add_constant(scale, f"{matrix}.scale")
        names = f"{matrix}.int8", f"{matrix}.scale"
        self.nodes.append(helper.make_node("DequantizeLinear", names, [f"{matrix}.restored"], axis=1))
        return scale

    def _multiply_patches(self, patches: Patches) -> None:
        """Add the product of images' patches, as bytes, with a matrix that normalises them too.

        The value that normalisation subtracts is computed with the rounded matrix, so rounding does not shift the
        values of a whole image.
        """
        scale = self._add_matrix(patches.matrix, "patches.matrix")
        shift = patches.mean.astype(np.float64) @ self.small["patches.matrix.int8"]() * scale
        self._add_constant((patches.bias - shift).astype(np.float32), "patches.bias")
        self._add_constant(np.array(1, np.float32), "patches.step")
        split, turned, joined = patches.cut
        self._add_constant(np.array(split), "patches.split")
        self._add_constant(np.array(joined), "patches.joined")
        self.nodes += [
            helper.make_node("Reshape", [self.graph.input[0].name, "patches.split"], ["patches.of_rows"]),
            helper.make_node("Transpose", ["patches.of_rows"], ["patches.in_turn"], perm=turned),
            helper.make_node("Reshape", ["patches.in_turn", "patches.joined"], ["patches.uint8"]),
            helper.make_node("DequantizeLinear", ["patches.uint8", "patches.step"], ["patches.restored"]),
            helper.make_node("MatMul", ["patches.restored", "patches.matrix.restored"], ["patches.product"]),
            helper.make_node("Add", ["patches.product", "patches.bias"], patches.nodes[-1].output),
        ]

    def _add_constant(self, value: NDArray[Any], name: str) -> None:
        self.graph.initializer.append(numpy_helper.from_array(value, name))

    def _rounded_rows(self, value: str, rows: str) -> Iterator[NodeProto]:
        last, tiny, *grid = _CONSTANTS
        gelu = value in self.from_gelu
        share, *grid = grid[2:] if gelu else ["", *grid[:2]]
        yield helper.make_node("ReduceMax", [value, last], [f"{rows}.highest"], keepdims=1)
        yield helper.make_node("ReduceMin", [value, last], [f"{rows}.lowest"], keepdims=1)
        yield helper.make_node("Neg", [f"{rows}.lowest"], [lowest := f"{rows}.depth"])
        if gelu:
            yield helper.make_node("Mul", [lowest, share], [lowest := f"{rows}.share"])
        yield helper.make_node("Max", [f"{rows}.highest", lowest, tiny], [f"{rows}.largest"])
        yield helper.make_node("Reciprocal", [f"{rows}.largest"], [f"{rows}.factor"])
        yield helper.make_node("Mul", [value, f"{rows}.factor"], [f"{rows}.even"])  # -1..1
        yield helper.make_node("QuantizeLinear", [f"{rows}.even", *grid], [f"{rows}.uint8"])
        yield helper.make_node("DequantizeLinear", [f"{rows}.uint8", *grid], [f"{rows}.restored"])

    def _look_up(self, node: NodeProto) -> None:
        """Add nodes that look up rows of an int8 table and scale only those rows, not the whole table."""
        (table, wanted), (found,) = node.input, node.output
        self._add_stored(table, 0)
        rows, floats, scales = (f"{found}.{part}" for part in ("int8", "floats", "scale"))
        self.nodes += [
            helper.make_node("Gather", [f"{table}.int8", wanted], [rows]),
            helper.make_node("Gather", [f"{table}.scale", wanted], [scales]),
            helper.make_node("Cast", [rows], [floats], to=TensorProto.FLOAT),
            helper.make_node("Mul", [floats, scales], [found]),
        ]

    def _store(self, node: NodeProto) -> None:
        """Add a node whose weights are int8 in the file."""
        for name in node.input:
            axis = _axis(node)
            if name not in self.weights or axis is None or name in self.made:
                continue
            if node.op_type in ("LSTM", "GRU") and len(self.weights[name].dims) < 3:  # a bias
                continue
            self._add_stored(name, axis)
            self.made.add(name)
            floats = f"{name}.floats"  # with a Cast, because ONNX Runtime would run DequantizeLinear each time
            self.nodes.append(helper.make_node("Cast", [f"{name}.int8"], [floats], to=TensorProto.FLOAT))
            self.nodes.append(helper.make_node("Mul", [floats, f"{name}.scale"], [name]))
        self.nodes.append(node)

    def _add_stored(self, name: str, axis: int) -> None:
        if f"{name}.int8" not in self.made:
            scale = self._add_rounded(array_of(self.weights[name], self.folder), name, axis, _STORED)
            self.graph.initializer.append(numpy_helper.from_array(scale, f"{name}.scale"))

    def _add_rounded(self, value: NDArray[np.float32], name: str, axis: int, most: int) -> NDArray[np.float32]:
        """Add a weight in int8, and return its scales along an axis, with as many dimensions as the weight."""
        others = tuple(place for place in range(value.ndim) if place != axis % value.ndim)
        scale = (largest(value, others, keepdims=True) / most).clip(min=1e-12).astype(np.float32)
        scaled = value / scale
        small = np.rint(scaled, out=scaled).astype(np.int8)
        rounded = TensorProto(name=f"{name}.int8", data_type=TensorProto.INT8, dims=small.shape)
        self.graph.initializer.append(rounded)
        self.small[rounded.name] = lambda: small
        self.made.add(f"{name}.int8")
        return scale


def _given(node: NodeProto) -> dict[str, Any]:
    return {each.name: helper.get_attribute_value(each) for each in node.attribute}


def _axis(node: NodeProto) -> int | None:
    """Return the axis of a node's weights that belongs to its outputs; None for operators without such an axis."""
    if node.op_type in ("MatMul", "Gemm"):
        return 0 if _given(node).get("transB") else -1
    return _AXES.get(node.op_type)
