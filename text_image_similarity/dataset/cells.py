"""What a cell of a table holds: an image or a reference to one, and captions."""

from __future__ import annotations

import math
from collections.abc import Iterator


def find_image(value: object) -> tuple[str, bytes | str] | None:
    """Return a cell's picture as (path, bytes) or (reference, reference), or None if it has neither."""
    path: object = ""
    if isinstance(value, dict):  # the struct of the hub's sets
        path = value.get("path")
        value = value.get("bytes") or path
    if isinstance(value, bytes):
        return ((path if isinstance(path, str) else ""), value) if value else None
    reference = _as_text(value)
    return (reference, reference) if reference else None


def list_captions(value: object) -> Iterator[str]:
    """Yield the captions of a cell, of which a list may hold several; none is blank."""
    for one in value if isinstance(value, list) else [value]:
        if text := _as_text(one):
            yield text


def _as_text(value: object) -> str:
    """Return a text, or a finite number as CSV would hold it; any other value has no text."""
    if isinstance(value, str):
        return value.strip()
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return str(value) if is_number else ""
