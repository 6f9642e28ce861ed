"""List the models in the hub's local cache that can be loaded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..errors import ModelError
from ..system import is_installed
from .kinds import check_type
from .settings_files import read_settings


@dataclass(frozen=True, slots=True)
class CachedModel:
    """A model in the hub's cache.

    Args:
        name: Hub id.
        commit: The cached commit.
        dimension: Dimension of an embedding; None if `config.json` does not state it.
        size: Size on disk in bytes.
    """

    name: str
    commit: str
    dimension: int | None
    size: int


def cached_models() -> Iterator[CachedModel]:
    """Yield the models in the cache whose `config.json` names a supported kind, sorted by name.

    Yields nothing if huggingface_hub is not installed.
    """
    if not is_installed("huggingface_hub"):
        return
    from huggingface_hub import scan_cache_dir  # imported here because exported models do not need it
    from huggingface_hub.errors import CacheNotFound

    try:
        repositories = scan_cache_dir().repos
    except CacheNotFound:
        return
    for repository in sorted(repositories, key=lambda each: each.repo_id):
        if repository.repo_type == "model":
            for revision in sorted(repository.revisions, key=lambda each: each.commit_hash):
                try:
                    shape = read_settings(revision.snapshot_path / "config.json")
                    check_type(repository.repo_id, shape)
                except (OSError, ValueError, ModelError):
                    continue
                dimension = shape.get("projection_dim")
                commit = revision.commit_hash
                yield CachedModel(repository.repo_id, commit, dimension, revision.size_on_disk)
