"""What a cell of a table holds: an image or a reference to one, and captions."""

from __future__ import annotations

from collections.abc import Iterator

from ..fetch import strip_invisible
from ..records import caption_of, reference_of


def is_text_in_bytes(value: object) -> bool:
    """Whether bytes hold what is rather a reference, stored as a column of binary: no image begins with a line of text."""
    return (
        isinstance(value, bytes)
        and value != b""
        and value[:200].isascii()
        and value[:200].decode("ascii").isprintable()
    )


def find_image(value: object) -> tuple[str, bytes | str] | None:
    """Return a cell's picture as (path, bytes) or (reference, reference), or None if it has neither."""
    path: object = ""
    if isinstance(value, dict):  # the struct of the hub's sets
        path = value.get("path")
        value = value.get("bytes") or path
    if isinstance(value, bytes):
        return ((path if isinstance(path, str) else ""), value) if value else None
    found = reference_of(value)
    reference = strip_invisible(found) if isinstance(found, str) else ""
    return (reference, reference) if reference else None


def list_captions(value: object) -> Iterator[str]:
    """Yield the captions of a cell, of which a list may hold several; none is blank."""
    for one in value if isinstance(value, list) else [value]:
        if isinstance(caption := caption_of(one), str):
            yield caption.strip()
