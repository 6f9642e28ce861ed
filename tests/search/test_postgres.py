"""What only PostgreSQL needs: connections that are lost, schemas, and messages that say what to do."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import numpy as np
import psycopg
import pytest

from tests.support.images import inline
from text_image_similarity.encoders.testing import ColourEncoder
from text_image_similarity.errors import DatabaseError, UsageError
from text_image_similarity.search import Field, Product, Query, open_catalog
from text_image_similarity.search.ledger import Transaction
from text_image_similarity.search.ledger.postgres import PostgresDatabase, has_catalog, make_catalog
from text_image_similarity.search.postgres import Connections
from text_image_similarity.search.time_limit import time_limit
from text_image_similarity.service.problems import ProblemError
from text_image_similarity.service.search.threads import Threads


@pytest.fixture
def connections(postgres_url: str) -> Iterator[Connections]:
    with closing(Connections(postgres_url)) as found, found.locked("make") as transaction:
        assert transaction is not None
        found.make_schema(transaction)
        transaction.run("CREATE TABLE note (text text)")
    yield found
    found.close()


@pytest.fixture
def administrator(postgres_url: str) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    with psycopg.connect(postgres_url.partition("&")[0], autocommit=True) as connection:
        yield connection


def disconnect_all(administrator: psycopg.Connection[tuple[object, ...]]) -> int:
    found = administrator.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
        "WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
    )
    return len(found.fetchall())


def test_connections_are_used_again_and_replaced_when_they_were_lost(
    connections: Connections, administrator: psycopg.Connection[tuple[object, ...]]
) -> None:
    def backend() -> object:
        with connections.transaction() as transaction:
            return transaction.run("SELECT pg_backend_pid()")[0][0]

    with connections.transaction() as one, connections.transaction() as other:  # so that two are idle afterwards
        assert one is not other
    first = backend()
    assert backend() == first
    assert disconnect_all(administrator) == 2
    with connections.locked("write") as transaction:
        assert transaction is not None
        transaction.run("INSERT INTO note VALUES ('a')")
    assert backend() != first
    assert disconnect_all(administrator) == 1


def test_a_transaction_whose_connection_is_lost_leaves_nothing(
    connections: Connections, administrator: psycopg.Connection[tuple[object, ...]]
) -> None:
    def write() -> None:
        with connections.locked("write") as transaction:
            assert transaction is not None
            transaction.run("INSERT INTO note VALUES ('a')")
            disconnect_all(administrator)
            transaction.run("INSERT INTO note VALUES ('b')")

    with pytest.raises(
        DatabaseError, match=r"terminating connection .*; wait until the server is back, and run the same"
    ):
        write()
    with connections.transaction() as transaction:
        assert transaction.run("SELECT * FROM note") == []


def test_readers_change_nothing_and_see_one_state(connections: Connections) -> None:
    with connections.transaction() as reader:
        assert reader.run("SELECT count(*) FROM note") == [(0,)]
        with connections.transaction(writes=True) as writer:
            writer.run("INSERT INTO note VALUES (%s)", ("\0\1",))
        assert reader.run("SELECT count(*) FROM note") == [(0,)]
    with connections.transaction() as reader:
        assert reader.run("SELECT * FROM note WHERE text = %s", ("\0\1",)) == [("\0\1",)]
    with pytest.raises(DatabaseError, match="read-only"), connections.transaction() as reader:
        reader.run("DELETE FROM note")


def test_a_lock_is_waited_for_so_long(connections: Connections) -> None:
    with (
        connections.locked("write"),
        pytest.raises(DatabaseError, match="another process has been writing for more than 60 s"),
        connections.locked("write", patience_s=0.01),
    ):
        raise AssertionError("two had the lock")
    with connections.locked("write"), connections.locked("other"):
        pass


@pytest.mark.parametrize("schema", ["", "x" * 64, "😀" * 16, "pg_shop", "a%00b"])
def test_schemas_that_cannot_be(postgres_url: str, schema: str) -> None:
    with pytest.raises(UsageError, match="is not a valid name of a PostgreSQL schema"):
        Connections(f"{postgres_url.partition('&')[0]}&schema={schema}")


def test_places_that_are_not_in_postgres() -> None:
    with pytest.raises(UsageError, match=r"'shop.catalog' is not a PostgreSQL URL"):
        Connections("shop.catalog")


def test_schemas_of_any_name_are_apart(postgres_url: str) -> None:
    server = postgres_url.partition("&")[0]
    for schema in ("a", "A", "select", 'it\'s "quoted" % 😀', "public.a"):
        url = f"{server}&schema={schema.replace('%', '%25')}"
        assert not has_catalog(url)
        make_catalog(url, (), lambda transaction: None)
        assert has_catalog(url)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        (
            "postgresql://shop:geheim@127.0.0.1:1/db",
            r"'catalog' in PostgreSQL at 127.0.0.1/db cannot be used: .*; check the address",
        ),
        (
            "postgresql://postgres:geheim@/nowhere{socket}&schema=s",
            "'s' in PostgreSQL at .*/nowhere cannot be used: .*\"nowhere\" does not exist; check the address, user, password and database",
        ),
        ("postgresql://nobody:geheim@/postgres{socket}", '"nobody" does not exist; check the address, user, password'),
        ("postgresql://shop:geheim@/db?unknown=1", "cannot be used: invalid URI query parameter"),
    ],
)
def test_servers_that_cannot_be_reached(postgres_url: str, url: str, message: str) -> None:
    socket = postgres_url[postgres_url.index("?") :].partition("&")[0]
    with pytest.raises(DatabaseError, match=message) as caught:
        has_catalog(url.format(socket=socket))
    assert "geheim" not in str(caught.value)


def test_missing_and_old_extensions(
    connections: Connections, administrator: psycopg.Connection[tuple[object, ...]]
) -> None:
    with (
        pytest.raises(DatabaseError, match="install pgvector on the server"),
        connections.transaction(writes=True) as one,
    ):
        one.run("CREATE EXTENSION nonsense")
    ((version,),) = administrator.execute("SELECT extversion FROM pg_extension WHERE extname = 'vector'").fetchall()
    administrator.execute("UPDATE pg_extension SET extversion = '0.7.4' WHERE extname = 'vector'")
    try:
        with (
            connections.transaction(writes=True) as one,
            pytest.raises(DatabaseError, match=r"pgvector 0\.7\.4; update"),
        ):
            connections.make_schema(one)
    finally:
        administrator.execute("UPDATE pg_extension SET extversion = %s WHERE extname = 'vector'", (version,))


def test_a_catalogue_is_made_once(postgres_url: str) -> None:
    made = []

    def begin(transaction: Transaction) -> None:
        made.append(transaction.run("INSERT INTO setting VALUES ('a', 'b')"))

    def fail(transaction: Transaction) -> None:
        raise KeyError

    with pytest.raises(KeyError):
        make_catalog(postgres_url, (), fail)
    assert not has_catalog(postgres_url)
    with pytest.raises(DatabaseError, match="does not exist"):
        PostgresDatabase(postgres_url)
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: make_catalog(postgres_url, (), begin), range(4)))
    assert len(made) == 1
    with closing(PostgresDatabase(postgres_url)) as database, database.write() as transaction:
        transaction.run("UPDATE layout SET number = 99")
    with pytest.raises(DatabaseError, match=r"another version of this package \(layout 99, not 1\)"):
        PostgresDatabase(postgres_url)


def test_a_catalogue_in_postgres(postgres_url: str) -> None:
    fields = [Field("price", "number")]
    with open_catalog(postgres_url, fields=fields, encoder=ColourEncoder()) as catalog:
        colours = ["red", "green", "blue"]
        products = [
            Product(colour, f"A {colour} mug", (inline(colour),), fields={"price": number})
            for number, colour in enumerate(colours)
        ]
        catalog.add(products)
        with open_catalog(postgres_url, encoder=ColourEncoder()) as other:
            assert [match.product.id for match in other.match(Query("red", top_k=1))] == ["red"]
            assert other.delete("red") == 1
            other.optimize()
        assert "red" not in [match.product.id for match in catalog.match(Query("red"))]
        assert [match.product.id for match in catalog.match(Query("red", where="price >= 2"))] == ["blue"]


def test_a_store_can_be_rebuilt_as_the_documentation_says(postgres_url: str) -> None:
    with open_catalog(postgres_url, fields=[], encoder=ColourEncoder()) as catalog:
        catalog.add([Product(colour, f"A {colour} mug", (inline(colour),)) for colour in ("red", "green")])
    connections = Connections(postgres_url)
    with closing(connections), connections.locked("make") as transaction:
        assert transaction is not None
        transaction.run("DROP TABLE pictures_1")
        transaction.run("DELETE FROM followed WHERE generation = 1")
    with open_catalog(postgres_url, encoder=ColourEncoder()) as catalog:
        assert catalog.check(queries=2).missing == 0
        assert [match.product.id for match in catalog.match(Query("green", top_k=1))] == ["green"]


SLOW = "SELECT pg_sleep(60)"


def test_a_read_is_cancelled_when_its_time_is_up(
    connections: Connections, administrator: psycopg.Connection[tuple[object, ...]]
) -> None:
    def read(sql: str) -> object:
        with connections.transaction() as transaction:
            transaction.run("SELECT 1")
            return transaction.run(sql)

    with time_limit(0.3), pytest.raises(TimeoutError, match="took too long"):
        read(SLOW)
    assert len(connections._idle) == 1  # the connection can be used again
    assert (
        administrator.execute("SELECT FROM pg_stat_activity WHERE query = %s AND state = 'active'", (SLOW,)).rowcount
        == 0
    )
    with time_limit(-1), pytest.raises(TimeoutError):
        read("SELECT 2")
    with time_limit(60):
        assert read("SHOW statement_timeout") in ([("1min",)], [("60001ms",)])
    assert read("SHOW statement_timeout") == [("0",)]
    with time_limit(0.3), connections.locked("write", patience_s=9) as transaction:  # a write is not interrupted
        assert transaction is not None
        assert transaction.run("SELECT 3 FROM pg_sleep(0.5)") == [(3,)]


def test_statements_of_one_read_share_its_time(connections: Connections) -> None:
    began = time.monotonic()
    with time_limit(2.4), connections.transaction() as transaction:
        transaction.run("SELECT FROM pg_sleep(1.5)")
        with pytest.raises(psycopg.errors.QueryCanceled):
            transaction.run(SLOW)
    assert time.monotonic() - began < 3.6  # and not 3.9
    with time_limit(60), pytest.raises(DatabaseError, match="canceling"), connections.transaction() as transaction:
        transaction.run("SELECT pg_cancel_backend(pg_backend_pid()), pg_sleep(9)")  # by an administrator


def test_a_catalogues_reads_in_postgresql_end_in_time(postgres_url: str) -> None:
    with open_catalog(postgres_url, fields=[Field("kind")], encoder=ColourEncoder()) as catalog:
        catalog.add(Product(f"p{n}", "a red thing", inline("red"), fields={"kind": "a"}) for n in range(3))
        for query in (Query(facets=["kind"]), Query("red"), Query("red", fusion="rrf")):
            assert len(catalog.match(query)) == 3
            with time_limit(60):
                assert len(catalog.match(query)) == 3
        session = catalog._session
        store = session.store(session.generations.live())
        for read in (
            lambda: session.ledger.find_words("red", None, 9),
            lambda: store.count(None),
            lambda: store.values("kind", None),
            lambda: store.search(np.eye(1, session.generations.live().identity.embed_dim, dtype=np.float32), None, 3),
        ):
            read()
            with time_limit(-1), pytest.raises(TimeoutError, match="took too long"):
                read()


def test_a_read_that_takes_too_long_gives_its_thread_and_connection_back(connections: Connections) -> None:
    def read(sql: str) -> list[tuple[object, ...]]:
        with connections.transaction() as transaction:
            return transaction.run(sql)

    async def run() -> None:
        threads = Threads("shop", 1, 1.0)
        with pytest.raises(ProblemError, match="did not respond within"):
            await threads.run(read, SLOW)
        assert await threads.run(read, "SELECT 1") == [(1,)]
        threads.close()

    asyncio.run(run())
    assert len(connections._idle) == 1
