"""What callers hand in, on its way into a run: references, images in memory, rows cut into parts."""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterable, Iterator
from hashlib import blake2b
from itertools import chain, islice

from ..errors import RowError
from ..preprocess import ImageLike
from ..records import Record, ScoreResult, with_texts
from .inputs import check_record
from .rows import Item, Work

EncodedImage = bytes | bytearray | memoryview
# A path or URL, an image in memory, or an encoded file.
ImageSource = str | os.PathLike[str] | ImageLike | EncodedImage


def in_parts(items: Iterable[Item], size: int) -> Iterator[Iterator[Item]]:
    """Cut an iterable lazily; a part is to be used up before the next one is asked for."""
    rest = iter(items)
    for first in rest:
        yield chain([first], islice(rest, size - 1))


def work_of(record: Record | ScoreResult) -> Work[str] | RowError | ScoreResult:
    """Return what a run does for a record, or why it has no score; a result that is known already stays.

    Raises:
        InputTypeError: It is not a record, or holds an image where its reference belongs.
    """
    if isinstance(record, ScoreResult):
        return record
    check_record(record, "a record")
    pair = with_texts(record)
    return pair if isinstance(pair, RowError) else Work(_key(pair.url), pair.url, pair.text, pair.references)


def key_of(image: ImageSource, number: int) -> Hashable:
    """Return what stands for an image among those within reach: its reference, or its number for one in memory."""
    return _key(str(image)) if isinstance(image, (str, os.PathLike)) else number


def _key(url: str) -> Hashable:
    """Return a reference, or the digest of a long data: URL."""
    return url if len(url) <= 256 else blake2b(url.encode("utf-8", "surrogatepass"), digest_size=16).digest()
