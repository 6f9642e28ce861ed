"""Write a folder that appears complete or not at all."""

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
    """Yield an empty folder next to `place`, and move it to `place` at the end of the block.

    Folders left behind by killed processes are deleted. If the block raises, nothing changes.

    Args:
        place: Final path of the folder.
        replaces: Function that tells whether an existing folder may be replaced.

    Raises:
        UsageError: Something that may not be replaced exists at `place`.
        ModelError: The folder cannot be written.
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
    """Check that a folder can be written to a place without deleting anything that must be kept.

    Raises:
        UsageError: There is a file, or a folder that is not empty and may not be replaced.
    """
    there = place.expanduser()
    if there.exists() and not (there.is_dir() and (not any(there.iterdir()) or replaces(there))):
        raise UsageError(
            f"{place} already exists; name a new folder, or use --force (force=True), which replaces only earlier exports"
        )


def _delete_abandoned(folder: Path) -> None:
    try:
        with FileLock(folder / _LOCK, timeout=0):
            shutil.rmtree(folder, ignore_errors=True)
    except (OSError, Timeout):  # another process is using it
        pass
