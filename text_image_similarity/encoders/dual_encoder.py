"""Load and save a small dual encoder: `mini`, the model in this package, or one trained with this package.

A model is a folder with three files: `config.json`, `model.safetensors` and `tokenizer.json`. Weights are float32 or
float16. A matrix may also be int8 with one float scale per row, stored under the matrix's name plus `.scale`. Such a
matrix is converted to floats when it is loaded (weight-only quantisation: a quarter of the disk space, no change in
speed).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor

from ..config import Config
from ..errors import ModelError
from ..files import CALIBRATION, whole_file
from ..folders import shown
from ..preprocess import Preprocess, check_sides
from .attention_cost import check_attention
from .device import Placement, choose_placement
from .fingerprint import fingerprint
from .image_cost import check_image_cost
from .settings_files import read_settings
from .token_growth import tokenizer_from
from .tokens import Tokens, tokens_of
from .torch_backend import ImageTower, TorchBackend, Tower
from .towers import HEAD, PAD, UNK, DualEncoder, DualEncoderConfig
from .two_tower import TwoTowerEncoder
from .weight_limit import limited_by
from .weights import SCALE, read_weights

# Images per call and thread on a CPU. The activations of larger batches need new memory from the kernel, which takes as
# long to provide as a mobile network takes to compute. On 2 cores, batches of 32 take twice as long per image as
# batches of 4.
_IMAGES_PER_THREAD = 2
_CAPTIONS = 8  # per call on a CPU
_SMALLEST = 4096  # values; smaller tensors stay float16, because int8 would save nothing


def load_dual_encoder(folder: Path, config: Config) -> TwoTowerEncoder:
    """Load a dual encoder from its folder, to run on torch.

    Raises:
        ModelError: A file is missing, or the weights do not fit `config.json`.
    """
    placement = choose_placement(config)
    towers, tokenizer = read_dual_encoder(folder)
    towers = towers.to(placement.device, placement.dtype)
    return as_encoder(
        towers,
        tokenizer,
        str(config.model),
        fast=config.preprocess == "fast",
        weights=fingerprint(folder),
        at_once=config.batch_size,
    )


def read_dual_encoder(folder: Path) -> tuple[DualEncoder, Tokenizer]:
    """Read the towers, in float32 on the CPU, and the tokenizer of a dual encoder's folder.

    Raises:
        ModelError: A file is missing, or the weights do not fit `config.json`.
    """
    try:
        given = read_settings(folder / "config.json")
        if lacking := [f.name for f in fields(DualEncoderConfig) if f.name not in given]:
            raise ValueError(f"its config.json lacks {', '.join(lacking)}")
        shape = DualEncoderConfig(**{f.name: given[f.name] for f in fields(DualEncoderConfig)})
        check_sides(shape.image_size)
        if shape.text_tower == "transformer":
            heads = shape.text_width // HEAD
            check_attention(f"the text tower of {shown(folder)}", shape.context_length, heads, shape.text_layers)
        with limited_by(str(shown(folder)), lambda: [folder / "model.safetensors"]):
            towers = DualEncoder(shape)
        shapes = {name: tuple(value.shape) for name, value in towers.state_dict().items()}
        weights = read_weights(folder / "model.safetensors", shapes)
        towers.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
        check_image_cost(str(shown(folder)), towers, DualEncoder.image, (shape.image_size, shape.image_size))
        tokenizer = tokenizer_from((folder / "tokenizer.json").read_text(encoding="utf-8"))
        set_up(tokenizer, shape.context_length)
    except ModelError:
        raise
    except Exception as exc:  # untrusted settings make torch and other libraries raise errors of many types
        raise ModelError(f"the dual encoder in {shown(folder)} cannot be loaded: {exc}") from exc
    return towers, tokenizer


def write_dual_encoder(folder: Path, towers: DualEncoder, tokenizer: Tokenizer, *, int8: bool = False) -> None:
    """Write a dual encoder's three files, each atomically.

    `config.json` is written last, because a folder is a model once it has this file.

    Args:
        folder: Folder to write to; created if it does not exist.
        towers: The model.
        tokenizer: Tokenizer of the model.
        int8: Whether to store large matrices as int8 and the rest as float16; otherwise everything is float32.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: value.detach().cpu().contiguous() for name, value in towers.state_dict().items()}
    config = {"model_type": "dual_encoder", **asdict(towers.config)}
    with whole_file(folder / "model.safetensors") as partial:
        save_file(quantised(state) if int8 else state, partial)
    (folder / CALIBRATION).unlink(missing_ok=True)  # the calibration belonged to the previous weights
    with whole_file(folder / "tokenizer.json") as partial:
        partial.write_text(tokenizer.to_str(pretty=True), encoding="utf-8")
    with whole_file(folder / "config.json") as partial:
        partial.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def as_encoder(
    towers: DualEncoder,
    tokenizer: Tokenizer,
    name: str,
    *,
    fast: bool = False,
    weights: str | None = None,
    at_once: int | None = None,
) -> TwoTowerEncoder:
    """Return an `Encoder` for towers that are already on their device.

    Args:
        towers: The model.
        tokenizer: Tokenizer of the model, configured by `set_up`.
        name: Name of the encoder.
        fast: Whether to use the fast preprocessing.
        weights: Fingerprint of the files that the towers were read from.
        at_once: Images or captions per call on a GPU; None for no limit.
    """
    weight = next(towers.parameters())
    placement = Placement(weight.device, weight.dtype)
    towers = towers.to(memory_format=torch.channels_last).eval().requires_grad_(False)
    size, backbone = towers.config.image_size, towers.backbone
    preprocess = Preprocess(size=size, crop=(size, size), mean=backbone.mean, std=backbone.std, fast=fast)
    tokens = _tokens(tokenizer)
    on_cpu = weight.device.type == "cpu"
    return TwoTowerEncoder(
        model=name,
        revision=None,
        embed_dim=towers.config.embed_dim,
        context_length=towers.config.context_length,
        logit_scale=float(towers.log_logit_scale.exp()),
        preprocess=preprocess,
        tokens=tokens,
        backend=TorchBackend(
            placement,
            ImageTower(Tower(towers, DualEncoder.image), preprocess, placement),
            Tower(towers, DualEncoder.text),
            tokens,
            pictures=_IMAGES_PER_THREAD * torch.get_num_threads() if on_cpu else at_once,
            captions=_CAPTIONS if on_cpu else at_once,
        ),
        weights=weights,
    )


def set_up(tokenizer: Tokenizer, context_length: int) -> None:
    """Configure a tokenizer to cut captions at `context_length` tokens, not to pad, and to read "[PAD]" as text."""
    tokenizer.no_padding()
    tokenizer.enable_truncation(context_length)
    tokenizer.encode_special_tokens = True


def token_ids(tokenizer: Tokenizer, texts: Sequence[str]) -> Tensor:
    """Turn n captions into token ids (n, t), padded to the longest; an empty caption becomes a single UNK.

    The tokenizer must have been configured by `set_up`.
    """
    tokens = _tokens(tokenizer)
    rows = tokens.encode(texts)
    return torch.from_numpy(tokens.padded(rows, max(map(len, rows))))


def _tokens(tokenizer: Tokenizer) -> Tokens:
    return tokens_of(tokenizer, pad=PAD, if_empty=[UNK])


def quantised(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Round large matrices to int8, symmetric around zero with one scale per row, and other floats to float16."""
    stored: dict[str, Tensor] = {}
    for name, value in state.items():
        if value.ndim < 2 or value.numel() < _SMALLEST or not value.is_floating_point():
            stored[name] = value.half() if value.is_floating_point() else value
            continue
        rows = value.float().flatten(1)  # (rows, values)
        scale = (rows.abs().amax(dim=1, keepdim=True) / 127).clamp(min=1e-12)
        stored[name] = (rows / scale).round().to(torch.int8).view(value.shape)
        stored[name + SCALE] = scale.flatten()
    return stored
