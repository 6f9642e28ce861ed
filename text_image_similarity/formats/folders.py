"""Folders that hold images rather than tables, and what img2dataset writes beside its shards."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from .names import IMAGE_ENDINGS, TEXT_ENDINGS, ending_of, format_of

_CAPTIONS = re.compile(r"(captions|.*\.token)\.txt|.*\.token", re.IGNORECASE)
_STATS = re.compile(r"(\d+)_stats\.json")


def holds_pictures(folder: Path) -> bool:
    """Whether a folder holds images with captions of the same names, directly or in its folders, but no table of them.

    A table of img2dataset, such as `00000.parquet` beside the folder `00000`, does not count: it repeats what lies there.
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
    """Return the files of a folder; beside tar shards not what img2dataset says about each of them.

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
    """Return the name of the shard that a file is about, if it is about one."""
    stats = _STATS.fullmatch(name)
    return stats[1] if stats else _stem(name) if name.endswith(".parquet") else ""
