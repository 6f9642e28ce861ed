"""What only a store in PostgreSQL has: a graph, and a database that others administer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import numpy as np
import psycopg
import pytest

from text_image_similarity.errors import DatabaseError
from text_image_similarity.search.fields import BUILT_IN, Field
from text_image_similarity.search.filters import Compare, Filter
from text_image_similarity.search.stores import Changes, pgvector
from text_image_similarity.search.stores.pgvector import PgVectorStore

FIELDS = (*BUILT_IN, Field("price", "number"), Field("kind"), Field("tags", "texts"))
WIDTH, NUMBER = 32, 3000


@pytest.fixture
def store(postgres_url: str) -> Iterator[PgVectorStore]:
    """A store of pictures in clusters, of which each kind has its own."""
    found = PgVectorStore(postgres_url, 3, FIELDS, WIDTH)
    found.apply(clusters())
    yield found
    found.close()


def clusters() -> Changes:
    random = np.random.default_rng(18)
    cluster = random.integers(0, 30, NUMBER)
    vectors = random.standard_normal((30, WIDTH))[cluster] + 0.5 * random.standard_normal((NUMBER, WIDTH))
    rows = np.arange(1, NUMBER + 1)
    columns = {
        "_id": [f"{row}" for row in rows],
        "_group": [None] * NUMBER,
        "_error": [None] * NUMBER,
        "price": random.uniform(0, 100, NUMBER).tolist(),
        "kind": [f"kind {each // 6}" for each in cluster],
        "tags": [("x" * 10_000, f"{row}") for row in rows],
    }
    return Changes(
        version=5,
        rows=rows,
        columns=columns,
        owners=rows,
        slots=np.zeros(NUMBER, np.int64),
        vectors=(vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32),
        deleted=np.empty(0, np.int64),
    )


def indexes(store: PgVectorStore) -> dict[str, bool]:
    """Return the names of the store's indexes and whether they are valid."""
    query = (
        "SELECT relname, indisvalid FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid "
        "WHERE indrelid = 'pictures_3'::regclass"
    )
    with store._connections.transaction() as transaction:
        return dict(transaction.run(query))


def test_the_graph_finds_nearly_all_and_never_too_few(store: PgVectorStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pgvector, "_EXACT_UP_TO", 0)  # a graph of this size would never be asked
    store.optimize()
    queries = clusters().vectors[:40]
    wheres: list[Filter | None] = [None, Compare("price", "lt", 60.0), Compare("price", "lt", 5.0)]
    for where in (*wheres, Compare("kind", "eq", "kind 2")):
        truth = store.search(queries, where, 10, exact=True)
        count = store.count(where)
        for limit in (10, 200, NUMBER):
            for hits in store.search(queries, where, limit):
                assert len(hits.rows) == min(limit, count), where
                assert np.all(np.diff(hits.cosines) <= 0), where
        shares = [
            len(set(hits.rows) & set(right.rows)) / len(right.rows)
            for hits, right in zip(store.search(queries, where, 10), truth, strict=True)
        ]
        assert np.mean(shares) >= 0.99, where
        assert min(shares) >= 0.8, where


def test_where_the_graph_ends_early_all_are_compared(store: PgVectorStore, monkeypatch: pytest.MonkeyPatch) -> None:
    queries = clusters().vectors[:3]
    right = store.search(queries, None, 10, exact=True)
    monkeypatch.setattr(PgVectorStore, "_nearest", lambda *_: [])
    for hits, all_compared in zip(store.search(queries, None, 10), right, strict=True):
        assert hits.rows.tolist() == all_compared.rows.tolist()


def test_the_graph_is_used_once_it_is_there(store: PgVectorStore) -> None:
    vector = clusters().vectors[0]

    def plan() -> str:
        with store._connections.transaction(vectors=True) as transaction:
            rows = transaction.run(
                "EXPLAIN SELECT number FROM pictures_3 ORDER BY embedding <=> %s LIMIT 10", (vector,)
            )
        return "\n".join(row[0] for row in rows)

    assert "pictures_3_graph" not in plan()
    store.optimize()
    assert "pictures_3_graph" in plan()


def test_optimizing_goes_on_where_it_was_interrupted(store: PgVectorStore, postgres_url: str) -> None:
    store.optimize()
    whole = indexes(store)
    assert all(whole.values())
    assert {"pictures_3_pkey", "pictures_3_graph", "pictures_3_f3", "pictures_3_f4"} <= whole.keys()
    with psycopg.connect(postgres_url.partition("&")[0], autocommit=True) as administrator:
        administrator.execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid::regclass::text LIKE '%graph'")
    assert not indexes(store)["pictures_3_graph"]
    store.optimize()
    assert indexes(store) == whole


def test_vectors_that_are_too_wide_for_a_graph_are_searched_exactly(postgres_url: str) -> None:
    store, vectors = PgVectorStore(postgres_url, 1, BUILT_IN, 2001), np.eye(3, 2001, dtype=np.float32)
    nothing, rows = np.empty(0, np.int64), np.arange(3)
    store.apply(Changes(1, rows, {field.name: [None] * 3 for field in BUILT_IN}, rows, 0 * rows, vectors, nothing))
    store.optimize()
    assert not store.approximates
    assert [hits.rows.tolist() for hits in store.search(vectors, None, 1)] == [[0], [1], [2]]
    store.close()


def test_generations_are_apart_and_dropped_alone(store: PgVectorStore, postgres_url: str) -> None:
    other = PgVectorStore(postgres_url, 4, FIELDS, WIDTH)
    assert (other.version, other.count(None)) == (0, 0)
    other.drop()
    assert (store.version, store.count(None)) == (5, NUMBER)


def test_a_table_that_is_gone_is_told_of(store: PgVectorStore, postgres_url: str) -> None:
    PgVectorStore(postgres_url, 3, FIELDS, WIDTH).drop()
    with pytest.raises(DatabaseError, match='"pictures_3" does not exist'):
        store.count(None)
    with closing(PgVectorStore(postgres_url, 3, FIELDS, WIDTH)) as again:
        assert again.version == 0
