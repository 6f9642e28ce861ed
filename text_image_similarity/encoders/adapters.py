"""Adapters that PEFT trained (LoRA and others): merged into their base model when it is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import ModelError, ModelNameError
from .settings_files import check_values, read_settings

SETTINGS = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
# Values of `peft_type`. Other types cannot be merged, or load further models, adapters or pickles that their settings name.
_KINDS = ("LORA", "ADALORA", "LOHA", "LOKR", "IA3", "OFT", "BOFT", "HRA", "VERA", "LN_TUNING", "FOURIERFT", "RANDLORA")


def base_of(name: str, folder: Path) -> str:
    """Return the folder or the hub id of the model that an adapter was trained for.

    Raises:
        ModelNameError: The folder does not say, it names code to run, or its weights are missing or pickled.
    """
    try:
        settings = read_settings(folder / SETTINGS)
        base = settings["base_model_name_or_path"]
    except (OSError, ValueError, LookupError, TypeError):
        settings, base = {}, None
    if not isinstance(base, str) or not base:
        raise ModelNameError(f"{name} holds a PEFT adapter whose {SETTINGS} does not say for which model")
    check_values(name, SETTINGS, settings)
    if (kind := settings.get("peft_type")) not in _KINDS:
        raise ModelNameError(
            f"{name} holds a PEFT adapter of the type {kind!r:.100}; these can be merged into a model: {', '.join(_KINDS)}"
        )
    if settings.get("megatron_config"):  # peft imports the module that `megatron_core` names
        raise ModelNameError(
            f"{name} holds a PEFT adapter with megatron_config in its {SETTINGS}, which runs code of a module named there; take it out"
        )
    if not (folder / WEIGHTS).is_file():
        raise ModelNameError(
            f"{name} holds a PEFT adapter for {base} without {WEIGHTS}; save it with save_pretrained (pickles are not read)"
        )
    inside = folder / base
    return str(inside) if not Path(base).is_dir() and inside.is_dir() else base


def merged(name: str, network: Any, folder: Path) -> Any:
    """Return a model with an adapter's weights added to its own.

    Raises:
        ModelError: The adapter is not one for this model.
    """
    from peft import PeftModel

    try:
        return PeftModel.from_pretrained(network, str(folder)).merge_and_unload()
    except Exception as exc:  # peft, torch and safetensors raise exceptions of their own kinds
        raise ModelError(f"the adapter {name} does not fit its model: {type(exc).__name__}: {exc}") from exc
