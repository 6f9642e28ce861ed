"""The store in LanceDB: its indexes, its files, and what it says when something is wrong."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from threading import Lock
from typing import Any

import lancedb
import numpy as np
import pytest

from tests.support.filters import largest_filters, random_filters, random_products
from tests.support.stores import (
    ALL_FIELDS,
    WIDTH,
    Shop,
    Shown,
    clusters,
    fill_with_clusters,
    recalls,
    unit_vectors,
)
from text_image_similarity.errors import DatabaseError
from text_image_similarity.search.filters import Compare
from text_image_similarity.search.stores import lancedb as module
from text_image_similarity.search.stores.lancedb import LanceStore
from text_image_similarity.search.time_limit import time_limit

QUERY = unit_vectors(7, 1)


@pytest.fixture
def store(tmp_path: Path) -> LanceStore:
    return open_store(tmp_path)


def open_store(folder: Path) -> LanceStore:
    return LanceStore(str(folder), ALL_FIELDS, WIDTH)


@pytest.fixture
def indexed(store: LanceStore, monkeypatch: pytest.MonkeyPatch) -> LanceStore:
    """A store in which 400 pictures are enough for indexes."""
    monkeypatch.setattr(module, "INDEXED", 400)
    return store


def indexed_columns(folder: Path) -> set[str]:
    return {index.columns[0] for index in lancedb.connect(folder).open_table("pictures").list_indices()}


@pytest.mark.usefixtures("indexed")
def test_the_index_finds_nearly_all_under_filters(tmp_path: Path) -> None:
    width = 64

    store = LanceStore(str(tmp_path / "wide"), ALL_FIELDS, width)
    fill_with_clusters(store, width=width)
    store.optimize()
    assert "vector" in indexed_columns(tmp_path / "wide")
    for share in (1.0, 0.1, 0.01):
        found = recalls(store, share, width)
        assert np.mean(found) >= 0.99
        assert min(found) >= 0.8


def test_others_write_while_an_index_is_built(indexed: LanceStore, monkeypatch: pytest.MonkeyPatch) -> None:
    fill_with_clusters(indexed)
    locked = Lock()
    build = indexed._table.create_index
    built: list[str] = []

    def create_index(column: str, **options: Any) -> None:
        if column == "picture" and not built:
            built.append("in vain")
            raise RuntimeError("Retryable commit conflict")
        assert locked.locked() == (len(built) == 1)  # after a conflict the others have to wait
        built.append(column)
        build(column, **options)

    monkeypatch.setattr(indexed._table, "create_index", create_index)
    indexed.optimize(lambda: locked)
    assert built[:2] == ["in vain", "picture"]
    assert built[-1] == "vector"


def test_few_pictures_are_compared_without_an_index(store: LanceStore, tmp_path: Path) -> None:
    fill_with_clusters(store)
    store.optimize()
    assert indexed_columns(tmp_path) == set()
    assert recalls(store, 1.0) == [1.0] * 60


def test_filters_mean_the_same_with_indexes(indexed: LanceStore, tmp_path: Path) -> None:
    shop, values, vectors = Shop(), random_products(18, 420), clusters(3, 420)
    shown = {number: Shown(values[number], vectors[number : number + 1]) for number in range(420)}
    indexed.apply(shop.change(shown))
    indexed.optimize()
    assert len(indexed_columns(tmp_path)) == 4 + len(ALL_FIELDS)
    # Some that the indexes do not know yet, and some that are gone.
    indexed.apply(shop.change(dict(list(shown.items())[:30]), deleted=range(300, 400)))
    for where in random_filters(5, 75):
        assert indexed.count(where) == shop.count(where), where
        (hits,) = indexed.search(QUERY, where, 5, exact=True)
        shop.check(hits, QUERY[0], where, 5)
    for field in ALL_FIELDS:
        assert indexed.values(field.name, None) == shop.values(field.name, None)


def test_the_largest_filter_runs(store: LanceStore) -> None:
    shop, values = Shop(), random_products(18, 40)
    store.apply(shop.change({number: Shown(values[number], unit_vectors(number, 1)) for number in range(40)}))
    for where in largest_filters():
        assert store.count(where) == shop.count(where)


def test_files_stay_few(store: LanceStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_KEPT", timedelta(milliseconds=1))
    shop = Shop()
    for number in range(45):
        store.apply(shop.change({number: Shown({}, unit_vectors(number, 1))}))
    assert len(list((tmp_path / "pictures.lance" / "data").iterdir())) < 25
    store.optimize()
    assert len(list((tmp_path / "pictures.lance" / "data").iterdir())) == 1
    assert store.count(None) == 45


def test_a_text_cannot_leave_its_quotes(store: LanceStore) -> None:
    store.apply(Shop().change({1: Shown({"category": "red"}, QUERY)}))
    for text in ("' OR TRUE --", "red' OR 'a' = 'a", "\\' OR TRUE --", '" OR TRUE --'):
        assert store.count(Compare("category", "eq", text)) == 0
        assert store.count(Compare("tags", "eq", text)) == 0


def test_a_forked_process_is_told_to_open_its_own(store: LanceStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getpid", lambda: 0)
    with pytest.raises(DatabaseError, match="forked"):
        store.count(None)


def test_a_broken_store_says_what_to_do(store: LanceStore, tmp_path: Path) -> None:
    store.apply(Shop().change({1: Shown({}, QUERY)}))
    for file in (tmp_path / "pictures.lance" / "data").iterdir():
        file.write_bytes(b"broken")
    with pytest.raises(DatabaseError, match=f"{tmp_path} cannot be searched.*remove that folder"):
        store.search(QUERY, None, 1)
    for file in (tmp_path / "pictures.lance" / "_versions").iterdir():
        file.write_bytes(b"broken")
    with pytest.raises(DatabaseError, match="cannot be opened"):
        open_store(tmp_path)


def test_a_store_of_other_vectors_or_fields_is_refused(store: LanceStore, tmp_path: Path) -> None:
    for fields, width in ((ALL_FIELDS, WIDTH + 1), (ALL_FIELDS[:-1], WIDTH)):
        with pytest.raises(DatabaseError, match="with other fields or another model"):
            LanceStore(str(tmp_path), fields, width)
    assert open_store(tmp_path).version == store.version == 0


def test_reading_images_ends_when_the_time_is_up(tmp_path: Path) -> None:
    store = LanceStore(str(tmp_path / "vectors"), ALL_FIELDS, WIDTH)
    fill_with_clusters(store)
    reads = (
        lambda: store.count(None),
        lambda: store.values("_id", None),
        lambda: store.search(unit_vectors(7, 1), None, 3),
    )
    with time_limit(60):
        for read in reads:
            read()
    with time_limit(-1):
        for read in reads:
            with pytest.raises(TimeoutError, match="took too long"):
                read()
    store.close()
