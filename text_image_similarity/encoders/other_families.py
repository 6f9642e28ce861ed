"""Models of other families in `transformers` that have `get_image_features` and `get_text_features`.

Nothing is known of such a family but what its processor and tokenizer say. So a model is tried when it is loaded: images
and captions go through this package's batches and, one by one, through the model's own processor, and must come out alike.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer
from torch import Tensor

from ..errors import ModelError
from .clip_text import Features, pooled
from .tokens import Tokens, tokens_of
from .two_tower import TwoTowerEncoder, unit_rows

_CAPTIONS = ("a", "A photo of two dogs on green grass", "两只狗在草地上", "")
_TOLERANCES = {"fp32": 1e-4, "fp16": 2e-2}  # of a unit vector's values
_OFFSET = ("altclip",)  # families whose first positions, up to the padding token's id, are never used


def masked_text(name: str, network: Any, tokenizer: Any) -> tuple[Tokens, Features]:
    """Return how a model reads captions whose padding it is told of by a mask: their tokens, and its text features.

    Args:
        name: The model, for errors.
        network: The model.
        tokenizer: Its tokenizer.

    Raises:
        ModelError: The tokenizer is a slow one, or has no padding token.
    """
    backend, pad = getattr(tokenizer, "backend_tokenizer", None), tokenizer.pad_token_id
    if backend is None or pad is None:
        raise ModelError(f"the tokenizer of {name} has no {'fast form' if backend is None else 'padding token'}")
    text = network.config.text_config
    longest = int(text.max_position_embeddings)
    if network.config.model_type in _OFFSET:
        longest -= int(text.pad_token_id) + 1
    own = Tokenizer.from_str(backend.to_str())
    own.encode_special_tokens = backend.encode_special_tokens
    own.no_padding()
    own.enable_truncation(min(longest, int(tokenizer.model_max_length)))

    def features(network: Any, ids: Tensor) -> Tensor:
        return pooled(network.get_text_features(input_ids=ids, attention_mask=(ids != pad).long()))

    return tokens_of(own, pad=int(pad), if_empty=[int(pad)]), features


@torch.inference_mode()
def check_alike(encoder: TwoTowerEncoder, network: Any, processor: Any, tokenizer: Any) -> None:
    """Run a few images and captions through both ways.

    Raises:
        ModelError: They come out differently; the message says which.
    """
    rng = np.random.default_rng(0)
    sizes = ((90, 120), (70, 50))
    pictures = [
        Image.fromarray(rng.integers(0, 256, (h // 10, w // 10, 3), np.uint8)).resize((w * 4, h * 4)) for h, w in sizes
    ]
    weight = next(network.parameters())
    theirs = []
    for picture in pictures:
        given = dict(processor(images=picture, return_tensors="pt"))
        given["pixel_values"] = given["pixel_values"].to(weight.dtype)
        theirs.append(
            pooled(network.get_image_features(**{key: part.to(weight.device) for key, part in given.items()}))
        )
    read = []
    whole = encoder.tokens.whole  # as SigLIP's, which is told of no padding
    padding = "max_length" if whole else False
    for caption in _CAPTIONS:
        found = tokenizer(
            caption, truncation=True, max_length=encoder.context_length, padding=padding, return_tensors="pt"
        )
        keys = ("input_ids",) if whole else ("input_ids", "attention_mask")
        read.append(pooled(network.get_text_features(**{key: found[key].to(weight.device) for key in keys})))
    pairs = (
        ("images", encoder.encode_image(pictures), torch.cat(theirs)),
        ("captions", encoder.encode_text(_CAPTIONS), torch.cat(read)),
    )
    for what, ours, features in pairs:
        if features.ndim != 2 or features.shape != ours.shape:
            raise ModelError(
                f"{encoder.model} gives {tuple(features.shape)} features for {what}, not one vector for each"
            )
        difference = float(np.abs(ours - unit_rows(features.float().cpu().numpy())).max())
        if not difference <= _TOLERANCES[encoder.backend.precision]:
            raise ModelError(
                f"{encoder.model} cannot be used: its {what} come out differently from its own processor (by {difference:.1e} "
                "in unit vectors), so it prepares them in a way that this package does not know"
            )
