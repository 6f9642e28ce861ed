"""Find where an image tower multiplies patches of an image, so that their bytes can be multiplied directly.

A vision transformer normalises an image and convolves it with a stride as long as the kernel, so each patch is
multiplied by one matrix. Bytes need no rounding, and their normalisation becomes part of the matrix and of the bias.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper

from .arrays import array_of

_STEPS = ("Cast", "Transpose", "Mul", "Sub", "Conv", "Reshape", "Transpose")


@dataclass(frozen=True, slots=True)
class Patches:
    """The part of a graph that multiplies the patches of its images.

    Args:
        nodes: Nodes of this part, from bytes (n, h, w, 3) to values (n, patches, width).
        grid: Number of patches down and across.
        side: Height and width of a patch.
        matrix: Matrix by which the bytes of a patch, minus `mean`, are multiplied, (side * side * 3, width).
        mean: Value that normalisation subtracts from each byte of a patch, (side * side * 3,).
        bias: Vector that is added to a product, (width,).
    """

    nodes: list[NodeProto]
    grid: tuple[int, int]
    side: tuple[int, int]
    matrix: NDArray[np.float32]
    mean: NDArray[np.float32]
    bias: NDArray[np.float32]

    @property
    def cut(self) -> tuple[list[int], list[int], list[int]]:
        """The operations that cut images into patches: a reshape, a transposition, and another reshape."""
        (down, across), (height, width) = self.grid, self.side
        return [-1, down, height, across, width * 3], [0, 1, 3, 2, 4], [-1, down * across, height * width * 3]


def find_patches(graph: onnx.GraphProto, folder: Path) -> Patches | None:
    """Return the part of a graph that multiplies patches of its images, or None if there is none.

    Args:
        graph: The graph, loaded without its external data.
        folder: Folder of the external data.
    """
    nodes, held = _first_nodes(graph), {each.name: each for each in graph.initializer}
    if nodes is None or any(name not in held for node in nodes for name in node.input[1:]):
        return None
    constants = [[array_of(held[name], folder) for name in node.input[1:]] for node in nodes]
    (scale,), (shift,), (kernel, *biases), (shape,) = constants[2:6]
    width, channels, *side = kernel.shape
    height, across = (each.dim_value for each in graph.input[0].type.tensor_type.shape.dim[1:3])
    grid = height // side[0], across // side[-1]
    if scale.shape != (3, 1, 1) or shift.shape != (3, 1, 1) or (channels, len(side)) != (3, 2):
        return None
    if not _is_cut(nodes, side) or (height, across) != (grid[0] * side[0], grid[1] * side[1]):
        return None
    if shape.tolist()[1:] != [width, grid[0] * grid[1]]:
        return None
    return Patches(
        nodes,
        grid,
        (side[0], side[1]),
        matrix=(kernel * scale).transpose(2, 3, 1, 0).reshape(-1, width),
        mean=np.tile((shift / scale).reshape(-1), side[0] * side[1]),
        bias=biases[0] if biases else np.zeros(width, np.float32),
    )


def _first_nodes(graph: onnx.GraphProto) -> list[NodeProto] | None:
    """Return the nodes from a graph's bytes to the patches' values, or None if there are other nodes in between."""
    if graph.input[0].type.tensor_type.elem_type != TensorProto.UINT8:
        return None
    value, found = graph.input[0].name, []
    for operator in _STEPS:
        takers = [node for node in graph.node if value in node.input and node.op_type != "Shape"]
        if len(takers) != 1 or takers[0].op_type != operator or takers[0].input[0] != value:
            return None
        found += takers
        (value,) = takers[0].output
    return found


def _is_cut(nodes: list[NodeProto], side: list[int]) -> bool:
    """Return whether a graph's first nodes cut images into adjacent patches, without padding or gaps."""
    turned, convolution, last = (
        {each.name: helper.get_attribute_value(each) for each in nodes[place].attribute} for place in (1, 4, 6)
    )
    even: dict[str, Any] = {"pads": [0] * 4, "dilations": [1, 1], "group": 1, "auto_pad": b"NOTSET"}
    return (
        turned["perm"] == [0, 3, 1, 2]
        and last["perm"] == [0, 2, 1]
        and convolution.get("strides") == side
        and all(convolution.get(name, value) == value for name, value in even.items())
    )
