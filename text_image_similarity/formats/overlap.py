"""Make sure that outputs are not inputs: a table must not overwrite itself or become part of the next run's input."""

from __future__ import annotations

import fnmatch

from ..errors import UsageError
from .storage import canonical, expand, is_url, local_path


def check_apart(source: str, *places: str) -> None:
    """Refuse outputs that belong to an input, or would belong to it once they are written.

    Args:
        source: A file, a folder or a pattern.
        places: Files to write.

    Raises:
        UsageError: An output belongs to the input, or the input does not exist.
    """
    table, files = canonical(source), {canonical(file) for file in expand(source)}
    for place in places:
        wanted = canonical(place)
        if wanted in files:
            raise UsageError(f"{place} is also the input and would be overwritten; name another output")
        is_folder = files != {table} or (not is_url(source) and local_path(source).is_dir())
        in_folder = is_folder and wanted.rpartition("/")[0] == table
        if in_folder or _matches(wanted.split("/"), table.split("/")):
            raise UsageError(f"{place} would be part of the input {source}; write it elsewhere")


def _matches(path: list[str], pattern: list[str]) -> bool:
    """Tell whether a glob pattern matches a path."""
    if "**" in pattern:
        return fnmatch.fnmatch("/".join(path), "/".join(pattern))
    return len(path) == len(pattern) and all(map(fnmatch.fnmatch, path, pattern))
