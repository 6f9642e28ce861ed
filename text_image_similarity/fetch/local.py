"""Read local images."""

from __future__ import annotations

import os
import stat
import sys
from os import PathLike
from pathlib import Path

from ..errors import ErrorCode, RowError
from ..files import open_at_once
from .hints import shorten_path
from .responses import check_bytes
from .roots import check_open_under, check_under

_PIECE = 1024 * 1024


def read_file(path: Path, root: str | PathLike[str] | None, max_bytes: int) -> bytes:
    """Return the content of a regular file.

    On Linux, the file is opened first, and the kernel then tells where the open file is. Asking the kernel takes fewer
    system calls than resolving the links of a path, and links cannot be changed between the check and the reading.

    Args:
        path: Path of the file.
        root: Folder under which the file must be, after links are resolved; None allows any file.
        max_bytes: Maximum size of the file.

    Raises:
        RowError: The path leads out of `root` or to something that is not a file, or the file is too large.
        OSError, ValueError: The file cannot be read. The path is under `root`, so a message may name the reason.
    """
    if sys.platform != "linux":  # Windows logs in to a network share to look at a file
        check_under(path, root)
    try:
        found = path.stat()
        file = open_at_once(path, os.O_RDONLY) if stat.S_ISREG(found.st_mode) else None
    except (OSError, ValueError):
        check_under(path, root)
        raise
    if file is None:
        check_under(path, root)
        kind = "a folder" if stat.S_ISDIR(found.st_mode) else "not a regular file"
        raise RowError(ErrorCode.FILE_NOT_FOUND, f"{shorten_path(path)} is {kind}")
    try:
        check_open_under(file, path, root)
        check_bytes(found.st_size, max_bytes)
        return _content(file, found.st_size, max_bytes)
    finally:
        os.close(file)


def _content(file: int, size: int, max_bytes: int) -> bytes:
    """Return the content of an open file; the size may be wrong, because files change and some file systems lie."""
    data = os.read(file, min(size, max_bytes) + 1)
    if len(data) == size:  # one byte more would have been read
        return data
    parts = [data]
    while data and sum(map(len, parts)) <= max_bytes:
        parts.append(data := os.read(file, _PIECE))
    return b"".join(parts)
