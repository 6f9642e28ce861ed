"""The tables of a data set: one per split, from files or from the hub.

This module does not deal with images and captions themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# A photo in several splits stays in the last of them, in this order: a model must not be trained on test photos.
SPLITS = ("train", "validation", "test")
URL = "url"  # column of images unless another one is named or found
OTHER_NAMES = {"val": "validation", "valid": "validation", "dev": "validation"}


@dataclass(frozen=True, slots=True)
class SplitTable:
    """The rows of a split, or of a source without splits, which can be read several times.

    Args:
        name: Name in messages.
        columns: Function that returns the names of the columns; it reads JSON Lines to their end.
        rows: Function that yields, for each row, its location, such as "row 3 of pairs.csv", and its values in some
            columns.
        folder: Folder that relative references start from; None if the table is not in a local folder.
        images: Function that returns the column of images, if the format of the table or the types of its columns
            determine it; it may read as much as `columns`.
    """

    name: str
    columns: Callable[[], Sequence[str]]
    rows: Callable[[Sequence[str]], Iterator[tuple[str, tuple[Any, ...]]]]
    folder: Path | None = None
    images: Callable[[], str | None] = lambda: None


def split_name(name: str) -> str:
    """Return the canonical name of a split: `val`, `valid` and `dev` are `validation`."""
    return OTHER_NAMES.get(name, name)
