"""The place of an SQLite file, checked before SQLite opens the file, because a stranger may have prepared it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from .errors import DatabaseError, UsageError
from .folders import follow_links

# The end of a journal that names another file, which SQLite deletes after it has rolled the journal back. It writes such
# a name only for a transaction over several databases, and this package has none. SQLite, "Database File Format", 3.
_NAMES_ANOTHER = bytes.fromhex("d9d505f920a163d7")


def check_sqlite_place(path: Path) -> None:
    """Check that nothing in or next to an SQLite file's place makes SQLite change another file.

    A link is accepted if it belongs to this user or to root, or leads to a place in its own folder. Links on the way to
    the folder do not matter, because whoever deploys a catalogue may put one there. A journal, which a killed process
    leaves behind, is accepted unless it names a file to delete. It, the log and the shared memory that SQLite keeps next
    to the file must be files with no other name.

    Raises:
        DatabaseError: There is another link, or a file next to it that does not come from this package.
    """
    _check_link(path)
    place = os.path.realpath(path)
    for ending in ("-journal", "-wal", "-shm"):
        _check_neighbour(Path(f"{place}{ending}"))


def _check_link(path: Path) -> None:
    if os.name == "nt" or not path.is_symlink() or path.lstat().st_uid in (0, os.geteuid()):
        return
    try:
        follow_links(path.parent.resolve() / path.name)
    except UsageError as exc:
        raise DatabaseError(
            f"{path} is a link to {path.readlink()}, which belongs to another user; remove it, or put the file itself there"
        ) from exc


def _check_neighbour(path: Path) -> None:
    try:
        found = path.lstat()
        harmless = stat.S_ISREG(found.st_mode) and found.st_nlink == 1
        if harmless and path.name.endswith("-journal"):
            with path.open("rb") as file:
                file.seek(max(0, found.st_size - len(_NAMES_ANOTHER)))
                harmless = file.read(len(_NAMES_ANOTHER)) != _NAMES_ANOTHER
    except FileNotFoundError:
        return
    except OSError as exc:
        raise DatabaseError(f"{path} cannot be read: {exc.strerror}; let this user read it") from exc
    if not harmless:
        raise DatabaseError(
            f"{path} was not written by this package, and could make SQLite hang, or change or delete another file; remove it "
            "if you trust the files next to it"
        )
