"""Images, references and captions in the cells of a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ..errors import ErrorCode, RowError
from ..fetch import strip_invisible
from ..records import caption_of, image_of


def find_image(value: object) -> tuple[str, bytes | str] | RowError:
    """Return a cell's image as (path, bytes) or (reference, reference), or the reason why the cell has none."""
    found = image_of(value)
    if isinstance(found, RowError):
        return found
    if isinstance(found, bytes):
        path = value.get("path") if isinstance(value, Mapping) else None
        return ((path if isinstance(path, str) else ""), found) if found else RowError(ErrorCode.EMPTY_BODY, "0 bytes")
    reference = strip_invisible(found)
    return reference, reference


def list_captions(value: object) -> Iterator[str | RowError]:
    """Yield the captions in a cell, which is a caption or a list of captions, except blank ones.

    A caption that is too long is an error.
    """
    for one in value if isinstance(value, list) else [value]:
        caption = caption_of(one)
        if isinstance(caption, str):
            yield caption.strip()
        elif caption.code is not ErrorCode.EMPTY_CAPTION:
            yield caption
