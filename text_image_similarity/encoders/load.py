"""Find the model that a `Config` names, and load it with the module for its family on the requested backend."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checks import settings_in_config
from ..config import DEFAULT_MODEL, Config, ConfigLike, as_config
from ..errors import ConfigError, MissingExtraError, ModelNameError, ModelUnavailableError
from ..files import network_share
from ..system import is_installed, require
from .kinds import ADAPTER, EXPORTED, OPEN_CLIP, OWN, check_folder, check_type, is_export
from .names import ALIASES, check_name, is_hub_id, places_in
from .open_clip_names import OpenClipName, read_open_clip_name
from .placement import check_placement, runs_on_onnx
from .protocols import PreparingEncoder
from .settings_files import read_settings
from .zipped import mini_folder

if TYPE_CHECKING:
    from .two_tower import TwoTowerEncoder


logger = logging.getLogger("text_image_similarity")

# Commits of the hub models whose exact weights are known.
_PINNED = {
    DEFAULT_MODEL: "3d74acf9a28c67741b2f4f2ea7635f0aaf6f0268",
    "openai/clip-vit-large-patch14": "32bd64288804d66eefd0ccbe215aa642df71cc41",
}


def is_pinned(name: str) -> bool:
    """Return whether a name is an alias, or a hub id whose commit is pinned here."""
    return name in ALIASES or name in _PINNED


def model_folder(name: str | PathLike[str]) -> Path:
    """Return the folder that a model's name refers to, which may not exist; for `mini`, the one in this package.

    An alias or a pinned hub id given as text never refers to a folder in the working directory. To use such a folder,
    write `./fast` or pass a path.
    """
    if str(name) == "mini":
        return mini_folder()
    if isinstance(name, str) and is_pinned(name):
        if _is_dir(Path(name)):
            logger.warning("model %s is the pinned model; to use the folder of this name, write ./%s", name, name)
        return Path(os.devnull, name)
    try:
        return Path(name).expanduser()
    except RuntimeError:  # the user in ~user does not exist
        return Path(name)


def on_network_share(model: str) -> bool:
    r"""Return whether a model's name may be a path on a Windows network share, such as `\\host\share`.

    Looking for a file there would log in to its host, which a stranger who wrote the name could choose.
    """
    return any(network_share(model_folder(place)) for place in places_in(model))


def resolve_model(model: str | PathLike[str], revision: str | None) -> tuple[str, str | None]:
    """Resolve a model's name and revision: aliases to hub ids, pinned models to their commits, folders to full paths.

    Names that resolve to the same result name the same model. The hub is not contacted, so branches are not resolved
    to commits.

    Example:
        >>> resolve_model("fast", None) == resolve_model("openai/clip-vit-base-patch32", None)
        True
    """
    folder = model_folder(model)
    if _is_dir(folder):
        return str(folder.resolve()), revision
    if (parsed := read_open_clip_name(str(model))) is not None:
        place = parsed.file or parsed.folder
        return f"{parsed.architecture or ''}:{place.resolve()}" if place else str(model), revision
    name = ALIASES.get(str(model), str(model))
    return name, revision or _PINNED.get(name)


def dual_encoder_folder(model: str | PathLike[str]) -> Path:
    """Return the folder of a model trained with `train`, such as `mini`.

    Raises:
        ModelNameError: The folder does not exist, or holds a model of another kind.
    """
    _check_meant(model)
    folder = model_folder(model)
    if not _is_dir(folder):
        check_name(model)
        raise ModelNameError(f"model folder {model} does not exist")
    if check_folder(str(model), folder)["model_type"] != OWN:
        raise ModelNameError(
            f"{model} was not created by `train`; training starts from mini, or from a model created by `train`"
        )
    return folder


@settings_in_config
def load_encoder(config: ConfigLike = None) -> PreparingEncoder:
    """Load the model that `config` names onto its device.

    Args:
        config: A model's name, or settings, of which `model`, `revision`, `device`, `precision`, `backend`,
            `preprocess`, `batch_size`, `model_cache` and `triton_url` are used.

    Returns:
        An encoder that may be shared between calls and threads.

    Raises:
        ModelNameError: The folder or hub model does not exist, or is of an unsupported kind.
        ModelUnavailableError: The hub cannot be reached, and the model is not in the cache.
        ModelError: The model was found but cannot be used.
        ConfigError: The device, backend or precision is not available on this machine or for this model.
    """
    config = as_config(config)
    check_placement(config)
    _check_meant(config.model)
    name = str(config.model)
    folder = model_folder(config.model)
    if is_export(folder) or config.triton_url is not None:
        return _exported(name, folder, config)
    if (parsed := read_open_clip_name(name)) is not None:
        return _open_clip(name, parsed, config)
    if _is_dir(folder):
        shape = check_folder(name, folder)
        if config.revision is not None:
            raise ConfigError(f"revision={config.revision!r} is for hub models; remove it, because {name} is a folder")
        if shape["model_type"] == OPEN_CLIP:
            return _open_clip(str(folder), OpenClipName(folder=folder), config)
        if shape["model_type"] == ADAPTER:
            return _adapted(name, folder, config)
        dual_encoder = shape["model_type"] == OWN
        load = partial(_dual_encoder, folder) if dual_encoder else partial(_clip, str(folder), None, trusted=False)
        from .fingerprint import unchanged

        with unchanged(folder):
            return _load(name if dual_encoder else str(folder), folder, config, load)
    if not (isinstance(config.model, str) and is_pinned(config.model)):
        check_name(config.model)
    name, revision = resolve_model(config.model, config.revision)
    pinned = _PINNED.get(name)
    from .hub import cached_folder, has_open_clip, require_model

    listed = require_model(name, revision)
    cached = cached_folder(name, revision)
    if cached is None and (has_open_clip(name, revision) or (listed and "config.json" not in listed)):
        return _open_clip(name, OpenClipName(hub=name), config)
    if cached is not None:
        check_type(name, _shape(cached))
    load = partial(_clip, name, revision, trusted=revision is not None and revision == pinned)
    encoder = _load(name, cached, config, load)
    commit = cached_folder(name, revision)
    return replace(encoder, revision=commit.name if commit else None)


def _check_meant(model: str | PathLike[str]) -> None:
    """Refuse a folder in the working directory that has the name of a pinned hub model, or of one in the hub's cache.

    Any other folder whose name could also be a hub id, such as `models/ours`, is used with a warning.
    """
    if not isinstance(model, str):  # a path is unambiguous
        return
    name = ALIASES.get(model, model)
    if not is_hub_id(name) or not _is_dir(Path(name)):
        return
    if is_pinned(name):  # libraries would use the folder
        raise ModelNameError(
            f"the folder {name} here is not the pinned hub model of this name; write ./{name} for the folder, or run in "
            "another directory for the hub model"
        )
    if is_installed("huggingface_hub"):
        from .hub import cached_folder

        if cached_folder(name, None) is not None:
            raise ModelNameError(
                f"model {name} is a folder here and a hub model in the cache; write ./{name} for the folder, "
                "or run in another directory for the hub model"
            )
    logger.warning(
        "model %s is the folder ./%s here, not the hub model %s; write ./%s to be explicit", name, name, name, name
    )


def _exported(name: str, folder: Path, config: Config) -> PreparingEncoder:
    """Load an export."""
    if not is_export(folder):
        raise ConfigError(
            "triton_url needs an export as the model, for its tokens and preprocessing; create one with: "
            f"text-image-similarity export {name} FOLDER --to triton"
        )
    from .exported import load_exported

    return load_exported(str(folder), folder, config)


def _open_clip(name: str, parsed: OpenClipName, config: Config) -> PreparingEncoder:
    """Load a model in open_clip's layout."""
    from .open_clip_names import CONFIG

    require(f"{name}, an open_clip model (recognised by {CONFIG} or its name),", "open_clip", extra="open-clip")
    from .fingerprint import unchanged
    from .open_clip_files import find_open_clip

    if config.revision is not None and (parsed.file or parsed.folder):
        raise ConfigError(f"revision={config.revision!r} is for hub models; remove it, because {name} is on this disk")

    def load(config: Config) -> TwoTowerEncoder:
        from .open_clip_model import load_open_clip

        return load_open_clip(files, parsed, weights, config)

    files = find_open_clip(name, parsed, config.revision)
    with unchanged(files.weights.parent):
        weights = files.fingerprint()
        if not runs_on_onnx(config, {"model_type": OPEN_CLIP}):
            return load(config)
        from .onnx_load import load_onnx

        return replace(load_onnx(name, None, config, load, weights=weights), revision=files.commit)


def _adapted(name: str, folder: Path, config: Config) -> PreparingEncoder:
    """Load a model and merge a PEFT adapter into it."""
    from .adapters import SETTINGS, WEIGHTS, base_of

    if not is_installed("peft"):  # no extra includes peft
        raise MissingExtraError(f"{name}, which holds a PEFT adapter, needs peft: pip install peft")
    named = base_of(name, folder)
    _check_meant(named)
    base, revision = resolve_model(named, None)
    base_folder = Path(base)
    if _is_dir(base_folder):
        if check_folder(base, base_folder)["model_type"] in (OWN, OPEN_CLIP, ADAPTER, EXPORTED):
            raise ModelNameError(f"{name} holds a PEFT adapter for {base}, which is not a model of transformers")
    else:
        from .hub import cached_folder, require_model

        require_model(base, revision)
        base_folder = cached_folder(base, revision) or base_folder
    _require_torch(config, "torch", "transformers")
    from .clip import load_clip
    from .fingerprint import fingerprint, fingerprint_of, unchanged

    def load(config: Config) -> TwoTowerEncoder:
        found = load_clip(base, config, revision=revision, trusted=revision == _PINNED.get(base, ""), adapter=folder)
        own = fingerprint_of([folder / SETTINGS, folder / WEIGHTS], found.weights or fingerprint(base_folder))
        return replace(found, model=name, weights=own)

    with unchanged(folder):
        if not runs_on_onnx(config, _shape(base_folder) if _is_dir(base_folder) else {}):
            return load(config)
        from .onnx_load import load_onnx

        return load_onnx(name, None, config, load)


def _is_dir(folder: Path) -> bool:
    try:
        return folder.is_dir()
    except OSError:  # the name is too long, or a parent folder may not be read
        return False


def _load(name: str, folder: Path | None, config: Config, load: Callable[[Config], TwoTowerEncoder]) -> TwoTowerEncoder:
    """Load a model on the backend that `config` requests; `folder` holds the files that are on this machine, if any."""
    if not runs_on_onnx(config, _shape(folder) if folder else {}):
        return load(config)
    from .onnx_load import load_onnx

    return load_onnx(name, folder, config, load)


def _dual_encoder(folder: Path, config: Config) -> TwoTowerEncoder:
    _require_torch(config, "torch")
    from .dual_encoder import load_dual_encoder

    return load_dual_encoder(folder, config)


def _clip(name: str, revision: str | None, config: Config, *, trusted: bool) -> TwoTowerEncoder:
    _require_torch(config, "torch", "transformers")
    from .clip import load_clip

    return load_clip(name, config, revision=revision, trusted=trusted)


def _require_torch(config: Config, *names: str) -> None:
    """Check that a model can run on torch.

    Raises:
        MissingExtraError: A library is missing. If ONNX Runtime is missing too, the message names its extra, which is
            enough for `mini` and exported models.
    """
    if is_installed("onnxruntime"):
        require(f"running {config.model} on torch", *names)
    else:
        require(f"running {config.model} without onnxruntime", *names, extra="onnx")


def _shape(folder: Path) -> dict[str, Any]:
    """Return the contents of a model's `config.json`."""
    path = folder / "config.json"
    try:
        found = read_settings(path)
    except (OSError, ValueError) as exc:
        raise ModelUnavailableError(f"{folder} is not a model folder: its config.json cannot be read ({exc})") from exc
    return found if isinstance(found, dict) else {}
