"""Which columns hold images and captions, where nobody says so."""

from __future__ import annotations

import pyarrow as pa

from .arrow_types import may_hold_images
from .table import Table, columns_of

URL, CAPTION, TEXT = "url", "caption", "text"
_IMAGES = ("image", "img", "jpg", "jpeg", "png", "webp")  # what sets of the hub and img2dataset call a column of images


def choose_columns(table: Table, col_url: str | None, col_text: str | None) -> tuple[str, str]:
    """Return the columns of images and of captions.

    Args:
        table: Its own columns are `images` and `captions`, if it says so. Else images are in the only column of bytes, or of structs
            as Hugging Face's, that is called `image`, `img`, `jpg`, `jpeg`, `png` or `webp`; else in `url`; else in the only such
            column of any name. Captions are in `caption`; if the table holds images and has no `caption`, `text` takes its place.
        col_url: The column of images, if it is given.
        col_text: The column of captions, if it is given.

    Returns:
        Both names; those that the table lacks are found by whoever checks its columns.
    """
    images = col_url or _images_of(table)
    return images, col_text or _captions_of(table, images)


def image_candidates(table: Table) -> list[str]:
    """Return the columns that hold images by their type, or lists of images; one of lists is named, although it cannot be read."""
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
    return may_hold_images(kind) and not pa.types.is_fixed_size_binary(kind)  # which is a hash or a number


def _captions_of(table: Table, images: str) -> str:
    if table.captions is not None:
        return table.captions
    columns = columns_of(table)
    inside = columns.count(images) == 1 and may_hold_images(table.schema.field(images).type)
    return TEXT if inside and CAPTION not in columns and TEXT in columns else CAPTION
