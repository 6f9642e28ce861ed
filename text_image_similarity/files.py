"""Files that appear under their name complete, or not at all."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from .errors import TableError


def write_whole(path: Path, text: str) -> None:
    """Write a text file beside its place and move it there, so that a reader or a crash never meets half of it.

    Raises:
        TableError: It cannot be written.
    """
    place = path.resolve()  # a link stays, what it leads to is replaced
    partial = place.with_name(f".text-image-similarity-{os.getpid()}-{secrets.token_hex(4)}.partial")
    try:
        try:
            with partial.open("x", encoding="utf-8", newline="") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(place)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as exc:
        raise TableError(f"{path} cannot be written: {exc.strerror or exc}") from exc
