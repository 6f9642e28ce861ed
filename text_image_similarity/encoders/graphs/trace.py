"""Trace a torch tower to an ONNX graph."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..towers.image import SameConv2d

_one_at_a_time = Lock()


class UnitTower(nn.Module):
    """A tower whose features are scaled to length 1, in float32.

    Args:
        tower: The tower, which returns features (n, embed_dim).
    """

    def __init__(self, tower: nn.Module):
        super().__init__()
        self.tower = tower

    def forward(self, values: Tensor) -> Tensor:
        return F.normalize(self.tower(values).float(), dim=1)


def trace(tower: nn.Module, example: Tensor, dynamic: dict[int, Any], names: tuple[str, str], opset: int) -> Any:
    """Return the ONNX graph of a tower, with its output scaled to unit vectors.

    Args:
        tower: The tower, which returns features.
        example: An example of the tower's input.
        dynamic: The dimensions of the input that may vary.
        names: Names of the input and of the output.
        opset: Version of ONNX's operators.
    """
    with _quiet():
        return torch.onnx.export(
            UnitTower(tower).eval(),
            (example,),
            input_names=[names[0]],
            output_names=[names[1]],
            dynamic_shapes=(dynamic,),
            opset_version=opset,
            dynamo=True,
            verbose=False,
        )


def fold_padding(tower: nn.Module, example: Tensor) -> nn.Module:
    """Return a tower whose SAME convolutions have padded kernels, because ONNX Runtime fuses the padding wrongly."""
    if not any(isinstance(module, SameConv2d) for module in tower.modules()):
        return tower
    shared = {id(weight): weight for weight in (*tower.parameters(), *tower.buffers())}
    tower = copy.deepcopy(tower, shared)  # copies modules, but not weights, which another tower may share
    seen: dict[nn.Module, Tensor] = {}
    for convolution in (module for module in tower.modules() if isinstance(module, SameConv2d)):
        convolution.register_forward_pre_hook(lambda module, inputs: seen.__setitem__(module, inputs[0]))
    with torch.inference_mode():
        tower(example)
    for parent in list(tower.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, SameConv2d):
                setattr(parent, name, child.folded(seen[child]))
    return tower


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the exporter's warnings about its own internals, which users cannot act on.

    Warning filters are global to the process, so only one thread may change them at a time.
    """
    optimizer = logging.getLogger("onnxscript")
    with _one_at_a_time, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        level = optimizer.level
        optimizer.setLevel(logging.ERROR)
        try:
            yield
        finally:
            optimizer.setLevel(level)
