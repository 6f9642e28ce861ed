"""Compare the schema of an SQLite file with the one that this package creates.

A stranger's file may have triggers, computed columns, or, in a table's place, a view whose rows never end.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Collection, Iterable

from ..errors import DatabaseError

Part = tuple[str, str, str, str]  # type, name, table, and SQL on one line
_STATISTICS = {  # tables that SQLite itself adds, for `PRAGMA optimize`
    ("table", name, name, f"CREATE TABLE {name}({columns})")
    for name, columns in (("sqlite_stat1", "tbl,idx,stat"), ("sqlite_stat4", "tbl,idx,neq,nlt,ndlt,sample"))
}
# What SQLite's releases, which describe the tables of a virtual table differently, have in common: no expressions.
_PLAIN_COLUMN = r"(\w+( INTEGER| BLOB)?( PRIMARY KEY)?|PRIMARY KEY ?\(\w+(, ?\w+)*\))"
_PLAIN_TABLE = re.compile(rf"CREATE TABLE ['\"]?\w+['\"]? ?\({_PLAIN_COLUMN}(, ?{_PLAIN_COLUMN})*\)( WITHOUT ROWID)?")


def schema_of(file: sqlite3.Connection) -> list[Part]:
    """Return the tables, indexes, views and triggers of an SQLite file."""
    found = file.execute("SELECT type, name, tbl_name, sql FROM sqlite_master")
    return [(*map(str, names), " ".join(str(sql or "").split())) for *names, sql in found]  # type: ignore[misc]


def check_schema(found: Iterable[Part], made: Collection[Part], path: str) -> None:
    """Make sure that an SQLite file has nothing that this package did not create.

    Args:
        found: The file's schema.
        made: The schema that this package creates.
        path: The file.

    Raises:
        DatabaseError: The file has something else; the message names it.
    """
    virtual = tuple(f"{name}_" for _, name, _, sql in made if sql.startswith("CREATE VIRTUAL TABLE"))
    shadows = {part[:3] for part in made if part[1].startswith(virtual)}
    for part in found:
        is_shadow = part[:3] in shadows and _PLAIN_TABLE.fullmatch(part[3])
        if part not in made and not is_shadow and part not in _STATISTICS:
            raise DatabaseError(
                f"{path} cannot be used: this package did not create its {part[0]} {part[1]!r:.100}; if you added it, "
                "drop it; otherwise restore the file from a backup"
            )
