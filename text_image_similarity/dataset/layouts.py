"""The layouts of data sets in folders, and their splits.

These layouts are tried in order: tables named after splits (`train.parquet`, `test-00000-of-00002.csv`); an imagefolder
of the library `datasets`, which is a `metadata.jsonl`, `.csv` or `.parquet` next to the images, in one folder or in one
per split; a `captions.txt` as in the Flickr data sets; otherwise the files are parts of one table, which may be tar
shards, or images and text files with the same names.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

from ..config import Dialect
from ..errors import TableError, UsageError
from ..files import on_other_share
from ..formats import (
    Table,
    check_captions,
    choose_columns,
    columns_of,
    ending_of,
    folder_of,
    is_captions_file,
    is_image_folder,
    is_url,
    list_folder,
    local_path,
    open_files,
    open_table,
    read_captions,
    read_rows,
)
from .sources import OTHER_NAMES, SPLITS, URL, SplitTable, split_name

logger = logging.getLogger("text_image_similarity")

FILE_NAME = "file_name"  # imagefolder's column of references

_FILE_OF_SPLIT = re.compile(r"([A-Za-z]+)(?:-\d+-of-\d+)?")
_LOOKED_FOR = 100  # images of a captions file to look for when finding their folder


def file_tables(place: str, dialect: Dialect | None = None) -> dict[str, SplitTable]:
    """Open a file, a folder or a pattern: one table per split, or one table named "" if there are no splits.

    Args:
        place: A path or an fsspec URL. The files of a folder may also be in its subfolder `data`.
        dialect: Dialect of CSV and TSV files; None means the one for their suffix.

    Raises:
        UsageError: No table is found.
        TableError: A file cannot be read.
    """
    for folder in (place, f"{place.rstrip('/')}/data"):  # data sets on the hub have their files in data/
        files = list_folder(folder)
        found = _split_files(folder, files, dialect) or _image_folder(folder, files, dialect)
        if found := found or _captions(folder, files, dialect):
            _warn_of_others(folder, found)
            return found
        if files and not any(map(ending_of, files)) and not is_image_folder(folder):
            raise UsageError(
                f"{folder} contains no table of captions: no metadata.jsonl or metadata.csv, no captions.txt, and no other "
                "file that ends in .csv, .tsv, .jsonl or .parquet"
            )
    if is_captions_file(place):
        return {"": _captions_table(place, dialect)}
    table = open_table(place, dialect=dialect)
    check_captions(table, place)
    return {"": _split_table(table, place)}


def _split_files(folder: str, files: Sequence[str], dialect: Dialect | None) -> dict[str, SplitTable]:
    """Return the tables by split, from those files of a folder that are named after splits."""
    named: dict[str, list[str]] = {}
    for file in files:
        name = Path(file).name
        ending = ending_of(name)
        if ending and (match := _FILE_OF_SPLIT.fullmatch(name.removesuffix(ending))):
            named.setdefault(split_name(match.group(1)), []).append(file)
    return {
        name: _split_table(open_files(named[name], folder, dialect=dialect), named[name][0])
        for name in SPLITS
        if name in named
    }


def _image_folder(folder: str, files: Sequence[str], dialect: Dialect | None) -> dict[str, SplitTable]:
    """Return the tables of an imagefolder: one per split, or a single table, split by the folders of its images."""
    if ending_of(folder):  # a table, so there is no need to list folders in a store
        return {}
    folders = {name: f"{folder.rstrip('/')}/{name}" for name in (*SPLITS, *OTHER_NAMES)}
    inside = {name: list_folder(path) for name, path in folders.items()}
    if own := _metadata(folder, files):
        table = _split_table(open_table(own, dialect=dialect), own)
        splits = {split_name(name) for name, found in inside.items() if found}
        if not splits or FILE_NAME not in table.columns():
            return {"": table}
        return {name: replace(table, rows=partial(_rows_of, table, name, splits)) for name in SPLITS if name in splits}
    found: dict[str, str] = {}
    for name, path in folders.items():
        if file := _metadata(path, inside[name]):
            if other := found.get(split_name(name)):
                raise UsageError(
                    f"{other} and {file} belong to the same split, {split_name(name)}; merge their folders"
                )
            found[split_name(name)] = file
    return {
        name: _split_table(open_table(found[name], dialect=dialect), found[name]) for name in SPLITS if name in found
    }


def _metadata(folder: str, files: Sequence[str]) -> str | None:
    """Return a folder's metadata file, if that is its only table."""
    tables = [file for file in files if ending_of(file)]
    named = [file for file in tables if Path(file).name.removesuffix(ending_of(file)).lower() == "metadata"]
    if len(named) > 1:
        raise UsageError(f"{folder} holds {' and '.join(Path(file).name for file in named)}; remove one, or name one")
    return named[0] if named and tables == named else None


def _rows_of(
    table: SplitTable, split: str, splits: set[str], columns: Sequence[str]
) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Yield the rows whose image is in a split's folder."""
    for where, (*values, name) in table.rows([*columns, FILE_NAME]):
        folder = split_name(next(iter(PurePosixPath(str(name)).parts), "")) if name else split
        if folder not in splits:
            raise TableError(
                f"the image of {where} ({name}) is not in any of the folders {', '.join(sorted(splits))}; move it into "
                f"one of them, or name {table.name} itself to use all its rows as one set"
            )
        if folder == split:
            yield where, tuple(values)


def _warn_of_others(folder: str, tables: Mapping[str, SplitTable]) -> None:
    """Log which metadata files in a local folder are not read."""
    read = {table.name for table in tables.values()}
    for path in [] if is_url(folder) else sorted(local_path(folder).glob("*/metadata.*")):
        if ending_of(path.name) and str(path) not in read:
            logger.warning("%s is ignored, because %s is used instead", path, ", ".join(sorted(read)))


def _captions(folder: str, files: Sequence[str], dialect: Dialect | None) -> dict[str, SplitTable]:
    """Return the table of a folder's `captions.txt`, if that is its only table."""
    found = [file for file in files if Path(file).name == "captions.txt"]
    return {"": _captions_table(found[0], dialect)} if found and not any(map(ending_of, files)) else {}


def _captions_table(place: str, dialect: Dialect | None) -> SplitTable:
    names = [name for _, (name, _) in islice(read_captions(place, dialect), _LOOKED_FOR)]

    def rows(columns: Sequence[str]) -> Iterator[tuple[str, tuple[Any, ...]]]:
        for where, pair in read_captions(place, dialect):
            row = dict(zip(("image", "caption"), pair, strict=True))
            yield where, tuple(row[column] for column in columns)

    return SplitTable(place, lambda: ("image", "caption"), rows, _folder_with(names, folder_of(place)))


def _folder_with(names: Sequence[str], folder: Path | None) -> Path | None:
    """Return the folder that holds the images: a captions file's own folder, or a subfolder such as `Images`."""
    if folder is None:
        return None
    with suppress(OSError):
        for one in (folder, *sorted(path for path in folder.iterdir() if path.is_dir())):
            places = (one / name for name in names if name)
            if any(place.is_file() for place in places if not on_other_share(place, folder)):
                return one
    return folder


def _split_table(table: Table, place: str) -> SplitTable:
    def columns() -> Sequence[str]:
        found = columns_of(table)
        return found if table.images is None else [*found, table.images]

    def images() -> str | None:
        found, _ = choose_columns(table, None, None)
        return None if found == URL else found

    return SplitTable(place, columns, partial(read_rows, table), folder_of(place), images)
