"""Load a model on ONNX Runtime or OpenVINO: export it once, and open the exported form afterwards.

The exported form is in a folder of the user's cache that is named after the fingerprint of the model's files. Once
that folder exists, neither torch nor transformers is loaded for the model. Files in the cache determine scores, so only
people you trust should be able to write there. `mini` is never exported in float32: its graphs are next to its weights,
in the package (`scripts/export_mini.py`).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from ..config import Config
from ..errors import ConfigError, ModelError
from ..system import is_installed, require
from .facts import preprocess_from
from .fingerprint import FACTS, fingerprint
from .onnx_backend import open_backend
from .settings_files import read_settings
from .token_files import open_tokens
from .tokens import Tokens
from .two_tower import Backend, TwoTowerEncoder
from .zipped import mini_folder

logger = logging.getLogger("text_image_similarity")

_EXPORTERS = ("torch", "onnx", "onnxscript")
_LAYOUT = 7  # version of the exported folders; folders with another number are ignored


def load_onnx(
    name: str,
    folder: Path | None,
    config: Config,
    load_torch: Callable[[Config], TwoTowerEncoder],
    *,
    weights: str | None = None,
) -> TwoTowerEncoder:
    """Open a model's exported form, and create it first if there is none.

    Args:
        name: Name of the encoder.
        folder: The model's folder on this machine, which may be incomplete; None if there is none.
        config: `precision`, `preprocess`, `backend` and `model_cache` are used.
        load_torch: Function that loads the model itself.
        weights: Fingerprint of the model's files; computed from `folder` if omitted.

    Returns:
        The exported model; or, with `backend="auto"` in float32, the result of `load_torch` if the model cannot be
        exported or its exported form cannot be opened.

    Raises:
        ModelError: The model cannot be loaded; or its exported form was requested, but the export fails, is not
            accurate enough, or cannot be opened.
        MissingExtraError: The exported form was requested and must be created, but a library for that is missing.
        ConfigError: int8 was requested on OpenVINO, which supports it only for exports.
    """
    precision = "int8" if config.precision == "int8" else "fp32"
    asked = config.backend in ("onnx", "openvino") or precision == "int8"
    if config.backend == "openvino" and precision == "int8":
        raise ConfigError(
            f"backend='openvino' runs {name} in fp32; for int8, set backend='onnx' for more speed, or export the model "
            "for OpenVINO to make it smaller"
        )
    for_torch = replace(config, device="cpu", precision="fp32", backend="torch")
    if weights is None and folder is not None:
        weights = fingerprint(folder)
    loaded: TwoTowerEncoder | None = None
    if weights is None or not _place(folder, weights, config).is_dir():  # not exported yet, or files are missing
        if asked:
            require(f"exporting {name} to ONNX", *_EXPORTERS, "onnxruntime", extra="onnx")
        loaded = load_torch(for_torch)
        if not all(map(is_installed, _EXPORTERS)):
            return loaded
        weights = loaded.weights
    try:
        if weights is None:
            raise ModelError(
                f"the exported form of {name} is stored under a hash of the model's files, and these were not found"
            )
        exported = _place(folder, weights, config)
        if loaded is not None:
            _export_once(loaded, exported, precision)
            loaded = None
        return _open(name, exported, weights, config)
    except ModelError as exc:
        if asked:
            raise
        logger.warning("%s runs on torch, which is slower than ONNX Runtime: %s", name, exc)
        return loaded or load_torch(for_torch)


def _place(folder: Path | None, weights: str, config: Config) -> Path:
    """Return the folder for a model's exported form: in the cache or, for `mini` and its copies, in this package.

    Graphs in any other folder are not opened, because their embeddings may differ from the model's, and would be cached
    under the model's fingerprint.
    """
    if folder and config.precision != "int8" and _named_by(folder) == weights == _named_by(mini_folder()):
        return mini_folder()
    from platformdirs import user_cache_path

    cache = Path(config.model_cache).expanduser() if config.model_cache else user_cache_path("text-image-similarity")
    precision = "int8" if config.precision == "int8" else "fp32"
    return cache / "onnx" / f"{weights}-{precision}-{_LAYOUT}"


def _named_by(folder: Path) -> object:
    """Return the fingerprint of the model whose graphs are in a folder, or None if there are none."""
    try:
        return read_settings(folder / FACTS)["weights"]
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _export_once(encoder: TwoTowerEncoder, folder: Path, precision: str) -> None:
    """Export a model and drop its weights, unless another process has exported it in the meantime.

    Raises:
        ModelError: The model cannot be exported.
    """
    from filelock import FileLock

    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(folder.name + ".lock")):  # one process exports and the others wait
            if not folder.is_dir():
                logger.info(
                    "exporting %s to ONNX in %s, which takes half a minute and is done only once", encoder.model, folder
                )
                from .graphs import drop_weights
                from .onnx_export import export

                export(encoder, folder, int8=precision == "int8")
                drop_weights(encoder)
    except ModelError:
        raise
    except Exception as exc:  # exporters raise their own exceptions, and the disk may be full or not writable
        raise ModelError(f"{encoder.model} cannot be exported to ONNX: {type(exc).__name__}: {exc}") from exc


def _open(name: str, folder: Path, weights: str, config: Config) -> TwoTowerEncoder:
    """Open an exported folder.

    Raises:
        ModelError: The folder is damaged or belongs to another model.
    """
    if config.preprocess == "fast":
        require("preprocess='fast'", "torch")
    try:
        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        if facts["weights"] != weights:
            raise ValueError("it belongs to another model")
        tokens = open_tokens(folder, facts["tokens"])
        return TwoTowerEncoder(
            model=name,
            revision=None,
            embed_dim=facts["embed_dim"],
            context_length=facts["context_length"],
            logit_scale=facts["logit_scale"],
            logit_bias=facts.get("logit_bias"),
            preprocess=preprocess_from(facts["preprocess"], fast=config.preprocess == "fast"),
            tokens=tokens,
            backend=_backend(folder, tokens, config, facts.get("initializers")),
            weights=weights,
        )
    except Exception as exc:  # backends and tokenizers raise their own exceptions
        delete = f"its {FACTS}" if (folder / "model.safetensors").is_file() else "it"
        raise ModelError(
            f"the exported model in {folder} cannot be opened; delete {delete} to export it again: {exc}"
        ) from exc


def _backend(
    folder: Path, tokens: Tokens, config: Config, initializers: Mapping[str, Mapping[str, str]] | None
) -> Backend:
    if config.backend == "openvino":
        from .openvino_backend import open_openvino

        return open_openvino(folder, tokens, "fp32", initializers=initializers)
    precision = "int8" if config.precision == "int8" else "fp32"
    return open_backend(folder, tokens, precision=precision, initializers=initializers)
