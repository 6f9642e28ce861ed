"""Write files completely or not at all, and make values representable in JSON."""

from __future__ import annotations

import errno
import math
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePath
from tempfile import TemporaryFile
from typing import IO, Any, Literal

from .errors import InputTypeError, TableError, UsageError

_PINNED = Path("/proc/self/fd")  # holds a link to each open folder on Linux
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
    with private_folder(place.parent, ".text-image-similarity-") as folder:
        partial = folder / place.name
        partial.touch(exist_ok=False)
        mode = partial.stat().st_mode
        yield partial
        partial.chmod(mode)  # some writers create files that only their owner can read
        move_durably(partial, place)


@contextmanager
def private_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """Yield a new, empty folder that no one else can reach, and delete it at the end.

    The folder has a secret name, and is in an outer folder that only this user may enter. Whoever may write to `parent`
    can move the outer folder away and put another one, or a link, in its place. Without the secret, however, paths in
    the inner folder then lead nowhere, so nothing is written or deleted elsewhere. After a SIGKILL, both folders
    remain.

    Args:
        parent: Folder in which to create the outer folder, so that files can be moved from one to the other.
        prefix: Beginning of the outer folder's name.

    Raises:
        OSError: The folder cannot be created.
        UsageError: Someone has replaced the outer folder.
    """
    outer = parent / f"{prefix}{secrets.token_hex(4)}"
    outer.mkdir(0o777 if os.name == "nt" else 0o700)  # on Windows, moved files would keep the folder's permissions
    inner = outer / secrets.token_hex(8)
    try:
        with pinned(outer) as held:
            (held / inner.name).mkdir()
        with _noticing(inner):
            yield inner
    finally:
        shutil.rmtree(inner, ignore_errors=True)
        with suppress(OSError):
            outer.rmdir()  # only an empty folder, because another one may be in its place


@contextmanager
def _noticing(inner: Path) -> Iterator[None]:
    try:
        yield
    except Exception as exc:
        if os.path.lexists(inner):
            raise
        raise UsageError(
            f"{inner.parent} was replaced or removed while files were written there; keep others from writing to "
            f"{inner.parent.parent}"
        ) from exc


@contextmanager
def pinned(folder: Path, *, own: bool = True) -> Iterator[Path]:
    """Yield a path that leads to a folder and to no other, even if the folder is renamed and another takes its name.

    Only Linux allows this; elsewhere, the folder's own path is yielded.

    Args:
        folder: The folder.
        own: Whether the folder must be one that no one else may have put there.

    Raises:
        UsageError: The folder must be our own, but is a link or belongs to another user.
        OSError: The folder does not exist, or was replaced while it was being opened.
    """
    identity = check_own(folder) if own else identity_of(folder)
    if not hasattr(os, "O_DIRECTORY"):  # Windows
        yield folder
        return
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        found = os.fstat(number)
        if (found.st_dev, found.st_ino) != identity:
            raise FileNotFoundError(errno.ENOENT, "it was replaced while it was being opened", str(folder))
        path = _PINNED / str(number)
        yield path if path.is_dir() else folder
    finally:
        os.close(number)


def shown(path: Path) -> Path:
    """Return the path of a file for messages, even if its folder is pinned."""
    return path.parent.resolve() / path.name if path.parent.parent == _PINNED else path


def identity_of(folder: Path) -> tuple[int, int]:
    """Return the device and the number that identify a folder, whatever its name is.

    Raises:
        OSError: There is no such folder.
    """
    found = folder.stat()
    return found.st_dev, found.st_ino


def place_of(path: Path) -> Path:
    """Return the place of a file that is about to be written, with all links resolved.

    Raises:
        UsageError: The path is a link that leads out of its folder; in a shared folder, someone else could have put it
            there.
    """
    folder, place = path.parent.resolve(), path.resolve()
    if place.parent != folder and path.name not in ("", ".."):  # a folder below could be replaced by a link later
        raise UsageError(
            f"{path} is a link to {place}, which is not in its folder; remove the link, or name {place} itself"
        )
    return place


@contextmanager
def open_own(path: Path, mode: Literal["w", "a", "wb"]) -> Iterator[IO[Any]]:
    """Open a file of a run for writing, without following a link, which someone else could have put there.

    Args:
        path: The file to open. Unless text is appended, an existing file or link is removed first, so that nothing is
            written to a file that also has another name.
        mode: As for `open`; text is UTF-8.

    Raises:
        OSError: The file cannot be opened, or is a link.
        TableError: The path is not that of a regular file.
    """
    if mode != "a":
        path.unlink(missing_ok=True)
    how = mode.replace("w", "x")
    with open(path, how, encoding=None if "b" in mode else "utf-8", opener=_without_link) as file:
        yield file


@contextmanager
def read_own(path: Path) -> Iterator[IO[bytes]]:
    """Open a file of a run for reading; a pipe, which someone else could have put there, might never end.

    Raises:
        OSError: The file cannot be opened.
        TableError: The path is not that of a regular file.
    """
    with open(path, "rb", opener=_at_once) as file:
        yield file


def _without_link(path: str, flags: int) -> int:
    return _at_once(path, flags | getattr(os, "O_NOFOLLOW", 0))


def _at_once(path: str, flags: int) -> int:
    """Open a regular file, without waiting for whoever writes to or reads from a pipe."""
    try:
        file = os.open(path, flags | getattr(os, "O_NONBLOCK", 0), 0o666)
    except OSError as exc:
        if exc.errno != errno.ENXIO:  # nobody reads from the pipe
            raise
        file = None
    if file is None or not stat.S_ISREG(os.fstat(file).st_mode):
        if file is not None:
            os.close(file)
        raise TableError(f"{shown(Path(path))} is not a regular file, unlike those that a run writes; remove it")
    return file


def check_own(folder: Path) -> tuple[int, int]:
    """Check that a folder of parts, in which a run deletes files, is our own, and return what `identity_of` returns.

    Raises:
        UsageError: The folder is a link, or belongs to another user.
        OSError: There is no such folder.
    """
    is_junction = getattr(os.path, "isjunction", os.path.islink)  # `isjunction` exists from Python 3.12 on
    found = folder.lstat()
    if stat.S_ISLNK(found.st_mode) or is_junction(folder):
        problem = "is a link, and files in the folder to which it leads would be deleted"
    elif stat.S_ISDIR(found.st_mode) and not _is_ours(folder, found.st_uid):
        problem = "belongs to another user, who may have put scores into it"
    else:
        return found.st_dev, found.st_ino
    raise UsageError(
        f"{folder} {problem}; remove it, write the output to another folder, or keep the parts elsewhere with --work-dir "
        "FOLDER (work_dir)"
    )


def _is_ours(folder: Path, owner: int) -> bool:
    """Tell whether a folder belongs to this user or to root; on Windows, every folder counts as ours."""
    if os.name == "nt" or owner in (0, os.geteuid()):
        return True
    try:
        with TemporaryFile(dir=folder) as file:  # some network file systems give all files to one user
            return os.fstat(file.fileno()).st_uid == owner
    except OSError:
        return False


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
        with whole_file(path) as partial:
            partial.write_text(text, encoding="utf-8", newline="")
    except OSError as exc:
        raise TableError(f"{path} cannot be written: {exc.strerror or exc}") from exc


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
