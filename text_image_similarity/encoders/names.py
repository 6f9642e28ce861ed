"""Recognise mistakes in model names, and suggest what was probably meant."""

from __future__ import annotations

import re
from os import PathLike
from pathlib import Path

from ..config import DEFAULT_MODEL
from ..errors import ModelNameError
from ..system import closest

ALIASES = {"fast": DEFAULT_MODEL, "accurate": "openai/clip-vit-large-patch14"}  # of hub models
_SHORT = ("mini", *ALIASES)
# Names that other libraries use, without case and punctuation.
_OPENAI = {
    "vitb32": "fast",
    "vitb16": "openai/clip-vit-base-patch16",
    "vitl14": "accurate",
    "vitl14336": "openai/clip-vit-large-patch14-336",
    "vitl14336px": "openai/clip-vit-large-patch14-336",
}
_OWNERS = {"clip-vit": "openai", "CLIP-ViT": "laion", "siglip": "google"}  # for names without an owner
_FILES = (
    "bin|ckpt|csv|engine|ggml|gguf|gz|h5|json|mlmodel|mlpackage|model|msgpack|npy|npz|onnx|ot|pb|pickle|pkl|pt|pt2|pte|pth|"
    "safetensors|tar|tflite|txt|xml|yaml|yml|zip"
)
_HUB_ID = r"[\w.-]+/[\w.-]+"
_AROUND = " \t\r\n\f\v\"'`\u00a0\u200b\u200c\u200d\u2060\ufeff"


def places_in(model: str) -> tuple[str, ...]:
    """Return the parts of a model's name that may be paths: all of it, and the rest after `local-dir:` or `NAME//`."""
    return model, model.partition(":")[2], model.partition("//")[2]


def is_hub_id(name: str) -> bool:
    """Return whether a name could be a hub id, `owner/name`; a name that begins with a dot or a tilde is a path."""
    return re.fullmatch(rf"(?![.~]){_HUB_ID}", name) is not None


def check_name(model: str | PathLike[str]) -> None:
    """Check that a name that is not a folder could be a hub id.

    Raises:
        ModelNameError: The name could not be a hub id; the message says why, and what was probably meant.
    """
    name = str(model) if len(str(model)) < 300 else f"{str(model)[:300]}..."
    meant = suggest(name)
    hint = f"; did you mean {meant!r}?" if meant else ""
    if name != name.strip(_AROUND):
        raise ModelNameError(f"model {name!r} has spaces, quotes or invisible characters around it{hint}")
    path = Path(name)
    if _exists(path):
        has_config = (path.parent / "config.json").is_file()
        folder = f"its folder, {path.parent}" if has_config else "a folder with config.json, weights and a tokenizer"
        raise ModelNameError(f"model {name} is a file; name {folder}")
    if scheme := re.match(r"([a-z0-9+.-]+)://|(hf|timm):", name, re.IGNORECASE):
        raise ModelNameError(f"model {name} cannot begin with {scheme[0]}: give a hub id or a folder{hint}")
    if re.search(rf"\.({_FILES})$", name, re.IGNORECASE):
        raise ModelNameError(f"model file {name} does not exist, and a model is a folder or a hub id{hint}")
    if isinstance(model, PathLike) or name.startswith(("/", ".", "~")) or name.count("/") > 1 or "\\" in name:
        raise ModelNameError(f"model folder {name} does not exist{hint}")
    if ("/" not in name and name not in ALIASES) or (meant and re.match(r"vit-[blhg]/\d", name, re.IGNORECASE)):
        raise ModelNameError(
            f"model {name!r} is not a folder here, a hub id (owner/name) or one of {', '.join(sorted(_SHORT))}{hint}"
        )
    if "@" in name:
        raise ModelNameError(f"model {name!r} is not a hub id: pass the part after @ as the revision (`--revision`)")


def suggest(name: str) -> str | None:
    """Return the name that was probably meant, or None."""
    tidy = name.strip(_AROUND)
    return _rewritten(name, tidy) or _known_elsewhere(name, tidy) or _closest(tidy)


def _rewritten(name: str, tidy: str) -> str | None:
    """Return the name or folder inside a URL or inside surrounding characters, or None."""
    if url := re.match(rf"(?:https?://(?:www\.)?(?:huggingface\.co|hf\.co)/|hf://|hf-hub:|hf:)({_HUB_ID})", tidy):
        return url[1]
    if tidy.startswith("file://"):
        return tidy.removeprefix("file://")
    if pair := re.fullmatch(r"(?:open_clip:)?([\w.-]+)::([\w.-]+)", tidy):  # as clip-retrieval and others write them
        return f"open_clip:{pair[1]}/{pair[2]}"
    if tidy != name and (tidy in _SHORT or _exists(Path(tidy)) or re.fullmatch(_HUB_ID, tidy)):
        return tidy
    if tidy.endswith("/") and re.fullmatch(_HUB_ID, tidy[:-1]):
        return tidy[:-1]
    posix = tidy.replace("\\", "/")
    return posix if posix != tidy and _exists(Path(posix)) else None


def _known_elsewhere(name: str, tidy: str) -> str | None:
    """Return the name to use for a name from another library, or for one without an owner; None if there is none."""
    plain = _plain(tidy)
    for prefix in ("", "openai", "clip", "openaiclip", "openclip", "sentencetransformersclip"):
        found = _OPENAI.get(plain.removeprefix(prefix).removesuffix("openai"))
        if found is not None:
            return found
    for known in (*ALIASES.values(), *_OPENAI.values()):
        if "/" in known and known != name and _plain(known) == plain:
            return known
    owner = next((owner for start, owner in _OWNERS.items() if tidy.startswith(start)), None)
    return f"{owner}/{tidy}" if owner and "/" not in tidy else None


def _closest(name: str) -> str | None:
    """Return the alias with a similar name, or else the folder with a similar name in the same parent folder."""
    path = Path(name)
    if "/" not in name and (found := closest(name, _SHORT)):
        return found
    try:
        neighbours = [at.name for at in path.parent.iterdir() if at.is_dir()]
    except OSError:
        return None
    near = closest(path.name, neighbours)
    return str(path.parent / near) if near else None


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.casefold())


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # not a possible file name
        return False
