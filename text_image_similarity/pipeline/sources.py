"""Convert arguments to the rows of a run: references, images in memory, rows cut into parts."""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import chain, islice, repeat
from typing import Any, Generic

import numpy as np

from ..errors import RowError
from ..preprocess import ImageLike
from ..records import MOST_CAPTION, ImageCell, Record, ScoreResult, caption_of, is_caption, is_plain, parts_of
from .inputs import check_record
from .rows import Item, Row, Tag

# A path or URL, an encoded file, or an image in memory.
ImageSource = ImageCell | os.PathLike[str] | ImageLike


_LONG = 256  # characters of a reference that are its key


def in_parts(items: Iterable[Item], size: int) -> Iterator[Iterator[Item]]:
    """Cut an iterable into parts, lazily; each part must be consumed before the next one is requested."""
    rest = iter(items)
    for first in rest:
        yield chain([first], islice(rest, size - 1))


@dataclass(frozen=True, slots=True)
class PlainColumns(Generic[Tag]):
    """The rows of a part as columns of references and captions, of which none needs a closer look.

    Like any other part, these columns yield their tag with a `Record` for each row. `rows_of` takes the columns as they
    are, in a fifth of the time.
    """

    tag: Tag
    images: Sequence[str]
    texts: Sequence[str]

    @classmethod
    def of(cls, tag: Tag, images: Sequence[Any], texts: Sequence[Any]) -> PlainColumns[Tag] | None:
        """Return two columns of the same length as a part; None if a value is missing, unusual or long."""
        plain = _all_plain(images) and max(map(len, images)) <= _LONG
        plain = plain and _all_plain(texts) and max(map(len, texts)) <= MOST_CAPTION
        return cls(tag, images, texts) if plain else None

    def __iter__(self) -> Iterator[tuple[Tag, Record]]:
        return zip(repeat(self.tag), map(Record, self.images, self.texts))


def rows_of(records: Iterable[tuple[Tag, Record | ScoreResult]]) -> Iterator[Row[Tag, str | bytes]]:
    """Yield the rows of tagged records; instead of an image, a row may hold a result or the reason why it has no score.

    Raises:
        InputTypeError: A value is not a record, or its image is neither a reference nor an encoded file.
    """
    if isinstance(records, PlainColumns):
        return zip(repeat(records.tag), records.images, records.images, records.texts, repeat(()))
    return _checked_rows(records)


def _checked_rows(records: Iterable[tuple[Tag, Record | ScoreResult]]) -> Iterator[Row[Tag, str | bytes]]:
    for tag, record in records:
        if type(record) is Record and is_caption(record.text) and is_plain(url := record.url) and len(url) <= _LONG:
            yield tag, url, url, record.text, record.references  # fast path for most rows
            continue
        if isinstance(record, ScoreResult):
            yield tag, None, record, "", ()
            continue
        check_record(record, "a record")
        found = parts_of(record)
        if isinstance(found, RowError):
            yield tag, None, found, "", ()
        else:
            image, text, references = found
            yield tag, _key(image), image, text, references


def rows_in_memory(images: Iterable[ImageSource], texts: Iterable[object]) -> Iterator[Row[None, ImageSource]]:
    """Yield the rows of images with their captions.

    Raises:
        ValueError: The numbers of images and captions differ.
    """
    for image, text in zip(images, texts, strict=True):
        caption = caption_of(text)
        if isinstance(caption, str):
            yield None, key_of(image), image, caption, ()
        else:
            yield None, None, caption, "", ()


def key_of(image: ImageSource) -> Hashable:
    """Return the key of an image in the look-ahead: its reference, or None if it is in memory."""
    if isinstance(image, np.ndarray):  # fast path: asking for a path takes longer
        return None
    return _key(str(image)) if isinstance(image, (str, os.PathLike)) else None


def _all_plain(values: Sequence[Any]) -> bool:
    """Tell whether `is_plain` holds for all of some values; calling it for each value would take ten times as long."""
    return {*map(type, values)} == {str} and min(values) >= "!" and max(values) < "\x7f"


def _key(image: str | bytes) -> Hashable:
    """Return a reference itself, or the digest of a file or a long data: URL."""
    if isinstance(image, str):
        if len(image) <= _LONG:
            return image
        image = image.encode("utf-8", "surrogatepass")
    return sha256(image).digest()  # most processors have instructions for it: 75 KB take 50 µs; BLAKE2b takes 130 µs
