"""Open match logs in SQLite files, PostgreSQL, MongoDB and memory."""

from __future__ import annotations

from contextlib import closing
from os import PathLike
from pathlib import Path

from ...errors import UsageError
from ...files import path_text
from ..opening import SERVERS, is_catalog
from .match_log import MatchLog
from .mongo import SCHEMES, MongoStorage
from .sqlite import MEMORY, SqliteStorage
from .storage import LogStorage

FILE = "log.sqlite"  # name in a catalogue's folder


def open_match_log(place: str | PathLike[str], *, create: bool = True) -> MatchLog:
    """Open the match log at a place.

    Args:
        place: A catalogue's folder, whose log is the file `log.sqlite` in it; `postgresql://...`, with tables next to
            those of the catalogue or in a schema without one; `mongodb://host/database/collection`; a file that ends in
            `.sqlite`; or `:memory:` for a log that exists only as long as the returned object.
        create: Whether to create a log that does not exist. MongoDB creates collections by itself.

    Returns:
        A log, which is a context manager and safe to share between threads.

    Raises:
        UsageError: There is no log, or the place cannot contain one.
        DatabaseError: The log cannot be opened.
    """
    where = path_text(place, "place")
    if not create and not _is_there(where):
        raise UsageError(f"there is no match log at {where}; a service with that catalogue writes one")
    return MatchLog(_storage(where))


def _storage(where: str) -> LogStorage:
    if where == MEMORY:
        return SqliteStorage(MEMORY)
    if where.startswith(SCHEMES):
        return MongoStorage(where)
    if where.startswith(SERVERS):
        from .postgres import PostgresStorage  # imports psycopg, which only this kind of place needs

        return PostgresStorage(where)
    return SqliteStorage(_file(where))


def _is_there(where: str) -> bool:
    if where == MEMORY or where.startswith(SCHEMES):
        return True
    if where.startswith(SERVERS):
        from ..postgres import Connections
        from .postgres import has_log

        with closing(Connections(where)) as connections:
            return has_log(connections)
    return _file(where).is_file()


def _file(where: str) -> Path:
    if where.endswith(".sqlite"):
        return Path(where)
    if not is_catalog(where):
        raise UsageError(
            f"there is no catalogue at {where}; a log is stored with a catalogue, in a file that ends in .sqlite, or "
            "at mongodb://HOST/DATABASE/COLLECTION"
        )
    return Path(where) / FILE
