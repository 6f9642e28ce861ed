"""The match log in PostgreSQL: two tables next to those of a catalogue, for services on several machines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..postgres import Connections
from .storage import TABLES, StoredRow, Table

_NAMES: Mapping[Table, str] = {"entry": "match_log", "event": "match_event"}


class PostgresStorage:
    """A log's tables in a schema of a database, which are created if they do not exist; see `LogStorage`.

    Args:
        url: See `Connections`; the schema is that of the catalogue, or a separate one.

    Raises:
        DatabaseError: The database cannot be reached, or refuses the connection.
    """

    def __init__(self, url: str) -> None:
        self._connections = Connections(url)
        try:
            if not has_log(self._connections):
                self._make()
        except BaseException:
            self._connections.close()
            raise

    def insert(self, rows: Mapping[Table, Sequence[StoredRow]]) -> None:
        with self._connections.transaction(writes=True) as transaction:
            for table, each in rows.items():
                if each:
                    ids, bodies = zip(*each, strict=True)
                    listed = "SELECT * FROM unnest(%s::text[], %s::text[])"
                    transaction.run(f"INSERT INTO {_NAMES[table]} {listed} ON CONFLICT DO NOTHING", (ids, bodies))

    def get(self, table: Table, id: str) -> str | None:
        with self._connections.transaction() as transaction:
            found = transaction.run(f"SELECT body FROM {_NAMES[table]} WHERE id = %s", (id,))
        return str(found[0][0]) if found else None

    def page(self, table: Table, after: str, before: str, most: int, *, newest: bool = False) -> list[StoredRow]:
        order = "DESC" if newest else "ASC"
        query = f"SELECT id, body FROM {_NAMES[table]} WHERE id > %s AND id < %s ORDER BY id {order} LIMIT %s"
        with self._connections.transaction() as transaction:
            return [(str(id), str(body)) for id, body in transaction.run(query, (after, before, most))]

    def delete(self, table: Table, before: str, most: int) -> int:
        name = _NAMES[table]
        chosen = f"SELECT id FROM {name} WHERE id < %s ORDER BY id LIMIT %s"
        with self._connections.transaction(writes=True) as transaction:
            transaction.run(f"DELETE FROM {name} WHERE id IN ({chosen})", (before, most))
            return transaction.cursor.rowcount

    def close(self) -> None:
        self._connections.close()

    def _make(self) -> None:
        """Create the schema and the tables unless they exist, while a lock keeps others from creating a catalogue."""
        with self._connections.locked("make") as transaction:
            assert transaction is not None
            if transaction.run("SELECT 1 WHERE to_regnamespace(%s) IS NULL", (self._connections.quoted,)):
                transaction.run(f"CREATE SCHEMA {self._connections.quoted}")
            for name in _NAMES.values():
                columns = 'id text COLLATE "C" PRIMARY KEY, body text NOT NULL'
                transaction.run(f"CREATE TABLE IF NOT EXISTS {self._connections.quoted}.{name} ({columns})")


def has_log(connections: Connections) -> bool:
    """Tell whether a schema has the tables of a log."""
    with connections.transaction() as transaction:
        names = [f"{connections.quoted}.{_NAMES[table]}" for table in TABLES]
        return not any(transaction.run("SELECT 1 WHERE to_regclass(%s) IS NULL", (name,)) for name in names)
