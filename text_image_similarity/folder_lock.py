"""A lock on a folder, which one process at a time holds while it writes there."""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from .bounded_json import parse_json
from .errors import BusyError, TableError, UsageError
from .files import check_single, open_own, read_own
from .folders import check_own, forbid_others_to_write, identity_of, pinned

logger = logging.getLogger("text_image_similarity")

_MOST_NOTE = 4096  # bytes of the note that identifies the holder


class FolderLock:
    """A lock that one process at a time holds while it writes into a folder, with a note that identifies the holder.

    Args:
        folder: Folder to lock, which is created if it does not exist.
        output: The output that the process writes, for messages.
        own: Whether the folder must be one that no one else may have put there.
        check: Function that refuses a folder, given a path to it, before anything in it is changed.
    """

    def __init__(
        self, folder: Path, output: str, *, own: bool = False, check: Callable[[Path], None] = lambda _: None
    ) -> None:
        self.folder, self._output, self._own, self._check = folder, output, own, check
        self._identity: tuple[int, int] | None = None  # of the folder when it was locked
        self._held = ExitStack()
        self.inside = folder  # path for the folder's files; on Linux, it leads to the locked folder and to no other

    def acquire(self) -> None:
        """Acquire the lock.

        Raises:
            BusyError: Another process holds the lock.
            TableError: The folder cannot be created, or a file in the place of the lock has another name.
            UsageError: The folder must be our own, but is not, or others may write to it; or `check` refuses it.
        """
        for _ in range(20):  # a run that has finished may remove the folder at any of these lines
            with suppress(FileNotFoundError, FileExistsError), ExitStack() as held:
                if self._own and self.folder.is_symlink():
                    check_own(self.folder)  # without this check, mkdir would fail for a link that leads nowhere
                self.folder.mkdir(0o700 if self._own else 0o777, exist_ok=True)
                self._pin(held)
                if (lock := self.inside / "lock").is_file():  # some versions of filelock empty it
                    check_single(lock, lock.lstat())
                try:
                    own = FileLock(lock, timeout=0, mode=0o600) if self._own else FileLock(lock, timeout=0)
                    held.enter_context(own)
                except Timeout as exc:
                    raise BusyError(
                        f"{self._output} is being written by {self._holder()}; wait for it or stop it"
                    ) from exc
                if self._identify() != self._identity:
                    continue
                with suppress(OSError), open_own(self._note, "w") as file:  # for messages only
                    json.dump(_myself(), file)
                self._held = held.pop_all()
                return
        raise TableError(f"{self.folder} cannot be created: a file is in its place, or something keeps removing it")

    def check(self) -> None:
        """Make sure that the folder is still the one that was locked, before files in it are changed.

        Raises:
            UsageError: Someone has put another folder in its place.
            OSError: There is no such folder any more.
        """
        if self._identify() != self._identity:
            raise UsageError(
                f"{self.folder} was replaced while {self._output} was written; keep others from writing there"
            )

    def place(self) -> Path:
        """Return the path for the folder's files if the folder is still the one that was locked.

        Raises:
            UsageError: Someone has put another folder in its place.
            OSError: There is no such folder any more.
        """
        self.check()
        return self.inside

    def remove(self) -> None:
        """Remove the lock's files while it is held; a process that waits for the lock then creates its own files."""
        self.check()
        self._note.unlink(missing_ok=True)
        (self.inside / "lock").unlink()

    def release(self) -> None:
        """Release the lock."""
        with self._held, suppress(OSError, UsageError):
            self.check()
            self._note.unlink(missing_ok=True)

    @property
    def _note(self) -> Path:
        return self.inside / "holder.json"

    def _pin(self, held: ExitStack) -> None:
        """Reach the folder through `inside` as long as the stack holds it."""
        self.inside = held.enter_context(pinned(self.folder, own=self._own))
        held.callback(setattr, self, "inside", self.folder)
        self._identity = identity_of(self.inside)
        self._check(self.inside)
        if self._own and forbid_others_to_write(self.inside) and any(self.inside.iterdir()):
            logger.warning(
                "until now, other users could put files into %s; if you do not trust them, start again with --restart",
                self.folder,
            )

    def _identify(self) -> tuple[int, int]:
        return check_own(self.folder) if self._own else identity_of(self.folder)

    def _holder(self) -> str:
        try:
            with read_own(self._note) as file:
                found = parse_json(file.read(_MOST_NOTE).decode())
            return f"process {found['pid']} on {found['host']} since {found['since']} ({found['command']})"
        except (OSError, TableError, ValueError, KeyError, TypeError):
            return "another process"


def _myself() -> dict[str, object]:
    since = time.strftime("%Y-%m-%d %H:%M:%S %Z")
    return {"pid": os.getpid(), "host": socket.gethostname(), "since": since, "command": Path(sys.argv[0]).name}
