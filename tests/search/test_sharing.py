"""Several at one catalogue: threads, processes that add the same products, and a disk that is full."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.paths import ROOT
from tests.support.shop import ids, product, shop
from text_image_similarity import Catalog, DatabaseError, Query
from text_image_similarity.search import ingest
from text_image_similarity.search.ledger import SqliteDatabase


def test_threads_search_while_others_write(tmp_path: Path) -> None:
    with shop(tmp_path / "c") as catalog, ThreadPoolExecutor(4) as threads:
        catalog.add(product(f"stays{number}", (255, number, 0), price=1) for number in range(30))

        def write(worker: int) -> None:
            for number in range(12):
                catalog.add(product(f"{worker}-{number}", (0, 0, 255), price=number))
                if number % 3 == 0:
                    catalog.delete(f"{worker}-{number}")

        def read(_: int) -> list[list[str]]:
            return [ids(catalog.match(Query("red", top_k=30, where="price = 1 or price > 100"))) for _ in range(25)]

        writing = [threads.submit(write, worker) for worker in range(2)]
        reading = [threads.submit(read, worker) for worker in range(2)]
        for done in writing:
            done.result()
        for answers in reading:
            for answer in answers.result():
                assert len(answer) == len(set(answer)) == 30
        assert len(catalog) == 30 + 2 * 8
        assert catalog.match("blue").total == 30 + 2 * 8


ADDING = """
import os
import sqlite3
import subprocess
import sys
from tests.support.shop import product, shop
with shop(sys.argv[1]) as catalog:
    for start in range(0, 60, 5):
        catalog.add(product(f"p{number}", (number, int(sys.argv[2]), 0), price=number) for number in range(start, start + 5))
"""


@pytest.mark.slow
def test_two_processes_that_add_the_same_products(tmp_path: Path) -> None:
    with shop(tmp_path / "c"):
        pass
    with ThreadPoolExecutor(2) as threads:
        command = [sys.executable, "-c", ADDING, str(tmp_path / "c")]
        list(threads.map(lambda green: subprocess.run([*command, str(green)], cwd=ROOT, check=True), [10, 200]))
    with shop(tmp_path / "c") as catalog:
        found = catalog.match(Query("red", top_k=100))
        assert sorted(ids(found)) == sorted(f"p{number}" for number in range(60))


def fill_disk(catalog: Catalog) -> None:
    """Let the catalogue's file grow no more, as on a full disk."""
    database = catalog._session.ledger.database
    with database.write() as transaction:
        (pages,) = transaction.run("PRAGMA page_count")[0]
        transaction.run(f"PRAGMA max_page_count = {pages}")


@pytest.mark.parametrize("longest_s", [3600.0, 0.0], ids=["one transaction", "one for each product"])
def test_a_full_disk_loses_nothing_that_was_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, longest_s: float
) -> None:
    monkeypatch.setattr(ingest, "_LONGEST_S", longest_s)  # else how much fits into the last page depends on the machine
    acknowledged = [0]
    with shop(tmp_path / "c") as catalog:
        catalog.add(product(f"kept{number}", (255, number, 0)) for number in range(20))
        fill_disk(catalog)
        with pytest.raises(DatabaseError, match=r"disk is full; no acknowledged change is lost: free some space"):
            catalog.add(
                (product(f"more{number}", (0, number % 256, number // 256), price=number) for number in range(2000)),
                progress=lambda done, failed, total: acknowledged.append(done),
            )
        assert ids(catalog.match(Query("red", top_k=1))) == ["kept0"]
    assert (acknowledged[-1] > 0) == (longest_s == 0)
    with shop(tmp_path / "c") as catalog:
        assert len(catalog) == 20 + acknowledged[-1] == catalog.match("red").total
        assert catalog.add(product("later", "blue")).added == 1


def test_an_interrupt_while_a_lock_is_waited_for_leaves_no_transaction_open(tmp_path: Path) -> None:
    class Interrupted:
        """A connection during whose next BEGIN a Ctrl-C comes."""

        def __init__(self, file: sqlite3.Connection) -> None:
            self._file, self._begun = file, False

        def __getattr__(self, name: str) -> object:
            return getattr(self._file, name)

        def execute(self, sql: str, *values: object) -> sqlite3.Cursor:
            found = self._file.execute(sql, *values)  # type: ignore[arg-type]
            if sql.startswith("BEGIN") and not self._begun:
                self._begun = True
                raise KeyboardInterrupt
            return found

    with shop(tmp_path / "c") as catalog, shop(tmp_path / "c") as other:
        catalog.add(product("a"))
        database = catalog._session.ledger.database
        assert isinstance(database, SqliteDatabase)
        database._file = Interrupted(database._file)  # type: ignore[assignment]
        with pytest.raises(KeyboardInterrupt):
            catalog.delete("a")
        other.add(product("b"))
        assert catalog.delete("a") == 1


def test_reading_does_not_wait_for_a_writer(tmp_path: Path) -> None:
    with shop(tmp_path / "c") as catalog, shop(tmp_path / "c") as other, ThreadPoolExecutor(1) as threads:
        catalog.add(product("a"))
        with other._session.ledger.database.write():
            waiting = threads.submit(catalog.add, product("b"))
            assert ids(catalog.match("red")) == ["a"]
            assert not waiting.done()
        assert waiting.result().added == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_process_is_told_to_open_its_own(tmp_path: Path) -> None:
    with shop(tmp_path / "c") as catalog:
        catalog.add(product("a"))
        if (child := os.fork()) == 0:
            try:
                catalog.add(product("b"))
            except DatabaseError as error:
                os._exit(7 if "was opened before this process was forked" in str(error) else 8)
            os._exit(9)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        assert len(catalog) == 1


def test_what_others_close_is_still_there_for_who_has_read_it_all(tmp_path: Path) -> None:
    look = (
        "import sys; from contextlib import closing; from text_image_similarity.search.ledger import SqliteDatabase\n"
        "with closing(SqliteDatabase(sys.argv[1])) as database: print(database.read('SELECT count(*) FROM product')[0][0])"
    )

    def look_from_elsewhere() -> str:
        command = [sys.executable, "-c", look, str(tmp_path / "c" / "catalog.sqlite")]
        return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()

    with shop(tmp_path / "c") as catalog:
        catalog.add([product("a")])
        assert ids(catalog.match("red")) == ["a"]  # reads the whole ledger
        latest = (tmp_path / "c" / "catalog.sqlite-wal").stat().st_ino
        assert look_from_elsewhere() == "1"
        catalog.add([product("b")])
        assert look_from_elsewhere() == "2"
        assert (tmp_path / "c" / "catalog.sqlite-wal").stat().st_ino == latest
