"""Find the model that a `Config` names, and load it with the file of its family on the backend asked for."""

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
from ..system import is_installed, require
from .kinds import ADAPTER, OPEN_CLIP, OWN, check_folder, check_type, is_export
from .names import ALIASES, check_name, is_hub_id
from .open_clip_names import OpenClipName, read_open_clip_name
from .placement import check_placement, runs_on_onnx
from .protocols import PreparingEncoder
from .settings_files import read_settings
from .zipped import mini_folder

if TYPE_CHECKING:
    from .two_tower import TwoTowerEncoder


logger = logging.getLogger("text_image_similarity")

# Commits of hub models whose exact weights are known.
_PINNED = {
    DEFAULT_MODEL: "3d74acf9a28c67741b2f4f2ea7635f0aaf6f0268",
    "openai/clip-vit-large-patch14": "32bd64288804d66eefd0ccbe215aa642df71cc41",
}


def is_pinned(name: str) -> bool:
    """Say whether a name is an alias, or a hub id whose commit is known here."""
    return name in ALIASES or name in _PINNED


def model_folder(name: str | PathLike[str]) -> Path:
    """Return the folder that a model's name stands for, if it stands for one; `mini`'s is this package's.

    An alias or a pinned hub id, as text, is never a folder of the working directory: that one is `./fast`, or a path.
    """
    if str(name) == "mini":
        return mini_folder()
    if isinstance(name, str) and is_pinned(name):
        if _is_dir(Path(name)):
            logger.warning("model %s is the pinned one; the folder here is called ./%s", name, name)
        return Path(os.devnull, name)
    try:
        return Path(name).expanduser()
    except RuntimeError:  # there is no such user
        return Path(name)


def resolve_model(model: str | PathLike[str], revision: str | None) -> tuple[str, str | None]:
    """Return what a model's name and revision stand for: an alias's hub id, a pinned commit, a folder's whole path.

    Two that give the same are the same model. The hub is not asked: a branch is not known to be a commit.

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
    """Return the folder of a model that `train` made, `mini` being one.

    Raises:
        ModelNameError: The folder does not exist, or holds another model.
    """
    _check_meant(model)
    folder = model_folder(model)
    if not _is_dir(folder):
        check_name(model)
        raise ModelNameError(f"model folder {model} does not exist")
    if check_folder(str(model), folder)["model_type"] != OWN:
        raise ModelNameError(
            f"{model} is a model of transformers or open_clip; training starts from mini, or from one that `train` made"
        )
    return folder


@settings_in_config
def load_encoder(config: ConfigLike = None) -> PreparingEncoder:
    """Load the model that `config` names onto its device.

    Args:
        config: A model's name, or settings, of which `model`, `revision`, `device`, `precision`, `backend`, `preprocess` and `model_cache` are used.

    Returns:
        An encoder that may be shared between calls and threads.

    Raises:
        ModelNameError: The folder or the hub model does not exist, or is of another kind.
        ModelUnavailableError: The hub is out of reach and the cache does not hold the model.
        ModelError: The model is there but cannot be used.
        ConfigError: The device, backend or precision is not available here, or not for this model.
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
            raise ConfigError(f"revision={config.revision!r} is for hub models; {name} is a folder and has none")
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
    """Make sure that no folder here is in the place of a hub model: of a pinned one, or of one in the hub's cache.

    Any other folder whose name may be a hub id as well, such as `models/ours`, is taken with a warning.
    """
    if not isinstance(model, str):  # a path says what it is
        return
    name = ALIASES.get(model, model)
    if not is_hub_id(name) or not _is_dir(Path(name)):
        return
    if is_pinned(name):  # libraries would take the folder
        raise ModelNameError(f"the folder {name} here is not the pinned {name}; name it ./{name}, or run elsewhere")
    if is_installed("huggingface_hub"):
        from .hub import cached_folder

        if cached_folder(name, None) is not None:
            raise ModelNameError(
                f"model {name} is a folder here and a hub model in the cache; name the folder ./{name}, or run elsewhere for the hub's"
            )
    logger.warning("model %s is the folder ./%s here, not the hub's %s; ./%s says so", name, name, name, name)


def _exported(name: str, folder: Path, config: Config) -> PreparingEncoder:
    """Load what `export` wrote."""
    if not is_export(folder):
        raise ConfigError(
            "triton_url needs a folder that `export` wrote as the model, for its tokens and preprocessing; make it with: "
            f"text-image-similarity export {name} FOLDER --to triton"
        )
    from .exported import load_exported

    return load_exported(str(folder), folder, config)


def _open_clip(name: str, parsed: OpenClipName, config: Config) -> PreparingEncoder:
    """Load a model in open_clip's layout."""
    from .open_clip_names import CONFIG

    require(
        f"{name}, a model of open_clip (it has {CONFIG}, or a name of open_clip's),", "open_clip", extra="open-clip"
    )
    from .fingerprint import unchanged
    from .open_clip_files import find_open_clip

    if config.revision is not None and (parsed.file or parsed.folder):
        raise ConfigError(f"revision={config.revision!r} is for hub models; {name} is on this disk and has none")

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
    """Load a model with a PEFT adapter, which is merged into it."""
    from .adapters import SETTINGS, WEIGHTS, base_of

    if not is_installed("peft"):  # no extra brings it
        raise MissingExtraError(f"{name}, which holds a PEFT adapter, needs peft: pip install peft")
    named = base_of(name, folder)
    _check_meant(named)
    base, revision = resolve_model(named, None)
    base_folder = Path(base)
    if _is_dir(base_folder):
        if check_folder(base, base_folder)["model_type"] in (OWN, OPEN_CLIP, ADAPTER):
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
    except OSError:  # its name is too long, or what it is in may not be read
        return False


def _load(name: str, folder: Path | None, config: Config, load: Callable[[Config], TwoTowerEncoder]) -> TwoTowerEncoder:
    """Load a model on the backend that `config` asks for; `folder` is where its files are, as far as they are here."""
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
    """Make sure that a model can run on torch.

    Raises:
        MissingExtraError: A library is missing; where ONNX Runtime is too, that would do for `mini` and exported models.
    """
    if is_installed("onnxruntime"):
        require(f"running {config.model} on torch", *names)
    else:
        require(f"running {config.model} without onnxruntime", *names, extra="onnx")


def _shape(folder: Path) -> dict[str, Any]:
    """Read what a model's `config.json` says."""
    path = folder / "config.json"
    try:
        found = read_settings(path)
    except (OSError, ValueError) as exc:
        raise ModelUnavailableError(f"{folder} is not a model folder: its config.json cannot be read ({exc})") from exc
    return found if isinstance(found, dict) else {}
