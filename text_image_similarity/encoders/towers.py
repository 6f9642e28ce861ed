"""The towers of a small dual encoder: MobileNetV2 for pictures, a bidirectional GRU for captions, one shared space.

The image tower follows Sandler et al. 2018 (MobileNetV2) with batch norm folded into the convolutions and TensorFlow's
SAME padding, because its ImageNet weights were trained that way. Tensors in, tensors out: no files, no devices.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

PAD = 0  # token id of padding

# MobileNetV2, table 2 of the paper: expansion, channels, repeats, stride.
_STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
_FEATURES = 1280


@dataclass(frozen=True, slots=True)
class DualEncoderConfig:
    """Shape of a dual encoder, as `config.json` holds it.

    Args:
        vocab_size: Number of tokens the text tower knows.
        embed_dim: Width of the shared space.
        text_width: Width of the token embeddings and of each GRU direction.
        context_length: Longest caption in tokens; longer ones are cut.
        image_size: Side of the square picture the image tower reads, in pixels.
    """

    vocab_size: int
    embed_dim: int = 256
    text_width: int = 256
    context_length: int = 64
    image_size: int = 224


class ConvReLU6(nn.Sequential):
    """A convolution with folded batch norm, SAME padding and, unless `linear`, a ReLU6."""

    def __init__(self, c_in: int, c_out: int, size: int, *, stride: int = 1, groups: int = 1, linear: bool = False):
        # SAME padding of an even side: a 3x3 window with stride 2 needs one row and column, at the far end only.
        pad = [nn.ZeroPad2d((0, 1, 0, 1))] if stride == 2 else []
        inner = size // 2 if stride == 1 else 0
        conv = nn.Conv2d(c_in, c_out, size, stride, inner, groups=groups)
        super().__init__(*pad, conv, *([] if linear else [nn.ReLU6(inplace=True)]))


class InvertedResidual(nn.Module):
    """Expand, filter each channel, project; add the input where the shape is unchanged."""

    def __init__(self, c_in: int, c_out: int, *, stride: int, expansion: int):
        super().__init__()
        hidden = c_in * expansion
        expand = [ConvReLU6(c_in, hidden, 1)] if expansion > 1 else []
        self.conv = nn.Sequential(
            *expand,
            ConvReLU6(hidden, hidden, 3, stride=stride, groups=hidden),
            ConvReLU6(hidden, c_out, 1, linear=True),
        )
        self.residual = stride == 1 and c_in == c_out

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return x + y if self.residual else y


class ImageTower(nn.Module):
    """MobileNetV2 features, average pooled and projected: (n, 3, s, s) in [-1, 1] -> (n, embed_dim)."""

    def __init__(self, config: DualEncoderConfig):
        super().__init__()
        blocks: list[nn.Module] = [ConvReLU6(3, 32, 3, stride=2)]
        width = 32
        for expansion, channels, repeats, stride in _STAGES:
            for i in range(repeats):
                first = stride if i == 0 else 1
                blocks.append(InvertedResidual(width, channels, stride=first, expansion=expansion))
                width = channels
        blocks.append(ConvReLU6(width, _FEATURES, 1))
        self.features = nn.Sequential(*blocks)
        self.project = nn.Linear(_FEATURES, config.embed_dim)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.head(self.features(pixels))

    def head(self, features: Tensor) -> Tensor:
        """Pool and project features: (n, 1280, s/32, s/32) -> (n, embed_dim)."""
        projected: Tensor = self.project(features.mean(dim=(2, 3)))
        return projected


class TextTower(nn.Module):
    """Token embeddings, a bidirectional GRU, max pooling over the caption: (n, t) ids -> (n, embed_dim)."""

    def __init__(self, config: DualEncoderConfig):
        super().__init__()
        width = config.text_width
        self.embed = nn.Embedding(config.vocab_size, width, padding_idx=PAD)
        self.dropout = nn.Dropout(0.2)
        self.gru = nn.GRU(width, width, batch_first=True, bidirectional=True)
        self.project = nn.Linear(2 * width, config.embed_dim)

    def forward(self, ids: Tensor) -> Tensor:
        lengths = (ids != PAD).sum(dim=1)  # (n,)
        embedded = self.dropout(self.embed(ids))
        # Packing keeps the backward direction from reading padding, so neighbours cannot change a caption's vector.
        packed = nn.utils.rnn.pack_padded_sequence(embedded, lengths.cpu(), batch_first=True, enforce_sorted=False)
        states, _ = nn.utils.rnn.pad_packed_sequence(
            self.gru(packed)[0], batch_first=True, padding_value=float("-inf"), total_length=ids.shape[1]
        )
        projected: Tensor = self.project(self.dropout(states.amax(dim=1)))  # (n, t, 2 * width) -> (n, embed_dim)
        return projected


class DualEncoder(nn.Module):
    """The two towers and the learned temperature they were trained with."""

    def __init__(self, config: DualEncoderConfig):
        super().__init__()
        self.config = config
        self.image = ImageTower(config)
        self.text = TextTower(config)
        self.log_logit_scale = nn.Parameter(torch.tensor(2.659))  # ln(1 / 0.07), as in CLIP
