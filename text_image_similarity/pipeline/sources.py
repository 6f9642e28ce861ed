"""Conversion of arguments into the work of a run: references, images in memory, rows cut into parts."""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterable, Iterator
from hashlib import sha256
from itertools import chain, islice

from ..errors import RowError
from ..preprocess import ImageLike
from ..records import ImageCell, Record, ScoreResult, parts_of
from .inputs import check_record
from .rows import Item, Work

# A path or URL, an encoded file, or an image in memory.
ImageSource = ImageCell | os.PathLike[str] | ImageLike


def in_parts(items: Iterable[Item], size: int) -> Iterator[Iterator[Item]]:
    """Cut an iterable into parts, lazily; each part must be consumed before the next one is requested."""
    rest = iter(items)
    for first in rest:
        yield chain([first], islice(rest, size - 1))


def work_of(record: Record | ScoreResult) -> Work[str | bytes] | RowError | ScoreResult:
    """Return the work for a record, or why it has no score; a result that is already known is returned unchanged.

    Raises:
        InputTypeError: The value is not a record, or holds an image that is not an encoded file.
    """
    if isinstance(record, ScoreResult):
        return record
    check_record(record, "a record")
    found = parts_of(record)
    return found if isinstance(found, RowError) else Work(_key(found[0]), *found)


def key_of(image: ImageSource, number: int) -> Hashable:
    """Return the key of an image in the look-ahead: its reference, or its number if it is in memory."""
    return _key(str(image)) if isinstance(image, (str, os.PathLike)) else number


def _key(image: str | bytes) -> Hashable:
    """Return a reference itself, or the digest of a file or a long data: URL."""
    if isinstance(image, str):
        if len(image) <= 256:
            return image
        image = image.encode("utf-8", "surrogatepass")
    return sha256(image).digest()  # most processors have instructions for it: 75 KB take 50 µs, with BLAKE2b 130
