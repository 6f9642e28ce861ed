"""Which local files references may name: those under one folder, wherever links and `..` lead."""

from __future__ import annotations

from functools import lru_cache
from os import PathLike
from pathlib import Path

from ..errors import ErrorCode, RowError
from .hints import shorten_path
from .references import file_url_path, scheme_of

OPTION = "--files-under (files_under)"


def check_under(path: Path, root: str | PathLike[str] | None) -> None:
    """Make sure that a path leads to a place under a folder; None is any place.

    Whether something is there is not told, so that a table cannot ask which files exist.

    Raises:
        RowError: It leads elsewhere.
    """
    if root is None:
        return
    try:
        inside = path.resolve().is_relative_to(_real(str(root)))
    except (OSError, ValueError, RuntimeError):  # a name that no file can have, or links in a circle
        inside = False
    if not inside:
        said = f"{shorten_path(path)} is not under {root}; {OPTION} names the folder that files may be in"
        raise RowError(ErrorCode.FILE_NOT_FOUND, said)


@lru_cache
def _real(root: str) -> Path:
    """Return where a folder is. In the hub's cache, whose files are links from `snapshots` to `blobs`, it is the data set's."""
    found = Path(root).resolve()
    snapshots = (parent for parent in found.parents if parent.name == "snapshots")
    return next((each.parent for each in snapshots if (each.parent / "blobs").is_dir()), found)


def check_reference(reference: str, root: str | PathLike[str] | None) -> None:
    """Make sure of the same for a reference whose base folder is known: a path or a `file:` URL; others are no files.

    Raises:
        RowError: It leads elsewhere.
    """
    scheme = scheme_of(reference)
    if scheme in ("", "file"):
        check_under(file_url_path(reference) if scheme else Path(reference), root)
