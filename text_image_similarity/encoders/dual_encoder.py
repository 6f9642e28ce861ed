"""Run a small dual encoder: `mini`, the model that ships in the wheel, or one trained on its towers.

A model is a folder of three files: `config.json`, `model.safetensors` (float16) and `tokenizer.json`.
"""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor

from ..config import Config
from ..errors import ModelError
from ..preprocess import Preprocess
from .torch_runtime import TorchEncoder, choose_runtime
from .towers import PAD, DualEncoder, DualEncoderConfig

_UNKNOWN = 1  # token id that stands for an empty caption


def load_dual_encoder(folder: Path, config: Config) -> TorchEncoder:
    """Load a dual encoder from its folder.

    Raises:
        ModelError: A file is missing, or the weights do not fit `config.json`.
    """
    runtime = choose_runtime(config)
    try:
        given = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        shape = DualEncoderConfig(**{f.name: given[f.name] for f in fields(DualEncoderConfig)})
        towers = DualEncoder(shape)
        towers.load_state_dict({name: value.float() for name, value in load_file(folder / "model.safetensors").items()})
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as exc:
        raise ModelError(f"the dual encoder in {folder} cannot be loaded: {exc}") from exc
    tokenizer.no_padding()
    tokenizer.no_truncation()
    tokenizer.encode_special_tokens = True  # "[PAD]" in a caption is text
    towers = towers.to(runtime.device, runtime.dtype).to(memory_format=torch.channels_last).eval().requires_grad_(False)

    def text_features(texts: list[str]) -> Tensor:
        rows = [torch.tensor(e.ids[: shape.context_length] or [_UNKNOWN]) for e in tokenizer.encode_batch(texts)]
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PAD)  # (n, t)
        features: Tensor = towers.text(ids.to(runtime.device))  # (n, embed_dim)
        return features

    size, half = shape.image_size, (0.5, 0.5, 0.5)
    return TorchEncoder(
        model=str(config.model),
        revision=None,
        embed_dim=shape.embed_dim,
        context_length=shape.context_length,
        logit_scale=float(towers.log_logit_scale.exp()),
        runtime=runtime,
        preprocess=Preprocess(size=size, crop=(size, size), mean=half, std=half),
        image_features=lambda pixels: towers.image(pixels.contiguous(memory_format=torch.channels_last)),
        text_features=text_features,
    )
