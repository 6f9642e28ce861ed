"""Connections to a PostgreSQL database, which are opened on demand, reused, and replaced when they are lost.

Each transaction sets its schema, and nothing is kept in a session, so a pooler such as PgBouncer can be used.
PostgreSQL cannot store U+0000; it is escaped and restored here, so callers do not have to deal with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from math import ceil, inf
from threading import Lock
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import parse_qsl, urlencode

from ..errors import DatabaseError, UsageError
from ..system import require
from .fields import FieldKind
from .filters.sql import with_nul, without_nul
from .time_limit import check_time, remaining

if TYPE_CHECKING:
    from psycopg import Connection, Cursor

TYPES: Mapping[FieldKind, str] = {
    # Texts are equal if their bytes are equal, and are ordered by code points, as in all stores.
    "text": 'text COLLATE "C"',
    "number": "double precision",
    "bool": "boolean",
    "date": "double precision",
    "texts": 'text[] COLLATE "C"',
}

_PATIENCE_S = 60  # longest wait while another process is writing
_CONNECT_S = 10
_CANCELLED = "57014"  # PostgreSQL's error code of statements that took too long
_LATE_S = 1.0  # by how much a statement may exceed the remaining time, which saves a round trip
_LEAST_PGVECTOR = (0, 8)  # first version whose searches continue until enough images pass the filter
_BEGIN = {
    False: "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
    True: "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE",  # the block sees all that was written before it got a lock
}
_LOST = (
    "; check the address, user, password and database, and that the server is running; acknowledged records are kept"
)
# Hints by prefix of PostgreSQL's error codes.
_HINTS = {
    "08": _LOST,
    "0A000": "; install pgvector on the server, see https://github.com/pgvector/pgvector",
    "25006": "; this server is a read-only replica: name the primary server instead",
    "42501": "; ask the database's administrator for this permission",
    "53100": "; no acknowledged change is lost: free some space, and run the same command again",
    "53300": "; close other clients, or allow the server more connections",
    "55P03": f"; another process has been writing for more than {_PATIENCE_S} s; run the same command again later",
    "57P": "; wait until the server is back, and run the same command again: acknowledged records are kept",
    "58P01": "; install pgvector on the server, see https://github.com/pgvector/pgvector",
}


class Connections:
    """Connections to a schema of a database. Safe to share between threads.

    Args:
        url: `postgresql://user:password@host/database`, with `?schema=...` for a schema other than `catalog`, 1 to 63
            bytes, which is created if necessary. All other parameters are passed to libpq.

    Raises:
        MissingExtraError: A library is not installed.
        UsageError: The URL or the name of the schema is not valid.
    """

    def __init__(self, url: str) -> None:
        require("a catalogue in PostgreSQL", "psycopg", "pgvector", extra="search")
        from psycopg import sql

        if not url.startswith(("postgresql://", "postgres://")):
            raise UsageError(f"{url!r:.100} is not a PostgreSQL URL: write postgresql://...")
        self._url, schema = _without_schema(url)
        if not 0 < len(schema.encode()) < 64 or "\0" in schema or schema.startswith("pg_"):
            raise UsageError(
                f"{schema!r:.100} is not a valid name of a PostgreSQL schema: use 1 to 63 bytes, not beginning with pg_"
            )
        self.schema = schema
        self.quoted = sql.Identifier(schema).as_string()
        # The search path also includes the default one, because pgvector may be in any schema.
        path = sql.Literal(f"{self.quoted}, ").as_string()
        self._here = f"SELECT set_config('search_path', {path} || current_setting('search_path'), true)"
        self._lock = Lock()
        self._idle: list[Connection[Any]] = []

    @contextmanager
    def transaction(self, *, writes: bool = False, vectors: bool = False) -> Iterator[PostgresTransaction]:
        """Run a block in a transaction, with one snapshot unless it writes; an exception rolls the transaction back.

        Statements of a block that only reads are cancelled when the time of `time_limit` is up.

        Args:
            writes: Whether the block writes.
            vectors: Whether vectors are passed as arrays, which requires pgvector.

        Raises:
            DatabaseError: PostgreSQL fails or cannot be reached; the message says what to do.
            TimeoutError: The time of `time_limit` is up.
        """
        with self._failing():
            allowed_s = inf if writes else remaining()
            connection = self._begin("; ".join([_BEGIN[writes], self._here, *_limit_statements(allowed_s)]))
            try:
                if vectors and connection.adapters.types.get("vector") is None:
                    from pgvector.psycopg import register_vector

                    register_vector(connection)
                with connection.cursor(binary=True) as cursor:
                    yield PostgresTransaction(cursor, allowed_s)
                    cursor.execute("COMMIT")
            except BaseException:
                with suppress(Exception):
                    connection.execute("ROLLBACK")
                raise
            finally:
                self._give_back(connection)

    @contextmanager
    def locked(self, purpose: str, *, wait: bool = True, patience_s: float = 0) -> Iterator[PostgresTransaction | None]:
        """Run a block in a transaction that holds a lock for a purpose in the schema.

        Args:
            purpose: Name of the lock.
            wait: Whether to wait for the lock; otherwise the block gets None if another transaction holds it.
            patience_s: Longest wait in seconds; 0 means no limit.
        """
        with self.transaction(writes=True) as transaction:
            key = f"text_image_similarity/{self.schema}/{purpose}"
            transaction.run(f"SET LOCAL lock_timeout = {int(patience_s * 1000)}")
            lock = "pg_advisory_xact_lock" if wait else "pg_try_advisory_xact_lock"
            ((got,),) = transaction.run(f"SELECT {lock}(hashtextextended(%s, 0))::text", (key,))
            # Last, because the snapshot of the statement above would otherwise be held until the next one, and CREATE
            # INDEX CONCURRENTLY would wait for it.
            transaction.run("SET LOCAL idle_in_transaction_session_timeout = 0")
            yield None if got == "false" else transaction

    @contextmanager
    def alone(self) -> Iterator[Cursor[Any]]:
        """Yield a cursor on a separate connection, without a schema, for statements that no transaction can contain."""
        with self._failing(), closing(self._open()) as connection, connection.cursor() as cursor:
            cursor.execute(f"SET lock_timeout = {_PATIENCE_S * 1000:d}".encode())
            yield cursor

    def make_schema(self, transaction: PostgresTransaction) -> None:
        """Create the schema and load pgvector unless they exist; both may need permissions that users lack."""
        if transaction.run("SELECT 1 WHERE to_regnamespace(%s) IS NULL", (self.quoted,)):
            transaction.run(f"CREATE SCHEMA {self.quoted}")
        if not transaction.run("SELECT 1 FROM pg_extension WHERE extname = 'vector'"):
            transaction.run("CREATE EXTENSION IF NOT EXISTS vector SCHEMA public")
        ((version,),) = transaction.run("SELECT extversion FROM pg_extension WHERE extname = 'vector'")
        if tuple(map(int, str(version).split(".")[:2])) < _LEAST_PGVECTOR:
            raise DatabaseError(
                f"{self} has pgvector {version}; update it to 0.8 or later: ALTER EXTENSION vector UPDATE"
            )

    def close(self) -> None:
        """Close the connections that are idle; those in use stay open, and can be used again once they are returned."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def __str__(self) -> str:
        from psycopg.conninfo import conninfo_to_dict

        known: Mapping[str, Any] = {}
        with suppress(Exception):
            known = conninfo_to_dict(self._url)
        return (
            f"the catalogue {self.schema!r} in PostgreSQL at {known.get('host', 'localhost')}/{known.get('dbname', '')}"
        )

    def _begin(self, statement: str) -> Connection[Any]:
        """Return a connection in a new transaction, discarding connections that were lost while idle."""
        from psycopg import OperationalError

        while True:
            with self._lock:
                connection = self._idle.pop() if self._idle else None
            if connection is None:
                connection = self._open()
                connection.execute(statement)
                return connection
            try:
                connection.execute(statement)
                return connection
            except OperationalError:
                connection.close()

    def _open(self) -> Connection[Any]:
        import psycopg

        return psycopg.connect(self._url, autocommit=True, prepare_threshold=None, connect_timeout=_CONNECT_S)

    def _give_back(self, connection: Connection[Any]) -> None:
        from psycopg.pq import TransactionStatus

        if connection.info.transaction_status == TransactionStatus.IDLE:
            with self._lock:
                self._idle.append(connection)
        else:
            connection.close()

    @contextmanager
    def _failing(self) -> Iterator[None]:
        """Convert PostgreSQL's errors into a `DatabaseError` about the catalogue, or a `TimeoutError`."""
        import psycopg

        try:
            yield
        except psycopg.Error as exc:
            if exc.sqlstate == _CANCELLED:
                check_time()
            # Without a code, the connection could not be made or was lost.
            code = exc.sqlstate or ("08" if isinstance(exc, psycopg.OperationalError) else "")
            hint = next((hint for start, hint in _HINTS.items() if code.startswith(start)), "")
            lines = str(exc).strip().splitlines() or [type(exc).__name__]
            raise DatabaseError(f"{self} cannot be used: {lines[0]}{hint}") from exc


class PostgresTransaction:
    """A transaction. Parameters are written `%s`; a tuple is passed as an array.

    Args:
        cursor: Cursor of the transaction.
        allowed_s: Number of seconds after which PostgreSQL cancels a statement; `inf` for a transaction without a limit.
    """

    def __init__(self, cursor: Cursor[Any], allowed_s: float = inf) -> None:
        self.cursor, self._allowed_s = cursor, allowed_s

    def run(self, sql: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Run one statement and return its rows."""
        if self._allowed_s < inf:
            check_time()
            if (left_s := remaining()) < self._allowed_s - _LATE_S:
                self._allowed_s = left_s
                self.cursor.execute(_limit_statements(left_s)[0].encode())
        self.cursor.execute(cast(Any, sql), plain(values) if values else None)  # with None, % is literal
        return [restored(row) for row in self.cursor] if self.cursor.description else []

    def run_many(self, sql: str, rows: Iterable[Sequence[object]]) -> None:
        """Run one statement for each row of values."""
        self.cursor.executemany(cast(Any, sql), map(plain, rows))


def _limit_statements(seconds: float) -> list[str]:
    """Return the statement that limits the time of each later one in a transaction; an empty list without a limit."""
    if seconds == inf:
        return []
    check_time()
    return [f"SET LOCAL statement_timeout = {ceil(1000 * max(0.0, seconds)) + 1}"]  # 0 would mean no limit


def _without_schema(url: str) -> tuple[str, str]:
    """Return a URL without the parameter `schema`, which libpq would refuse, and the name of the schema."""
    address, _, query = url.partition("?")
    given = parse_qsl(query, keep_blank_values=True)
    others = [(name, value) for name, value in given if name != "schema"]
    return "?".join([address, *([urlencode(others)] if others else [])]), dict(given).get("schema", "catalog")


def plain(values: Sequence[object]) -> list[object]:
    """Return values as PostgreSQL can store them: U+0000 is escaped, and a tuple becomes an array."""
    return [_plain(value) for value in values]


def restored(row: Sequence[Any]) -> tuple[Any, ...]:
    """Return a row from PostgreSQL with its original values."""
    return tuple(
        with_nul(value) if isinstance(value, str) else tuple(map(with_nul, value)) if isinstance(value, list) else value
        for value in row
    )


def _plain(value: object) -> object:
    if isinstance(value, str):
        return without_nul(value)
    return [without_nul(text) for text in value] if isinstance(value, tuple) else value
