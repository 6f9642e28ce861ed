"""The dual encoder: two towers with their projections and temperature, and the configuration that defines them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...errors import ConfigError
from ..settings_files import MOST_CONTEXT, is_context
from .image import build_backbone
from .text import build_text_tower


@dataclass(frozen=True, slots=True, kw_only=True)
class DualEncoderConfig:
    """Configuration of a dual encoder, as stored in `config.json`.

    Args:
        vocab_size: Number of tokens in the vocabulary; id 0 is padding, and id 1 stands for unknown tokens.
        image_tower: `mobilenet_v2` or `efficientnet_lite0` (batch norm folded, SAME padding, pixels in [-1, 1]), the
            name of a classification model of torchvision, or `timm/` and the name of a network of timm.
        text_tower: `lstm`, `gru` (both bidirectional, max pooled) or `transformer` (post-norm, mean pooled).
        embed_dim: Dimension of the embeddings.
        head_width: Hidden width of the projections to the embeddings; 0 makes them linear.
        text_width: Width of the token embeddings, of each recurrent direction and of the transformer.
        text_layers: Layers of the text tower.
        dropout: Share of activations that are dropped in training.
        context_length: Longest caption in tokens, at most 4,096; longer ones are cut.
        image_size: Side of the square image that the image tower reads, in pixels.
    """

    vocab_size: int
    image_tower: str = "mobilenet_v3_small"
    text_tower: str = "lstm"
    embed_dim: int = 256
    head_width: int = 0
    text_width: int = 256
    text_layers: int = 1
    dropout: float = 0.1
    context_length: int = 64
    image_size: int = 224

    def __post_init__(self) -> None:
        """Check the context length, because the configuration may come with a stranger's model.

        Raises:
            ConfigError: The context length is not a whole number from 1 to 4,096.
        """
        if not is_context(self.context_length):
            raise ConfigError(
                f"context_length={self.context_length!r:.100} must be a whole number from 1 to {MOST_CONTEXT:,}"
            )


class DualEncoder(nn.Module):
    """The two towers, their projections, and the temperature that was learned with them."""

    def __init__(self, config: DualEncoderConfig):
        super().__init__()
        self.config = config
        self.backbone = build_backbone(config.image_tower, config.image_size)
        self.image_head = _head(self.backbone.width, config)
        self.text_tower, width = build_text_tower(
            config.text_tower,
            vocab_size=config.vocab_size,
            width=config.text_width,
            layers=config.text_layers,
            dropout=config.dropout,
            context_length=config.context_length,
        )
        self.text_head = _head(width, config)
        self.log_logit_scale = nn.Parameter(torch.tensor(2.659))  # ln(1 / 0.07), as in CLIP
        self.logit_bias = nn.Parameter(torch.tensor(0.0))  # for the sigmoid loss; it has no effect on a softmax

    def image(self, pixels: Tensor) -> Tensor:
        """Encode normalised pixels (n, 3, s, s) to (n, embed_dim), not yet of unit length."""
        features: Tensor = self.image_head(self.backbone(pixels))
        return features

    def text(self, ids: Tensor) -> Tensor:
        """Encode token ids (n, t), padded with PAD, to (n, embed_dim), not yet of unit length."""
        features: Tensor = self.text_head(self.text_tower(ids))
        return features


def _head(width: int, config: DualEncoderConfig) -> nn.Sequential:
    if not config.head_width:
        return nn.Sequential(nn.Dropout(config.dropout), nn.Linear(width, config.embed_dim))
    return nn.Sequential(
        nn.Dropout(config.dropout),
        nn.Linear(width, config.head_width),
        nn.GELU(),
        nn.Dropout(config.dropout),
        nn.Linear(config.head_width, config.embed_dim),
    )
