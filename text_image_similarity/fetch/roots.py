"""Check the local files that a table names, which must be under one folder.

Paths are checked after `..` and links are resolved. In the hub's cache, where a data set's files are links
to its folder `blobs`, that folder is allowed as well, and so are the files that the library `datasets` has unpacked from
the data set's archives.
"""

from __future__ import annotations

import os
from functools import lru_cache
from hashlib import sha256
from os import PathLike
from pathlib import Path

from ..config import NOWHERE, Config
from ..errors import ErrorCode, RowError
from ..files import is_below, network_share, on_other_share, real_path
from .hints import shorten_path
from .references import MOST_PATH, file_url_path, path_of, scheme_of, strip_invisible

# Beginning of the error for a file that may not be read; the file comes last, where a long path may be cut.
REFUSED = "this file needs --files-under FOLDER (files_under), or --files-under / for any file"

# By a data set's folder: when its folders were changed, and the SHA-256 of the paths of its files.
_WALKS: dict[Path, tuple[dict[Path, int], frozenset[str]]] = {}


def check_under(path: Path, root: str | PathLike[str] | None) -> None:
    """Make sure that a path is under a folder; None allows any path.

    The error is the same whether the file exists or not, so that a table cannot be used to find out which files exist.

    Raises:
        RowError: The path leads elsewhere.
    """
    if root is not None and not is_under(path, root):
        raise _refused(path, root)


def check_open_under(file: int, path: Path, root: str | PathLike[str] | None) -> None:
    """Make sure that a file that was opened by its path is under a folder; None allows any file.

    On Linux, the kernel tells where the open file is, so it does no harm if a link in the path is changed in the
    meantime.

    Args:
        file: File descriptor.
        path: The path by which the file was opened.
        root: The folder.

    Raises:
        RowError: The file is elsewhere.
    """
    if root is None:
        return
    if (real := real_path(file)) is None:
        check_under(path, root)
    elif not _is_in(real, os.fspath(root)):
        raise _refused(path, root)


def _refused(path: Path, root: str | PathLike[str]) -> RowError:
    why = (
        f"is not under {root}"
        if os.fspath(root) != NOWHERE
        else "is named by a table that is not in a folder on this machine"
    )
    return RowError(ErrorCode.FILE_NOT_FOUND, f"{REFUSED}: {shorten_path(path)} {why}")


def check_no_share(path: Path) -> None:
    """Make sure that a path that no one has allowed is not on a Windows network share.

    Raises:
        RowError: The path is on a share; Windows would log in to the share's host to look for the file.
    """
    if network_share(path):
        raise RowError(
            ErrorCode.FILE_NOT_FOUND,
            f"{REFUSED.partition(',')[0]}: {shorten_path(path)} is on a network share, where looking for it would log in",
        )


def is_under(path: Path, root: str | PathLike[str] | None) -> bool:
    """Tell whether a path is under a folder; None allows any path."""
    if root is None:
        return True
    if on_other_share(path, Path(root)):
        return False
    try:
        return _is_in(path.resolve(), os.fspath(root))
    except (OSError, ValueError, RuntimeError):  # a name that no file can have, or circular links
        return False


def _is_in(real: Path, root: str) -> bool:
    return any(is_below(real, folder) for folder in _folders(root)) or _is_unpacked(real, Path(root))


def _is_unpacked(real: Path, home: Path) -> bool:
    """Tell whether the library `datasets` has unpacked a file from an archive of a data set.

    Args:
        real: The file.
        home: The data set's folder in the hub's cache; any other folder has no such files.
    """
    if not home.name.startswith("datasets--"):
        return False
    given = os.environ.get  # as the hub's client and `datasets` find their caches
    caches = Path(given("HF_HOME") or Path(given("XDG_CACHE_HOME") or "~/.cache") / "huggingface").expanduser()
    hub = Path(given("HF_HUB_CACHE") or caches / "hub").expanduser().absolute()
    sets = Path(given("HF_DATASETS_CACHE") or caches / "datasets")
    downloads = Path(given("HF_DATASETS_DOWNLOADED_DATASETS_PATH") or sets / "downloads").expanduser()
    folder = (downloads / "extracted").resolve()
    own = hub / home.name
    if folder not in real.parents or home.resolve() != own.resolve():
        return False
    return _has_archive(own, real.relative_to(folder).parts[0])


def _has_archive(home: Path, digest: str) -> bool:
    """Tell whether a data set has the archive whose path in the hub's cache has a SHA-256, as hexadecimal digits."""
    changed_at, found = _WALKS.get(home, ({}, frozenset()))
    if digest not in found and (not changed_at or any(_changed_at(path) != at for path, at in changed_at.items())):
        changed_at, found = _WALKS[home] = _walk(home / "snapshots")
    return digest in found


def _walk(folder: Path) -> tuple[dict[Path, int], frozenset[str]]:
    """Return when a folder and those in it were changed, and the SHA-256 of the paths of all files."""
    changed_at, found = {folder: _changed_at(folder)}, set()
    for path, folders, names in os.walk(folder):
        changed_at |= {inner: _changed_at(inner) for inner in map(Path(path).joinpath, folders)}
        found |= {sha256(os.fsencode(Path(path, name))).hexdigest() for name in names}
    return changed_at, frozenset(found)


def _changed_at(folder: Path) -> int:
    try:
        return folder.stat().st_mtime_ns
    except OSError:
        return 0


@lru_cache
def _folders(root: str) -> tuple[Path, ...]:
    """Return the resolved folder; in the hub's cache, also the folder of the files that its links lead to."""
    found = Path(root).resolve()
    sets = (each.parent for each in (found, *found.parents) if each.name == "snapshots")
    return (found, *(each / "blobs" for each in sets if each.name.startswith("datasets--")))


def resolve_reference(reference: str, base_dir: str | PathLike[str] | None) -> str:
    """Return a reference that does not depend on a base folder, by joining relative paths to `base_dir`.

    A path that is too long to be read is unchanged.
    """
    reference = strip_invisible(reference)
    if base_dir is None or len(reference) > MOST_PATH or scheme_of(reference):
        return reference
    return str(Path(base_dir).absolute() / reference)


def locate(reference: str, config: Config) -> str:
    """Return a table's reference in a form that does not depend on a base folder; see `resolve_reference`.

    Raises:
        RowError: The file is not under `files_under`, or the path is too long.
    """
    found = resolve_reference(reference, config.base_dir)
    if config.files_under is not None and (path := local_path(found)) is not None:
        check_under(path, config.files_under)
    return found


def local_path(reference: str) -> Path | None:
    """Return the path that a path or a `file:` URL stands for; None for any other URL.

    Raises:
        RowError: The path is too long, or a `file:` URL cannot be read.
    """
    scheme = scheme_of(reference)
    if scheme not in ("", "file"):
        return None
    return file_url_path(reference) if scheme else path_of(reference)
