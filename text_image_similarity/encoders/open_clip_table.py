"""Look up open_clip's architectures and its table of published weights; this imports open_clip, and with it torch."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import open_clip
from open_clip import pretrained

from ..errors import ModelNameError
from .open_clip_names import no_architecture

_PREPROCESSING = ("mean", "std", "interpolation", "resize_mode")
_QUICK = "-quickgelu"
# Words in the names of files and folders whose weights were all trained with QuickGELU.
_QUICK_WORDS = ("openai", "quickgelu", "metaclip", "dfn2b", "dfn5b")


def architecture_settings(name: str, architecture: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return an architecture's settings, and its preprocessing if all its published weights agree on one.

    open_clip itself uses OpenAI's preprocessing for any file, which is wrong for SigLIP, MobileCLIP and others.

    Raises:
        ModelNameError: open_clip does not have this architecture.
    """
    settings = open_clip.get_model_config(architecture)
    if settings is None:
        raise no_architecture(name, architecture, open_clip.list_models())
    ways = [_preprocessing(architecture, tag) for tag in open_clip.list_pretrained_tags_by_model(architecture)]
    agreed = ways[0] if ways and all(way == ways[0] for way in ways) else {}
    return settings, agreed


def tag_settings(name: str, architecture: str, tag: str) -> tuple[dict[str, Any], dict[str, Any], str, str | None]:
    """Return the settings, preprocessing, hub id and file of published weights.

    The activation is the one in the table, with which the weights were trained. open_clip itself keeps the
    architecture's activation and only warns that embeddings may be wrong.

    Raises:
        ModelNameError: No weights have this tag, or they are not on the hub.
    """
    settings, _ = architecture_settings(name, architecture)
    known = pretrained.get_pretrained_cfg(architecture, tag)
    if not known:
        tags = open_clip.list_pretrained_tags_by_model(architecture)
        said = (
            f"the tags for it are {', '.join(tags)}"
            if tags
            else f"that architecture has no tags; give a file: open_clip:{architecture}//PATH"
        )
        raise ModelNameError(f"model {name}: open_clip has no weights {tag} for {architecture}; {said}")
    if known.get("quick_gelu"):
        settings["quick_gelu"] = True
    repository, _, file = str(known.get("hf_hub", "")).rpartition("/")
    if not repository:
        where = f"; download {known['url']} and give the file" if known.get("url") else "; give a file"
        raise ModelNameError(f"model {name}: its weights are not on the hub{where}: open_clip:{architecture}//PATH")
    return settings, _preprocessing(architecture, tag), repository, file or None


def twin_problem(architecture: str, weights: Path) -> str | None:
    """Return a message if a file's name shows that its weights were trained with QuickGELU instead of GELU."""
    if architecture.endswith(_QUICK) or architecture + _QUICK not in open_clip.list_models():
        return None
    repositories = [part for part in weights.absolute().parts if part.startswith("models--")]
    where = "/".join([*repositories, weights.absolute().parent.name, weights.name]).casefold()
    published = {str(known.get("url", "")).rpartition("/")[2].casefold() for known in _quick_weights()} - {""}
    if not any(word in where for word in _QUICK_WORDS) and weights.name.casefold() not in published:
        return None
    advice = quick_advice(architecture, f"{weights} is named like weights")
    return f"{advice}, or rename the file if it holds other weights"


def quick_advice(architecture: str, found: str) -> str:
    """Return the message for QuickGELU weights with an architecture that computes GELU."""
    return (
        f"{found} that were trained with QuickGELU, but {architecture} computes GELU, which would give different embeddings; use "
        f"open_clip:{architecture}{_QUICK}//..."
    )


def needs_twin(architecture: str | None) -> bool:
    """Return whether an architecture computes GELU and has a twin that computes QuickGELU."""
    return architecture is not None and architecture + _QUICK in open_clip.list_models()


@cache
def weight_hashes() -> frozenset[str]:
    """Return the SHA-256 hashes of the weights that OpenAI published.

    For other weights, the table has only eight digits of the hash, which can be forged in seconds.
    """
    found = set()
    for known in _all_weights():
        parts = str(known.get("url", "")).split("/")
        if "openaipublic" in parts[-1] or "openaipublic.azureedge.net" in parts:
            found.add(parts[-2])
    return frozenset(digits for digits in found if re.fullmatch("[0-9a-f]{64}", digits))


def _all_weights() -> list[dict[str, Any]]:
    pairs = open_clip.list_pretrained()
    return [pretrained.get_pretrained_cfg(architecture, tag) for architecture, tag in pairs]


def _quick_weights() -> list[dict[str, Any]]:
    return [known for known in _all_weights() if known.get("quick_gelu")]


def _preprocessing(architecture: str, tag: str) -> dict[str, Any]:
    known = pretrained.get_pretrained_cfg(architecture, tag)
    return {key: known[key] for key in _PREPROCESSING if known.get(key) is not None}
