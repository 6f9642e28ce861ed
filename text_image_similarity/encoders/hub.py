"""The model hub: whether a model is in its cache here, and whether the hub answers at all.

Asked before torch and transformers are loaded, so that an unreachable model is known in moments.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from huggingface_hub import HfApi, try_to_load_from_cache
from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

from ..errors import ModelNameError, ModelUnavailableError
from ..system import call_within
from .kinds import check_listing
from .names import suggest

PROBE_S = 4.0  # how long the hub may take to say that it is there


def require_model(name: str, revision: str | None) -> None:
    """Make sure that a hub model is in the cache or can be fetched.

    Raises:
        ModelUnavailableError: Neither.
    """
    try:
        cached = cached_folder(name, revision)
    except HFValidationError as exc:
        raise ModelNameError(f"model {name!r} is neither a folder here nor a valid hub id{_hint(name)}") from exc
    if cached is None:
        require_hub(name, revision)


def cached_folder(name: str, revision: str | None) -> Path | None:
    """Return the cache's folder of a model, named like its commit, or None; it may lack files."""
    path = try_to_load_from_cache(name, "config.json", revision=revision)
    return Path(path).parent if isinstance(path, str) else None


def require_hub(name: str, revision: str | None) -> None:
    """Ask the hub whether it has a model, within `PROBE_S` seconds whatever the network does.

    Raises:
        ModelNameError: It has none, or one of another kind.
        ModelUnavailableError: It is out of reach; the message names the ways out.
    """
    ask = partial(HfApi().model_info, name, revision=revision, timeout=PROBE_S)
    try:
        found = call_within(PROBE_S, ask, name="hub-probe")
        check_listing(name, [file.rfilename for file in found.siblings or []])
        return
    except ModelNameError:
        raise
    except Exception as exc:  # whatever the hub's client raises is an answer
        problem = exc
    if isinstance(problem, (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError)):
        said = str(problem).strip().splitlines()[-1]
        kind = ModelUnavailableError if isinstance(problem, GatedRepoError) else ModelNameError
        raise kind(
            f"{name} is neither a folder here nor a model available on the hub: {said}{_hint(name)}"
        ) from problem
    raise ModelUnavailableError(
        f"model {name} is neither a folder here nor in the local cache, and the model hub is out of reach "
        f"({type(problem).__name__}){_hint(name)}\n"
        "Ways out:\n"
        "  a local folder:   --model path/to/folder\n"
        f"  a filled cache:   hf download {name}{f' --revision {revision}' if revision else ''}\n"
        "                    on a machine with network, then copy its HF_HOME here\n"
        "  the small model:  --model mini         (ships with this package, needs no download)"
    ) from problem


def _hint(name: str) -> str:
    meant = suggest(name)
    return f"; did you mean {meant!r}?" if meant not in (None, name) else ""
