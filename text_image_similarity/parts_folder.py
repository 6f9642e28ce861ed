"""The files in a folder of parts: their names, whether a run created the folder, and who else may have changed a file.

A run has created a folder if it contains the manifest of a run, or nothing but files that runs leave behind. Any other
folder may have been put there by someone who may write to its parent folder; it is refused, and nothing in it is
deleted.
"""

from __future__ import annotations

import re
import stat
from pathlib import Path

from .bounded_json import parse_json
from .errors import UsageError, printable
from .files import read_own
from .folders import others_may_write

MANIFEST = "manifest.jsonl"
PART = re.compile(r"part-(\d{6,}\.[a-z]+(\.partial)?|(manifest|output|summary)\.partial)")  # what a run may remove
_OURS = re.compile(rf"{PART.pattern}|{MANIFEST}|lock|holder\.json|output|\.nfs[0-9a-f]+")  # NFS renames removed files


class UntrustedError(ValueError):
    """Other users may write to a file."""


def check_made_by_run(folder: Path, name: Path) -> None:
    """Refuse a folder that no run has created, before anything in it is changed; an empty folder may be used.

    A folder with the manifest of a run is accepted, whatever else it contains: a run removes only its own files.

    Args:
        folder: Path that leads to the folder.
        name: The folder's own path, for messages.

    Raises:
        UsageError: The folder has no manifest of a run, and it has no lock or contains other files.
    """
    names = sorted(path.name for path in folder.iterdir())
    if not names or (MANIFEST in names and _is_manifest(folder / MANIFEST)):
        return
    others = [each for each in names if not _OURS.fullmatch(each)]
    if others or "lock" not in names or not stat.S_ISREG((folder / "lock").lstat().st_mode):
        if others:
            problem = f"it contains {printable(others[0])}"
        elif MANIFEST in names:
            problem = f"its {MANIFEST} is not that of a run"
        else:
            problem = "no run has left a lock in it"
        raise UsageError(
            f"{name} is not a folder of parts: {problem}; rename or remove it, write the output to another folder, or keep "
            "the parts elsewhere with --work-dir FOLDER (work_dir)"
        )


def read_trusted(path: Path) -> bytes:
    """Return the content of a file in a folder of parts, provided that no one else may write to the file.

    Raises:
        UntrustedError: Other users may write to the file.
        OSError, TableError: The file cannot be read.
    """
    with read_own(path) as file:
        if others_may_write(file.fileno(), path.parent):
            raise UntrustedError("other users may write to it")
        return file.read()


def _is_manifest(path: Path) -> bool:
    """Tell whether a file begins like the manifest of a run."""
    with read_own(path) as file:
        try:
            header = dict(parse_json(file.readline().decode(errors="replace")))
        except (ValueError, TypeError):
            return False
    return {"layout", "versions", "run"} <= header.keys()
