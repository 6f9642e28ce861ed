"""Build the ONNX graph of an LSTM or GRU text tower by hand, because packed sequences cannot be traced.

ONNX's operators take the length of each caption (`sequence_lens`), so padding is never read, and a vector is the same
to the last bit whether its caption is encoded alone or with longer ones. The operators order a cell's gates differently
from torch: i o f c for an LSTM (torch: i f g o) and z r h for a GRU (torch: r z n).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from ..towers import PAD, DualEncoder
from ..towers.text import RecurrentTower

_GATES = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2)}  # positions of ONNX's gates in torch's order


def recurrent_graph(model: DualEncoder, names: tuple[str, str], opset: int) -> onnx.ModelProto:
    """Return the graph of a dual encoder's text tower, which must be recurrent.

    Args:
        model: The dual encoder; its weights are read as float32.
        names: Names of the input, token ids (batch, length), and of the output, unit vectors (batch, embed_dim).
        opset: Version of ONNX's operators.
    """
    tower = model.text_tower
    assert isinstance(tower, RecurrentTower)
    graph = _Builder()
    ids, embeds = names
    padding = graph.constant("padding", np.array(PAD, np.int64))
    real = graph.node("Not", graph.node("Equal", ids, padding))  # (n, t)
    counted = graph.node("ReduceSum", graph.node("Cast", real, to=TensorProto.INT32), graph.ints(1), keepdims=0)
    states = graph.node(
        "Transpose", graph.node("Gather", graph.weight("tokens", tower.tokens.weight), ids), perm=[1, 0, 2]
    )
    for layer in range(tower.cell.num_layers):
        states = _layer(graph, tower.cell, layer, states, counted)  # (t, n, 2 * width)
    shown = graph.node("Unsqueeze", graph.node("Transpose", real, perm=[1, 0]), graph.ints(2))  # (t, n, 1)
    lowest = graph.constant("lowest", np.array(-np.inf, np.float32))
    pooled = graph.node("ReduceMax", graph.node("Where", shown, states, lowest), graph.ints(0), keepdims=0)
    features = _head(graph, model.text_head, pooled)
    graph.nodes.append(helper.make_node("LpNormalization", [features], [embeds], axis=1, p=2))
    return graph.model(
        helper.make_tensor_value_info(ids, TensorProto.INT64, ["batch", "length"]),
        helper.make_tensor_value_info(embeds, TensorProto.FLOAT, ["batch", model.config.embed_dim]),
        opset,
    )


class _Builder:
    """The nodes and weights of a graph that is being built."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def node(self, operator: str, *inputs: str, outputs: int = 1, **attributes: Any) -> str:
        """Add a node and return the name of its first output."""
        names = [f"{operator}_{len(self.nodes)}_{number}" for number in range(outputs)]
        self.nodes.append(helper.make_node(operator, list(inputs), names, **attributes))
        return names[0]

    def constant(self, name: str, value: NDArray[Any]) -> str:
        """Add a weight under a name, unless the graph already has it."""
        if name not in {weight.name for weight in self.weights}:
            self.weights.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def weight(self, name: str, value: Tensor) -> str:
        return self.constant(name, value.detach().float().cpu().numpy())

    def ints(self, *values: int) -> str:
        return self.constant("ints_" + "_".join(map(str, values)), np.array(values, np.int64))

    def model(self, taken: onnx.ValueInfoProto, given: onnx.ValueInfoProto, opset: int) -> onnx.ModelProto:
        graph = helper.make_graph(self.nodes, "text", [taken], [given], self.weights)
        found = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
        onnx.checker.check_model(found)
        return found


def _layer(graph: _Builder, cell: nn.LSTM | nn.GRU, layer: int, states: str, lengths: str) -> str:
    """Add a bidirectional layer, and return its states (t, n, 2 * width)."""
    kind = "LSTM" if isinstance(cell, nn.LSTM) else "GRU"

    def both(name: str) -> NDArray[np.float32]:
        directions = (getattr(cell, f"{name}_l{layer}{suffix}") for suffix in ("", "_reverse"))
        return np.stack([_reordered(direction, _GATES[kind]) for direction in directions])

    weights = [
        graph.constant(f"{kind}_{layer}_{name}", value)
        for name, value in (
            ("input", both("weight_ih")),
            ("recurrent", both("weight_hh")),
            ("bias", np.concatenate([both("bias_ih"), both("bias_hh")], axis=1)),
        )
    ]
    more = {"linear_before_reset": 1} if kind == "GRU" else {}
    found = graph.node(
        kind, states, *weights, lengths, hidden_size=cell.hidden_size, direction="bidirectional", **more
    )  # (t, 2, n, width)
    return graph.node(
        "Reshape", graph.node("Transpose", found, perm=[0, 2, 1, 3]), graph.ints(0, 0, 2 * cell.hidden_size)
    )


def _reordered(weight: Tensor, gates: tuple[int, ...]) -> NDArray[np.float32]:
    parts = np.split(weight.detach().float().cpu().numpy(), len(gates))
    return np.concatenate([parts[gate] for gate in gates])


def _head(graph: _Builder, head: nn.Sequential, values: str) -> str:
    for number, part in enumerate(head):
        if isinstance(part, nn.Linear):
            weights = graph.weight(f"head_{number}_weight", part.weight), graph.weight(f"head_{number}_bias", part.bias)
            values = graph.node("Gemm", values, *weights, transB=1)
        elif isinstance(part, nn.GELU):
            values = graph.node("Gelu", values)
    return values
