"""Folders of images instead of tables, and the files that img2dataset writes next to its shards."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from .names import IMAGE_ENDINGS, TEXT_ENDINGS, ending_of, format_of

_CAPTIONS = re.compile(r"(captions|.*\.token)\.txt|.*\.token", re.IGNORECASE)
_STATS = re.compile(r"(\d+)_stats\.json")


def holds_pictures(folder: Path) -> bool:
    """Tell whether a folder, or its subfolders, hold images and caption files of the same names, but no table of them.

    A table of img2dataset, such as `00000.parquet` next to the folder `00000`, does not count: it repeats the folder's
    content.
    """
    for entry in folder.iterdir():
        if entry.name.startswith((".", "_")):
            continue
        ending = ending_of(entry.name)
        beside = ending == ".parquet" and entry.with_suffix("").is_dir()
        if (ending and not beside) or _CAPTIONS.fullmatch(entry.name):
            return False
    there: set[str] = set()
    for _, _, names in os.walk(folder):
        there.update(
            name.lower().rpartition(".")[2] for name in names if name[0] not in "._" and not _STATS.fullmatch(name)
        )
        if not there.isdisjoint(IMAGE_ENDINGS) and not there.isdisjoint(TEXT_ENDINGS):
            return True
    return False


def shards_among(files: Sequence[str]) -> list[str]:
    """Return the files of a folder, without the files that img2dataset writes about each tar shard.

    Example:
        >>> shards_among(["00000.parquet", "00000.tar", "00000_stats.json"])
        ['00000.tar']
    """
    names = {file: PurePosixPath(file).name for file in files}
    shards = {_stem(name) for name in names.values() if _is_shard(name)}
    return [file for file, name in names.items() if _is_shard(name) or _about(name) not in shards]


def _is_shard(name: str) -> bool:
    return bool(ending_of(name)) and format_of(name).kind == "tar"


def _stem(name: str) -> str:
    return name.removesuffix(ending_of(name))


def _about(name: str) -> str:
    """Return the name of the shard that a file describes, if any."""
    stats = _STATS.fullmatch(name)
    return stats[1] if stats else _stem(name) if name.endswith(".parquet") else ""
