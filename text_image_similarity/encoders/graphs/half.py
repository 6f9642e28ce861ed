"""Convert a float32 ONNX file to half precision, with float32 where half precision would be inaccurate.

These remain float32: the normalisation of pixels, softmax, sums and means, the statistics of layer norms, everything
after the last product, and computations with values near or beyond the largest half (65,504). Such values occur in some
sentence encoders and are found by a run in float32. Engines that take the precision only from the file, such as
TensorRT 11, need nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from ...errors import ModelError
from .arrays import array_of, largest
from .file import write_graph

LARGEST = 65_504 / 4  # largest value converted to half; inputs that were not tried may give larger values
_PRODUCTS = {"MatMul", "Gemm", "Conv", "Attention", "LSTM", "GRU", "Gather", "LayerNormalization", "ReduceMax"}
_FLOAT32 = {"Softmax", "LogSoftmax", "ReduceSum", "ReduceMean", "ReduceL2", "ReduceSumSquare", "GlobalAveragePool"}
_FLOAT32 |= {"LpNormalization", "Exp", "Log", "Pow", "Resize", "ConstantOfShape", "Range", "InstanceNormalization"}
_ATTRIBUTES = {"LayerNormalization": ("stash_type", 1), "Attention": ("softmax_precision", 1)}


def to_half(whole: Path, halved: Path, inputs: Sequence[NDArray[Any]]) -> list[str]:
    """Write a graph in half precision.

    Args:
        whole: The file with the graph in float32.
        halved: The file to write.
        inputs: Inputs on which the graph is run to find large values.

    Returns:
        The names of values that remain float32 because they are large.

    Raises:
        ModelError: A constant or an output of the float32 graph is not finite, or the graph has branches.
    """
    large = sorted(_large_values(whole, inputs))
    model = onnx.load(whole, load_external_data=False)
    halving = _Halving(model, whole.parent, set(large))
    halving.run()
    write_graph(model, halved, whole.parent, made=halving.made)
    return large


def _large_values(whole: Path, inputs: Sequence[NDArray[Any]]) -> set[str]:
    """Run a float32 graph, and return the names of values that are too large for half precision."""
    import onnxruntime

    model = onnx.load(whole, load_external_data=False)
    floats = _floats(model)
    made = [name for node in model.graph.node for name in node.output if name in floats]
    final = {output.name for output in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in made if name not in final)
    watched = whole.with_name(f"watched-{whole.name}")
    onnx.save(model, watched)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors are raised anyway, and a graph's names could control the terminal
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.disable_prepacking", "1")  # prepacking copies weights
    session = onnxruntime.InferenceSession(watched, options, providers=["CPUExecutionProvider"])
    watched.unlink()
    names, taken = [output.name for output in session.get_outputs()], session.get_inputs()[0].name
    large = set()
    for values in inputs:
        for name, found in zip(names, session.run(None, {taken: values}), strict=True):
            finite = np.abs(found[np.isfinite(found)])  # masks are infinite on purpose
            if name in final and finite.size < found.size:
                raise ModelError("the model returns vectors that are not finite")
            if finite.size and finite.max() > LARGEST:
                large.add(name)
    return large


def _floats(model: onnx.ModelProto) -> set[str]:
    """Return the names of the float32 values that nodes compute."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    known = (*graph.value_info, *graph.output)
    return {value.name for value in known if value.type.tensor_type.elem_type == TensorProto.FLOAT}


class _Halving:
    """A graph that is being converted to half precision.

    Args:
        model: The graph, loaded without its external data; it is changed in place.
        folder: Folder of the external data.
        large: Names of values that remain float32.
    """

    def __init__(self, model: onnx.ModelProto, folder: Path, large: set[str]) -> None:
        self.graph, self.folder, self.large = model.graph, folder, large
        light = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
        light.graph.CopyFrom(_without_weights(model.graph))
        self.floats = _floats(light)
        self.weights: dict[str, TensorProto] = {}
        self.nodes: list[onnx.NodeProto] = []
        self.made: dict[str, Callable[[], NDArray[Any]]] = (
            {}
        )  # functions that return half-precision weights when they are written
        self.kinds: dict[str, int] = {}  # types of values, FLOAT or FLOAT16; other types are left out

    def run(self) -> None:
        """Convert the graph."""
        graph = self.graph
        for weight in graph.initializer:
            if weight.data_type == TensorProto.FLOAT:
                self.weights[weight.name] = weight
                self._check(weight)
        kept = {node.output[0] for node in (*self._first(), *self._last())}
        for node in graph.node:
            if any(given.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for given in node.attribute):
                raise ModelError(
                    f"its graph has branches ({node.op_type} {node.name}), which cannot be converted to half precision"
                )
            names = {*node.input, *node.output}
            self._add(node, wide=node.output[0] in kept or node.op_type in _FLOAT32 or bool(names & self.large))
        self._finish()

    def _check(self, weight: TensorProto) -> None:
        value = array_of(weight, self.folder)
        if not value.size:
            return
        most = float(largest(value))
        if most == np.inf and value.max() < np.inf:  # a mask, which contains -inf on purpose
            most = float(largest(value[np.isfinite(value)])) if np.isfinite(value).any() else 0.0
        if not np.isfinite(most):
            raise ModelError(f"the constant {weight.name} is not finite")
        if most > LARGEST:
            self.large.add(weight.name)

    def _add(self, node: onnx.NodeProto, *, wide: bool) -> None:
        kind = TensorProto.FLOAT if wide else TensorProto.FLOAT16
        for place, name in enumerate(node.input):
            if name in self.kinds and self.kinds[name] != kind:
                node.input[place] = self._cast(name, kind)
            elif name in self.weights:
                node.input[place] = name if wide else f"{name}.half"
        for given in node.attribute:
            if node.op_type == "Cast" and given.name == "to" and given.i == TensorProto.FLOAT:
                given.i = kind
            if node.op_type == "Constant" and not wide and given.t.data_type == TensorProto.FLOAT:
                half = numpy_helper.to_array(given.t).astype(np.float16)
                given.t.CopyFrom(numpy_helper.from_array(half, given.t.name))
        if not wide and (more := _ATTRIBUTES.get(node.op_type)):
            left = [given for given in node.attribute if given.name != more[0]]
            del node.attribute[:]
            node.attribute.extend([*left, helper.make_attribute(*more)])
        self.kinds.update((name, kind) for name in node.output if name in self.floats)
        self.nodes.append(node)

    def _cast(self, name: str, kind: int) -> str:
        cast = f"{name}.{'float' if kind == TensorProto.FLOAT else 'half'}"
        if cast not in self.kinds:
            self.kinds[cast] = kind
            self.nodes.append(helper.make_node("Cast", [name], [cast], to=kind))
        return cast

    def _finish(self) -> None:
        for output in self.graph.output:
            if self.kinds.get(output.name) == TensorProto.FLOAT16:
                raise ModelError(f"the output {output.name} is not float32")
        taken = {name for node in self.nodes for name in node.input}
        others = [weight for weight in self.graph.initializer if weight.name not in self.weights]
        for name, weight in self.weights.items():
            if (half := f"{name}.half") in taken:
                others.append(TensorProto(name=half, data_type=TensorProto.FLOAT16, dims=weight.dims))
                self.made[half] = partial(_half, weight, self.folder)
            if name in taken:
                others.append(weight)
        del self.graph.node[:], self.graph.initializer[:], self.graph.value_info[:]
        self.graph.node.extend(self.nodes)
        self.graph.initializer.extend(others)

    def _first(self) -> Iterator[onnx.NodeProto]:
        """Yield the nodes that normalise pixels, between the bytes and the first product."""
        taken = self.graph.input[0]
        reached = {taken.name} if taken.type.tensor_type.elem_type == TensorProto.UINT8 else set[str]()
        for node in self.graph.node:
            if reached & set(node.input) and node.op_type not in _PRODUCTS:
                reached.update(node.output)
                yield node

    def _last(self) -> Iterator[onnx.NodeProto]:
        """Yield the nodes between the last product and the output, which produce the vectors."""
        wanted = {output.name for output in self.graph.output}
        for node in reversed(self.graph.node):
            if wanted & set(node.output) and node.op_type not in _PRODUCTS:
                wanted.update(node.input)
                yield node


def _without_weights(graph: onnx.GraphProto) -> onnx.GraphProto:
    """Return a graph whose weights are inputs: small, but enough to infer the types of its values."""
    weights = [weight for weight in graph.initializer if weight.data_type == TensorProto.FLOAT]
    named = {weight.name for weight in weights}
    light = onnx.GraphProto(name=graph.name)
    light.node.extend(graph.node)
    light.value_info.extend(graph.value_info)
    light.output.extend(graph.output)
    light.input.extend(graph.input)
    light.input.extend(helper.make_tensor_value_info(each.name, each.data_type, each.dims) for each in weights)
    light.initializer.extend(each for each in graph.initializer if each.name not in named)
    return light


def _half(weight: TensorProto, folder: Path) -> NDArray[np.float16]:
    half: NDArray[np.float16] = array_of(weight, folder).astype("<f2")
    return half
