"""Where the repository lies."""

from __future__ import annotations

import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


def copy_challenge_set(folder: Path) -> None:
    """Put the challenge set into a folder: its table, and its pictures, which a link would lead out of the table's folder."""
    shutil.copy(ROOT / "challenge_set.csv", folder)
    shutil.copytree(ROOT / "challenge_set", folder / "challenge_set")
