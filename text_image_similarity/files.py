"""Write files completely or not at all, and make values representable in JSON."""

from __future__ import annotations

import errno
import math
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path, PurePath
from typing import IO, Any, Literal

from .errors import InputTypeError, TableError, UsageError
from .folders import PINNED, follow_links, private_folder, shown

_WRITES = os.O_WRONLY | os.O_RDWR
_AT_ONCE = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_BINARY", 0)
CALIBRATION = "calibration.json"  # in the folder of a model, but not part of the model


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a path in a private folder near `path`; at the end, flush the file there to disk and move it to `path`.

    No reader ever sees half a file, even after a crash. If the block raises, nothing changes. If `path` is a link, its
    target is replaced and the link is kept.

    Raises:
        OSError: The file cannot be written.
        UsageError: The path is a link that leads out of its folder, or someone has replaced the private folder.
    """
    place = place_of(path)
    with private_folder(place.parent) as folder:
        unfinished = folder / place.name
        unfinished.touch(exist_ok=False)
        mode = unfinished.stat().st_mode
        yield unfinished
        unfinished.chmod(mode)  # some writers create files that only their owner can read
        move_durably(unfinished, place)


def place_of(path: Path) -> Path:
    """Return the place of a file that is about to be written, with all links resolved.

    Raises:
        UsageError: The path is a link that leads out of its folder; in a shared folder, someone else could have put it
            there. Or someone else could have put a link on the way to its folder.
    """
    if path.name in ("", ".."):
        return follow_links(path)
    folder, place = follow_links(path.parent), Path(os.path.realpath(path))
    if place.parent != shown(folder):  # a folder below could be replaced by a link later
        raise UsageError(
            f"{shown(path)} is a link to {place}, which is not in its folder; remove the link, or name {place} itself"
        )
    return folder / place.name  # a pinned folder keeps its path


@contextmanager
def open_own(path: Path, mode: Literal["w", "a", "wb"], *, access: int = 0o600) -> Iterator[IO[Any]]:
    """Open a file of a run for writing, without following a link, which someone else could have put there.

    Args:
        path: The file to open. Unless text is appended, an existing file or link is removed first, so that nothing is
            written to a file that also has another name.
        mode: As for `open`; text is UTF-8.
        access: Permissions of a new file, of which the umask may take some away.

    Raises:
        OSError: The file cannot be opened, or is a link.
        TableError: The path is not that of a regular file.
    """
    if mode != "a":
        path.unlink(missing_ok=True)
    how = mode.replace("w", "x")
    opener = partial(_open_regular, more=getattr(os, "O_NOFOLLOW", 0), access=access)
    with open(path, how, encoding=None if "b" in mode else "utf-8", opener=opener) as file:
        yield file


@contextmanager
def read_own(path: Path) -> Iterator[IO[bytes]]:
    """Open a file of a run for reading; a pipe, which someone else could have put there, might never end.

    Raises:
        OSError: The file cannot be opened.
        TableError: The path is not that of a regular file.
    """
    with open(path, "rb", opener=_open_regular) as file:
        yield file


def _open_regular(path: str, flags: int, more: int = 0, access: int = 0) -> int:
    """Open a regular file (for writing, only one with a single name) without waiting for the other end of a pipe."""
    try:
        file = open_at_once(path, flags | more, access)
    except OSError as exc:
        if exc.errno != errno.ENXIO:  # nobody reads from the pipe
            raise
        raise _not_regular(Path(path)) from exc
    try:
        check_single(Path(path), os.fstat(file), reads=flags & _WRITES == 0)
    except TableError:
        os.close(file)
        raise
    return file


def open_at_once(path: str | Path, flags: int, access: int = 0) -> int:
    """Open a file; another process's pipe or terminal in its place neither makes this wait nor is changed."""
    return os.open(path, flags | _AT_ONCE, access)


def real_path(file: int) -> Path | None:
    """Return where an open file is as the kernel says, on Linux, whatever links led there; None elsewhere."""
    try:
        return (PINNED / str(file)).readlink()
    except OSError:  # not Linux, or a container without /proc
        return None


def is_below(real: Path, folder: Path) -> bool:
    """Tell whether a file is under a folder, whose path may differ in case where the file system ignores it."""
    if real.is_relative_to(folder):
        return True
    above = Path(*real.parts[: len(folder.parts)])
    with suppress(OSError):
        return str(above).lower() == str(folder).lower() and above.samefile(folder)
    return False


def check_single(path: Path, found: os.stat_result, *, reads: bool = False) -> None:
    """Check that a file of a run is a regular one and, unless it is only read, that it has no other name.

    What is written to a hard link, which someone else could have put into a shared folder, would be written elsewhere.

    Raises:
        TableError: The file is not regular, or has another name.
    """
    if not stat.S_ISREG(found.st_mode):
        raise _not_regular(path)
    if found.st_nlink > 1 and not reads:
        raise TableError(f"{shown(path)} has another name elsewhere (it is a hard link); remove it")


def _not_regular(path: Path) -> TableError:
    return TableError(f"{shown(path)} is not a regular file, unlike those that a run writes; remove it")


def regular_size(path: Path) -> int:
    """Return the size of a regular file, in bytes; reading a pipe or a device might never end.

    Raises:
        OSError: There is no such file, or it is not a regular one.
    """
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise OSError("it is not a regular file")
    return found.st_size


def path_text(path: object, name: str) -> str:
    """Return a path or URL as text, with `~` expanded.

    Raises:
        InputTypeError: The value has another type; the message names the parameter.
    """
    if not isinstance(path, (str, os.PathLike)) or not isinstance(text := os.fspath(path), str):
        how = "write it to a file first, for example with df.to_parquet('pairs.parquet')"
        hint = how if hasattr(path, "columns") else ""
        if hint and name == "in_path":
            hint = f"pass it to score_frame, or {hint}"
        raise InputTypeError.of(name, "a path or a URL", path, hint)
    return os.path.expanduser(text)  # noqa: PTH111 - a Path would break a URL


def write_whole(path: Path, text: str) -> None:
    """Write a text file completely or not at all.

    Raises:
        TableError: The file cannot be written.
    """
    try:
        with whole_file(path) as unfinished:
            unfinished.write_text(text, encoding="utf-8", newline="")
    except OSError as exc:
        raise TableError(f"{shown(path)} cannot be written: {exc.strerror or exc}") from exc


def without_nan(value: Any) -> Any:
    """Return a value that JSON can represent: at any depth, numbers that are not finite become None, and keys text."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {str(name): without_nan(inner) for name, inner in value.items()}
    return [without_nan(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def move_durably(source: Path, place: Path) -> None:
    """Flush a file to disk and rename it, so that its content and its name survive a power failure.

    Raises:
        OSError: The file cannot be moved; `source` is still there.
    """
    with source.open("rb+") as file:
        os.fsync(file.fileno())
    source.replace(place)
    with suppress(OSError):  # Windows cannot open a folder, and some file systems cannot flush one
        folder = os.open(place.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def network_share(path: PurePath) -> str:
    r"""Return the host and share of a Windows network path, such as `\\host\share`; empty for any other path."""
    return path.drive if path.drive.startswith("\\\\") else ""


def on_other_share(path: PurePath, folder: PurePath) -> bool:
    """Tell whether a path is on a different network share from a folder.

    Check this before anything accesses a path that a stranger's file names, because Windows would log in to the
    share's host.
    """
    return network_share(path) not in ("", network_share(folder))
