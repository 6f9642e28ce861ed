"""Models of other families of transformers, tiny and with random weights, with a tokenizer of letters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AlignConfig,
    AlignModel,
    AltCLIPConfig,
    AltCLIPModel,
    ChineseCLIPConfig,
    ChineseCLIPImageProcessorPil,
    ChineseCLIPModel,
    CLIPImageProcessorPil,
    EfficientNetImageProcessorPil,
    MetaClip2Config,
    MetaClip2Model,
    PreTrainedTokenizerFast,
    Siglip2Config,
    Siglip2ImageProcessorPil,
    Siglip2Model,
)

_SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
_VISION = {**_SHAPE, "image_size": 32, "patch_size": 8}
_NAMES = ["<s>", "<pad>", "</s>", "<unk>", *map(chr, range(97, 123)), *map(chr, range(65, 91)), " ", "两", "只", "狗"]
_TEXT = {**_SHAPE, "vocab_size": len(_NAMES), "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
FAMILIES = ("metaclip_2", "chinese_clip", "altclip", "align")


def save_family(family: str, folder: Path) -> Path:
    """Save a model of one of `FAMILIES`."""
    torch.manual_seed(7)
    network, processor = _MAKERS[family]()
    with torch.no_grad():  # random towers give nearly equal vectors for all captions
        next(m for m in network.text_model.modules() if isinstance(m, torch.nn.Embedding)).weight.mul_(20)
        for module in network.modules():
            if isinstance(module, torch.nn.Conv2d) and family == "align":
                torch.nn.init.kaiming_normal_(module.weight)
    for part in (network, processor, _letters()):
        part.save_pretrained(folder)
    return folder


def _clip_processor() -> Any:
    return CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=32)


def _metaclip_2() -> tuple[Any, Any]:
    config = MetaClip2Config(
        text_config={**_TEXT, "max_position_embeddings": 40}, vision_config=_VISION, projection_dim=16
    )
    return MetaClip2Model(config), _clip_processor()


def _chinese_clip() -> tuple[Any, Any]:
    config = ChineseCLIPConfig(
        text_config={**_TEXT, "max_position_embeddings": 40}, vision_config=_VISION, projection_dim=16
    )
    return ChineseCLIPModel(config), ChineseCLIPImageProcessorPil(
        size={"height": 32, "width": 32}, do_center_crop=False
    )


def _altclip() -> tuple[Any, Any]:
    text = {**_TEXT, "max_position_embeddings": 42, "project_dim": 24}
    return AltCLIPModel(AltCLIPConfig(text_config=text, vision_config=_VISION, projection_dim=16)), _clip_processor()


def _align() -> tuple[Any, Any]:
    vision = {"image_size": 64, "width_coefficient": 0.1, "depth_coefficient": 0.1, "hidden_dim": 32}
    config = AlignConfig(text_config={**_TEXT, "max_position_embeddings": 40}, vision_config=vision, projection_dim=32)
    processor = EfficientNetImageProcessorPil(
        size={"height": 72, "width": 72},
        crop_size={"height": 64, "width": 64},
        do_center_crop=True,
        include_top=True,
        resample=2,
    )
    return AlignModel(config), processor


def _siglip2() -> tuple[Any, Any]:
    vision = {**_SHAPE, "patch_size": 8, "num_patches": 16}
    text = {**_TEXT, "max_position_embeddings": 38, "projection_size": 32}
    processor = Siglip2ImageProcessorPil(patch_size=8, max_num_patches=20)
    return Siglip2Model(Siglip2Config(text_config=text, vision_config=vision)), processor


_MAKERS = {
    "siglip2": _siglip2,
    "metaclip_2": _metaclip_2,
    "chinese_clip": _chinese_clip,
    "altclip": _altclip,
    "align": _align,
}


def _letters() -> PreTrainedTokenizerFast:
    inner = Tokenizer(models.BPE({name: i for i, name in enumerate(_NAMES)}, [], unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    inner.post_processor = processors.TemplateProcessing("<s> $A </s>", None, [("<s>", 0), ("</s>", 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token="<s>",
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        padding_side="right",
    )
