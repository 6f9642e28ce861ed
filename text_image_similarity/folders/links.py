"""Links on the way to a path, which are followed only if no one else may have put them there."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from ..errors import UsageError
from .owners import OTHERS_WRITE, keeps_modes

PINNED = Path("/proc/self/fd")  # holds a link to each open folder on Linux
_MOST_LINKS = 40  # on the way to a path, as on Linux


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
    mode = folder.st_mode & OTHERS_WRITE
    if mode & stat.S_IWGRP and _has_only_this_user(folder.st_gid):  # looking a group up may ask the network
        mode &= ~stat.S_IWGRP
    is_own = {found.st_uid, folder.st_uid} <= {0, os.geteuid()}
    return is_own and not (mode and keeps_modes(link.parent))


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
