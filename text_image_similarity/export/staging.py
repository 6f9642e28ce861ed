"""A folder that appears complete or not at all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from ..errors import ModelError, UsageError

_LOCK = "lock"


@contextmanager
def whole_folder(place: Path, *, replaces: Callable[[Path], bool]) -> Iterator[Path]:
    """Give an empty folder next to `place`, which is moved there at the end of the block.

    What a killed process left behind is deleted. If the block raises, nothing has changed.

    Args:
        place: Where the folder goes.
        replaces: Says whether a folder that is there already may be replaced.

    Raises:
        UsageError: There is something else.
        ModelError: It cannot be written.
    """
    check_free(place, replaces=replaces)
    place = place.expanduser().resolve()
    prefix = f".exporting-{place.name}-"
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        for left in place.parent.glob(prefix + "*"):
            _delete_abandoned(left)
        with tempfile.TemporaryDirectory(dir=place.parent, prefix=prefix) as name:
            staging = Path(name)
            with FileLock(staging / _LOCK, timeout=0):
                made = staging / "whole"
                made.mkdir()
                yield made
                if place.exists():
                    place.rename(staging / "replaced")
                made.rename(place)
    except OSError as exc:
        raise ModelError(f"{place} cannot be written: {exc}") from exc


def check_free(place: Path, *, replaces: Callable[[Path], bool]) -> None:
    """Refuse a place for a folder where something is that must stay.

    Raises:
        UsageError: It is a file, or a folder that is neither empty nor one that may be replaced.
    """
    there = place.expanduser()
    if there.exists() and not (there.is_dir() and (not any(there.iterdir()) or replaces(there))):
        raise UsageError(
            f"{place} exists already; name a new folder, or replace an earlier export, and nothing else, with --force (force=True)"
        )


def _delete_abandoned(folder: Path) -> None:
    try:
        with FileLock(folder / _LOCK, timeout=0):
            shutil.rmtree(folder, ignore_errors=True)
    except (OSError, Timeout):  # another process is at work in it
        pass
