"""The match log in an SQLite file, in write-ahead mode: readers never wait, and writers wait for each other.

The log is a separate file, so that imports into a catalogue's ledger do not delay the log.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import RLock

from ...errors import DatabaseError
from ...sqlite_files import check_sqlite_place
from ..sqlite_schema import check_schema, schema_of
from .storage import TABLES, StoredRow, Table

_APPLICATION = 0x7469736C  # "tisl", the application id of these SQLite files
_LAYOUT = 1  # in the header's user_version
_TABLE = "CREATE TABLE {} (id TEXT PRIMARY KEY, body TEXT NOT NULL)"
_SCHEMA = {("table", table, table, _TABLE.format(table)) for table in TABLES} | {
    ("index", f"sqlite_autoindex_{table}_1", table, "") for table in TABLES
}
MEMORY = ":memory:"
_PATIENCE_S = 10.0  # longest wait while another process is writing


class SqliteStorage:
    """A log's tables in a file; see `LogStorage`.

    Args:
        path: The file, which is created if it does not exist, or `:memory:` for a log that exists only as long as this
            object.

    Raises:
        DatabaseError: The file cannot be opened or created, is not a match log, or is a link created by someone else.
    """

    def __init__(self, path: str | Path) -> None:
        self._path, self._process = str(path), os.getpid()
        self._writing = RLock()
        self._reading = self._writing if self._path == MEMORY else RLock()
        with self._failing():
            self._file = self._connect()
            try:
                self._set_up()
                self._reader = self._file if self._path == MEMORY else self._connect()
            except BaseException:
                self._file.close()
                raise

    def insert(self, rows: Mapping[Table, Sequence[StoredRow]]) -> None:
        with self._transaction() as file:
            for table, each in rows.items():
                file.executemany(f"INSERT INTO {table} VALUES (?, ?) ON CONFLICT DO NOTHING", each)

    def get(self, table: Table, id: str) -> str | None:
        with self._reading, self._failing():
            found = self._reader.execute(f"SELECT body FROM {table} WHERE id = ?", (id,)).fetchone()
        return None if found is None else str(found[0])

    def page(self, table: Table, after: str, before: str, most: int, *, newest: bool = False) -> list[StoredRow]:
        order = "DESC" if newest else "ASC"
        query = f"SELECT id, body FROM {table} WHERE id > ? AND id < ? ORDER BY id {order} LIMIT ?"
        with self._reading, self._failing():
            return self._reader.execute(query, (after, before, most)).fetchall()

    def delete(self, table: Table, before: str, most: int) -> int:
        chosen = f"SELECT id FROM {table} WHERE id < ? ORDER BY id LIMIT ?"
        with self._transaction() as file:
            return file.execute(f"DELETE FROM {table} WHERE id IN ({chosen})", (before, most)).rowcount

    def close(self) -> None:
        if self._process != os.getpid():
            return  # the parent must close its own connections
        with self._writing, self._reading:
            self._file.close()
            self._reader.close()

    def _connect(self) -> sqlite3.Connection:
        if self._path != MEMORY:
            check_sqlite_place(Path(self._path))
        return sqlite3.connect(self._path, timeout=_PATIENCE_S, check_same_thread=False, isolation_level=None)

    def _set_up(self) -> None:
        """Create the tables, or make sure that existing ones are ours."""
        if not self._is_ours():
            self._file.execute("PRAGMA journal_mode = WAL")
            with self._transaction() as file:
                if not self._is_ours():  # unless another process was faster
                    for table in TABLES:
                        file.execute(_TABLE.format(table))
                    file.execute(f"PRAGMA application_id = {_APPLICATION}")
                    file.execute(f"PRAGMA user_version = {_LAYOUT}")
        self._file.execute("PRAGMA synchronous = FULL")  # acknowledged records survive a power failure

    def _is_ours(self) -> bool:
        """Tell whether the tables exist; refuse a file with any other content."""
        # Read first, because another process may commit the tables together with both numbers in the meantime.
        filled = self._file.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone() is not None
        (application,) = self._file.execute("PRAGMA application_id").fetchone()
        (layout,) = self._file.execute("PRAGMA user_version").fetchone()
        if filled and application != _APPLICATION:
            raise DatabaseError(f"{self._path} is not a match log; name another file")
        if filled and layout != _LAYOUT:
            raise DatabaseError(
                f"{self._path} was created by another version of this package (layout {layout}, not {_LAYOUT}); export it with "
                "that version, and start a new log"
            )
        check_schema(schema_of(self._file), _SCHEMA, self._path)
        return filled

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._writing, self._failing():
            try:
                self._file.execute("BEGIN IMMEDIATE")
                yield self._file
                self._file.execute("COMMIT")
            except BaseException:
                if self._file.in_transaction:
                    self._file.execute("ROLLBACK")
                raise

    @contextmanager
    def _failing(self) -> Iterator[None]:
        """Convert SQLite's errors into a `DatabaseError` about the log."""
        if self._process != os.getpid():
            raise DatabaseError(
                f"the log {self._path} was opened before this process was forked; open it after the fork"
            )
        try:
            yield
        except sqlite3.Error as exc:
            text = str(exc)
            hint = next((hint for sign, hint in _HINTS.items() if sign in text), "")
            raise DatabaseError(f"the log {self._path} cannot be used: {text}{hint}") from exc


_HINTS = {
    "full": "; no acknowledged record is lost: free some space",
    "locked": f"; another process has been writing for more than {_PATIENCE_S:.0f} s",
    "malformed": "; restore it from a backup, or start a new one",
    "not a database": "; name another file",
    "readonly": "; it cannot be written by this user",
    "unable to open": "; its folder must exist and be writable by this user",
}
