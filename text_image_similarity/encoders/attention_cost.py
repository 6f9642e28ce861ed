"""Limit the cost of a transformer for one image or caption, from a model's settings, before its weights are read.

Attention compares all positions with each other, in every head and layer, and an MLP has all its hidden values at every
position, however few weights these have. Other image networks are limited by `image_cost`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import ModelNameError

# Pairs of positions in all heads of a layer, which some networks keep in memory; published models have up to 17 million,
# and SigLIP 2, if set to 2,048 patches, has 67 million.
_MOST_PAIRS = 1 << 26
_MOST_COMPARED = 1 << 31  # pairs in all layers, which take seconds; published models compare up to a billion
_MOST_HIDDEN = 1 << 27  # hidden values of an MLP at all positions; published models have up to 9 million
# Settings of transformers' text towers; M2M-100 and MT5 use other names.
_HEADS = ("num_attention_heads", "encoder_attention_heads", "num_heads")
_LAYERS = ("num_hidden_layers", "encoder_layers", "num_layers")
_WIDTHS = ("intermediate_size", "encoder_ffn_dim", "d_ff")
_OWN_HEADS, _OWN_LAYERS = 16, 12  # the most that towers have whose settings do not state these numbers


def check_attention(tower: str, positions: int, heads: Any, layers: Any) -> None:
    """Check that a tower's attention does not take far more memory or time than that of published models.

    Args:
        tower: The tower and its model, for messages.
        positions: Largest number of patches or tokens in the tower's input.
        heads: Number of heads of a layer; None if the network has no attention.
        layers: Number of layers of the tower; None if it is not known.

    Raises:
        ModelNameError: The tower would take too much memory or time, or the numbers are not whole.
    """
    if heads is None:
        return
    layers = 1 if layers is None else layers
    if not (isinstance(heads, int) and isinstance(layers, int)):
        raise ModelNameError(f"{tower} has {heads!r:.50} heads and {layers!r:.50} layers; both must be whole numbers")
    pairs = abs(heads) * positions**2
    if pairs > _MOST_PAIRS or pairs * abs(layers) > _MOST_COMPARED:
        raise ModelNameError(
            f"{tower} would compare {positions:,} patches or tokens with each other in {heads:,} heads and {layers:,} layers, "
            "which would take too much memory or time; correct its settings"
        )


def check_mlp(tower: str, positions: int, width: Any) -> None:
    """Check that the MLPs of a tower do not take far more memory than those of published models.

    Args:
        tower: The tower and its model, for messages.
        positions: Largest number of patches or tokens in the tower's input.
        width: Number of hidden values at a position; None if the network has no such layers.

    Raises:
        ModelNameError: The layers would take too much memory, or the number is not one.
    """
    if width is None:
        return
    if not isinstance(width, (int, float)):
        raise ModelNameError(f"{tower} has an MLP of width {width!r:.50}, which is not a number; correct its settings")
    if not abs(width) * positions <= _MOST_HIDDEN:
        raise ModelNameError(
            f"{tower} would have {width:,} hidden values at each of {positions:,} patches or tokens, which would take too much "
            "memory; correct its settings"
        )


def check_text_attention(tower: str, positions: int, settings: Mapping[str, Any]) -> None:
    """Check a text tower, as `check_attention` and `check_mlp` do, from the contents of its `config.json`."""
    for key in _WIDTHS:
        check_mlp(tower, positions, settings.get(key))
    heads, layers = ([settings[key] for key in keys if key in settings] for keys in (_HEADS, _LAYERS))
    for each in [*heads, _OWN_HEADS]:  # the tower may not read the stated numbers
        for count in [*layers, _OWN_LAYERS]:
            check_attention(tower, positions, each, count)
