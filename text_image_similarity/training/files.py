"""Checks of a run's folder before the run starts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..files import CALIBRATION, place_of
from ..formats.names import is_image
from .checkpoint import NAME as CHECKPOINT
from .curves import CURVES

FILES = ("config.json", "model.safetensors", "tokenizer.json", CALIBRATION, "history.json")


def check_links(place: Path) -> None:
    """Check that no file that the run writes is a link out of its folder, which would otherwise be refused hours later.

    Raises:
        UsageError: A file is a link out of the folder.
    """
    for name in (CHECKPOINT, *FILES, *CURVES):
        place_of(place / name)


def check_unused(folder: Path, place: Path) -> None:
    """Check that a folder contains no images, and no files that a new run would overwrite.

    Args:
        folder: The folder, for messages.
        place: Path under which the folder's files are accessed.

    Raises:
        UsageError: The folder contains such a file.
    """
    if (place / CHECKPOINT).exists():
        raise UsageError(f"{folder} already contains a run; continue with --resume, or name another folder")
    if (place / "config.json").exists():
        raise UsageError(f"{folder} contains a model but no checkpoint to resume from; name another folder")
    if others := [name for name in (*FILES, *CURVES) if (place / name).exists()]:
        raise UsageError(f"{folder} contains {others[0]}, which would be overwritten; name another folder")
    if photo := next((path for path in place.iterdir() if is_image(path.name)), None):
        raise UsageError(
            f"{folder} contains the image {photo.name}, so a model must not be written there; name a new folder"
        )


def check_same(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Check that a run that resumes has the settings with which it began.

    Raises:
        UsageError: A setting differs.
    """
    changed = [
        f"{key} was {before.get(key)!r} and is now {value!r}" for key, value in now.items() if before.get(key) != value
    ]
    if changed:
        raise UsageError(
            f"{folder} contains a run with other settings: {'; '.join(changed)}; resume it with its own settings"
        )
