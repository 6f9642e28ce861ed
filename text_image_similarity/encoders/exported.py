"""Load an export: a folder written by `export` that describes itself and runs without the libraries of its source.

`config.json` is the manifest. The manifest records the model (shapes, preprocessing, tokens, logit scale), its source,
the comparison with that source, the hash of every other file, and a digest of all this. All hashes are checked before
anything is scored. A calibration in the folder is not part of the export, so `evaluate --calibrate` can replace it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from ..config import Config
from ..errors import ConfigError, ModelError
from ..files import regular_size
from ..preprocess import Preprocess
from ..system import require
from .facts import check_pillow, preprocess_from
from .kinds import EXPORTED, MANIFESTS
from .onnx_backend import open_backend
from .settings_files import is_context, read_settings
from .token_files import open_tokens
from .tokens import Tokens
from .two_tower import Backend, TwoTowerEncoder
from .web_backend import open_web

MANIFEST = "config.json"
PLANS_SCRIPT = "build_plans.sh"  # in an export for TensorRT
LAYOUT = 2  # version of the manifest; any other is refused
_PRECISIONS = ("fp32", "fp16", "int8")
_KINDS: dict[str, type | tuple[type, ...]] = {
    "format": str,
    "source": dict,
    "precision": str,
    "embed_dim": int,
    "context_length": int,
    "logit_scale": (int, float),
    "preprocess": dict,
    "tokens": dict,
    "parity": dict,
    "files": dict,
}
# Files that the manifest must list, by format. Other files are checked by the code that reads them.
_GRAPHS = {
    "onnx": ("image.onnx", "text.onnx"),
    "openvino": ("image.xml", "image.bin", "text.xml", "text.bin"),
    "triton": ("image/1/model.onnx", "text/1/model.onnx"),
}


def load_exported(name: str, folder: Path, config: Config) -> TwoTowerEncoder:
    """Load an export and return its encoder.

    Args:
        name: Name of the encoder.
        folder: The export.
        config: `device`, `precision`, `backend`, `preprocess` and `revision` must be compatible with the export.

    Raises:
        ConfigError: A setting is not compatible with the export; the message says which one, and what to do.
        ModelError: The export is damaged or incomplete, has another layout, or cannot be opened.
        MissingExtraError: The library that runs the export's format is not installed.
    """
    manifest = read_manifest(folder)
    _check_config(name, manifest, config)
    check_files(folder, manifest)
    if config.preprocess == "fast":
        require("preprocess='fast'", "torch")
    try:
        check_pillow(name, manifest["preprocess"])
        tokens = open_tokens(folder, manifest["tokens"])
        preprocess = preprocess_from(manifest["preprocess"], fast=config.preprocess == "fast")
        return TwoTowerEncoder(
            model=name,
            revision=manifest["source"]["revision"],
            embed_dim=manifest["embed_dim"],
            context_length=manifest["context_length"],
            logit_scale=manifest["logit_scale"],
            logit_bias=manifest["logit_bias"],
            preprocess=preprocess,
            tokens=tokens,
            backend=_open_backend(folder, manifest, tokens, preprocess, config),
            weights=manifest["digest"][:32],
            export=_told(manifest),
        )
    except (ConfigError, ModelError):
        raise
    except Exception as exc:  # backends and tokenizers each raise their own exceptions
        raise ModelError(f"the export in {folder} cannot be opened: {type(exc).__name__}: {exc}") from exc


def manifest_path(folder: Path, made: str | None = None) -> Path:
    """Return the path of an export's manifest.

    Args:
        folder: The export.
        made: Format of the export; detected from the folder if omitted.
    """
    if made is not None:
        return folder / MANIFESTS.get(made, MANIFEST)
    return next((path for name in MANIFESTS.values() if (path := folder / name).is_file()), folder / MANIFEST)


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read an export's manifest.

    Raises:
        ModelError: The manifest is damaged, or has another layout.
    """
    name = manifest_path(folder).name
    try:
        found = read_settings(folder / name)
        text = (folder / name).read_text(encoding="utf-8")
        if not isinstance(found, dict) or found.get("model_type") != EXPORTED:
            raise ValueError(f"its model_type is not {EXPORTED!r}")
    except (OSError, ValueError, RecursionError) as exc:
        raise ModelError(f"the export in {folder} cannot be read: {name}: {exc}") from exc
    if found.get("layout") != LAYOUT or isinstance(found["layout"], bool):
        raise ModelError(
            f"the export in {folder} has layout {found.get('layout')!r}, but this version reads layout {LAYOUT}; export the model again"
        )
    if text != manifest_text(found):
        raise ModelError(f"the export in {folder} is damaged: {name} was changed; {_again(found)}")
    if (wrong := _wrong_in(found)) is not None:
        raise ModelError(f"the export in {folder} is damaged: {name} has no valid {wrong}; {_again(found)}")
    return found


def _wrong_in(manifest: Mapping[str, Any]) -> str | None:
    """Return the name of an entry that `export` would not have written, or None."""
    for key, kind in _KINDS.items():
        if not isinstance(manifest.get(key), kind) or isinstance(manifest[key], bool):
            return key
    if not isinstance(manifest["source"].get("model"), str):
        return "source"
    if not (is_context(manifest["context_length"]) and is_context(manifest["tokens"].get("context_length"))):
        return "context_length"
    if manifest["precision"] not in _PRECISIONS:
        return "precision"
    files = manifest["files"]
    for name, facts in files.items():
        place = PurePosixPath(name)
        if place.is_absolute() or ".." in place.parts or "\0" in name or not isinstance(facts, dict):
            return f"file name {name[:80]!r}"
        if not (isinstance(facts.get("sha256"), str) and isinstance(facts.get("bytes"), int)):
            return f"hash of {name[:80]!r}"
    tokens = "spiece.model" if manifest["tokens"].get("kind") == "sentencepiece" else "tokenizer.json"
    needed = (*_GRAPHS.get(manifest["format"], ()), tokens)
    return next((f"hash of {name!r}" for name in needed if name not in files), None)


def manifest_text(facts: Mapping[str, Any]) -> str:
    """Return the text of a manifest: the facts, followed by their digest."""
    kept = {key: value for key, value in facts.items() if key != "digest"}
    digest = hashlib.sha256(json.dumps(kept, sort_keys=True, ensure_ascii=True).encode()).hexdigest()
    return json.dumps({**kept, "digest": digest}, indent=2, ensure_ascii=True) + "\n"


def hashes(folder: Path, names: list[str]) -> dict[str, dict[str, Any]]:
    """Return the SHA-256 and the size in bytes of files in a folder, by name.

    Raises:
        OSError: A file cannot be read.
    """
    found = {}
    for name in names:
        with (folder / name).open("rb") as file:
            found[name] = {"sha256": hashlib.file_digest(file, "sha256").hexdigest(), "bytes": file.tell()}
    return found


def check_files(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Check that the files of an export have not changed since it was written.

    Raises:
        ModelError: A file is missing or has changed.
    """
    for name, expected in manifest["files"].items():
        try:
            size = regular_size(folder / name)  # first, so that a file of the wrong size is not read
            found = hashes(folder, [name])[name] if size == expected["bytes"] else {"bytes": size}
        except (OSError, ValueError) as exc:
            raise ModelError(f"the export in {folder} is not complete: {name}: {exc}; {_again(manifest)}") from exc
        if found != expected:
            how = (
                f"has {found['bytes']:,} bytes instead of {expected['bytes']:,}"
                if found["bytes"] != expected["bytes"]
                else "was changed"
            )
            raise ModelError(f"the export in {folder} is damaged: {name} {how}; {_again(manifest)}")


def _again(manifest: Mapping[str, Any]) -> str:
    source = manifest.get("source")
    model = source.get("model") if isinstance(source, Mapping) else None
    return f"copy it again, or export {model or 'its source'} again"


def _check_config(name: str, manifest: Mapping[str, Any], config: Config) -> None:
    source, made = manifest["source"]["model"], manifest["format"]
    if made not in _BACKENDS:
        raise ModelError(f"{name} is an export for {made!r}, which this version cannot run; export the model again")
    if config.revision is not None:
        raise ConfigError(f"revision={config.revision!r} is for hub models; remove it, because {name} is a folder")
    backend = _RUN_BY.get(made, made)
    if config.backend not in ("auto", backend):
        raise ConfigError(
            f"{name} is an export for backend={backend!r}; use that backend or auto, or run its source, {source}, with "
            f"backend={config.backend!r}"
        )
    if config.precision not in ("auto", manifest["precision"]):
        raise ConfigError(
            f"{name} is an export in {manifest['precision']}; use that precision or auto, or export {source} in "
            f"{config.precision}"
        )
    if _on_gpu(config) and PLANS_SCRIPT in manifest["files"]:
        return
    if config.device not in ("auto", "cpu"):
        raise ConfigError(f"{name} is an export for {made}, which runs on the CPU here; set device='cpu' or auto")


def _on_gpu(config: Config) -> bool:
    return config.device.startswith("cuda")


def _told(manifest: Mapping[str, Any]) -> str:
    """Return a one-line description of an export, for summaries."""
    drift = "" if manifest["parity"]["passed"] else ", drift allowed"
    return f"{manifest['format']} export of {manifest['source']['model']}, {manifest['digest'][:12]}{drift}"


def _open_backend(
    folder: Path, manifest: Mapping[str, Any], tokens: Tokens, preprocess: Preprocess, config: Config
) -> Backend:
    if config.triton_url is None and _on_gpu(config):
        from .tensorrt_backend import open_tensorrt

        return open_tensorrt(folder, tokens, manifest["precision"], device=int(config.device[5:] or 0))
    if config.triton_url is None:
        return _BACKENDS[manifest["format"]](folder, tokens, manifest["precision"])
    from .triton_backend import open_triton

    return open_triton(config.triton_url, folder, tokens, preprocess, manifest["precision"])


def _open_onnx(folder: Path, tokens: Tokens, precision: str) -> Backend:
    require("running an export on ONNX Runtime", "onnxruntime", extra="onnx")
    return open_backend(folder, tokens, precision=precision)


def _open_triton(folder: Path, tokens: Tokens, precision: str) -> Backend:
    """Open the graphs of a Triton model repository in this process, without a server."""
    require("running an export on ONNX Runtime", "onnxruntime", extra="onnx")
    return open_backend(folder, tokens, precision=precision, graphs="{}/1/model.onnx")


def _open_openvino(folder: Path, tokens: Tokens, precision: str) -> Backend:
    require("running an export for OpenVINO", "openvino", extra="openvino")
    from .openvino_backend import open_openvino

    return open_openvino(folder, tokens, precision)


def _open_web(folder: Path, tokens: Tokens, precision: str) -> Backend:
    require("running an export for browsers", "onnxruntime", extra="onnx")
    return open_web(folder, tokens, precision)


_BACKENDS: dict[str, Callable[[Path, Tokens, str], Backend]] = {
    "onnx": _open_onnx,
    "openvino": _open_openvino,
    "triton": _open_triton,
    "web": _open_web,
}
_RUN_BY = {"triton": "onnx", "web": "onnx"}  # formats that run on a backend with a different name
