"""Folders in which only this process writes, no matter who may write to the folder around them."""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from ..errors import UsageError
from .links import PINNED, follow_links, shown
from .owners import check_own, identity_of

_PREFIX = ".text-image-similarity-"
_OUTER = re.compile(re.escape(_PREFIX) + "[0-9a-f]{8}")  # name of the outer folder
_ABANDONED_S = 86_400  # age from which a folder that no process holds is deleted
_SEARCHED: set[tuple[int, int]] = set()  # folders in which this process has looked for abandoned ones
_SECRET = re.compile("[0-9a-f]{16}")  # name of the inner folder
_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_LOCK = ".text-image-similarity.lock"  # in the inner folder; held by its process


@contextmanager
def private_folder(parent: Path) -> Iterator[Path]:
    """Yield a new, empty folder that no one else can reach, and delete it at the end.

    The folder has a secret name, and is in an outer folder that only this user may enter. Whoever may write to `parent`
    can move the outer folder away and put another one, or a link, in its place. Without the secret, however, paths in
    the inner folder then lead nowhere, so nothing is written or deleted elsewhere. After a SIGKILL, both folders
    remain until a later process calls this for the same parent, at least a day afterwards; on Windows, for ever.

    Args:
        parent: Folder in which to create the outer folder, so that files can be moved from one to the other.

    Raises:
        OSError: The folder cannot be created.
        UsageError: Someone has replaced the outer folder.
    """
    _delete_abandoned(parent)
    with ExitStack() as held:
        inner = _new_folder(parent, held)
        with _noticing(inner):
            yield inner


def _new_folder(parent: Path, held: ExitStack, retries: int = 3) -> Path:
    """Create the two folders, and return the inner one, which stays and is locked as long as the stack holds it."""
    from filelock import FileLock, Timeout  # takes milliseconds that a process without files need not wait

    outer = parent / f"{_PREFIX}{secrets.token_hex(4)}"
    outer.mkdir(0o777 if os.name == "nt" else 0o700)  # on Windows, moved files would keep the folder's permissions
    inner = outer / secrets.token_hex(8)
    held.callback(_delete, inner, os.getpid())
    inside = held.enter_context(pinned(outer)) / inner.name
    inside.mkdir()
    try:
        held.enter_context(FileLock(inside / _LOCK, timeout=0))
    except (OSError, NotImplementedError) as exc:
        if isinstance(exc, Timeout) and retries:  # at this moment, another process took the folder for an abandoned one
            return _new_folder(parent, held, retries - 1)
        (inside / _LOCK).unlink(missing_ok=True)  # this file system has no locks; without the file, no one may delete
    return inner


def _delete(inner: Path, maker: int) -> None:
    if os.getpid() == maker:  # not at the end of a forked process
        shutil.rmtree(inner, ignore_errors=True)
    with suppress(OSError):
        inner.parent.rmdir()  # only an empty folder, because another one may be in its place


def _delete_abandoned(parent: Path) -> None:
    """Delete the folders left behind by killed processes.

    Whoever may write to `parent` can give such a name to any folder of this user, but cannot put anything into a folder
    that no one else may enter. Windows has no such folders, so there, nothing is deleted.
    """
    if os.name == "nt":
        return
    with suppress(OSError), _opened(parent) as there:  # the folder may not be listed
        found = os.fstat(there)
        if (place := (found.st_dev, found.st_ino)) in _SEARCHED:
            return  # each output of a run would list the folder again
        _SEARCHED.add(place)
        for name in filter(_OUTER.fullmatch, os.listdir(there)):  # noqa: PTH208 - a descriptor
            with suppress(OSError):  # another process is using the folder, or it is not ours
                _delete_unless_held(name, there)


def _delete_unless_held(name: str, parent: int) -> None:
    """Delete a folder that no process holds, but not another folder to which someone has given such a name."""
    import fcntl  # which Windows lacks

    with _opened(name, parent) as outer:
        found, inside = os.fstat(outer), os.listdir(outer)  # noqa: PTH208 - a descriptor
        if not _is_own(found) or stat.S_IMODE(found.st_mode) & _OTHERS:
            return
        if time.time() < found.st_mtime + _ABANDONED_S:
            return  # on some file systems, another computer's lock does not hold here
        if len(inside) != 1 or not _SECRET.fullmatch(inside[0]):
            return  # a process has just created the folder, or it is another one
        with _opened(inside[0], outer) as inner, _opened(_LOCK, inner, os.O_RDWR | os.O_NONBLOCK) as lock:
            file = os.fstat(lock)
            as_made = stat.S_ISREG(file.st_mode) and file.st_nlink == 1 and file.st_size == 0
            if as_made and _is_own(file) and _is_own(os.fstat(inner)):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(inside[0], ignore_errors=True, dir_fd=outer)
        with suppress(OSError):  # NFS keeps an open file, here the lock, under another name until it is closed
            os.rmdir(inside[0], dir_fd=outer)
    os.rmdir(name, dir_fd=parent)


@contextmanager
def _opened(path: Path | str, parent: int | None = None, how: int = 0) -> Iterator[int]:
    """Yield the descriptor of a folder or, with flags for a file, of a file; in a parent folder, links are refused."""
    flags = (how or os.O_RDONLY | os.O_DIRECTORY) | (0 if parent is None else os.O_NOFOLLOW)
    number = os.open(path, flags, dir_fd=parent)
    try:
        yield number
    finally:
        os.close(number)


def _is_own(found: os.stat_result) -> bool:
    return found.st_uid == os.geteuid()


@contextmanager
def _noticing(inner: Path) -> Iterator[None]:
    try:
        yield
    except Exception as exc:
        if os.path.lexists(inner):
            raise
        raise UsageError(
            f"{shown(inner.parent)} was replaced or removed while files were written there; keep others from writing to "
            f"{shown(inner.parent).parent}"
        ) from exc


@contextmanager
def pinned(folder: Path, *, own: bool = True) -> Iterator[Path]:
    """Yield a path that leads to a folder and to no other, even if the folder is renamed and another takes its name.

    Only Linux allows this; elsewhere, the folder's own path is yielded.

    Args:
        folder: The folder.
        own: Whether the folder must be one that no one else may have put there.

    Raises:
        UsageError: The folder must be our own, but is a link or belongs to another user; or `follow_links` refuses it.
        OSError: The folder does not exist, or was replaced while it was being opened.
    """
    identity = check_own(folder) if own else identity_of(folder)
    if not hasattr(os, "O_DIRECTORY"):  # Windows
        yield folder
        return
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        found, place = os.fstat(number), shown(follow_links(folder))
        path = PINNED / str(number) if (PINNED / str(number)).is_dir() else folder
        elsewhere = path != folder and str(path.readlink()).lower() != str(place).lower()  # some systems ignore case
        if (found.st_dev, found.st_ino) != identity or elsewhere:
            raise FileNotFoundError(errno.ENOENT, "it was replaced while it was being opened", str(folder))
        yield path
    finally:
        os.close(number)
