"""Look models up in the hub's local cache and on the hub, and fetch their files.

This happens before torch and transformers are imported, so an unreachable model is reported within seconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from huggingface_hub import HfApi, hf_hub_download, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

from ..errors import ModelNameError, ModelUnavailableError
from ..system import call_within
from .kinds import check_listing, check_weights
from .names import suggest
from .open_clip_names import CONFIG
from .settings_files import SETTINGS, TOKENIZERS

PROBE_S = 4.0  # seconds that the hub may take to respond


def require_model(name: str, revision: str | None) -> list[str]:
    """Check that a hub model is in the cache or can be fetched.

    Returns:
        The paths of the model's files if the hub was contacted, otherwise an empty list.

    Raises:
        ModelNameError: The name is not a valid hub id, or the hub has no usable model of this name.
        ModelUnavailableError: The model is not in the cache, and the hub cannot be reached.
    """
    try:
        cached = cached_folder(name, revision)
    except HFValidationError as exc:
        raise ModelNameError(f"model {name!r} is neither a folder here nor a valid hub id{_hint(name)}") from exc
    return [] if cached is not None or has_open_clip(name, revision) else require_hub(name, revision)


def has_open_clip(name: str, revision: str | None) -> bool:
    """Return whether the cache holds a model in open_clip's layout."""
    return isinstance(try_to_load_from_cache(name, CONFIG, revision=revision), str)


def cached_folder(name: str, revision: str | None) -> Path | None:
    """Return a model's folder in the cache, which may be incomplete and is named after its commit, or None."""
    path = try_to_load_from_cache(name, "config.json", revision=revision)
    return Path(path).parent if isinstance(path, str) else None


def require_hub(name: str, revision: str | None) -> list[str]:
    """Check that the hub has a usable model, in at most `PROBE_S` seconds whatever the state of the network.

    Returns:
        The paths of the model's files.

    Raises:
        ModelNameError: The hub does not have the model, or it is of an unsupported kind.
        ModelUnavailableError: The hub cannot be reached; the message lists the options.
    """
    listed = _listing(name, revision)
    check_listing(name, listed)
    return listed


def fetch_file(name: str, files: Sequence[str], revision: str | None) -> Path:
    """Return the first of `files` that a hub model has, fetching it if it is not in the cache.

    Raises:
        ModelNameError: The model is not on the hub, or has none of these files.
        ModelUnavailableError: The hub cannot be reached.
    """
    if (cached := _cached(name, files, revision)) is not None:
        return cached
    listed = _listing(name, revision)
    file = next((file for file in files if file in listed), None)
    if file is None:
        check_weights(name, [path for path in listed if "/" not in path])
        raise ModelNameError(f"the hub model {name} has no {' or '.join(files)}")
    with _reached(name, revision):
        return Path(hf_hub_download(name, file, revision=revision))


def fetch_folder(name: str, signs: Sequence[str], patterns: Sequence[str]) -> Path:
    """Return a hub model's folder in the cache, with the files that match the patterns.

    Nothing is fetched if one of the files in `signs` is already in the cache.

    Raises:
        ModelNameError: The model is not on the hub.
        ModelUnavailableError: The hub cannot be reached.
    """
    if (cached := _cached(name, signs, None)) is not None:
        return cached.parent
    _listing(name, None)
    with _reached(name, None):
        return Path(snapshot_download(name, allow_patterns=list(patterns)))


def fetch_settings(name: str, revision: str | None) -> Path:
    """Fetch a hub model's settings and tokenizer, so that they can be checked before its other files are fetched.

    Returns:
        The model's folder in the cache, which is named after its commit.

    Raises:
        ModelNameError: The hub has no such model.
        ModelUnavailableError: The hub cannot be reached.
    """
    with _reached(name, revision):
        return Path(snapshot_download(name, revision=revision, allow_patterns=[*SETTINGS, *TOKENIZERS]))


def _cached(name: str, files: Sequence[str], revision: str | None) -> Path | None:
    try:
        found = (try_to_load_from_cache(name, file, revision=revision) for file in files)
        return next((Path(path) for path in found if isinstance(path, str)), None)
    except HFValidationError as exc:
        raise ModelNameError(f"model {name!r} is not a valid hub id{_hint(name)}") from exc


def _listing(name: str, revision: str | None) -> list[str]:
    """Return the paths of a hub model's files."""
    ask = partial(HfApi().model_info, name, revision=revision, timeout=PROBE_S)
    with _reached(name, revision):
        found = call_within(PROBE_S, ask, name="hub-probe")
        return [file.rfilename for file in found.siblings or []]


@contextmanager
def _reached(name: str, revision: str | None) -> Iterator[None]:
    """Turn any exception of the hub's client into ModelNameError or ModelUnavailableError."""
    try:
        yield
        return
    except Exception as exc:
        problem = exc
    if isinstance(problem, (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError)):
        said = str(problem).strip().splitlines()[-1]
        kind = ModelUnavailableError if isinstance(problem, GatedRepoError) else ModelNameError
        raise kind(
            f"{name} is neither a folder here nor a model available on the hub: {said}{_hint(name)}"
        ) from problem
    raise ModelUnavailableError(
        f"model {name} is neither a folder here nor in the local cache, and the model hub cannot be reached "
        f"({type(problem).__name__}){_hint(name)}\n"
        "Your options:\n"
        "  a local folder:   --model path/to/folder\n"
        f"  a filled cache:   hf download {name}{f' --revision {revision}' if revision else ''}\n"
        "                    on a machine with network access, then copy its HF_HOME here\n"
        "  the small model:  --model mini         (ships with this package, needs no download)"
    ) from problem


def _hint(name: str) -> str:
    meant = suggest(name)
    return f"; did you mean {meant!r}?" if meant not in (None, name) else ""
