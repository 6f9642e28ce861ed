"""Write a folder that appears complete or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import ModelError, UsageError
from ..files import place_of
from ..folders import private_folder


@contextmanager
def whole_folder(place: Path, *, replaces: Callable[[Path], bool]) -> Iterator[Path]:
    """Yield an empty folder next to `place`, and move it to `place` at the end of the block.

    If the block raises, nothing changes. A folder that a killed process left behind is deleted by a later process
    that uses the same parent folder, at least a day afterwards; on Windows, such a folder remains.

    Args:
        place: Final path of the folder.
        replaces: Function that tells whether an existing folder may be replaced.

    Raises:
        UsageError: Something that may not be replaced exists at `place`.
        ModelError: The folder cannot be written.
    """
    check_free(place, replaces=replaces)
    place = place_of(place.expanduser())
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with private_folder(place.parent) as staging:
            made = staging / "whole"
            made.mkdir()
            yield made
            if place.exists():
                _set_aside(place, staging / "replaced", replaces)
            made.rename(place)
    except OSError as exc:
        raise ModelError(f"{place} cannot be written: {exc}") from exc


def check_free(place: Path, *, replaces: Callable[[Path], bool]) -> None:
    """Check that a folder can be written to a place without deleting anything that must be kept.

    Raises:
        UsageError: The place holds a file, or a folder that is not empty and may not be replaced.
    """
    there = place.expanduser()
    if there.exists() and not (there.is_dir() and (not any(there.iterdir()) or replaces(there))):
        raise UsageError(
            f"{place} already exists; name a new folder, or use --force (force=True), which replaces only earlier exports"
        )


def _set_aside(place: Path, aside: Path, replaces: Callable[[Path], bool]) -> None:
    """Move a folder away to be deleted, unless another one that must be kept has been put there in the meantime."""
    place.rename(aside)
    try:
        check_free(aside, replaces=replaces)
    except UsageError:
        aside.rename(place)
        check_free(place, replaces=replaces)
        raise
