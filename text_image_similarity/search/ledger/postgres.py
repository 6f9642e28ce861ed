"""A ledger in PostgreSQL: a schema of tables in a database that others may share, with any number of writers.

Writers take turns, so that versions appear in order. Words are found with PostgreSQL's text search; it lacks BM25, so
rare words are given more weight here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

from ...errors import DatabaseError
from ..fields import BUILT_IN, Field
from ..filters import Filter
from ..filters.postgres import PostgresWriter
from ..filters.sql import column_names, compile_sql
from ..postgres import TYPES, Connections, PostgresTransaction, restored
from .database import Purpose, Row, Transaction
from .words import asked_words, words_of

_LAYOUT = 1
_PATIENCE_S = 60

# Limits of a tsvector.
_MOST_BYTES = 500_000
_LAST_PLACE, _MOST_PLACES = 16_383, 255

# Texts may be too long for a B-tree, so hash indexes are used; the one on ids also keeps them unique.
_TABLES = """
CREATE TABLE layout (number integer NOT NULL);
CREATE TABLE counter (name text PRIMARY KEY, value bigint NOT NULL);
INSERT INTO counter VALUES ('version', 0), ('number', 0), ('generation', 0), ('optimized', 0), ('pruned', 0);
CREATE TABLE setting (name text PRIMARY KEY, value text NOT NULL);
CREATE TABLE product (
    number bigint PRIMARY KEY, version bigint NOT NULL, name text NOT NULL, description text NOT NULL,
    images text NOT NULL, fields text NOT NULL, {columns}, EXCLUDE USING hash (f0 WITH =)
);
CREATE INDEX product_version ON product (version);
CREATE TABLE picture (
    generation integer, number bigint, slot smallint, content bytea, vector bytea, error text,
    PRIMARY KEY (generation, number, slot)
);
CREATE INDEX picture_number ON picture (number);
CREATE INDEX picture_content ON picture (generation, content);
CREATE TABLE removed (number bigint PRIMARY KEY, version bigint NOT NULL);
CREATE INDEX removed_version ON removed (version);
CREATE TABLE generation (
    number integer PRIMARY KEY, model text NOT NULL, revision text, probes bytea NOT NULL, dimension integer NOT NULL,
    state text NOT NULL, calibration text
);
CREATE TABLE words (number bigint PRIMARY KEY, found tsvector NOT NULL);
CREATE INDEX words_found ON words USING gin (found);
"""


def has_catalog(url: str) -> bool:
    """Tell whether a schema of a database contains a catalogue.

    Raises:
        DatabaseError: The database cannot be reached.
    """
    with closing(Connections(url)) as connections:
        return _layout(connections) is not None


def make_catalog(url: str, fields: Sequence[Field], begin: Callable[[Transaction], None]) -> None:
    """Create the tables of a catalogue, unless another process has created them.

    Args:
        url: See `Connections`.
        fields: The declared fields.
        begin: Function to run in the same transaction.

    Raises:
        DatabaseError: The database cannot be reached, or refuses the connection.
    """
    types = [TYPES[field.kind] for field in (*BUILT_IN, *fields)]
    columns = ", ".join(f"{name} {kind}" for name, kind in zip(column_names(fields).values(), types, strict=True))
    with closing(Connections(url)) as connections, connections.locked("make") as transaction:
        assert transaction is not None
        connections.make_schema(transaction)
        if transaction.run("SELECT 1 WHERE to_regclass('layout') IS NULL"):
            for statement in _TABLES.format(columns=columns).strip().split(";"):
                transaction.run(statement)
            transaction.run("INSERT INTO layout VALUES (%s)", (_LAYOUT,))
            begin(_Transaction(transaction))


class PostgresDatabase:
    """A database of a ledger in PostgreSQL; see `Database`.

    Args:
        url: See `Connections`.

    Raises:
        DatabaseError: The database cannot be opened, or is not a catalogue.
    """

    def __init__(self, url: str) -> None:
        self._connections = Connections(url)
        try:
            if (layout := _layout(self._connections)) != _LAYOUT:
                made = (
                    f"was created by another version of this package (layout {layout}, not {_LAYOUT}); "
                    "export its products with that version"
                )
                absent = "does not exist; create it with `catalog create`"
                raise DatabaseError(f"{self._connections} {made if layout else absent}")
        except BaseException:
            self._connections.close()
            raise

    def __str__(self) -> str:
        return str(self._connections)

    def read(self, sql: str, values: Sequence[object] = ()) -> list[Row]:
        with self._connections.transaction() as transaction:
            return transaction.run(_dialect(sql), values)

    def stream(self, sql: str, size: int, *, everything: bool = False) -> Iterator[list[Row]]:
        with self._connections.transaction() as transaction:
            connection = transaction.cursor.connection
            with closing(connection.cursor(name="stream", binary=True)) as found:  # rows stay on the server
                found.execute(_dialect(sql))
                while rows := found.fetchmany(size):
                    yield [restored(row) for row in rows]

    @contextmanager
    def write(self) -> Iterator[Transaction]:
        with self._connections.locked("write", patience_s=_PATIENCE_S) as transaction:
            assert transaction is not None
            yield _Transaction(transaction)

    @contextmanager
    def exclusive(self, purpose: Purpose, *, wait: bool) -> Iterator[bool]:
        with self._connections.locked(purpose, wait=wait) as transaction:
            yield transaction is not None

    def where(self, given: Filter | None, fields: Sequence[Field]) -> tuple[str, list[object]]:
        writer = PostgresWriter(fields, "product")
        return compile_sql(given, writer), list(writer.parameters)

    def texts(self, stored: Any) -> tuple[str, ...]:
        return tuple(stored)

    def find_words(self, text: str, condition: str, values: Sequence[object], limit: int) -> list[Row]:
        words = list(asked_words(text))
        if not words:
            return []
        with self._connections.transaction() as transaction:
            weights = _weights(transaction, words)
            relevance = " + ".join(["%s::float8 * ts_rank(found, %s::tsquery, 1)"] * len(words))
            query = (
                f"SELECT product.number, {relevance} AS relevance FROM words JOIN product USING (number) "
                f"WHERE found @@ %s::tsquery AND {condition} ORDER BY relevance DESC, f0 LIMIT %s"
            )
            each = [part for word, weight in zip(words, weights, strict=True) for part in (weight, f"'{word}'")]
            return transaction.run(query, [*each, " | ".join(f"'{word}'" for word in words), *values, limit])

    def index_words(self, transaction: Transaction, texts: Sequence[tuple[int, str, str]]) -> None:
        transaction.run_many(
            "INSERT INTO words VALUES (?, ?::tsvector) ON CONFLICT (number) DO UPDATE SET found = excluded.found",
            [(number, _vector(f"{name}\n{description}")) for number, name, description in texts],
        )

    def forget_words(self, transaction: Transaction, numbers: Sequence[int]) -> None:
        transaction.run_many("DELETE FROM words WHERE number = ?", [(number,) for number in numbers])

    def optimize(self) -> None:
        with self._connections.alone() as cursor:
            for table in ("product", "picture", "removed", "words"):
                cursor.execute(f"VACUUM (ANALYZE) {self._connections.quoted}.{table}".encode())

    def close(self) -> None:
        self._connections.close()


class _Transaction:
    """See `database.Transaction`."""

    def __init__(self, transaction: PostgresTransaction) -> None:
        self._transaction = transaction

    def run(self, sql: str, values: Sequence[object] = ()) -> list[Row]:
        return self._transaction.run(_dialect(sql), values)

    def run_many(self, sql: str, rows: Iterable[Sequence[object]]) -> None:
        self._transaction.run_many(_dialect(sql), rows)


def _layout(connections: Connections) -> int | None:
    """Return the layout version of a catalogue's tables; None if there are none."""
    with connections.transaction() as transaction:
        table = f"{connections.quoted}.layout"
        if transaction.run("SELECT 1 WHERE to_regclass(%s) IS NULL", (table,)):
            return None
        return int(transaction.run(f"SELECT number FROM {table}")[0][0])


def _dialect(sql: str) -> str:
    """Return SQL with psycopg's parameters; no literal in a ledger's SQL contains a question mark."""
    return sql.replace("?", "%s")


def _vector(text: str) -> str:
    """Return a text's words with their positions, in PostgreSQL's format."""
    places: dict[str, list[str]] = {}
    size = 0
    for place, word in enumerate(words_of(text), 1):
        size += len(word.encode()) + 8
        if size > _MOST_BYTES:
            break
        places.setdefault(word, []).append(str(min(place, _LAST_PLACE)))
    return " ".join(f"'{word}':{','.join(found[:_MOST_PLACES])}" for word, found in places.items())


def _weights(transaction: PostgresTransaction, words: list[str]) -> list[float]:
    """Return the weight of each word of a query, which is higher for rarer words, as in BM25."""
    counts = ", ".join(["(SELECT count(*) FROM words WHERE found @@ %s::tsquery)"] * len(words))
    total, *each = transaction.run(f"SELECT (SELECT count(*) FROM words), {counts}", [f"'{word}'" for word in words])[0]
    return [math.log(1 + (total - count + 0.5) / (count + 0.5)) for count in each]
