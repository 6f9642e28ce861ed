"""A store in PostgreSQL with pgvector, next to the catalogue's ledger, with a table for each generation.

Exact searches compare all images that pass the filter. Approximate searches follow an HNSW graph (Malkov and Yashunin
2016, "Efficient and robust approximate nearest neighbor search using Hierarchical Navigable Small World graphs"), which
`optimize` builds, until enough images pass the filter.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np

from ...similarity import Embeddings
from ..fields import Field, Value
from ..filters import Filter
from ..filters.postgres import PostgresWriter
from ..filters.sql import column_names, compile_sql
from ..postgres import TYPES, Connections, PostgresTransaction, plain
from .exact import Block, ranked
from .protocol import Alone, Changes, Hits

_MOST_DIMENSIONS = 2000  # maximum number of dimensions that pgvector's indexes support
_SLACK = 1e-5  # largest difference between PostgreSQL's sums and ours
_EXACT_UP_TO = (
    50_000  # images that pass a filter: comparing all of them takes no longer than using the graph at the same recall
)
_GRAPH = "m = 24, ef_construction = 128"  # with pgvector's default of 16 and 64, clusters of 200,000 images could not be reached: recall .963
_EFFORT = "1000"  # pgvector's maximum; with 400, whole clusters were sometimes missed
# Images to request beyond the limit. With a filter, the graph finds better ones late, especially if the images that
# pass are unlike the query.
_MORE, _MORE_FILTERED = 16, 290
_COPY = {"text": "text", "number": "float8", "bool": "bool", "date": "float8", "texts": "text[]"}


class PgVectorStore:
    """A store in PostgreSQL; see `Store`.

    Args:
        url: The catalogue's own database; see `Connections`.
        generation: Number of the generation.
        fields: All fields, including the built-in ones.
        embed_dim: Length of the vectors.

    Raises:
        DatabaseError: PostgreSQL cannot be reached, or lacks pgvector.
    """

    def __init__(self, url: str, generation: int, fields: Sequence[Field], embed_dim: int) -> None:
        self._generation, self._embed_dim = generation, embed_dim
        self._declared = [field for field in fields if not field.name.startswith("_")]
        self._kinds = {field.name: field.kind for field in fields}
        self._columns = column_names(self._declared)
        self._table = f"pictures_{generation:d}"
        self.shared, self.approximates = True, embed_dim <= _MOST_DIMENSIONS
        self.exact_up_to = 20_000
        self._connections = Connections(url)
        self._qualified = f"{self._connections.quoted}.{self._table}"
        try:
            self._make()
        except BaseException:
            self._connections.close()
            raise

    @property
    def version(self) -> int:
        with self._connections.transaction() as transaction:
            found = transaction.run("SELECT version FROM followed WHERE generation = %s", (self._generation,))
            return int(found[0][0]) if found else 0

    def apply(self, changes: Changes) -> None:
        with self._connections.transaction(writes=True, vectors=True) as transaction:
            gone = np.concatenate([changes.rows, changes.deleted]).tolist()
            transaction.cursor.execute(f"DELETE FROM {self._table} WHERE number = ANY(%s::bigint[])", (gone,))
            self._copy(transaction, changes)
            transaction.run(
                "UPDATE followed SET version = %s WHERE generation = %s", (changes.version, self._generation)
            )

    def search(
        self, queries: Embeddings, where: Filter | None, limit: int | None, *, least: float = -1.0, exact: bool = False
    ) -> list[Hits]:
        condition, found = self._where(where), []
        with self._connections.transaction(vectors=True) as transaction:
            graph = not exact and self.approximates and (where is None or self._is_much(transaction, condition))
            if graph:
                # Strict order would drop images that are found late; all of them are sorted here.
                settings = (
                    "set_config('hnsw.iterative_scan', 'relaxed_order', true), set_config('hnsw.ef_search', %s, true)"
                )
                transaction.run(f"SELECT {settings}", (_EFFORT,))
            for query in queries:
                rows = None
                if graph and limit is not None:
                    more = _MORE if where is None else _MORE_FILTERED
                    rows = self._nearest(transaction, query, condition, limit + more)
                if rows is None or len(rows) < (limit or 0):
                    rows = self._all_near(transaction, query, condition, limit, least)
                found.append(_hits(query, rows, limit, least))
        return found

    def count(self, where: Filter | None) -> int:
        condition, values = self._where(where)
        with self._connections.transaction() as transaction:
            return int(transaction.run(f"SELECT count(*) FROM {self._table} WHERE leads AND {condition}", values)[0][0])

    def values(self, field: str, where: Filter | None) -> dict[Value, int]:
        condition, values = self._where(where)
        column = self._columns[field]
        chosen = f"unnest({column})" if self._kinds[field] == "texts" else column
        query = f"SELECT {chosen}, count(*) FROM {self._table} WHERE leads AND {column} IS NOT NULL AND {condition} GROUP BY 1"
        with self._connections.transaction() as transaction:
            return {value: int(count) for value, count in transaction.run(query, values)}

    def optimize(self, alone: Alone = nullcontext) -> None:
        with self._connections.alone() as cursor:
            for name, definition in self._indexes().items():
                found = cursor.execute(
                    "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(%s)", (name,)
                ).fetchone()
                if found == (True,):
                    continue
                if found:  # left behind by an unfinished build
                    cursor.execute(f"DROP INDEX {name}".encode())
                # Others can read and write during the build, whose duration depends on the server's
                # maintenance_work_mem.
                cursor.execute(definition.encode())
            cursor.execute(f"VACUUM (ANALYZE) {self._qualified}".encode())

    def clear(self) -> None:
        with self._connections.transaction(writes=True) as transaction:
            transaction.run(f"DELETE FROM {self._table}")
            transaction.run("UPDATE followed SET version = 0 WHERE generation = %s", (self._generation,))

    def close(self) -> None:
        self._connections.close()

    def drop(self) -> None:
        with self._connections.transaction(writes=True) as transaction:
            transaction.run(f"DROP TABLE IF EXISTS {self._table}")
            transaction.run("DELETE FROM followed WHERE generation = %s", (self._generation,))
        self.close()

    def _make(self) -> None:
        """Create the table of the generation, unless it exists."""
        with self._connections.transaction() as transaction:
            if not transaction.run("SELECT 1 WHERE to_regclass(%s) IS NULL", (self._qualified,)):
                return
        kinds = (self._kinds[name] for name in self._columns)
        columns = "".join(f"{name} {TYPES[kind]}, " for name, kind in zip(self._columns.values(), kinds, strict=True))
        with self._connections.locked("make") as transaction:
            assert transaction is not None
            self._connections.make_schema(transaction)
            transaction.run(
                "CREATE TABLE IF NOT EXISTS followed (generation integer PRIMARY KEY, version bigint NOT NULL)"
            )
            transaction.run(
                f"CREATE TABLE IF NOT EXISTS {self._table} (number bigint, slot smallint, leads boolean NOT NULL, {columns}"
                f"embedding vector({self._embed_dim:d}) NOT NULL, PRIMARY KEY (number, slot))"
            )
            transaction.run("INSERT INTO followed VALUES (%s, 0) ON CONFLICT DO NOTHING", (self._generation,))

    def _indexes(self) -> dict[str, str]:
        """Return the indexes that make searches fast: name and definition."""
        wanted = {}
        for name, column in self._columns.items():
            # Texts may be too long for a B-tree, and are not ordered here; for lists of texts, no index supports all
            # lengths.
            method = {"text": "hash", "number": "btree", "date": "btree"}.get(self._kinds[name])
            if method is not None:
                wanted[f"{self._table}_{column}"] = f"USING {method} ({column})"
        if self.approximates:
            wanted[f"{self._table}_graph"] = f"USING hnsw (embedding vector_cosine_ops) WITH ({_GRAPH})"
        return {
            f"{self._connections.quoted}.{name}": f"CREATE INDEX CONCURRENTLY {name} ON {self._qualified} {definition}"
            for name, definition in wanted.items()
        }

    def _where(self, where: Filter | None) -> tuple[str, list[object]]:
        writer = PostgresWriter(self._declared)
        return compile_sql(where, writer), list(writer.parameters)

    def _copy(self, transaction: PostgresTransaction, changes: Changes) -> None:
        """Add the images of changed products; the first image of each product is marked, for counting products."""
        order = np.lexsort((changes.slots, changes.owners))
        owners = changes.owners[order]  # (m,)
        products = np.argsort(changes.rows, kind="stable")
        take = products[
            np.searchsorted(changes.rows, owners, sorter=products)
        ]  # (m,) positions in the changes' columns
        leads = np.r_[True, owners[1:] != owners[:-1]][: len(owners)]
        given = [changes.columns[name] for name in self._columns]
        names = ", ".join(["number", "slot", "leads", *self._columns.values(), "embedding"])
        with transaction.cursor.copy(f"COPY {self._table} ({names}) FROM STDIN (FORMAT binary)".encode()) as copy:
            copy.set_types(["int8", "int2", "bool", *(_COPY[self._kinds[name]] for name in self._columns), "vector"])
            for number, image, leading, place in zip(owners, order, leads, take, strict=True):
                values = plain([column[place] for column in given])
                slot, vector = int(changes.slots[image]), changes.vectors[image]
                copy.write_row((int(number), slot, bool(leading), *values, vector))

    def _is_much(self, transaction: PostgresTransaction, where: tuple[str, list[object]]) -> bool:
        """Tell whether so many images pass a filter that comparing them one by one does not pay off."""
        condition, values = where
        some = f"SELECT FROM {self._table} WHERE {condition} LIMIT {_EXACT_UP_TO + 1}"
        return int(transaction.run(f"SELECT count(*) FROM ({some})", values)[0][0]) > _EXACT_UP_TO

    def _nearest(
        self, transaction: PostgresTransaction, query: Embeddings, where: tuple[str, list[object]], limit: int
    ) -> list[tuple[Any, ...]]:
        """Return near images, using the graph once there is one."""
        condition, values = where
        return transaction.run(
            f"SELECT number, slot, embedding FROM {self._table} WHERE {condition} ORDER BY embedding <=> %s LIMIT %s",
            [*values, query, limit],
        )

    def _all_near(
        self,
        transaction: PostgresTransaction,
        query: Embeddings,
        where: tuple[str, list[object]],
        limit: int | None,
        least: float,
    ) -> list[tuple[Any, ...]]:
        """Return all images that may be among the best, by comparing the query with each image that passes."""
        condition, values = where
        last = "(SELECT far FROM rough ORDER BY far OFFSET %s LIMIT 1)" if limit is not None else "NULL"
        return transaction.run(
            f"WITH rough AS MATERIALIZED (SELECT number, slot, embedding <=> %s AS far FROM {self._table} WHERE {condition}) "
            f"SELECT number, slot, embedding FROM rough JOIN {self._table} USING (number, slot) "
            f"WHERE far <= least(%s, {last}) + %s",
            [query, *values, 1 - least, *([] if limit is None else [limit - 1]), _SLACK],
        )


def _hits(query: Embeddings, rows: list[tuple[Any, ...]], limit: int | None, least: float) -> Hits:
    """Sort images by their exact cosines, and return the first `limit`, or more if several tie for the last place."""
    numbers = np.array([row[0] for row in rows], np.int64)
    slots = np.array([row[1] for row in rows], np.int64)
    vectors = np.array([row[2].to_numpy() for row in rows], np.float32).reshape(len(rows), len(query))  # (n, d)
    return ranked(query, Block(numbers, slots, vectors), limit, least)
