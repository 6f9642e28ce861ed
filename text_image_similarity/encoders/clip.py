"""Load CLIP, SigLIP and similar models with `transformers`, from the hub, its cache or a folder.

Embeddings equal those of `transformers` for the same pixels and captions. The families differ in padding: CLIP accepts
captions padded to any length; SigLIP was trained on captions padded to the full length, and always gets such captions.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import httpx
from PIL import Image
from torch import Tensor
from transformers import MODEL_MAPPING, AutoConfig, AutoImageProcessor, AutoModel, AutoTokenizer

from ..config import Config
from ..errors import ModelError, ModelNameError, ModelUnavailableError
from ..preprocess import Preprocess
from .adapters import merged
from .attention_cost import check_attention, check_mlp
from .clip_text import check_tokenizer, clip_text, pooled, siglip_text
from .device import choose_placement
from .fingerprint import fingerprint
from .hub import cached_folder, fetch_settings, require_hub
from .image_cost import check_image_cost
from .kinds import NO_OWN_CODE, check_type, check_weights
from .last_layer import give_one_token
from .naflex import patch_features
from .other_families import check_alike, masked_text, text_length
from .panics import panics_are_errors
from .settings_files import MOST_CONTEXT, MOST_WIDTH, check_settings, is_context, read_settings
from .token_growth import check_tokenizers
from .torch_backend import ImageTower, TorchBackend, Tower
from .two_tower import TwoTowerEncoder
from .weight_limit import limited_by

_IMAGES, _CAPTIONS = 8, 8  # per call on a CPU; larger batches are not faster, and the last one is padded to this size
_READERS = {"clip": clip_text, "siglip": siglip_text, "siglip2": siglip_text}
_KNOWN = ("clip", "siglip")  # other families are checked when they are loaded
_COMPLETE = (
    "A folder needs config.json, preprocessor_config.json, tokenizer files and model.safetensors, as save_pretrained "
    "writes them."
)


def load_clip(
    name: str, config: Config, *, revision: str | None, trusted: bool, adapter: Path | None = None
) -> TwoTowerEncoder:
    """Load a model of a family that `transformers` supports natively, such as CLIP or SigLIP.

    Args:
        name: Hub id or folder.
        config: `device`, `precision`, `preprocess` and `batch_size` are used.
        revision: Commit, tag or branch on the hub.
        trusted: Whether to accept weights in PyTorch's format if the model has no safetensors; only for pinned commits.
            Such weights are read without running pickled code.
        adapter: Folder of a PEFT adapter to merge into the model.

    Raises:
        ModelUnavailableError: The complete model is not in the cache, and the hub does not respond.
        ModelError: The model belongs to another family, or its weights cannot be used.
    """
    load = partial(_load, name, config, revision, trusted, adapter)
    # Otherwise, transformers contacts a conversion service in the background for weights in PyTorch's format.
    os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")
    if Path(name).is_dir():
        with _explained(name, ModelError):
            return load(local_files_only=True)
    try:
        with _explained(name, ModelUnavailableError):
            return load(local_files_only=True)  # from the cache, without asking the hub for updates
    except ModelNameError:
        raise
    except ModelError:  # not cached, or left incomplete by an interrupted download
        try:
            require_hub(name, revision)
        except ModelUnavailableError:
            if (cached := cached_folder(name, revision)) is not None:
                check_weights(name, [path.name for path in cached.iterdir()])
            raise
    with _explained(name, ModelUnavailableError):
        return load(local_files_only=False)


def _load(
    name: str, config: Config, revision: str | None, trusted: bool, adapter: Path | None, *, local_files_only: bool
) -> TwoTowerEncoder:
    placement = choose_placement(config)
    here = Path(name).is_dir()
    folder = Path(name) if here else (cached_folder if local_files_only else fetch_settings)(name, revision)
    if folder is not None:
        check_type(name, read_settings(folder / "config.json"))
        check_settings(name, folder)
        check_tokenizers(name, folder)
        revision = revision if here else folder.name  # the commit whose settings were just checked
    # False, not None: with None transformers asks on the terminal whether to run code from the model's repository. The
    # parts of a model do not receive this option, so `check_settings` has refused settings that name such code.
    common = {"revision": revision or "main", "local_files_only": local_files_only, "trust_remote_code": False}
    shape = AutoConfig.from_pretrained(name, **common)
    processor = AutoImageProcessor.from_pretrained(name, backend="pil", **common)
    _check_sizes(name, shape, _preprocess(processor, fast=False))
    tokenizer = AutoTokenizer.from_pretrained(name, **common)
    check_tokenizer(name, tokenizer)
    with limited_by(name, lambda: _weight_files(Path(name) if here else cached_folder(name, revision), trusted)):
        network, found = AutoModel.from_pretrained(
            name,
            dtype=placement.dtype,
            use_safetensors=None if trusted else True,
            output_loading_info=True,
            config=shape,  # otherwise settings override the next line: "eager" keeps all pairs of positions in memory
            attn_implementation="sdpa" if MODEL_MAPPING[type(shape)]._supports_sdpa else None,
            **common,
        )
    if lacking := sorted(map(str, [*found["missing_keys"], *found["mismatched_keys"]])):
        more = f" and {len(lacking) - 3} more" if len(lacking) > 3 else ""
        raise ModelError(f"the weights of {name} are incomplete: {', '.join(lacking[:3])}{more}")
    if adapter is not None:
        network = merged(str(adapter), network, adapter)
    if shape.model_type == "clip":
        give_one_token(network.vision_model, 0)
    network = network.to(placement.device).eval().requires_grad_(False)
    encoder = _encoder(name, network, processor, tokenizer, config)
    if shape.model_type == "align":  # whose image tower is convolutional, even if its settings state a patch size
        check_image_cost(name, network, _image_features, encoder.preprocess.side)
    if shape.model_type not in _KNOWN:
        check_alike(encoder, network, processor, tokenizer)
    folder = folder or cached_folder(name, revision)
    return replace(encoder, weights=fingerprint(folder) if folder else None)


def _check_sizes(name: str, shape: Any, preprocess: Preprocess) -> None:
    """Check the length of captions, the number of patches and the cost of attention, which weights do not limit.

    Raises:
        ModelNameError: Captions could be too long, patches too many, or attention too costly.
    """
    length: Any = getattr(shape.text_config, "max_position_embeddings", None)
    if not is_context(length):
        raise ModelNameError(
            f"{name} has max_position_embeddings {length!r:.100} in its config.json, which is not a whole number from 1 to "
            f"{MOST_CONTEXT:,}; correct it"
        )
    text_length(name, shape)
    text, vision = shape.text_config, shape.vision_config
    check_attention(f"the text tower of {name}", length, text.num_attention_heads, text.num_hidden_layers)
    check_mlp(f"the text tower of {name}", length, getattr(text, "intermediate_size", None))
    patches = 0 if preprocess.patches is None else preprocess.patches[1]
    sides, patch = (_numbers(getattr(vision, key, None)) for key in ("image_size", "patch_size"))
    if preprocess.patches is None and patch:
        patches = (max(*sides, *preprocess.side) // max(1, min(patch))) ** 2
        if patches > MOST_WIDTH:
            raise ModelNameError(
                f"{name} divides an image into {patches:,} patches, more than {MOST_WIDTH:,}; correct the sizes in its settings"
            )
    heads, layers = (getattr(vision, key, None) for key in ("num_attention_heads", "num_hidden_layers"))
    check_attention(f"the image tower of {name}", patches + (preprocess.patches is None), heads, layers)
    check_mlp(f"the image tower of {name}", patches + 1, getattr(vision, "intermediate_size", None))


def _numbers(stated: Any) -> list[int]:
    """Return the numbers of a setting that may be a single number, a list or None."""
    return [] if stated is None else list(stated) if isinstance(stated, (list, tuple)) else [stated]


def _weight_files(folder: Path | None, trusted: bool) -> list[Path]:
    """Return the files that transformers reads; weights in PyTorch's format only if there are no others."""
    if folder is None:
        return []
    return list(folder.glob("*.safetensors")) or (list(folder.glob("*.bin")) if trusted else [])


def _encoder(name: str, network: Any, processor: Any, tokenizer: Any, config: Config) -> TwoTowerEncoder:
    placement, shape = choose_placement(config), network.config
    preprocess = _preprocess(processor, fast=config.preprocess == "fast")
    tokens, text_features = _READERS.get(shape.model_type, masked_text)(name, network, tokenizer)
    on_cpu = placement.device.type == "cpu"
    bias = getattr(network, "logit_bias", None)
    image_features = _image_features if preprocess.patches is None else patch_features(preprocess)
    return TwoTowerEncoder(
        model=name,
        revision=None,  # set by `load_encoder`
        embed_dim=int(getattr(shape, "projection_dim", None) or shape.vision_config.hidden_size),
        context_length=int(tokens.context_length or shape.text_config.max_position_embeddings),
        logit_scale=_scale(network),
        logit_bias=None if bias is None else float(bias),
        preprocess=preprocess,
        tokens=tokens,
        backend=TorchBackend(
            placement,
            ImageTower(Tower(network, image_features), preprocess, placement),
            Tower(network, text_features),
            tokens,
            pictures=_IMAGES if on_cpu else config.batch_size,
            captions=_CAPTIONS if on_cpu else config.batch_size,
        ),
    )


@contextmanager
def _explained(name: str, missing: type[ModelError]) -> Iterator[None]:
    """Turn errors of transformers into ModelError, and missing files into `missing`."""
    try:
        with panics_are_errors():
            yield
    except ModelError:
        raise
    except (OSError, httpx.HTTPError) as exc:
        raise missing(f"model {name} cannot be loaded: {exc}\n{_COMPLETE}") from exc
    except RecursionError as exc:
        raise ModelError(f"model {name} cannot be loaded: one of its JSON files is nested too deeply") from exc
    except MemoryError as exc:
        raise ModelError(f"model {name} cannot be loaded: it needs more memory than is available") from exc
    except Exception as exc:  # untrusted settings make transformers and its dependencies raise errors of many types
        if "trust_remote_code" in str(exc):
            raise ModelNameError(f"model {name} {NO_OWN_CODE}") from exc
        raise ModelError(f"model {name} cannot be loaded: {exc}\n{_COMPLETE}") from exc


def _scale(network: Any) -> float:
    if (scale := getattr(network, "logit_scale", None)) is not None:
        return float(scale.exp())
    temperature = getattr(network, "temperature", None)  # ALIGN has this instead
    return 1.0 if temperature is None else 1 / float(temperature)


def _image_features(network: Any, pixels: Tensor) -> Tensor:
    return pooled(network.get_image_features(pixel_values=pixels))


def _preprocess(processor: Any, *, fast: bool) -> Preprocess:
    """Return the preprocessing that an image processor describes."""
    if not (processor.do_resize and processor.do_normalize):
        raise ModelError("the model's image processor must both resize and normalise images, but this one does not")
    if most := getattr(processor, "max_num_patches", None):
        return Preprocess(
            size=0,
            crop=None,
            mean=tuple(processor.image_mean),
            std=tuple(processor.image_std),
            resample=Image.Resampling(int(processor.resample)),
            fast=fast,
            patches=(int(processor.patch_size), int(most)),
        )
    size = dict(processor.size)
    power = 2 if getattr(processor, "include_top", False) else 1  # ALIGN divides by the standard deviation twice
    crop = dict(processor.crop_size) if getattr(processor, "do_center_crop", False) else None
    return Preprocess(
        size=size["shortest_edge"] if size.get("shortest_edge") else (size["height"], size["width"]),
        crop=(crop["height"], crop["width"]) if crop else None,
        mean=tuple(processor.image_mean),
        std=tuple(value**power for value in processor.image_std),
        resample=Image.Resampling(int(processor.resample)),
        fast=fast,
    )
