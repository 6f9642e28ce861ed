"""Load a model onto ONNX Runtime or OpenVINO: export it once, open its exported form from then on.

The exported form lies in a folder of the user's cache that is named by the fingerprint of the model's files; from then on
neither torch nor transformers is loaded for it. What lies in that cache decides scores, so only people who are trusted may
write there. `mini` is never exported in float32: its graphs are next to its weights, in the wheel (`scripts/export_mini.py`).
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
_LAYOUT = 6  # of the exported folders; another number leaves old ones aside


def load_onnx(
    name: str,
    folder: Path | None,
    config: Config,
    load_torch: Callable[[Config], TwoTowerEncoder],
    *,
    weights: str | None = None,
) -> TwoTowerEncoder:
    """Open a model's exported form, which is made first if there is none.

    Args:
        name: Name of the encoder.
        folder: Where the model's files are, as far as they are here.
        config: `precision`, `preprocess`, `backend` and `model_cache` are used.
        load_torch: Loads the model itself.
        weights: Fingerprint of the model's files, where they are not a folder of its own.

    Returns:
        The exported model; or, with `backend="auto"` in float32, what `load_torch` gives if the model cannot be exported or
        its exported form cannot be opened.

    Raises:
        ModelError: The model cannot be loaded; or, where its exported form was asked for, the export fails, is
            not accurate enough, or cannot be opened.
        MissingExtraError: The exported form was asked for and must be made, for which a library is missing.
        ConfigError: int8 was asked for on OpenVINO, which runs it from exports alone.
    """
    precision = "int8" if config.precision == "int8" else "fp32"
    asked = config.backend in ("onnx", "openvino") or precision == "int8"
    if config.backend == "openvino" and precision == "int8":
        raise ConfigError(
            f"backend='openvino' runs {name} in fp32; for int8 set backend='onnx', which is faster with it, or make an export "
            "for OpenVINO, which is smaller"
        )
    for_torch = replace(config, device="cpu", precision="fp32", backend="torch")
    if weights is None and folder is not None:
        weights = fingerprint(folder)
    loaded: TwoTowerEncoder | None = None
    if weights is None or not _place(folder, weights, config).is_dir():  # or files that are not all here yet
        if asked:
            require(f"exporting {name} to ONNX", *_EXPORTERS, "onnxruntime", extra="onnx")
        loaded = load_torch(for_torch)
        if not all(map(is_installed, _EXPORTERS)):
            return loaded
        weights = loaded.weights
    try:
        if weights is None:
            raise ModelError(f"the files of {name}, which its exported form is named by, were not found")
        exported = _place(folder, weights, config)
        if loaded is not None:
            _export_once(loaded, exported, precision)
            loaded = None
        return _open(name, exported, weights, config)
    except ModelError as exc:
        if asked:
            raise
        logger.warning("%s runs on torch instead of ONNX Runtime, which is faster: %s", name, exc)
        return loaded or load_torch(for_torch)


def _place(folder: Path | None, weights: str, config: Config) -> Path:
    """Return where a model's exported form is, or is to be: in the cache, or for `mini` and its copies in this package.

    Graphs in any other folder are not opened: nothing shows that they compute what the model does, under whose fingerprint
    embeddings are cached.
    """
    if folder and config.precision != "int8" and _named_by(folder) == weights == _named_by(mini_folder()):
        return mini_folder()
    from platformdirs import user_cache_path

    cache = Path(config.model_cache).expanduser() if config.model_cache else user_cache_path("text-image-similarity")
    precision = "int8" if config.precision == "int8" else "fp32"
    return cache / "onnx" / f"{weights}-{precision}-{_LAYOUT}"


def _named_by(folder: Path) -> object:
    """Return the fingerprint of the model whose graphs lie in a folder, or None if there are none."""
    try:
        return read_settings(folder / FACTS)["weights"]
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _export_once(encoder: TwoTowerEncoder, folder: Path, precision: str) -> None:
    """Export a model unless another process has done so meanwhile; afterwards it has no weights.

    Raises:
        ModelError: It cannot be exported.
    """
    from filelock import FileLock

    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(folder.name + ".lock")):  # of several processes one exports and the others wait
            if not folder.is_dir():
                logger.info("exporting %s to ONNX, once, which takes half a minute: %s", encoder.model, folder)
                from .graphs import drop_weights
                from .onnx_export import export

                export(encoder, folder, int8=precision == "int8")
                drop_weights(encoder)
    except ModelError:
        raise
    except Exception as exc:  # the exporters have kinds of their own, and the folder may be full or not ours
        raise ModelError(f"{encoder.model} cannot be exported to ONNX: {type(exc).__name__}: {exc}") from exc


def _open(name: str, folder: Path, weights: str, config: Config) -> TwoTowerEncoder:
    """Open an exported folder.

    Raises:
        ModelError: It is damaged, or not of this model.
    """
    if config.preprocess == "fast":
        require("preprocess='fast'", "torch")
    try:
        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        if facts["weights"] != weights:
            raise ValueError("it is of another model")
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
    except Exception as exc:  # the backends and tokenizers raise exceptions of their own kinds
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
