"""Limit the cost of one image in an image network, which is run once on shapes alone, without computing values.

Attention and the layers of transformers are limited by their settings (`attention_cost`). A convolutional network has no
such settings, and its few weights are used at every place of an image, so its cost is counted by running it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from ..errors import ModelNameError

_MOST_VALUES = 1 << 27  # values in a tensor; ALIGN's largest network has 32 million at its published size
_MOST_PRODUCTS = 1 << 42  # multiplications; published models need up to a trillion, and a CPU a minute for this many


class _Cost(TorchDispatchMode):
    """Counts the multiplications of the operations that run, and the values in the largest tensor that one returns."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.values = self.products = 0

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        found = operation(*args, **kwargs)
        self.values = max(0, self.values, *(each.numel() for each in tree_leaves(found) if isinstance(each, Tensor)))
        if "scaled_dot_product" in operation.__name__:
            query, key = args[:2]  # (..., queries, width) and (..., keys, width)
            self.products += 2 * query.numel() * key.shape[-2]
        elif (count := flop_registry.get(operation.overloadpacket)) is not None:
            self.products += count(*args, **kwargs, out_val=found) // 2  # it counts additions as well
        return found


@torch.inference_mode(False)
@torch.no_grad()
def check_image_cost(
    name: str, network: nn.Module, features: Callable[[Any, Tensor], Tensor], side: tuple[int, int]
) -> None:
    """Check that an image takes not far more memory and time than with published models.

    Args:
        name: Name of the model, for messages.
        network: The network, all parts of which are in the same mode.
        features: Function that returns the features of images (n, 3, height, width), from the network and the images.
        side: Height and width of the model's images in pixels.

    Raises:
        ModelNameError: An image would take too much memory or time.
    """
    weight, was_training = next(network.parameters()), network.training
    network.eval()
    with FakeTensorMode(allow_non_fake_inputs=True), _Cost() as cost:
        features(network, torch.empty((1, 3, *side), dtype=weight.dtype, device=weight.device))
    network.train(was_training)
    if cost.values > _MOST_VALUES or cost.products > _MOST_PRODUCTS:
        raise ModelNameError(
            f"an image of {side[0]:,} x {side[1]:,} pixels would take {cost.values:,} values at a time and {cost.products:,} "
            f"multiplications in {name}, which is too much memory or time; correct the settings of its image tower"
        )
