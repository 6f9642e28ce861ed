"""Support models of other `transformers` families that have `get_image_features` and `get_text_features`.

All that is known about such a family is in its processor and tokenizer. Each model is therefore checked when it is
loaded: a few images and captions are encoded in this package's batches and, one by one, with the model's own processor,
and the results must agree.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..errors import ModelError, ModelNameError
from .clip_text import Features, pooled
from .tokens import Tokens, copy_tokenizer, tokens_of
from .two_tower import TwoTowerEncoder, unit_rows

_CAPTIONS = ("a", "A photo of two dogs on green grass", "两只狗在草地上", "")
_TOLERANCES = {"fp32": 1e-4, "fp16": 2e-2}  # for each value of a unit vector
_OFFSET = ("altclip",)  # families that do not use the first positions, up to the padding token's id


def text_length(name: str, shape: Any) -> int:
    """Return the largest number of tokens of a caption that a model reads.

    Args:
        name: Name of the model, for error messages.
        shape: The model's configuration.

    Raises:
        ModelNameError: The padding token's id leaves no positions for captions.
    """
    text = shape.text_config
    longest = int(text.max_position_embeddings)
    if shape.model_type not in _OFFSET:
        return longest
    pad = text.pad_token_id
    if not isinstance(pad, int) or not 0 <= pad <= longest - 2:
        raise ModelNameError(
            f"{name} has pad_token_id {pad!r:.100} in its config.json, which is not a whole number from 0 to "
            f"{longest - 2:,}, two less than max_position_embeddings; correct it"
        )
    return longest - pad - 1


def masked_text(name: str, network: Any, tokenizer: Any) -> tuple[Tokens, Features]:
    """Return the `Tokens` of a model, and the function that turns padded token ids, with a mask, into text features.

    Args:
        name: Name of the model, for error messages.
        network: The model.
        tokenizer: Tokenizer of the model.

    Raises:
        ModelError: The tokenizer is not a fast tokenizer, or has no padding token.
    """
    backend, pad = getattr(tokenizer, "backend_tokenizer", None), tokenizer.pad_token_id
    if backend is None or pad is None:
        raise ModelError(
            f"the tokenizer of {name} {'is not a fast tokenizer' if backend is None else 'has no padding token'}"
        )
    longest = text_length(name, network.config)
    own = copy_tokenizer(backend, min(longest, int(tokenizer.model_max_length)))

    def features(network: Any, ids: Tensor) -> Tensor:
        return pooled(network.get_text_features(input_ids=ids, attention_mask=(ids != pad).long()))

    return tokens_of(own, pad=int(pad), if_empty=[int(pad)]), features


@torch.inference_mode()
def check_alike(encoder: TwoTowerEncoder, network: Any, processor: Any, tokenizer: Any) -> None:
    """Check, on a few images and captions, that an encoder agrees with the model's own processor and tokenizer.

    Raises:
        ModelError: The results differ; the message says which ones.
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
    whole = encoder.tokens.whole  # as for SigLIP, which uses no mask
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
                f"{encoder.model} returns features of shape {tuple(features.shape)} for {what}, not one vector for each"
            )
        difference = float(np.abs(ours - unit_rows(features.float().cpu().numpy())).max())
        if not difference <= _TOLERANCES[encoder.backend.precision]:
            raise ModelError(
                f"{encoder.model} cannot be used: its own processor and tokenizer prepare {what} in a way that this "
                f"package does not support, so that vectors differ by {difference:.1e}"
            )
