"""Trace a tower of torch to an ONNX graph."""

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
        tower: Gives features (n, embed_dim).
    """

    def __init__(self, tower: nn.Module):
        super().__init__()
        self.tower = tower

    def forward(self, values: Tensor) -> Tensor:
        return F.normalize(self.tower(values).float(), dim=1)


def trace(tower: nn.Module, example: Tensor, dynamic: dict[int, Any], names: tuple[str, str], opset: int) -> Any:
    """Return the graph of a tower that gives unit vectors.

    Args:
        tower: Gives features.
        example: Its input.
        dynamic: Which dimensions of the input may vary.
        names: Of the input and of the output.
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
    """Return a tower whose SAME-padded convolutions have their padding in the kernel: ONNX Runtime fuses it wrongly."""
    if not any(isinstance(module, SameConv2d) for module in tower.modules()):
        return tower
    tower = _modules_copied(tower)
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


class PatchProduct(nn.Module):
    """A convolution that steps from patch to patch, as a product of matrices, which can be made in integers.

    Args:
        convolution: Its kernel is as large as its steps, and nothing is padded.
    """

    def __init__(self, convolution: nn.Conv2d):
        super().__init__()
        self.kernel = convolution.kernel_size
        self.weight = nn.Parameter(convolution.weight.flatten(1), requires_grad=False)  # (out, c * p * q)
        self.bias = convolution.bias

    def forward(self, pixels: Tensor) -> Tensor:
        count, channels, height, width = pixels.shape
        p, q = self.kernel
        rows, columns = height // p, width // q
        patches = pixels[:, :, : rows * p, : columns * q].reshape(count, channels, rows, p, columns, q)
        patches = patches.permute(0, 2, 4, 1, 3, 5).reshape(count, rows * columns, channels * p * q)
        found = F.linear(patches, self.weight, self.bias)  # (n, rows * columns, out)
        return found.transpose(1, 2).reshape(count, -1, rows, columns)


def multiply_patches(tower: nn.Module) -> nn.Module:
    """Return a tower whose convolutions of patches are products of matrices."""
    if not any(map(_is_of_patches, tower.modules())):
        return tower
    tower = _modules_copied(tower)
    for parent in list(tower.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Conv2d) and _is_of_patches(child):
                setattr(parent, name, PatchProduct(child))
    return tower


def _is_of_patches(module: nn.Module) -> bool:
    return (
        isinstance(module, nn.Conv2d)
        and not isinstance(module, SameConv2d)
        and module.kernel_size == module.stride
        and module.kernel_size > (1, 1)
        and module.padding in ("valid", (0, 0))
        and module.dilation == (1, 1)
        and module.groups == 1
    )


def _modules_copied(tower: nn.Module) -> nn.Module:
    """Return a copy of a tower's modules, not of its weights, which may be another tower's too."""
    shared = {id(weight): weight for weight in (*tower.parameters(), *tower.buffers())}
    return copy.deepcopy(tower, shared)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's warnings about its own workings away from people who cannot act on them.

    Filters of warnings belong to the process, so only one thread may change them at a time.
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
