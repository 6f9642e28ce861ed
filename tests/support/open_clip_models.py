"""Small models of open_clip with random weights, one of each kind that people use, saved as open_clip's folders are."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import timm.models
import torch
from open_clip import factory
from open_clip.coca_model import CoCa
from open_clip.model import CLIP, CustomTextCLIP
from safetensors.torch import save_model
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import nn
from transformers import PreTrainedTokenizerFast

_TEXT = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
_VIT = {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8, "head_width": 32}
_SIGLIP_TEXT = {
    "context_length": 16,
    "vocab_size": 64,
    "hf_tokenizer_name": "nobody/tokenizer",
    "tokenizer_kwargs": {"clean": "canonicalize"},
    "width": 32,
    "heads": 2,
    "layers": 2,
    "no_causal_mask": True,
    "proj_bias": True,
    "pool_type": "last",
}
_LINEAR = {"timm_proj": "linear", "timm_model_pretrained": False}
_SQUASH = {"mean": [0.5] * 3, "std": [0.5] * 3, "resize_mode": "squash"}
MODELS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "vit": ({"embed_dim": 16, "vision_cfg": _VIT, "text_cfg": _TEXT}, {}),
    "quickgelu": (
        {"embed_dim": 16, "quick_gelu": True, "vision_cfg": _VIT, "text_cfg": _TEXT},
        {"resize_mode": "longest", "fill_color": 90},
    ),
    "siglip": (
        {
            "embed_dim": 64,
            "init_logit_bias": -10,
            "custom_text": True,
            "vision_cfg": {"image_size": 32, "timm_model_name": "tiny_siglip", "timm_pool": "map", "timm_proj": "none"},
            "text_cfg": _SIGLIP_TEXT,
        },
        _SQUASH,
    ),
    "coca": (
        {
            "embed_dim": 16,
            "custom_text": True,
            "vision_cfg": {**_VIT, "attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True},
            "text_cfg": {**_TEXT, "context_length": 76, "embed_cls": True, "output_tokens": True},
            "multimodal_cfg": {**_TEXT, "context_length": 76, "attn_pooler_heads": 2},
        },
        {},
    ),
    "mobileclip": (
        {
            "embed_dim": 16,
            "custom_text": True,
            "vision_cfg": {"image_size": 64, "timm_model_name": "tiny_mci", "timm_pool": "avg", **_LINEAR},
            "text_cfg": {**_TEXT, "no_causal_mask": True},
        },
        {"mean": [0.0] * 3, "std": [1.0] * 3, "interpolation": "bilinear"},
    ),
    "convnext": (
        {
            "embed_dim": 16,
            "vision_cfg": {"image_size": [32, 64], "timm_model_name": "test_convnext", "timm_pool": "", **_LINEAR},
            "text_cfg": _TEXT,
        },
        {},
    ),
    "eva": (
        {
            "embed_dim": 16,
            "custom_text": True,
            "vision_cfg": {"image_size": 32, "timm_model_name": "tiny_eva", "timm_pool": "token", **_LINEAR},
            "text_cfg": _TEXT,
        },
        {},
    ),
}


def save_open_clip(kind: str, folder: Path) -> Path:
    """Save a model of one of the kinds in `MODELS`, with a tokenizer where it needs one."""
    register()
    model, preprocess = MODELS[kind]
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(7)
    given = json.loads(json.dumps(model))
    custom = given.pop("custom_text", False)
    network = (CoCa if "multimodal_cfg" in given else CustomTextCLIP if custom else CLIP)(**given)
    with torch.no_grad():  # random towers give nearly equal vectors for all captions
        getattr(network, "text", network).token_embedding.weight.mul_(20)
        for value in network.visual.parameters():
            if value.abs().max() < 1e-3:  # scales and biases as before any training, which let nothing through
                value.normal_(0, 0.3)
        for module in network.visual.modules():
            if isinstance(module, nn.BatchNorm2d):  # as after some training
                nn.init.normal_(module.get_buffer("running_mean"), 0, 0.1)
                nn.init.uniform_(module.get_buffer("running_var"), 0.5, 1.5)
    save_model(network, str(folder / "open_clip_model.safetensors"))
    settings = {"model_cfg": model, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(settings))
    if "hf_tokenizer_name" in model["text_cfg"]:
        _letters().save_pretrained(folder)
    return folder


def _letters() -> PreTrainedTokenizerFast:
    names = ["<pad>", "</s>", "<unk>", *map(chr, range(97, 123)), "▁"]
    inner = Tokenizer(models.BPE({name: i for i, name in enumerate(names)}, [], unk_token="<unk>"))
    inner.normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizers.Replace(" ", "▁")])
    inner.pre_tokenizer = pre_tokenizers.Split("▁", "isolated")
    inner.post_processor = processors.TemplateProcessing("$A </s>", None, [("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def register() -> None:
    """Make timm know small image towers of the kinds that open_clip's models have."""
    for make in (tiny_siglip, tiny_eva, tiny_mci):
        timm.models._registry._model_entrypoints[make.__name__] = make


def register_architecture(name: str, kind: str) -> None:
    """Make open_clip know an architecture, as `add_model_config` does with a file."""
    register()
    factory._MODEL_CONFIGS[name] = json.loads(json.dumps(MODELS[kind][0]))


def tiny_siglip(pretrained: bool = False, **given: Any) -> nn.Module:
    network = timm.models.VisionTransformer(
        img_size=32,
        patch_size=8,
        embed_dim=64,
        depth=2,
        num_heads=2,
        class_token=False,
        global_pool="map",
        num_classes=0,
    )
    return _with_settings(network)


def tiny_eva(pretrained: bool = False, **given: Any) -> nn.Module:
    network = timm.models.Eva(
        img_size=32,
        patch_size=8,
        embed_dim=64,
        depth=2,
        num_heads=2,
        qkv_fused=False,
        mlp_ratio=8 / 3,
        swiglu_mlp=True,
        scale_mlp=True,
        use_rot_pos_emb=True,
        ref_feat_shape=(4, 4),
        num_classes=0,
        global_pool="token",
    )
    return _with_settings(network)


def tiny_mci(pretrained: bool = False, **given: Any) -> nn.Module:
    encoding: Any = partial(timm.models.fastvit.RepConditionalPosEnc, spatial_shape=(7, 7))
    network = timm.models.FastVit(
        layers=(1, 1, 1, 1),
        embed_dims=(16, 32, 64, 128),
        mlp_ratios=(2, 2, 2, 2),
        se_downsamples=(False, False, True, True),
        downsamples=(False, True, True, True),
        pos_embs=(None, None, None, encoding),
        token_mixers=("repmixer", "repmixer", "repmixer", "attention"),
        lkc_use_act=True,
        num_classes=0,
    )
    return _with_settings(network)


def _with_settings(network: nn.Module) -> nn.Module:
    network.default_cfg = {}  # type: ignore[assignment]
    return network
