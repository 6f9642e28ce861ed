"""Folders of images instead of tables, and the files that img2dataset writes next to its shards."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from .names import TEXT_ENDINGS, ending_of, format_of, is_image

_CAPTIONS = re.compile(r"(captions|.*\.token)\.txt|.*\.token", re.IGNORECASE)
_STATS = re.compile(r"(\d+)_stats\.json")


def holds_images(folder: Path) -> bool:
    """Tell whether a folder and its subfolders contain images, with or without caption files, but no table of them.

    A table written by img2dataset, such as `00000.parquet` next to the folder `00000`, does not count: it repeats the
    folder's content.
    """
    for entry in folder.iterdir():
        if entry.name.startswith((".", "_")):
            continue
        ending = ending_of(entry.name)
        beside = ending == ".parquet" and entry.with_suffix("").is_dir()
        if (ending and not beside) or _CAPTIONS.fullmatch(entry.name):
            return False
    images = texts = tables = False
    for name in _names(folder):
        images, texts, tables = images or is_image(name), texts or _is_text(name), tables or bool(ending_of(name))
        if images and texts:
            return True
    return images and not tables


def has_captions(folder: Path) -> bool:
    """Tell whether a folder and its subfolders contain caption files."""
    return any(map(_is_text, _names(folder)))


def image_in(folder: Path) -> str:
    """Return the name of an image in a folder or its subfolders; empty if there is none."""
    return next(filter(is_image, _names(folder)), "")


def shards_among(files: Sequence[str]) -> list[str]:
    """Return the files of a folder, without the files that img2dataset writes about each tar shard.

    Example:
        >>> shards_among(["00000.parquet", "00000.tar", "00000_stats.json"])
        ['00000.tar']
    """
    names = {file: PurePosixPath(file).name for file in files}
    shards = {_stem(name) for name in names.values() if _is_shard(name)}
    return [file for file, name in names.items() if _is_shard(name) or _about(name) not in shards]


def _names(folder: Path) -> Iterator[str]:
    """Yield the names of all files in a folder and its subfolders, except hidden ones."""
    for _, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name[0] not in "._")
        yield from sorted(name for name in names if name[0] not in "._")


def _is_text(name: str) -> bool:
    return name.lower().rpartition(".")[2] in TEXT_ENDINGS and not _STATS.fullmatch(name)


def _is_shard(name: str) -> bool:
    return bool(ending_of(name)) and format_of(name).kind == "tar"


def _stem(name: str) -> str:
    return name.removesuffix(ending_of(name))


def _about(name: str) -> str:
    """Return the name of the shard that a file describes, if any."""
    stats = _STATS.fullmatch(name)
    return stats[1] if stats else _stem(name) if name.endswith(".parquet") else ""
