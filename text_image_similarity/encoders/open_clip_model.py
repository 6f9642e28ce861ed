"""Run open_clip models on torch, with the towers, preprocessing and tokenizers that open_clip builds.

Embeddings equal those of open_clip's `encode_image` and `encode_text`. There is one difference: causal text towers that
use the state of the end token get captions padded to the next of several shorter lengths instead of the full 77 tokens.
This changes vectors by no more than rounding, which is checked when a model is loaded.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from open_clip.coca_model import CoCa
from open_clip.factory import load_checkpoint
from open_clip.model import CLIP, CustomTextCLIP
from open_clip.transform import PreprocessCfg, merge_preprocess_dict
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor, nn

from ..config import Config
from ..errors import ModelError
from ..preprocess import Preprocess
from .device import choose_placement
from .image_cost import check_image_cost
from .last_layer import OneTokenBlock, at_ends, token_of_block
from .open_clip_files import OpenClipFiles
from .open_clip_names import OpenClipName
from .open_clip_table import needs_twin, quick_advice
from .open_clip_tokens import open_clip_tokens
from .panics import panics_are_errors
from .torch_backend import ImageTower, TorchBackend, Tower
from .two_tower import TwoTowerEncoder
from .weight_limit import limited_by

_IMAGES, _CAPTIONS = 8, 8  # per call on a CPU
_OPENAI_MARKS = {"input_resolution", "context_length", "vocab_size"}  # keys in the weights that OpenAI published
_TOLERANCE = 1e-5  # for each value of a unit vector


def load_open_clip(files: OpenClipFiles, parsed: OpenClipName, weights: str | None, config: Config) -> TwoTowerEncoder:
    """Load an open_clip model.

    Args:
        files: The model's files and settings.
        parsed: The model's name.
        weights: Fingerprint of the model's files.
        config: `device`, `precision`, `preprocess` and `batch_size` are used.

    Raises:
        ModelError: The model's settings or weights cannot be used.
    """
    placement = choose_placement(config)
    with _explained(files.name):
        with limited_by(files.name, lambda: [files.weights]):
            network = _network(files.model)
        _fill(network, files, parsed)
        tokens, context_length = open_clip_tokens(files)
    network = network.eval().requires_grad_(False)
    if not isinstance(network.visual, VisionTransformer):
        check_image_cost(files.name, network, _image_features, _pair(network.visual.image_size))
    _give_class_token(network.visual)
    preprocess = _preprocess(network, files.preprocess, fast=config.preprocess == "fast")
    if not tokens.whole and not _may_be_narrow(network, context_length):
        tokens = tokens.filled(context_length)
    network = network.to(placement.device, placement.dtype)
    on_cpu = placement.device.type == "cpu"
    return TwoTowerEncoder(
        model=files.name,
        revision=files.commit,
        embed_dim=int(files.model["embed_dim"]),
        context_length=context_length,
        logit_scale=float(network.logit_scale.exp()),
        logit_bias=None if network.logit_bias is None else float(network.logit_bias),
        preprocess=preprocess,
        tokens=tokens,
        backend=TorchBackend(
            placement,
            ImageTower(Tower(network, _image_features), preprocess, placement),
            Tower(network, text_features),
            tokens,
            pictures=_IMAGES if on_cpu else config.batch_size,
            captions=_CAPTIONS if on_cpu else config.batch_size,
        ),
        weights=weights,
    )


def _network(settings: Mapping[str, Any]) -> Any:
    """Build the network as `open_clip.create_model` does, in float32 with random weights."""
    given = copy.deepcopy(dict(settings))
    text, vision = given["text_cfg"], given["vision_cfg"]
    custom = given.pop("custom_text", False) or "hf_model_name" in text
    if "timm_model_name" in vision:
        vision["timm_model_pretrained"] = False
    if "hf_model_name" in text:
        text["hf_model_pretrained"] = False
    kind = CLIP if not custom else CoCa if "multimodal_cfg" in given else CustomTextCLIP
    return kind(**given)


def _fill(network: nn.Module, files: OpenClipFiles, parsed: OpenClipName) -> None:
    with _no_root_handler():
        found = load_checkpoint(network, str(files.weights), strict=False, weights_only=True)
    unexpected = set(found.unexpected_keys)
    if unexpected >= _OPENAI_MARKS and needs_twin(parsed.architecture):
        raise ModelError(f"model {files.name}: {quick_advice(str(parsed.architecture), 'these are OpenAI weights')}")
    if lacking := sorted(found.missing_keys):
        raise ModelError(f"the weights of {files.name} are incomplete: {_some(lacking)}")
    if left := sorted(unexpected - _OPENAI_MARKS):
        raise ModelError(f"the weights of {files.name} belong to another architecture: they include {_some(left)}")


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _image_features(network: Any, pixels: Tensor) -> Tensor:
    features: Tensor = network.encode_image(pixels)
    return features


def text_features(network: Any, ids: Tensor) -> Tensor:
    """Return the features of captions from their token ids (n, t); here t may be less than the context length."""
    text = _text_tower(network)
    causal = getattr(text, "attn_mask", None) is not None and getattr(text, "cls_emb", None) is None
    if causal and ids.shape[1] < text.positional_embedding.shape[0]:
        return _narrow_features(text, ids)
    features: Tensor = network.encode_text(ids)
    return features


def _give_class_token(tower: Any) -> None:
    """Make the last layer of an image tower compute only the class token, if the tower uses no other token."""
    if not isinstance(tower, VisionTransformer) or tower.attn_pool is not None or tower.pool_type != "tok":
        return
    layers = tower.transformer
    if layers.batch_first and type(layers.resblocks[-1]) is ResidualAttentionBlock:
        layers.resblocks[-1] = OneTokenBlock(layers.resblocks[-1])


def _text_tower(network: Any) -> Any:
    return network if isinstance(network, CLIP) else network.text


def _narrow_features(text: Any, ids: Tensor) -> Tensor:
    width = ids.shape[1]
    hidden = text.token_embedding(ids) + text.positional_embedding[:width]  # (n, t, width)
    mask, ends = text.attn_mask[:width, :width], ids.argmax(dim=-1)  # (n,), the end token is the highest id
    *first, last = text.transformer.resblocks
    if text.transformer.batch_first and type(last) is ResidualAttentionBlock:
        for block in first:
            hidden = block(hidden, attn_mask=mask)
        hidden = token_of_block(last, hidden, *at_ends(hidden, ends))  # (n, 1, width)
        features: Tensor = text.ln_final(hidden)[:, 0]
    else:
        hidden = text.ln_final(text.transformer(hidden, attn_mask=mask))
        features = at_ends(hidden, ends)[0][:, 0]
    projection = text.text_projection
    if projection is None:
        return features
    projected: Tensor = projection(features) if isinstance(projection, nn.Linear) else features @ projection
    return projected


@torch.inference_mode()
def _may_be_narrow(network: Any, context_length: int) -> bool:
    """Return whether captions may be padded to less than the full length, after encoding two captions both ways."""
    text = _text_tower(network)
    pool = getattr(text, "text_pool_type", getattr(text, "pool_type", None))
    if pool != "argmax" or getattr(text, "attn_mask", None) is None or getattr(text, "cls_emb", None) is not None:
        return False
    ends = text.token_embedding.num_embeddings - 1
    short = torch.tensor([[5, 9, ends, 0], [7, ends, 0, 0]])
    whole = nn.functional.pad(short, (0, context_length - 4))
    narrow, full = (nn.functional.normalize(text_features(network, ids)) for ids in (short, whole))
    return bool((narrow - full).abs().max() <= _TOLERANCE)


def _preprocess(network: Any, known: Mapping[str, Any], *, fast: bool) -> Preprocess:
    size = network.visual.image_size
    given = PreprocessCfg(
        **merge_preprocess_dict({**merge_preprocess_dict(PreprocessCfg(), dict(known)), "size": size}, {})
    )
    pair = _pair(given.size)
    bilinear = given.interpolation == "bilinear"
    how: dict[str, Any] = {
        "mean": _three(given.mean),
        "std": _three(given.std),
        "resample": Image.Resampling.BILINEAR if bilinear else Image.Resampling.BICUBIC,
        "fast": fast,
        "crop": pair,
        "rounded": True,
    }
    if given.resize_mode == "squash":
        return Preprocess(size=pair, **{**how, "crop": None})
    if given.resize_mode == "longest":
        return Preprocess(size=pair, fit="inside", fill=int(given.fill_color), **how)
    if given.resize_mode != "shortest":
        raise ModelError(f"resize_mode={given.resize_mode} is not one of shortest, longest and squash")
    if pair[0] == pair[1]:
        return Preprocess(size=pair[0], **how)
    return Preprocess(
        size=pair, fit="cover", **{**how, "resample": Image.Resampling.BICUBIC}
    )  # as open_clip does in this case


def _pair(size: Any) -> tuple[int, int]:
    """Return a height and width that may be given as one number."""
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def _three(values: Any) -> tuple[float, float, float]:
    first, second, third = values if isinstance(values, (list, tuple)) else (values,) * 3
    return float(first), float(second), float(third)


@contextmanager
def _no_root_handler() -> Iterator[None]:
    """Prevent open_clip's first log message from adding a handler to the root logger."""
    handler = logging.NullHandler()
    logging.root.addHandler(handler)
    try:
        yield
    finally:
        logging.root.removeHandler(handler)


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Turn errors of open_clip, timm and torch into ModelError."""
    try:
        with panics_are_errors():
            yield
    except ModelError:
        raise
    except Exception as exc:  # AssertionError, KeyError, UnpicklingError: the settings are not trusted
        said = " ".join(str(exc).split())[:500]
        kind = "damaged: " if isinstance(exc, SafetensorError) else ""
        raise ModelError(f"model {name} cannot be loaded: {kind}{type(exc).__name__}: {said}") from exc
