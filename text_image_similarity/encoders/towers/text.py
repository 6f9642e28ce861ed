"""Build text towers by name; each turns token ids (n, t) into one vector per caption, (n, width).

`lstm` and `gru` are bidirectional with max pooling over the caption (Conneau et al. 2017, InferSent). `transformer` is
BERT's encoder (Devlin et al. 2019: learned positions, layer norm after each part, GELU) with mean pooling over the
caption (Reimers and Gurevych 2019, Sentence-BERT). Training can therefore start from the weights of such a model.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import ConfigError

PAD = 0  # token id of padding
UNK = 1  # token id of words that are not in the vocabulary
HEAD = 32  # width of an attention head


class RecurrentTower(nn.Module):
    """Token embeddings and a bidirectional LSTM or GRU, with max pooling over the caption."""

    def __init__(self, cell: type[nn.LSTM | nn.GRU], *, vocab_size: int, width: int, layers: int, dropout: float):
        super().__init__()
        self.tokens = nn.Embedding(vocab_size, width, padding_idx=PAD)
        self.dropout = nn.Dropout(dropout)
        self.cell = cell(
            width, width, layers, batch_first=True, bidirectional=True, dropout=dropout if layers > 1 else 0.0
        )

    def forward(self, ids: Tensor) -> Tensor:
        lengths = (ids != PAD).sum(dim=1)  # (n,)
        embedded = self.dropout(self.tokens(ids))  # (n, t, width)
        # Packing keeps the backward direction from reading padding, so other captions cannot change a caption's vector.
        packed = nn.utils.rnn.pack_padded_sequence(embedded, lengths.cpu(), batch_first=True, enforce_sorted=False)
        states, _ = nn.utils.rnn.pad_packed_sequence(
            self.cell(packed)[0], batch_first=True, padding_value=float("-inf"), total_length=ids.shape[1]
        )
        return states.amax(dim=1)  # (n, t, 2 * width) -> (n, 2 * width)


class TransformerLayer(nn.Module):
    """Self-attention and a feed-forward network, each added to its input and then normalised."""

    def __init__(self, width: int, dropout: float):
        super().__init__()
        self.heads = width // HEAD
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm1 = nn.LayerNorm(width, eps=1e-12)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)
        self.norm2 = nn.LayerNorm(width, eps=1e-12)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        n, t, width = x.shape
        q, k, v = self.qkv(x).view(n, t, 3, self.heads, HEAD).permute(2, 0, 3, 1, 4)  # each (n, heads, t, 32)
        seen = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).reshape(n, t, width)
        x = self.norm1(x + self.dropout(self.out(seen)))
        x = self.norm2(x + self.dropout(self.down(F.gelu(self.up(x)))))
        return x


class TransformerTower(nn.Module):
    """Token and position embeddings and layers of self-attention, with mean pooling over the caption."""

    def __init__(self, *, vocab_size: int, width: int, layers: int, dropout: float, context_length: int):
        super().__init__()
        if width % HEAD:
            raise ConfigError(f"text_width={width} must be a multiple of {HEAD} for a transformer")
        self.tokens = nn.Embedding(vocab_size, width, padding_idx=PAD)
        self.positions = nn.Embedding(context_length, width)
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(TransformerLayer(width, dropout) for _ in range(layers))

    def forward(self, ids: Tensor) -> Tensor:
        real = ids != PAD  # (n, t)
        x = self.tokens(ids) + self.positions.weight[: ids.shape[1]]
        x = self.dropout(self.norm(x))
        mask = real[:, None, None, :].expand(
            -1, 1, ids.shape[1], -1
        )  # (n, 1, t, t): ONNX's attention does not broadcast it
        for layer in self.layers:
            x = layer(x, mask)
        weight = real[..., None].to(x.dtype)
        pooled: Tensor = (x * weight).sum(dim=1) / weight.sum(dim=1)  # (n, t, width) -> (n, width)
        return pooled


def build_text_tower(
    name: str, *, vocab_size: int, width: int, layers: int, dropout: float, context_length: int
) -> tuple[nn.Module, int]:
    """Build a text tower with random weights, and return it with the width of its vectors.

    Raises:
        ConfigError: The tower does not exist.
    """
    if name == "transformer":
        tower = TransformerTower(
            vocab_size=vocab_size, width=width, layers=layers, dropout=dropout, context_length=context_length
        )
        for part in tower.modules():
            if isinstance(part, (nn.Linear, nn.Embedding)):
                torch.nn.init.normal_(part.weight, std=0.02)
        return tower, width
    if name in ("lstm", "gru"):
        cell = nn.LSTM if name == "lstm" else nn.GRU
        recurrent = RecurrentTower(cell, vocab_size=vocab_size, width=width, layers=layers, dropout=dropout)
        return recurrent, 2 * width
    raise ConfigError(f"text_tower={name!r} is not one of lstm, gru, transformer")
