"""Run image towers that accept images of any shape, divided into patches (SigLIP 2's NaFlex)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..preprocess import Preprocess
from .clip_text import Features, pooled


def patch_features(preprocess: Preprocess) -> Features:
    """Return a function that computes image features from normalised rows (n, 3, 1 + most, side * side).

    The rows are those of `Preprocess.pixels`: the first one contains the numbers of patches down and across.
    """
    scale, shift = (torch.from_numpy(part) for part in preprocess.scale_and_shift)

    def features(network: Any, values: Tensor) -> Tensor:
        # The shape was normalised like pixels. Bytes are far enough apart to be restored exactly, even in float16.
        given = values[:, :2, 0, :2].float()  # (n, bytes, down and across)
        of = [part[:2].view(2, 1).to(values.device) for part in (scale, shift)]
        high, low = ((given + of[1]) / of[0]).round().long().unbind(1)
        shapes = 256 * high + low  # (n, 2)
        patches = values[:, :, 1:].permute(0, 2, 3, 1).flatten(2)  # (n, most, side * side * 3)
        mask = (torch.arange(patches.shape[1], device=values.device) < shapes.prod(1, keepdim=True)).int()
        patches = patches * mask[..., None].to(patches.dtype)
        return pooled(
            network.get_image_features(pixel_values=patches, pixel_attention_mask=mask, spatial_shapes=shapes)
        )

    return features
