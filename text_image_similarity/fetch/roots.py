"""Which local files references may name: those under one folder.

What counts is the path as it is spelled, without its `..`; or the place that it leads to. Links in the folder are followed: whoever sets the folder
up makes them, not the table.
"""

from __future__ import annotations

import os
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
        spelled, folder = (os.path.abspath(each) for each in (path, root))  # noqa: PTH100 - resolve() follows links
        inside = Path(spelled).is_relative_to(folder)
        inside = inside or path.resolve().is_relative_to(Path(root).resolve())
    except (OSError, ValueError, RuntimeError):  # a name that no file can have, or links in a circle
        inside = False
    if not inside:
        said = f"{shorten_path(path)} is not under {root}; {OPTION} names the folder that files may be in"
        raise RowError(ErrorCode.FILE_NOT_FOUND, said)


def check_reference(reference: str, root: str | PathLike[str] | None) -> None:
    """Make sure of the same for a reference whose base folder is known: a path or a `file:` URL; others are not files.

    Raises:
        RowError: It leads elsewhere.
    """
    if root is None:
        return
    scheme = scheme_of(reference)
    if scheme in ("", "file"):
        check_under(file_url_path(reference) if scheme else Path(reference), root)
