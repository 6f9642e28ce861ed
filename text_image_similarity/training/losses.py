"""Contrastive losses over a batch of matching pairs.

`info_nce` is CLIP's symmetric cross-entropy (Radford et al. 2021, figure 3; van den Oord et al. 2018). `sigmoid_loss`
is SigLIP's (Zhai et al. 2023, algorithm 1): every pair of the batch is a separate binary classification.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def info_nce(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return the mean cross-entropy of identifying each image's text and each text's image within the batch.

    Args:
        image: Unit vectors, shape (n, d).
        text: Unit vectors, shape (n, d); row i belongs to image i.
        scale: Factor for cosines, 1 / temperature.
        bias: Unused, because it does not change a softmax; present so that both losses have the same signature.

    Example:
        >>> same = torch.eye(2)
        >>> round(float(info_nce(same, same, torch.tensor(1.0))), 4)  # ln(1 + e^-1)
        0.3133
    """
    logits = scale * image @ text.T  # (n, n)
    target = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def sigmoid_loss(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Return the log loss of classifying all pairs of the batch as matching or not, summed per image and averaged.

    Args:
        image: Unit vectors, shape (n, d).
        text: Unit vectors, shape (n, d); row i belongs to image i.
        scale: Factor for cosines.
        bias: Term added to the scaled cosines; start near -10, because almost all pairs mismatch.

    Example:
        >>> same = torch.eye(2)
        >>> round(float(sigmoid_loss(same, same, torch.tensor(1.0), torch.tensor(0.0))), 4)  # ln(1 + e^-1) + ln 2
        1.0064
    """
    logits = scale * image @ text.T + bias  # (n, n)
    sign = 2 * torch.eye(len(logits), device=logits.device) - 1  # 1 for a match, -1 otherwise
    return -F.logsigmoid(sign * logits).sum(dim=1).mean()
