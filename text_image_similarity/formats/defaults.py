"""The default columns of images and captions."""

from __future__ import annotations

import pyarrow as pa

from .arrow_types import may_hold_images
from .table import Table, columns_of

URL, CAPTION, TEXT = "url", "caption", "text"
_IMAGES = ("image", "img", "jpg", "jpeg", "png", "webp")  # names used on the hub and by img2dataset


def choose_columns(table: Table, col_url: str | None, col_text: str | None) -> tuple[str, str]:
    """Return the columns of images and of captions.

    Args:
        table: The table, whose attributes `images` and `captions` decide if its format sets them. Otherwise images are
            in the only column of bytes, or of Hugging Face's structs, that is called `image`, `img`, `jpg`, `jpeg`,
            `png` or `webp`; otherwise in `url`; otherwise in the only such column of any name. Captions are in
            `caption`, or in `text` if the table holds images and has no `caption`.
        col_url: Column of images, if it was given.
        col_text: Column of captions, if it was given.

    Returns:
        Both names, which need not exist in the table; its columns are checked elsewhere.
    """
    images = col_url or _images_of(table)
    return images, col_text or _captions_of(table, images)


def image_candidates(table: Table) -> list[str]:
    """Return the columns whose type allows images or lists of images, although lists cannot be read."""
    return [field.name for field in table.schema if _may_be_image(getattr(field.type, "value_type", field.type))]


def _images_of(table: Table) -> str:
    if table.images is not None:
        return table.images
    columns = columns_of(table)
    typed: list[str] = [field.name for field in table.schema if _may_be_image(field.type)]
    known = [name for name in typed if name in _IMAGES]
    if len(known) == 1:
        return known[0]
    return typed[0] if len(typed) == 1 and URL not in columns else URL


def _may_be_image(kind: pa.DataType) -> bool:
    return may_hold_images(kind) and not pa.types.is_fixed_size_binary(kind)  # member names are hashes or numbers


def _captions_of(table: Table, images: str) -> str:
    if table.captions is not None:
        return table.captions
    columns = columns_of(table)
    inside = columns.count(images) == 1 and may_hold_images(table.schema.field(images).type)
    return TEXT if inside and CAPTION not in columns and TEXT in columns else CAPTION
