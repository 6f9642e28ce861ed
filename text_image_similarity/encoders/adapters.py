"""Merge adapters trained with PEFT (LoRA and others) into their base model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import ModelError, ModelNameError
from ..files import on_other_share
from .adapter_patterns import check_patterns
from .names import places_in
from .settings_files import check_values, read_settings

SETTINGS = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
# Values of `peft_type` that are accepted. Of the other types, some cannot be merged, some load models, adapters or
# pickles, and some compute, for each of their weights, with several matrices of a layer's width squared (BOFT, HRA).
_KINDS = ("LORA", "ADALORA", "LOHA", "LOKR", "IA3", "OFT", "VERA", "LN_TUNING", "FOURIERFT", "RANDLORA")
_SQUARING = ("OFT", "VERA", "RANDLORA")  # create matrices of the largest widths, or of a layer's width squared
_MOST_SQUARED = 8192  # largest width of a layer for the types above; that of the widest CLIP models
_MOST_DECOMPOSED = 2048  # smaller side of a matrix that is decomposed; the time grows with its cube
_RANKS = ("r", "init_r", "target_r")
_MOST_RANK = 4096
# Settings that determine how many products of matrices peft computes; published adapters have up to 5.
_REPEATED = ("num_cayley_neumann_terms",)
_MOST_REPEATED = 16
# Initialisations of an adapter before its weights are read. Those of `_CHANGING` change the base model, and that change
# must be repeated here. The others are replaced by the default, because some compute for hours. Initialisations that
# are not listed have settings that could make peft compute without end, or read files.
_FILLINGS = re.compile(r"gaussian|orthogonal|lycoris|eva|olora|pissa(_niter_([12]?\d|3[0-2]))?")
_CHANGING = re.compile(r"olora|pissa.*")
_FILLING_KEYS = ("init_lora_weights", "init_weights", "init_ia3_weights")
_UNSUPPORTED = (
    *("loftq_config", "corda_config", "eva_config", "lora_ga_config"),
    *("layer_replication", "arrow_config", "monteclora_config"),
)


def base_of(name: str, folder: Path) -> str:
    """Return the folder or hub id of the model that an adapter was trained for.

    Raises:
        ModelNameError: The adapter does not name a base model, or names one on another computer; its kind or its
            settings are not accepted; or its weights are missing or pickled.
    """
    try:
        settings = read_settings(folder / SETTINGS)
        base = settings["base_model_name_or_path"]
    except (OSError, ValueError, LookupError, TypeError):
        settings, base = {}, None
    if not isinstance(base, str) or not base:
        raise ModelNameError(
            f"{name} holds a PEFT adapter whose {SETTINGS} does not name its base model; add base_model_name_or_path"
        )
    if any(on_other_share(Path(place), folder) for place in places_in(base)):
        raise ModelNameError(
            f"{name} holds a PEFT adapter for {base}, which is on another computer; copy that model to this "
            f"computer, and set base_model_name_or_path in {SETTINGS} to its folder"
        )
    check_values(name, SETTINGS, settings)
    if (kind := settings.get("peft_type")) not in _KINDS:
        raise ModelNameError(
            f"{name} holds a PEFT adapter of the type {kind!r:.100}; this package accepts: {', '.join(_KINDS)}"
        )
    if settings.get("megatron_config"):  # peft imports the module that `megatron_core` names
        raise ModelNameError(
            f"{name} holds a PEFT adapter with megatron_config in its {SETTINGS}, which would make peft run code from "
            "a module named there; remove this setting"
        )
    check_patterns(name, SETTINGS, settings)
    _check_ranks(name, settings)
    _check_filling(name, settings)
    if not (folder / WEIGHTS).is_file():
        raise ModelNameError(
            f"{name} holds a PEFT adapter for {base} without {WEIGHTS}; save it with save_pretrained (pickles are not loaded)"
        )
    inside = folder / base
    return str(inside) if not Path(base).is_dir() and inside.is_dir() else base


def _check_ranks(name: str, settings: Mapping[str, Any]) -> None:
    """Refuse ranks for which peft would allocate far more memory than the base model takes."""
    pattern = settings.get("rank_pattern")
    ranks = [settings.get(key) for key in _RANKS] + list(pattern.values() if isinstance(pattern, Mapping) else [])
    if any(isinstance(rank, (int, float)) and rank > _MOST_RANK for rank in ranks):
        raise ModelNameError(
            f"{name} holds a PEFT adapter with a rank of more than {_MOST_RANK:,} in its {SETTINGS}; use an adapter of a lower rank"
        )


def _check_filling(name: str, settings: Mapping[str, Any]) -> None:
    """Refuse settings for which peft could compute for a very long time before it reads the adapter's weights."""
    by_eva = settings.get("init_lora_weights") == "eva"  # peft then saves eva_config, but reads it only in training
    used = next((key for key in _UNSUPPORTED if settings.get(key) and not (by_eva and key == "eva_config")), None)
    if used is not None:
        raise ModelNameError(
            f"{name} holds a PEFT adapter with {used} in its {SETTINGS}, which this package does not support; set it to null "
            "if the adapter does not need it, or merge the adapter into its model"
        )
    for key in _FILLING_KEYS:
        if not _is_known_filling(value := settings.get(key)):
            raise ModelNameError(
                f"{name} holds a PEFT adapter with {key} {value!r:.100} in its {SETTINGS}, which this package does not support; "
                "merge the adapter into its model"
            )
    for key in _REPEATED:
        if isinstance(number := settings.get(key), int) and number > _MOST_REPEATED:
            raise ModelNameError(
                f"{name} holds a PEFT adapter with {key} above {_MOST_REPEATED} in its {SETTINGS}; correct it"
            )


def _is_known_filling(value: Any) -> bool:
    return value is None or isinstance(value, bool) or (isinstance(value, str) and bool(_FILLINGS.fullmatch(value)))


def _fill_plainly(settings: Any) -> None:
    """Make peft use its default initialisation, unless the adapter's own initialisation changes the base model."""
    for key in _FILLING_KEYS:
        how = getattr(settings, key, None)
        if isinstance(how, str) and not _CHANGING.fullmatch(how):
            setattr(settings, key, True)


def _check_layers(name: str, settings: Any, network: Any) -> None:
    """Refuse a base model whose layers are so wide that peft would need far more memory or time than the model."""
    how = getattr(settings, "init_lora_weights", None)
    changing = isinstance(how, str) and _CHANGING.fullmatch(how) is not None
    squaring = settings.peft_type in _SQUARING
    for layer in network.modules():
        weight = getattr(layer, "weight", None)
        if weight is None or weight.ndim < 2:
            continue
        rows, columns = 1 if hasattr(layer, "num_embeddings") else len(weight), weight[0].numel()
        if (squaring and max(rows, columns) > _MOST_SQUARED) or (changing and min(rows, columns) > _MOST_DECOMPOSED):
            raise ModelError(
                f"the adapter {name} would take too much memory or time, because its model has a layer of {rows:,} x {columns:,} "
                "weights; merge the adapter into its model"
            )


def merged(name: str, network: Any, folder: Path) -> Any:
    """Merge an adapter's weights into a model, and return the model.

    Raises:
        ModelError: The adapter does not fit this model, or merging it would take too much memory or time.
    """
    from peft import PeftConfig, PeftModel

    from .weight_limit import limited_by

    try:
        settings = PeftConfig.from_pretrained(str(folder))
        _fill_plainly(settings)
        _check_layers(name, settings, network)
        with limited_by(f"the adapter {name}", lambda: [folder / WEIGHTS]):
            return PeftModel.from_pretrained(network, str(folder), config=settings).merge_and_unload()
    except ModelError:
        raise
    except Exception as exc:  # peft, torch and safetensors each raise their own exceptions
        raise ModelError(f"the adapter {name} does not fit its model: {type(exc).__name__}: {exc}") from exc
