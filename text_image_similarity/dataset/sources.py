"""The tables of a data set: one for each of its splits, from files or from the hub.

Nothing here knows what an image or a caption is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# In this order a photo that is in several is kept by the last one: what is tested must not have been trained on.
SPLITS = ("train", "validation", "test")
OTHER_NAMES = {"val": "validation", "valid": "validation", "dev": "validation"}


@dataclass(frozen=True, slots=True)
class SplitTable:
    """The rows of a split, or of a source without splits; they can be read several times.

    Args:
        name: What messages call it.
        columns: Finds the names of its columns; JSON Lines are read through for them.
        rows: Starts a pass: yields where each row is, such as "row 3 of pairs.csv", and its values in some columns.
        folder: Where relative references start from; None if it lies in no folder of this machine.
        images: The column of images, where the table's kind says which it is.
    """

    name: str
    columns: Callable[[], Sequence[str]]
    rows: Callable[[Sequence[str]], Iterator[tuple[str, tuple[Any, ...]]]]
    folder: Path | None = None
    images: str | None = None


def split_name(name: str) -> str:
    """Return the name of a split as it is used here: `val`, `valid` and `dev` are `validation`."""
    return OTHER_NAMES.get(name, name)
