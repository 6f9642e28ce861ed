"""The tables of a ledger in an SQLite file."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from functools import lru_cache

from ..fields import FieldKind
from ..sqlite_schema import Part, check_schema, schema_of

APPLICATION = 0x74697363  # "tisc", the application id of our SQLite files
LAYOUT = 1  # in the header's user_version
TYPES: dict[FieldKind, str] = {"text": "TEXT", "number": "REAL", "bool": "INTEGER", "date": "REAL", "texts": "TEXT"}
_COLUMN = re.compile(rf", f[0-9]+ ({'|'.join(sorted({*TYPES.values()}))})(?= ?[,)])")  # of a field

TABLES = """
CREATE TABLE counter (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
INSERT INTO counter VALUES ('version', 0), ('number', 0), ('generation', 0), ('optimized', 0), ('pruned', 0);
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


def check_tables(file: sqlite3.Connection, path: str) -> None:
    """Make sure that a catalogue has only our tables and indexes, with any columns for fields.

    Raises:
        DatabaseError: The file has something else; the message names it.
    """
    check_schema(_without_fields(file), _made(), path)


@lru_cache(maxsize=1)
def _made() -> frozenset[Part]:
    with closing(sqlite3.connect(":memory:")) as file:
        file.executescript(TABLES.format(columns="f0 TEXT"))
        return frozenset(_without_fields(file))


def _without_fields(file: sqlite3.Connection) -> list[Part]:
    return [(*names, _COLUMN.sub("", sql)) for *names, sql in schema_of(file)]  # type: ignore[misc]
