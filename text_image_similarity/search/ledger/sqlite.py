"""A ledger in an SQLite file: no server, no extra, many readers beside one writer at a time (write-ahead mode).

The file does not belong on a network file system, whose locks SQLite cannot rely on.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from threading import RLock
from typing import Any

from filelock import FileLock, Timeout

from ...errors import DatabaseError
from ..fields import BUILT_IN, Field, FieldKind
from ..filters import Filter
from ..filters.sql import column_names, compile_sql, with_nul
from ..filters.sqlite import SqliteWriter, sqlite_value
from .database import Row, Transaction

_APPLICATION = 0x74697363  # "tisc", by which SQLite tells our files
_LAYOUT = 1  # in the header's user_version
MEMORY = ":memory:"
_PATIENCE_S = 60.0  # how long another process may be writing
_TYPES: dict[FieldKind, str] = {"text": "TEXT", "number": "REAL", "bool": "INTEGER", "date": "REAL", "texts": "TEXT"}

# Bytes that a file is read ahead, in pieces that Linux does not cut down, and how many at most: the cache may be small.
_AHEAD, _MOST_AHEAD = 1 << 20, 2 << 30

# The vectors make rows long, and several should fit on a page.
_PAGE = 16_384

_TABLES = """
CREATE TABLE counter (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
INSERT INTO counter VALUES ('version', 0), ('number', 0), ('generation', 0);
CREATE TABLE setting (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE product (
    number INTEGER PRIMARY KEY, version INTEGER NOT NULL, name TEXT NOT NULL, description TEXT NOT NULL,
    images TEXT NOT NULL, fields TEXT NOT NULL, {columns}
);
CREATE UNIQUE INDEX product_id ON product (f0);
CREATE INDEX product_version ON product (version);
CREATE TABLE picture (
    generation INTEGER NOT NULL, number INTEGER NOT NULL, slot INTEGER NOT NULL, content BLOB, vector BLOB, error TEXT
);
CREATE UNIQUE INDEX picture_place ON picture (generation, number, slot);
CREATE INDEX picture_number ON picture (number);
CREATE INDEX picture_content ON picture (generation, content);
CREATE TABLE removed (number INTEGER PRIMARY KEY, version INTEGER NOT NULL);
CREATE INDEX removed_version ON removed (version);
CREATE TABLE generation (
    number INTEGER PRIMARY KEY, model TEXT NOT NULL, revision TEXT, probes BLOB NOT NULL, dimension INTEGER NOT NULL,
    state TEXT NOT NULL, calibration TEXT
);
CREATE VIRTUAL TABLE words USING fts5 (name, description, tokenize = "unicode61 remove_diacritics 2");
"""


class SqliteDatabase:
    """A database of a ledger in a file; see `Database`.

    Args:
        path: The file, or `:memory:` for one that ends with this object.
        fields: The declared fields, to make the file with; None opens one that is there.

    Raises:
        DatabaseError: It cannot be opened or made, is there already, or is something else.
    """

    def __init__(self, path: str | Path, fields: Sequence[Field] | None = None) -> None:
        self._path, self._process = str(path), os.getpid()
        # Two connections, so that reading never waits for another process's writing. What is in memory alone has one.
        self._writing = RLock()
        self._reading = self._writing if self._path == MEMORY else RLock()
        with self._failing():
            self._file = self._connect()
            try:
                self._set_up(fields)
                self._reader = self._file if self._path == MEMORY else self._connect()
            except BaseException:
                self._file.close()
                raise

    def read(self, sql: str, values: Sequence[object] = ()) -> list[Row]:
        with self._reading, self._failing():
            return self._reader.execute(sql, _plain(values)).fetchall()

    def stream(self, sql: str, size: int, *, everything: bool = False) -> Iterator[list[Row]]:
        if self._path == MEMORY:  # which no second connection can see
            rows = self.read(sql)
            yield from (rows[start : start + size] for start in range(0, len(rows), size))
            return
        if everything:
            _read_ahead(self._path)
        with self._failing(), closing(self._connect()) as file:  # one of its own, so that writers go on meanwhile
            found = file.execute(sql)
            while rows := found.fetchmany(size):
                yield rows

    @contextmanager
    def write(self) -> Iterator[Transaction]:
        with self._writing, self._failing():
            try:
                self._file.execute("BEGIN IMMEDIATE")
                yield _Transaction(self._file)
                self._file.execute("COMMIT")
            except BaseException:
                if self._file.in_transaction:
                    self._file.execute("ROLLBACK")
                raise

    @contextmanager
    def exclusive(self, *, wait: bool) -> Iterator[bool]:
        if self._path == MEMORY:
            yield True
            return
        try:
            with FileLock(f"{self._path}.lock", timeout=-1 if wait else 0):
                yield True
        except Timeout:
            yield False

    def where(self, given: Filter | None, fields: Sequence[Field]) -> tuple[str, list[object]]:
        writer = SqliteWriter(fields, "product")
        return compile_sql(given, writer), list(writer.parameters)

    def texts(self, stored: Any) -> tuple[str, ...]:
        return tuple(with_nul(text) for text in json.loads(stored))

    def find_words(self, text: str, condition: str, values: Sequence[object], limit: int) -> list[Row]:
        words = re.findall(r"\w+", text)
        if not words:
            return []
        any_of = " OR ".join(f'"{word}"' for word in dict.fromkeys(words))
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
        with self._writing, self._failing():
            self._file.execute("INSERT INTO words (words) VALUES ('optimize')")
            self._file.execute("PRAGMA optimize")
            self._file.execute("VACUUM")
            self._file.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def close(self) -> None:
        if self._process != os.getpid():
            return  # what the parent opened is the parent's to close
        with self._writing, self._reading:
            self._file.close()
            self._reader.close()

    def _connect(self) -> sqlite3.Connection:
        file = sqlite3.connect(self._path, timeout=_PATIENCE_S, check_same_thread=False, isolation_level=None)
        file.execute("PRAGMA cache_size = -65536")
        return file

    def _set_up(self, fields: Sequence[Field] | None) -> None:
        """Make the tables, or see to it that they are ours."""
        if fields is not None:
            self._file.execute(f"PRAGMA page_size = {_PAGE}")
            self._file.execute("PRAGMA journal_mode = WAL")
            self._file.execute("PRAGMA synchronous = FULL")
            with self.write() as transaction:
                self._make(transaction, fields)
            return
        (application,) = self._file.execute("PRAGMA application_id").fetchone()
        (layout,) = self._file.execute("PRAGMA user_version").fetchone()
        if application != _APPLICATION or layout == 0:
            raise DatabaseError(f"{self._path} is not a catalogue")
        if layout != _LAYOUT:
            raise DatabaseError(
                f"{self._path} was made by another version of this package (layout {layout}, not {_LAYOUT}); export its "
                "products with that version, and add them to a new catalogue"
            )
        self._file.execute("PRAGMA synchronous = FULL")

    def _make(self, transaction: Transaction, fields: Sequence[Field]) -> None:
        if transaction.run("SELECT 1 FROM sqlite_master LIMIT 1"):
            raise DatabaseError(f"{self._path} is there already")
        types = [_TYPES[field.kind] for field in (*BUILT_IN, *fields)]
        columns = ", ".join(f"{name} {kind}" for name, kind in zip(column_names(fields).values(), types, strict=True))
        for statement in _TABLES.format(columns=columns).split(";"):
            transaction.run(statement)
        transaction.run(f"PRAGMA application_id = {_APPLICATION}")
        transaction.run(f"PRAGMA user_version = {_LAYOUT}")

    @contextmanager
    def _failing(self) -> Iterator[None]:
        """Tell what SQLite says in words of the catalogue."""
        if self._process != os.getpid():
            raise DatabaseError(
                f"the catalogue {self._path} was opened before this process was forked; open it after that, in each process"
            )
        try:
            yield
        except sqlite3.Error as exc:
            text = str(exc)
            hint = next((hint for sign, hint in _HINTS.items() if sign in text), "")
            raise DatabaseError(f"the catalogue {self._path} failed: {text}{hint}") from exc


_HINTS = {
    "full": "; nothing that was acknowledged is lost: make room, and run the same again",
    "locked": f"; another process has been writing for more than {_PATIENCE_S:.0f} s",
    "malformed": "; restore it from a backup, or add its products to a new catalogue",
    "not a database": "",
    "readonly": "; it cannot be written by this user",
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
    """Have the system begin to read a file into its cache: SQLite waits for each of its pages."""
    if not hasattr(os, "posix_fadvise"):  # Linux has it
        return
    with Path(path).open("rb") as file:
        size = min(os.fstat(file.fileno()).st_size, _MOST_AHEAD)
        for start in range(0, size, _AHEAD):
            os.posix_fadvise(file.fileno(), start, _AHEAD, os.POSIX_FADV_WILLNEED)


def _plain(values: Sequence[object]) -> tuple[object, ...]:
    """Return parameters as SQLite takes them: a list of texts as JSON."""
    return tuple(sqlite_value(value) if isinstance(value, tuple) else value for value in values)
