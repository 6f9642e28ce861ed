"""Connections to an SQLite file, which are opened on demand and reused."""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from math import inf
from pathlib import Path
from threading import Lock

from ...errors import DatabaseError
from ...sqlite_files import check_sqlite_place
from ..time_limit import check_time, is_up, remaining

MEMORY = ":memory:"
PATIENCE_S = 60.0  # longest wait while another process is writing
_MOST_IDLE = 4
_STEPS = 100_000  # instructions of SQLite's virtual machine, a few milliseconds, between two checks of the time
# Bytes of a database in memory that several connections share: SQLite's limit is a gigabyte, and a transaction adds a few
# megabytes.
_MOST_SHARED = 768 << 20
_CACHE = {True: 16_384, False: 65_536}  # KiB of cached pages, for a connection that only reads and one that also writes


class SqliteFile:
    """An SQLite file, or `:memory:` for a database in memory. Safe to share between threads.

    Args:
        path: The file.

    Attributes:
        is_shared: Whether several connections see the same database; if not, each new one in memory is empty.
    """

    def __init__(self, path: str) -> None:
        self._path, self.is_shared = path, True
        self._memory = f"file:/{secrets.token_hex(16)}?vfs=memdb"
        # State of the file when it was opened as immutable; None if it was opened normally.
        self._frozen: tuple[int, ...] | None = None
        self._lock = Lock()
        self._idle: list[sqlite3.Connection] = []  # for reading
        self._closed = False

    def connect(self, *, reads: bool = False) -> sqlite3.Connection:
        """Connect to the file, creating it if it does not exist.

        Args:
            reads: Whether the connection is only for reading.

        Raises:
            DatabaseError: Someone else has put a link in the file's place.
            sqlite3.Error: The file cannot be opened.
        """
        if self._path != MEMORY:
            check_sqlite_place(Path(self._path))
        place = self._path if self._frozen is None else f"{Path(self._path).absolute().as_uri()}?immutable=1"
        in_memory = self._path == MEMORY and self.is_shared
        file = sqlite3.connect(
            self._memory if in_memory else place,
            timeout=PATIENCE_S,
            check_same_thread=False,
            isolation_level=None,
            uri=in_memory or self._frozen is not None,
        )
        try:
            # This also reads the file's schema, so that an unreadable file is reported here.
            file.execute(f"PRAGMA cache_size = -{_CACHE[reads]}")
        except BaseException:
            file.close()
            raise
        return file

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Yield a connection for reading that no other block uses, so that no read waits for another one.

        Raises:
            DatabaseError, sqlite3.Error: As for `open`, or this object has been closed.
        """
        with self._lock:
            if self._closed:
                raise sqlite3.ProgrammingError("Cannot operate on a closed database.")
            self._renew()
            seen, file = self._frozen, self._idle.pop() if self._idle else None
        file = file or self.connect(reads=True)
        kept = False
        try:
            yield file
            with self._lock:
                if kept := not self._closed and self._frozen == seen and len(self._idle) < _MOST_IDLE:
                    self._idle.append(file)
        finally:
            if not kept:
                file.close()

    def fitting(self, file: sqlite3.Connection) -> sqlite3.Connection:
        """Return the connection that writes, a new one if a database in memory has grown too large to share.

        Such a database is moved to the new connection, and is no longer shared; nobody may read in the meantime.
        """
        if self._path != MEMORY or not self.is_shared:
            return file
        size = [int(file.execute(f"PRAGMA {name}").fetchone()[0]) for name in ("page_count", "page_size")]
        if size[0] * size[1] <= _MOST_SHARED:
            return file
        self.is_shared = False
        alone = self.connect()
        file.backup(alone)
        file.close()
        with self._lock:
            self._close_idle()
        return alone

    def close(self) -> None:
        """Close the connections from `reading`; those in use are closed when their blocks end."""
        with self._lock:
            self._closed = True
            self._close_idle()

    def open(self, *, reads: bool = False) -> sqlite3.Connection:
        """Connect to an existing file; if SQLite cannot write next to it, open the file as immutable.

        Args:
            reads: Whether the connection is only for reading.

        Raises:
            DatabaseError: The file's latest changes cannot be read, or as for `connect`.
            sqlite3.Error: The file cannot be opened.
        """
        self._frozen = None
        try:
            return self.connect(reads=reads)
        except sqlite3.OperationalError as exc:
            if exc.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN):
                raise
            self._frozen = _state_of(self._path)
            if self._frozen[-1]:
                raise DatabaseError(
                    f"the catalogue {self._path} cannot be read here, because its latest changes are still in "
                    f"{self._path}-wal: open it once with permission to write to its folder"
                ) from exc
        return self.connect(reads=reads)

    def _renew(self) -> None:
        """Reopen an immutable file that someone else has changed."""
        if self._frozen is not None and self._frozen != _state_of(self._path):
            self._close_idle()
            self._idle.append(self.open(reads=True))

    def _close_idle(self) -> None:
        while self._idle:
            self._idle.pop().close()


def _state_of(path: str) -> tuple[int, ...]:
    """Return values that change with a database's file; the last one is the size of its write-ahead log."""
    found = Path(path).stat()
    log = Path(f"{path}-wal")
    return found.st_mtime_ns, found.st_size, found.st_ino, log.stat().st_size if log.exists() else 0


@contextmanager
def interrupting(file: sqlite3.Connection) -> Iterator[None]:
    """Interrupt the statements of an SQLite connection during a block when the time of `time_limit` is up."""
    if remaining() == inf:
        yield
        return
    check_time()
    file.set_progress_handler(is_up, _STEPS)
    try:
        yield
    except sqlite3.OperationalError as exc:
        if exc.sqlite_errorcode == sqlite3.SQLITE_INTERRUPT:
            check_time()
        raise
    finally:
        file.set_progress_handler(None, 0)
