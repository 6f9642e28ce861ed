"""Threads that share a ledger in an SQLite file, or in memory."""

from __future__ import annotations

import signal
import sqlite3
import threading
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from threading import Event
from typing import Any, cast

import numpy as np
import pytest

from tests.support.shop import product, shop
from text_image_similarity import DatabaseError
from text_image_similarity.search.ledger import SqliteDatabase, sqlite_file
from text_image_similarity.search.ledger.fair_lock import FairLock
from text_image_similarity.search.ledger.rows import blob_of, vector_of
from text_image_similarity.search.time_limit import time_limit

VERSION = "SELECT value FROM counter WHERE name = 'version'"


def wait_for(lock: FairLock, number: int = 1) -> None:
    """Return once threads wait for a lock."""
    pause = Event()
    while len(lock._waiting) < number:
        pause.wait(0.001)


def test_reading_waits_for_no_other_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    began, go, connect = Event(), Event(), sqlite3.connect

    def hold() -> bool:
        began.set()
        return go.wait(30)

    def with_hold(*given: Any, **named: Any) -> sqlite3.Connection:
        file: sqlite3.Connection = connect(*given, **named)
        file.create_function("hold", 0, hold)
        return file

    monkeypatch.setattr(sqlite3, "connect", with_hold)
    with closing(SqliteDatabase(tmp_path / "a.sqlite", ())) as database, ThreadPoolExecutor(2) as threads:
        try:
            long = threads.submit(database.read, "SELECT hold()")
            assert began.wait(30)
            assert threads.submit(database.read, VERSION).result(timeout=30) == [(0,)]
            assert not long.done()
        finally:
            go.set()
        assert long.result(timeout=30) == [(1,)]


def test_connections_are_used_again_and_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[sqlite3.Connection] = []
    connect = sqlite3.connect

    def counted(*given: Any, **named: Any) -> sqlite3.Connection:
        made.append(connect(*given, **named))
        return made[-1]

    monkeypatch.setattr(sqlite3, "connect", counted)
    database = SqliteDatabase(tmp_path / "a.sqlite", ())
    made.clear()
    for _ in range(3):
        assert database.read(VERSION) == [(0,)]
        assert list(database.stream(VERSION, 1)) == [[(0,)]]
    assert len(made) == 1
    database.close()
    with pytest.raises(DatabaseError, match="closed"):
        database.read(VERSION)
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        made[0].execute(VERSION)


def test_a_reading_that_is_left_keeps_no_state(tmp_path: Path) -> None:
    with closing(SqliteDatabase(tmp_path / "a.sqlite", ())) as database:
        reading = cast("Generator[Any, None, None]", database.stream("SELECT name FROM counter ORDER BY name", 1))
        next(reading)
        reading.close()
        with database.write() as transaction:
            transaction.run("UPDATE counter SET value = 7 WHERE name = 'version'")
        assert database.read(VERSION) == [(7,)]


def test_who_waits_for_what_is_in_memory_comes_before_who_has_it_again() -> None:
    with closing(SqliteDatabase(":memory:", ())) as database, ThreadPoolExecutor(1) as threads:
        order: list[str] = []
        with database.write(), database._writing:  # it is reentrant
            waiting = threads.submit(lambda: order.append(f"other {database.read(VERSION)}"))
            wait_for(database._writing)
        with database._writing:
            order.append("again")
        waiting.result(timeout=30)
    assert order == ["other [(0,)]", "again"]


def test_reads_in_memory_do_not_wait_for_each_other_but_for_a_writer() -> None:
    with closing(SqliteDatabase(":memory:", ())) as database, ThreadPoolExecutor(3) as threads:
        with database._reading() as one, database._reading() as other:  # as in two threads
            assert one is not other
            assert threads.submit(database.read, VERSION).result(timeout=30) == [(0,)]
            writing = threads.submit(_write, database, 7)
            wait_for(database._writing)
            late = threads.submit(database.read, VERSION)
            wait_for(database._writing, 2)  # who comes after a writer waits for it
            assert not writing.done()
        writing.result(timeout=30)
        assert late.result(timeout=30) == [(7,)]
        with database.write() as transaction:
            transaction.run("UPDATE counter SET value = 8 WHERE name = 'version'")
            assert database.read(VERSION) == [(8,)]  # on the connection that writes
        assert (database._writing._owner, database._writing._readers) == (None, 0)


def _write(database: SqliteDatabase, version: int) -> None:
    with database.write() as transaction:
        transaction.run("UPDATE counter SET value = ? WHERE name = 'version'", (version,))


def test_a_database_in_memory_outgrows_what_connections_can_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_file, "_MOST_SHARED", 4_000_000)
    with closing(SqliteDatabase(":memory:", ())) as database, ThreadPoolExecutor(1) as threads:
        for number in range(1, 9):
            with database.write() as transaction:
                transaction.run("UPDATE counter SET value = ? WHERE name = 'version'", (number,))
                transaction.run("INSERT INTO setting VALUES (?, ?)", (f"long {number}", "x" * 1_000_000))
            assert database._connections.is_shared == (number < 4)
            assert threads.submit(database.read, VERSION).result(timeout=30) == [(number,)]
        assert database.read("SELECT count(*) FROM setting WHERE name LIKE 'long%'") == [(8,)]
        assert not database._connections._idle


LONG = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 30000000) SELECT count(*) FROM n"


@pytest.mark.parametrize("in_memory", [False, True])
def test_a_long_statement_is_interrupted_when_its_time_is_up(tmp_path: Path, in_memory: bool) -> None:
    with closing(SqliteDatabase(":memory:" if in_memory else tmp_path / "a.sqlite", ())) as database:
        with time_limit(0.1), pytest.raises(TimeoutError, match="too long"):
            database.read(LONG)
        with time_limit(-1), pytest.raises(TimeoutError):
            database.read(VERSION)
        short = LONG.replace("30000000", "300000")
        assert database.read(short) == [(300_000,)]  # the limit is over, and nothing is left of it
        with time_limit(-1), time_limit(60):
            assert database.read(short) == [(300_000,)]


def test_a_store_catches_up_however_long_that_takes() -> None:
    with shop() as catalog:
        catalog.add([product("r", "red")])
        session = catalog._session
        generation = session.generations.live()
        store = session.opened(generation)
        store.clear()
        with time_limit(-1):
            session._catch_up(generation, store)
        assert store.count(None) == 1


@pytest.fixture
def interrupts() -> Iterator[None]:
    """Let SIGINT interrupt this test, whatever libraries that other tests have loaded made of it."""
    earlier = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, earlier)


@pytest.mark.parametrize("shares", [False, True])
def test_an_interrupt_gives_up_the_turn(interrupts: None, shares: bool) -> None:
    lock, done = FairLock(), Event()

    def hold() -> None:
        with lock:
            held.set()
            wait_for(lock)
            signal.pthread_kill(main, signal.SIGINT)
            done.wait(30)

    held, main = Event(), threading.get_ident()
    with ThreadPoolExecutor(1) as threads:
        holding = threads.submit(hold)
        held.wait(30)
        with pytest.raises(KeyboardInterrupt), lock.shared() if shares else lock:
            pass
        done.set()
        holding.result(timeout=30)
        assert (lock._owner, lock._readers, list(lock._waiting)) == (None, 0, [])


def test_a_number_in_place_of_a_vector_is_not_a_size(tmp_path: Path) -> None:
    """`bytes` would allocate a terabyte."""
    with closing(sqlite3.connect(tmp_path / "values.sqlite")) as database:
        for value in (1 << 40, "text", 1.5):
            ((stored,),) = database.execute("SELECT ?", (value,)).fetchall()
            with pytest.raises(TypeError):
                vector_of(stored)
        ((stored,),) = database.execute("SELECT ?", (blob_of(np.array([1, 2], np.float32)),)).fetchall()
    assert np.asarray(vector_of(stored)).tolist() == [1, 2]
