"""The tables of a data set: one for each of its splits, from files or from the hub.

Nothing here knows what an image or a caption is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ..formats import Table, columns_of, ending_of, folder_of, list_folder, open_files, open_table, read_rows

# In this order a photo that is in several is kept by the last one: what is tested must not have been trained on.
SPLITS = ("train", "validation", "test")
_OTHER_NAMES = {"val": "validation", "valid": "validation", "dev": "validation"}
_FILE_OF_SPLIT = re.compile(r"([A-Za-z]+)(?:-\d+-of-\d+)?")


@dataclass(frozen=True, slots=True)
class SplitTable:
    """The rows of a split, or of a source without splits; they can be read several times.

    Args:
        name: What messages call it.
        columns: Finds the names of its columns; JSON Lines are read through for them.
        rows: Starts a pass: yields where each row is, such as "row 3 of pairs.csv", and its values in some columns.
        folder: Where relative references start from; None if it lies in no folder of this machine.
    """

    name: str
    columns: Callable[[], Sequence[str]]
    rows: Callable[[Sequence[str]], Iterator[tuple[str, tuple[Any, ...]]]]
    folder: Path | None = None


def split_name(name: str) -> str:
    """Return the name of a split as it is used here: `val`, `valid` and `dev` are `validation`."""
    return _OTHER_NAMES.get(name, name)


def file_tables(place: str) -> dict[str, SplitTable]:
    """Open a file, a folder or a pattern: one table for each split, or one named "" where the files are not splits.

    Args:
        place: A path or an fsspec URL. Files of a folder, or of `data` in it, are splits if they are named after them.

    Raises:
        UsageError: There is no table.
        TableError: It cannot be read.
    """
    for folder in (place, f"{place.rstrip('/')}/data"):  # the hub keeps the files of a set in data/
        files: dict[str, list[str]] = {}
        for file in list_folder(folder):
            name = Path(file).name
            ending = ending_of(name)
            if ending and (match := _FILE_OF_SPLIT.fullmatch(name.removesuffix(ending))):
                files.setdefault(split_name(match.group(1)), []).append(file)
        if found := [name for name in SPLITS if name in files]:
            return {name: _split_table(open_files(files[name], folder), files[name][0]) for name in found}
    return {"": _split_table(open_table(place), place)}


def _split_table(table: Table, place: str) -> SplitTable:
    return SplitTable(place, partial(columns_of, table), partial(read_rows, table), folder_of(place))
