"""The last layer of a transformer, computed only for the token that the tower returns: the class or the end token.

The other tokens affect that token's vector only through their keys and values, so nothing else is computed for them: no
queries, output projection or feed-forward network, which are five sixths of the layer's work. Results differ only by
rounding.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class OneToken(nn.Module):
    """The last layer of a `transformers` CLIP or SigLIP model, which returns one token of each item, (n, 1, width).

    Args:
        layer: The layer.
        place: Position of the token, which attends to all tokens: 0 is the first, -1 the last.
    """

    def __init__(self, layer: nn.Module, place: int):
        super().__init__()
        self.layer = layer
        self.place = place

    def forward(self, hidden: Tensor, attention_mask: None = None, **_: Any) -> Tensor:
        return token_of(self.layer, hidden, _at(hidden, self.place))


class OneTokenBlock(nn.Module):
    """The last layer of an open_clip image tower, which returns only the class token of each image, (n, 1, width)."""

    def __init__(self, block: nn.Module):
        super().__init__()
        self.block = block

    def forward(self, hidden: Tensor, attn_mask: None = None) -> Tensor:
        return token_of_block(self.block, hidden, _at(hidden, 0))


def give_one_token(tower: Any, place: int) -> None:
    """Make the last layer of a `transformers` tower compute only one token; the tower must use no other token."""
    tower.encoder.layers[-1] = OneToken(tower.encoder.layers[-1], place)


def token_of(layer: Any, hidden: Tensor, token: Tensor, seen: Tensor | None = None) -> Tensor:
    """Return the output of a `transformers` CLIP or SigLIP layer for one token, (n, 1, width).

    Args:
        layer: The layer.
        hidden: All tokens, (n, t, width).
        token: The token to compute, (n, 1, width).
        seen: Mask of the tokens that the token attends to, (n, t); None means all.
    """
    attention = layer.self_attn

    def heads(values: Tensor) -> Tensor:  # (n, t, width) -> (n, heads, t, width / heads)
        return values.view(*values.shape[:2], -1, attention.head_dim).transpose(1, 2)

    normed = layer.layer_norm1(hidden)
    mixed = F.scaled_dot_product_attention(
        heads(attention.q_proj(layer.layer_norm1(token))),
        heads(attention.k_proj(normed)),
        heads(attention.v_proj(normed)),
        attn_mask=None if seen is None else seen[:, None, None, :],
        scale=attention.scale,
    )  # (n, heads, 1, width / heads)
    token = token + attention.out_proj(mixed.transpose(1, 2).reshape(token.shape))
    found: Tensor = token + layer.mlp(layer.layer_norm2(token))
    return found


def token_of_block(block: Any, hidden: Tensor, token: Tensor, seen: Tensor | None = None) -> Tensor:
    """Return the output of open_clip's `ResidualAttentionBlock` for one token; see `token_of` for the arguments."""
    normed, mask = block.ln_1(hidden), None
    if seen is not None:
        unseen = torch.zeros_like(seen, dtype=hidden.dtype).masked_fill(~seen, float("-inf"))  # (n, t)
        mask = unseen[:, None, :].repeat_interleave(block.attn.num_heads, dim=0)  # (n * heads, 1, t)
    token = token + block.ls_1(block.attention(block.ln_1(token), normed, normed, mask))
    found: Tensor = token + block.ls_2(block.mlp(block.ln_2(token)))
    return found


def at_ends(hidden: Tensor, ends: Tensor) -> tuple[Tensor, Tensor]:
    """Return the tokens (n, 1, width) at given positions, and masks (n, t) of what they attend to in a causal tower."""
    count, length = hidden.shape[:2]
    token = hidden[torch.arange(count, device=hidden.device), ends][:, None]
    return token, torch.arange(length, device=hidden.device) <= ends[:, None]


def _at(hidden: Tensor, place: int) -> Tensor:
    return hidden[:, :1] if place == 0 else hidden[:, place:]
