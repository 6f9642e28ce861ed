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
from tempfile import TemporaryFile

from .errors import UsageError

PINNED = Path("/proc/self/fd")  # holds a link to each open folder on Linux
_PREFIX = ".text-image-similarity-"
_OUTER = re.compile(re.escape(_PREFIX) + "[0-9a-f]{8}")  # name of the outer folder
_ABANDONED_S = 86_400  # age from which a folder that no process holds is deleted
_SEARCHED: set[tuple[int, int]] = set()  # folders in which this process has looked for abandoned ones
_SECRET = re.compile("[0-9a-f]{16}")  # name of the inner folder
_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_LOCK = ".text-image-similarity.lock"  # in the inner folder; held by its process
_MOST_LINKS = 40  # on the way to a path, as on Linux


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


def follow_links(path: Path) -> Path:
    """Return the place to which a path leads, unless someone else may have chosen that place by a link on the way.

    A link is followed if it leads to a place in its own folder, or if it and its folder belong to this user or to root
    and no one else may write to that folder. On Windows, every link is followed.

    Raises:
        UsageError: Another link is on the way, or too many are, perhaps in a circle.
    """
    if os.name == "nt":
        return path.resolve()
    parts, links = path.absolute().parts, 0
    fixed = len(PINNED.parts) + 1 if PINNED in path.parents else 1  # the link to a pinned folder is the kernel's
    place, ahead = Path("/", *parts[1:fixed]), [*reversed(parts[fixed:])]
    while ahead:
        name = ahead.pop()
        step = place.parent if name == ".." else place / name
        try:
            target = step.readlink()
        except OSError:  # not a link
            place = step
            continue
        links += 1
        if links > _MOST_LINKS:
            raise UsageError(f"{shown(path)} leads through more than {_MOST_LINKS} links, perhaps in a circle")
        is_beside = (place / target).parent == place and ".." not in target.parts  # which may follow another link
        if not is_beside and not _is_own_link(step):
            raise UsageError(
                f"{shown(path)} leads through {shown(step)}, a link to {target}, which someone else may have put there; "
                f"remove the link, or name {os.path.realpath(path)} itself"
            )
        place = Path("/") if target.is_absolute() else place
        ahead += reversed(target.relative_to(target.anchor).parts)
    return place


def _is_own_link(link: Path) -> bool:
    """Tell whether only this user or root can have put a link into its folder."""
    found, folder = link.lstat(), link.parent.stat()
    mode = folder.st_mode & _OTHERS_WRITE
    if mode & stat.S_IWGRP and _has_only_this_user(folder.st_gid):  # looking a group up may ask the network
        mode &= ~stat.S_IWGRP
    is_own = {found.st_uid, folder.st_uid} <= {0, os.geteuid()}
    return is_own and not (mode and _keeps_modes(link.parent))


def _has_only_this_user(group: int) -> bool:
    """Tell whether a group is the one that many systems create for each user, and has no other members."""
    import grp, pwd  # noqa: E401,I001 - which Windows lacks

    try:
        user, found = pwd.getpwuid(os.geteuid()), grp.getgrgid(group)
    except KeyError:
        return False
    return user.pw_gid == group and found.gr_name == user.pw_name and {*found.gr_mem} <= {user.pw_name}


def shown(path: Path) -> Path:
    """Return a path for messages, even if it is a pinned folder or is in one."""
    if PINNED not in path.parents:
        return path
    inside = path.relative_to(PINNED).parts
    return (PINNED / inside[0]).resolve().joinpath(*inside[1:])


def identity_of(folder: Path) -> tuple[int, int]:
    """Return the device and the number that identify a folder, whatever its name is.

    Raises:
        OSError: There is no such folder.
    """
    found = folder.stat()
    return found.st_dev, found.st_ino


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
    elif stat.S_ISDIR(found.st_mode) and not _has_trusted_owner(folder, found.st_uid):
        problem = "belongs to another user, who may have put scores into it"
    else:
        return found.st_dev, found.st_ino
    raise UsageError(
        f"{folder} {problem}; remove it, write the output to another folder, or keep the parts elsewhere with --work-dir "
        "FOLDER (work_dir)"
    )


def forbid_others_to_write(folder: Path) -> bool:
    """Take from all other users the permission to write to a folder of parts, where they could put files.

    Returns:
        Whether other users had this permission and have lost it; some file systems report it for every file.

    Raises:
        UsageError: Other users have this permission, and this user cannot take it from them.
        OSError: There is no such folder.
    """
    found = folder.stat()
    if os.name == "nt" or not found.st_mode & _OTHERS_WRITE:
        return False
    try:
        folder.chmod(stat.S_IMODE(found.st_mode) & ~_OTHERS_WRITE)  # some file systems ignore it
    except OSError as exc:
        if _gives_files_to(folder, found.st_uid):
            return False
        raise UsageError(
            f"other users may write to {folder.resolve()}; run chmod go-w on it, remove it, or keep the parts elsewhere "
            "with --work-dir FOLDER (work_dir)"
        ) from exc
    return not folder.stat().st_mode & _OTHERS_WRITE


def others_may_write(file: int, folder: Path) -> bool:
    """Tell whether other users may write to an open file in a folder of our own.

    What a file system reports for every file, however it was created, does not count.
    """
    if os.name == "nt":
        return False
    found = os.fstat(file)
    if found.st_uid not in (0, os.geteuid(), folder.stat().st_uid):
        return True
    return bool(found.st_mode & _OTHERS_WRITE) and _keeps_modes(folder)


def _keeps_modes(folder: Path) -> bool:
    with suppress(OSError), TemporaryFile(dir=folder) as file:
        return not os.fstat(file.fileno()).st_mode & _OTHERS_WRITE
    return True  # this user may not write there


def _has_trusted_owner(folder: Path, owner: int) -> bool:
    """Tell whether a folder belongs to this user, to root, or to the owner of all new files; always true on Windows."""
    return os.name == "nt" or owner in (0, os.geteuid()) or _gives_files_to(folder, owner)


def _gives_files_to(folder: Path, owner: int) -> bool:
    """Tell whether a new file belongs to its folder's owner, as on a network file system that has only one owner."""
    try:
        with TemporaryFile(dir=folder) as file:
            return os.fstat(file.fileno()).st_uid == owner
    except OSError:
        return False
