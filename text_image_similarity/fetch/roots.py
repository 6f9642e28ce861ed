"""Which local files a table may name: those under one folder.

What counts is the place that a path leads to, through `..` and through links. In the hub's cache, where a data set's files are links
to its folder `blobs`, that folder counts as well.
"""

from __future__ import annotations

import os
from functools import lru_cache
from os import PathLike
from pathlib import Path

from ..config import NOWHERE, Config
from ..errors import ErrorCode, RowError
from .hints import shorten_path
from .references import file_url_path, scheme_of, strip_invisible

# How the error of a file begins that may not be read; what was named comes last, where a long path may be cut.
REFUSED = "needs --files-under FOLDER (files_under), or --files-under / for any file"


def check_under(path: Path, root: str | PathLike[str] | None) -> None:
    """Make sure that a path leads to a place under a folder; None is any place.

    Whether something is there is not told, so that a table cannot ask which files exist.

    Raises:
        RowError: It leads elsewhere.
    """
    if root is None or is_under(path, root):
        return
    why = f"is not under {root}" if os.fspath(root) != NOWHERE else "is named by a table that lies in no folder here"
    raise RowError(ErrorCode.FILE_NOT_FOUND, f"{REFUSED}: {shorten_path(path)} {why}")


def is_under(path: Path, root: str | PathLike[str] | None) -> bool:
    """Say whether a path leads to a place under a folder; None is any place."""
    if root is None:
        return True
    try:
        found = path.resolve()
        return any(found.is_relative_to(folder) for folder in _folders(os.fspath(root)))
    except (OSError, ValueError, RuntimeError):  # a name that no file can have, or links in a circle
        return False


@lru_cache
def _folders(root: str) -> tuple[Path, ...]:
    """Return where a folder is; in the hub's cache, also the folder of the files that its links lead to."""
    found = Path(root).resolve()
    sets = (each.parent for each in (found, *found.parents) if each.name == "snapshots")
    return (found, *(each / "blobs" for each in sets if each.name.startswith("datasets--")))


def resolve_reference(reference: str, base_dir: str | PathLike[str] | None) -> str:
    """Return a reference that needs no base folder any longer: URLs stay, a relative path starts from `base_dir`."""
    reference = strip_invisible(reference)
    return reference if base_dir is None or scheme_of(reference) else str(Path(base_dir).absolute() / reference)


def locate(reference: str, config: Config) -> str:
    """Return a table's reference so that it needs no base folder any longer, as `resolve_reference` does with `base_dir`.

    Raises:
        RowError: It is a file elsewhere than under `files_under`.
    """
    found = resolve_reference(reference, config.base_dir)
    scheme = scheme_of(found)
    if config.files_under is not None and scheme in ("", "file"):
        check_under(file_url_path(found) if scheme else Path(found), config.files_under)
    return found
