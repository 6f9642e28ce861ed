"""The learning rate schedule, and the moving average of the weights."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor


def warmup_cosine(step: int, total: int, warmup: int) -> float:
    """Return the share of the peak learning rate at a step: a linear rise, then half a cosine down to zero.

    Args:
        step: Number of the step, from 0.
        total: Number of steps of the whole run.
        warmup: Number of steps during which the rate rises.

    Example:
        >>> [round(warmup_cosine(step, 10, 2), 3) for step in (0, 1, 2, 6, 9)]
        [0.5, 1.0, 1.0, 0.5, 0.038]
    """
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, total - warmup))))


def average_into(average: Mapping[str, Tensor], current: Mapping[str, Tensor], *, decay: float, step: int) -> None:
    """Move an exponential moving average of the weights towards the current ones, in place.

    Early on, the decay is lower, (1 + step) / (10 + step), so that random initial weights are soon forgotten.

    Args:
        average: Averaged weights by name.
        current: Weights after this step, by the same names; counters are copied.
        decay: Weight of the earlier average, 0..1; 0 copies the current weights.
        step: Number of the step, from 0.
    """
    weight = 1 - min(decay, (1 + step) / (10 + step)) if decay else 1.0
    with torch.no_grad():
        for name, value in average.items():
            if value.is_floating_point():
                value.lerp_(current[name], weight)
            else:
                value.copy_(current[name])
