"""Several at one catalogue: threads, processes that add the same products, and a disk that is full."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.paths import ROOT
from tests.support.shop import ids, product, shop
from text_image_similarity import Catalog, DatabaseError, Query


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
    (pages,) = database.read("PRAGMA page_count")[0]
    database.read(f"PRAGMA max_page_count = {pages}")


def test_a_full_disk_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    with shop(tmp_path / "c") as catalog:
        catalog.add(product(f"kept{number}", (255, number, 0)) for number in range(20))
        fill_disk(catalog)
        with pytest.raises(DatabaseError, match=r"disk is full; nothing that was acknowledged is lost: make room"):
            catalog.add(
                product(f"more{number}", (0, number % 256, number // 256), price=number) for number in range(2000)
            )
        assert ids(catalog.match(Query("red", top_k=1))) == ["kept0"]
    with shop(tmp_path / "c") as catalog:
        assert len(catalog) == 20 == catalog.match("red").total
        assert catalog.add(product("later", "blue")).added == 1
