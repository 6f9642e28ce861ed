"""Checks of where outputs are written, the folder of the parts, and files that appear complete or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from io import BufferedWriter
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import platformdirs

from ..dataset import is_hub
from ..errors import TableError, UsageError
from ..files import open_own, place_of, whole_file
from ..folders import follow_links
from ..formats import (
    HashedWriter,
    Output,
    check_apart,
    check_writable,
    ending_of,
    format_of,
    is_url,
    local_path,
    upload,
)
from ..formats.names import is_image
from ..workspace import Workspace, digest_of


def check_places(source: str, target: str, cache: str | PathLike[str] | None = None) -> None:
    """Reject places that cannot be written or must not be replaced, before anything starts.

    Args:
        source: Table to read.
        target: Table to write.
        cache: Embedding cache, if there is one.

    Raises:
        UsageError, TableError: The target cannot be written, or would replace something that must be kept.
    """
    note = f"{target}.summary.json"
    if not is_url(target):
        try:
            for path in (local_path(target), local_path(note)):
                if not path.name or path.is_dir():
                    raise UsageError(f"{path} is a folder; name a file")
                place = place_of(path)
                if path.exists() and not path.is_file():
                    raise UsageError(f"{path} is not a regular file; name one that can be replaced")
                if not place.parent.is_dir():
                    raise UsageError(f"{path} cannot be written: the folder {path.parent} does not exist")
        except (OSError, RuntimeError, ValueError) as exc:
            raise UsageError(f"the path {target[:200]} cannot be used: {exc}") from exc
    format_of(target)
    if not is_hub(source):
        check_apart(source, target, note)
    if cache is not None and not is_url(target) and Path(cache).resolve() in map(_resolved, (target, note)):
        raise UsageError(f"{cache} is the embedding cache, and would be overwritten; name another output")
    if is_url(target):
        check_writable(target)


def _resolved(place: str) -> Path:
    return place_of(local_path(place))


def work_folder(target: str, work_dir: str | PathLike[str] | None = None) -> Path:
    """Return the folder for the parts: next to the output, or in the user's cache folder if the output is at a URL.

    Args:
        target: The output.
        work_dir: Folder in which to put the parts' folder instead; it is created if it does not exist.

    Raises:
        UsageError: The folder for the parts cannot be created, or its path contains a link that someone else may have
            put there.
    """
    if work_dir is None and not is_url(target):
        path = _resolved(target)  # a link stays, and its target is replaced
        return path.with_name(path.name + ".parts")
    whole = target if is_url(target) else str(_resolved(target))
    folder = platformdirs.user_cache_path("text-image-similarity") / "jobs" if work_dir is None else Path(work_dir)
    try:
        place = follow_links(folder)  # the links may be changed from now on
        place.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise UsageError(f"{folder} cannot be used for the parts: {exc.strerror}; name another --work-dir") from exc
    return place / f"{Path(target).name}-{digest_of(whole.encode())[:12]}.parts"


def is_folder_output(target: str) -> bool:
    """Tell whether an output is a folder, in which one file is written for each file of the input."""
    if target.endswith(("/", os.sep)):
        return True
    try:
        return not is_url(target) and local_path(target).is_dir()
    except (OSError, ValueError):  # such as a name that is too long, which is reported where names are checked
        return False


def outputs_in(folder: str, files: Sequence[str], source: str) -> dict[str, str]:
    """Return the output in a folder for each file of a table: a file of the same name, or Parquet for a shard.

    Raises:
        UsageError: Two files have the same name, or the table is a data set on the hub.
    """
    found: dict[str, str] = {}
    if not files:  # a data set on the hub
        raise UsageError(f"{source} is one table; name a file to write, such as {folder.rstrip('/')}/scored.parquet")
    for file in files:
        name = Path(file.rstrip("/")).name
        ending = ending_of(name)
        if not ending or format_of(name).kind == "tar":
            name = f"{name.removesuffix(ending)}.parquet"
        found[file] = f"{folder.rstrip('/')}/{name}"
    if len(set(found.values())) < len(found):
        raise UsageError(
            f"{source} has files of the same name in several folders; name one folder at a time, or one file to write"
        )
    return found


def make_folder(folder: str, *, force: bool = False) -> None:
    """Create the folder of an output, if it is local and does not exist.

    Args:
        folder: The folder.
        force: Whether the folder may contain images.

    Raises:
        UsageError: The folder cannot be created; its path contains a link that someone else may have put there; or it
            contains images, so it is probably the folder of an input.
    """
    if is_url(folder):
        return
    try:
        path = follow_links(local_path(folder))
        path.mkdir(exist_ok=True)
        image = next((entry.name for entry in path.iterdir() if is_image(entry.name)), None)
    except OSError as exc:
        raise UsageError(f"{folder} cannot be created: {exc.strerror or exc}") from exc
    if image is not None and not force:
        raise UsageError(
            f"the folder {folder} contains images, such as {image}; name a new folder, or write into this one with --force "
            "(force=True)"
        )


def put_together(
    output: Output,
    parts: Iterable[bytes | memoryview],
    place: str,
    describe: Callable[[str], dict[str, Any]],
    work: Workspace,
    *,
    check: Callable[[str, str | None], None] | None,
) -> None:
    """Write an output and its summary, and move both into place when they are complete.

    Args:
        output: Format of the output.
        parts: Parts of the output; each part is written before the next one is requested.
        place: Place of the output.
        describe: Function that returns the summary for the hash of the output.
        work: Workspace of the run; its folder contains the temporary files if the place is a URL.
        check: Function that refuses to replace an output that has appeared in the meantime; None replaces it.

    Raises:
        TableError: The output cannot be written.
    """
    note = f"{place}.summary.json"
    try:
        with _complete(note, work, "summary") as text, _complete(place, work, "output") as whole:
            with open_own(whole, "wb") as file, BufferedWriter(hashed := HashedWriter(file), 1 << 20) as out:
                output.join(parts, out)
            digest = hashed.digest()
            with open_own(text, "w") as note_file:
                note_file.write(json.dumps(describe(digest), indent=2) + "\n")
            if check is not None:
                check(place, work.placed())
            work.placing(digest)
    except OSError as exc:
        kept = "; all its parts are kept, and the same command resumes" if work.parts else ""
        raise TableError(f"{place} cannot be written: {exc.strerror or exc}{kept}") from exc


@contextmanager
def _complete(target: str, work: Workspace, name: Literal["output", "summary"]) -> Iterator[Path]:
    """Yield the path of a temporary file, which is moved or uploaded to its target at the end of the block."""
    if not is_url(target):
        with whole_file(_resolved(target)) as path:
            yield path
        return
    path = work.scratch(name)
    try:
        yield path
        upload(path, target)
    finally:
        path.unlink(missing_ok=True)
