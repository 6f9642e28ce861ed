"""Who owns a folder, and who else may write to it."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile

from ..errors import UsageError

OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def identity_of(folder: Path) -> tuple[int, int]:
    """Return the device and the number that identify a folder, whatever its name is.

    Raises:
        OSError: There is no such folder.
    """
    found = folder.stat()
    return found.st_dev, found.st_ino


def check_own(folder: Path) -> tuple[int, int]:
    """Check that a folder of parts, in which a run deletes files, is our own, and return what `identity_of` returns.

    Raises:
        UsageError: The folder is a link, or belongs to another user.
        OSError: There is no such folder.
    """
    is_junction = getattr(os.path, "isjunction", os.path.islink)  # `isjunction` exists from Python 3.12 on
    found = folder.lstat()
    if stat.S_ISLNK(found.st_mode) or is_junction(folder):
        problem = "is a link, and files in the folder to which it leads would be deleted"
    elif stat.S_ISDIR(found.st_mode) and not _has_trusted_owner(folder, found.st_uid):
        problem = "belongs to another user, who may have put scores into it"
    else:
        return found.st_dev, found.st_ino
    raise UsageError(
        f"{folder} {problem}; remove it, write the output to another folder, or keep the parts elsewhere with --work-dir "
        "FOLDER (work_dir)"
    )


def forbid_others_to_write(folder: Path) -> bool:
    """Take from all other users the permission to write to a folder of parts, where they could put files.

    Returns:
        Whether other users had this permission and have lost it; some file systems report it for every file.

    Raises:
        UsageError: Other users have this permission, and this user cannot take it from them.
        OSError: There is no such folder.
    """
    found = folder.stat()
    if os.name == "nt" or not found.st_mode & OTHERS_WRITE:
        return False
    try:
        folder.chmod(stat.S_IMODE(found.st_mode) & ~OTHERS_WRITE)  # some file systems ignore it
    except OSError as exc:
        if _gives_files_to(folder, found.st_uid):
            return False
        raise UsageError(
            f"other users may write to {folder.resolve()}; run chmod go-w on it, remove it, or keep the parts elsewhere "
            "with --work-dir FOLDER (work_dir)"
        ) from exc
    return not folder.stat().st_mode & OTHERS_WRITE


def others_may_write(file: int, folder: Path) -> bool:
    """Tell whether other users may write to an open file in a folder of our own.

    What a file system reports for every file, however it was created, does not count.
    """
    if os.name == "nt":
        return False
    found = os.fstat(file)
    if found.st_uid not in (0, os.geteuid(), folder.stat().st_uid):
        return True
    return bool(found.st_mode & OTHERS_WRITE) and keeps_modes(folder)


def keeps_modes(folder: Path) -> bool:
    """Tell whether the permissions of files in a folder mean something: some file systems report the same for all."""
    with suppress(OSError), TemporaryFile(dir=folder) as file:
        return not os.fstat(file.fileno()).st_mode & OTHERS_WRITE
    return True  # this user may not write there


def _has_trusted_owner(folder: Path, owner: int) -> bool:
    """Tell whether a folder belongs to this user, to root, or to the owner of all new files; always true on Windows."""
    return os.name == "nt" or owner in (0, os.geteuid()) or _gives_files_to(folder, owner)


def _gives_files_to(folder: Path, owner: int) -> bool:
    """Tell whether a new file belongs to its folder's owner, as on a network file system that has only one owner."""
    try:
        with TemporaryFile(dir=folder) as file:
            return os.fstat(file.fileno()).st_uid == owner
    except OSError:
        return False
