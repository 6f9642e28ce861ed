"""A ledger in an SQLite file, which needs no server or extra: many readers, one writer at a time (write-ahead mode).

Do not put the file on a network file system, whose locks SQLite cannot rely on. A catalogue can be read even if nothing
can be written, not even SQLite's additional files.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import Any

from filelock import FileLock, Timeout

from ...errors import DatabaseError
from ..fields import BUILT_IN, Field
from ..filters import Filter
from ..filters.sql import column_names, compile_sql, with_nul
from ..filters.sqlite import SqliteWriter, sqlite_value
from .database import Purpose, Row, Transaction
from .fair_lock import FairLock
from .sqlite_file import MEMORY, PATIENCE_S, SqliteFile, interrupting
from .sqlite_tables import APPLICATION, LAYOUT, TABLES, TYPES, check_tables
from .words import asked_words

_LOCKS: dict[Purpose, str] = {"follow": ".lock", "optimize": ".optimize.lock", "check": ".check.lock"}

# Bytes to read ahead with one call, few enough for Linux not to shorten it, and in total, as the cache may be small.
_AHEAD, _MOST_AHEAD = 1 << 20, 2 << 30

# Vectors make rows long, and several rows should fit on a page.
_PAGE = 16_384
# Sizes of the steps of `optimize`, between which others may write, in pages and in images; and the share of used row
# ids above which images are not rewritten.
_STEP, _ROWS, _DENSE = 500, 2000, 0.8


class SqliteDatabase:
    """A database of a ledger in a file; see `Database`.

    Args:
        path: The file, or `:memory:` for a database that exists only as long as this object.
        fields: Declared fields, to create the file; None opens an existing one.

    Raises:
        DatabaseError: The file cannot be opened or created, already exists, or is not a catalogue.
    """

    def __init__(self, path: str | Path, fields: Sequence[Field] | None = None) -> None:
        self._path, self._process = str(path), os.getpid()
        # One connection writes; those for reading never wait, except for a writer of a database in memory.
        self._writing, self._connections = FairLock(), SqliteFile(self._path)
        self._alone = {purpose: Lock() for purpose in _LOCKS}  # for a database in memory, instead of files
        with self._failing():
            self._file = self._connections.connect() if fields is not None else self._connections.open()
            try:
                self._set_up(fields)
            except BaseException:
                self._file.close()
                raise

    def __str__(self) -> str:
        return self._path

    def read(self, sql: str, values: Sequence[object] = ()) -> list[Row]:
        with (
            self._failing(),
            self._reading() as file,
            interrupting(file),
            closing(file.execute(sql, _plain(values))) as found,
        ):
            return found.fetchall()

    def stream(self, sql: str, size: int, *, everything: bool = False) -> Iterator[list[Row]]:
        if self._path == MEMORY:  # otherwise, nobody could write until the last row has been read
            rows = self.read(sql)
            yield from (rows[start : start + size] for start in range(0, len(rows), size))
            return
        if everything:
            _read_ahead(self._path)
        with self._failing(), self._connections.reading() as file, closing(file.execute(sql)) as found:
            while rows := found.fetchmany(size):
                yield rows

    @contextmanager
    def write(self) -> Iterator[Transaction]:
        with self._writing, self._failing():
            try:
                self._file.execute("BEGIN IMMEDIATE")
                yield _Transaction(self._file)
                self._file.execute("COMMIT")
                self._file = self._connections.fitting(self._file)
            except BaseException:
                if self._file.in_transaction:
                    self._file.execute("ROLLBACK")
                raise

    @contextmanager
    def exclusive(self, purpose: Purpose, *, wait: bool) -> Iterator[bool]:
        if self._path == MEMORY:
            if held := self._alone[purpose].acquire(blocking=wait):
                try:
                    yield True
                finally:
                    self._alone[purpose].release()
            else:
                yield False
            return
        lock, held = FileLock(f"{self._path}{_LOCKS[purpose]}"), False
        try:
            lock.acquire(timeout=-1 if wait else 0)
            held = True
        except Timeout:
            pass
        except OSError as exc:
            if wait or purpose == "optimize":  # readers can use the existing data without following
                raise DatabaseError(
                    f"the catalogue {self._path} cannot be used: {exc.strerror or exc}{_READ_ONLY}"
                ) from exc
        try:
            yield held
        finally:
            lock.release()

    def where(self, given: Filter | None, fields: Sequence[Field]) -> tuple[str, list[object]]:
        writer = SqliteWriter(fields, "product")
        return compile_sql(given, writer), list(writer.parameters)

    def texts(self, stored: Any) -> tuple[str, ...]:
        return tuple(with_nul(text) for text in json.loads(stored))

    def find_words(self, text: str, condition: str, values: Sequence[object], limit: int) -> list[Row]:
        words = dict.fromkeys(asked_words(text).values())
        if not words:
            return []
        any_of = " OR ".join(f'"{word}"' for word in words)
        query = (
            "SELECT product.number, -bm25(words) FROM words JOIN product ON product.number = words.rowid "
            f"WHERE words MATCH ? AND {condition} ORDER BY bm25(words), f0 LIMIT ?"
        )
        return self.read(query, (any_of, *values, limit))

    def index_words(self, transaction: Transaction, texts: Sequence[tuple[int, str, str]]) -> None:
        self.forget_words(transaction, [number for number, _, _ in texts])
        transaction.run_many("INSERT INTO words (rowid, name, description) VALUES (?, ?, ?)", texts)

    def forget_words(self, transaction: Transaction, numbers: Sequence[int]) -> None:
        transaction.run_many("DELETE FROM words WHERE rowid = ?", [(number,) for number in numbers])

    def optimize(self) -> None:
        # In steps, between which others may write: VACUUM would block them for as long as it takes to copy the file.
        pages = -_STEP  # a negative number makes FTS5 merge all segments, not only those of similar size
        while self._step("INSERT INTO words (words, rank) VALUES ('merge', ?)", pages) > 1:
            pages = _STEP
        self._step("PRAGMA optimize")
        self._close_gaps()
        for _ in range(self._free_pages() // _STEP + 1):
            self._step(f"PRAGMA incremental_vacuum({_STEP})")
        self._step("PRAGMA wal_checkpoint(PASSIVE)")
        # Little is left to do; if there are readers, the rest is postponed until the next time.
        with self._writing, self._failing():
            self._file.execute("PRAGMA busy_timeout = 500")
            try:
                self._file.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            finally:
                self._file.execute(f"PRAGMA busy_timeout = {1000 * PATIENCE_S:.0f}")

    def close(self) -> None:
        if self._process != os.getpid():
            return  # the parent must close its own connections
        with self._writing:
            self._file.close()
        self._connections.close()

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        if self._path == MEMORY:
            with self._writing.shared() as alone:
                if self._connections.is_shared and not alone:
                    with self._connections.reading() as file:
                        yield file
                    return
            with self._writing:  # a single connection, which is used in turn
                yield self._file
        else:
            with self._connections.reading() as file:
                yield file

    def _close_gaps(self) -> None:
        """Rewrite images one after another, if deleted ones have left many pages half empty."""
        first, last, count = self.read(
            "SELECT coalesce(min(rowid), 0), coalesce(max(rowid), 0), count(*) FROM picture"
        )[0]
        if count > _DENSE * (last - first + 1):
            return
        for start in range(first, last + 1, _ROWS):
            again = "REPLACE INTO picture SELECT * FROM picture WHERE rowid BETWEEN ? AND ?"
            self._step(again, start, min(start + _ROWS - 1, last))

    def _step(self, sql: str, *values: object) -> int:
        """Run a statement, pause for as long as it took, to let others write, and return the number of changed rows."""
        with self._writing, self._failing():
            began, before = time.monotonic(), self._file.total_changes
            if values:
                self._file.execute(sql, values)
            else:  # with `execute`, incremental_vacuum would free only one page, because it returns no rows to fetch
                self._file.executescript(sql)
            taken, changed = time.monotonic() - began, self._file.total_changes - before
        time.sleep(taken)
        return changed

    def _free_pages(self) -> int:
        return int(self.read("PRAGMA freelist_count")[0][0])

    def _set_up(self, fields: Sequence[Field] | None) -> None:
        """Create the tables, or make sure that existing ones are ours."""
        if fields is not None:
            self._file.execute(f"PRAGMA page_size = {_PAGE}")
            self._file.execute("PRAGMA auto_vacuum = INCREMENTAL")
            self._file.execute("PRAGMA journal_mode = WAL")
            self._file.execute("PRAGMA synchronous = FULL")
            with self.write() as transaction:
                self._make(transaction, fields)
            return
        (application,) = self._file.execute("PRAGMA application_id").fetchone()
        (layout,) = self._file.execute("PRAGMA user_version").fetchone()
        if application != APPLICATION or layout == 0:
            raise DatabaseError(
                f"{self._path} is not a catalogue; if it was one, restore it from a backup; otherwise name another place"
            )
        if layout != LAYOUT:
            raise DatabaseError(
                f"{self._path} was created by another version of this package (layout {layout}, not {LAYOUT}); export its "
                "products with that version, and add them to a new catalogue"
            )
        check_tables(self._file, self._path)
        self._file.execute("PRAGMA synchronous = FULL")

    def _make(self, transaction: Transaction, fields: Sequence[Field]) -> None:
        if transaction.run("SELECT 1 FROM sqlite_master LIMIT 1"):
            raise DatabaseError(f"{self._path} already exists")
        types = [TYPES[field.kind] for field in (*BUILT_IN, *fields)]
        columns = ", ".join(f"{name} {kind}" for name, kind in zip(column_names(fields).values(), types, strict=True))
        for statement in TABLES.format(columns=columns).split(";"):
            transaction.run(statement)
        transaction.run(f"PRAGMA application_id = {APPLICATION}")
        transaction.run(f"PRAGMA user_version = {LAYOUT}")

    @contextmanager
    def _failing(self) -> Iterator[None]:
        """Convert SQLite's errors into a `DatabaseError` about the catalogue."""
        if self._process != os.getpid():
            raise DatabaseError(
                f"the catalogue {self._path} was opened before this process was forked; open it in each process after the fork"
            )
        try:
            yield
        except sqlite3.Error as exc:
            text = str(exc)
            hint = next((hint for sign, hint in _HINTS.items() if sign in text), "")
            raise DatabaseError(f"the catalogue {self._path} cannot be used: {text}{hint}") from exc


_READ_ONLY = "; it can only be read here: this user cannot write to its folder, its file or the file system"
_HINTS = {
    "full": "; no acknowledged change is lost: free some space, and run the same command again",
    "locked": f"; another process has been writing for more than {PATIENCE_S:.0f} s; run the same command again later",
    **dict.fromkeys(
        ("malformed", "not a database", "no such", "vtable"),
        "; it is damaged: restore it from a backup, or add its products to a new catalogue",
    ),
    "readonly": _READ_ONLY,
}


class _Transaction:
    """See `database.Transaction`."""

    def __init__(self, file: sqlite3.Connection) -> None:
        self._file = file

    def run(self, sql: str, values: Sequence[object] = ()) -> list[Row]:
        return self._file.execute(sql, _plain(values)).fetchall()

    def run_many(self, sql: str, rows: Iterable[Sequence[object]]) -> None:
        self._file.executemany(sql, map(_plain, rows))


def _read_ahead(path: str) -> None:
    """Have the system read a file that SQLite has open into the system's cache, because SQLite waits for each page."""
    # Closing a separate descriptor would release this process's locks (POSIX), and others would then remove the `-wal`.
    opened, wanted = Path("/proc/self/fd"), Path(path).stat()  # only on Linux
    for each in opened.iterdir() if opened.is_dir() else ():
        with suppress(OSError):
            if os.path.samestat(each.stat(), wanted):
                for start in range(0, min(wanted.st_size, _MOST_AHEAD), _AHEAD):
                    os.posix_fadvise(int(each.name), start, _AHEAD, os.POSIX_FADV_WILLNEED)
                return


def _plain(values: Sequence[object]) -> tuple[object, ...]:
    """Return parameters for SQLite, with lists of texts as JSON."""
    return tuple(sqlite_value(value) if isinstance(value, tuple) else value for value in values)
