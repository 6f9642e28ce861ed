"""A store belongs to one ledger, and what it has is what the ledger has."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path, PureWindowsPath
from threading import Event

import pytest
from qdrant_client import QdrantClient

from tests.support.shop import FIELDS, ids, product
from tests.support.stores import ALL_FIELDS, STORES, WIDTH, Shop, Shown, unit_vectors
from text_image_similarity import Catalog, DatabaseError, Field, ModelNameError, UsageError, open_catalog
from text_image_similarity.encoders.testing import ColourEncoder
from text_image_similarity.search.stores.memory import MemoryStore

pytestmark = [
    pytest.mark.filterwarnings("ignore:Payload indexes have no effect"),
    pytest.mark.filterwarnings("ignore:Local mode performs exact"),
]


def shop_in(place: Path, store: str = "lancedb") -> Catalog:
    return open_catalog(place, fields=FIELDS, store=store, encoder=ColourEncoder())


@pytest.mark.parametrize("kind", ["lancedb", "qdrant"])
def test_two_catalogues_cannot_share_a_store(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client = QdrantClient(path=str(tmp_path / "qdrant"))
    monkeypatch.setattr("text_image_similarity.search.stores.qdrant.connect", lambda _: client)
    close = client.close
    monkeypatch.setattr(client, "close", lambda: None)  # a folder can be open once
    store = f"lancedb:{tmp_path / 'vectors'}" if kind == "lancedb" else "qdrant://localhost/shop"
    with shop_in(tmp_path / "a", store) as first:
        first.add(product("a"))
        with shop_in(tmp_path / "b", store) as second, pytest.raises(DatabaseError, match="another catalogue stores"):
            second.match("red")
        assert ids(first.match("red")) == ["a"]
    with shop_in(tmp_path / "a", store) as again:
        assert ids(again.match("red")) == ["a"]
    close()


@pytest.mark.parametrize("kind", ["qdrant://10.0.0.1:6333/shop", "lancedb:s3://bucket/shop", "lancedb:/else where"])
def test_a_store_elsewhere_is_one_that_the_caller_names_too(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever hands over a catalogue would otherwise say where this process connects to, and with whose credentials."""
    opened: list[str] = []

    def store(kind: str, place: str, number: int, fields: Sequence[Field], embed_dim: int, token: str) -> MemoryStore:
        opened.append(kind)
        return MemoryStore(fields, embed_dim)

    monkeypatch.setattr("text_image_similarity.search.opening.open_store", store)
    place = tmp_path / "given"
    with shop_in(place, "sqlite"):
        pass
    with closing(sqlite3.connect(place / "catalog.sqlite")) as database, database:
        database.execute("UPDATE setting SET value = ? WHERE name = 'store'", (kind,))
    for others in ("", "qdrant://10.0.0.1:6333 lancedb:s3://bucket"):
        monkeypatch.setenv("TEXT_IMAGE_SIMILARITY_STORES", others)
        with pytest.raises(UsageError, match=f"external store, {kind}: .* TEXT_IMAGE_SIMILARITY_STORES={kind}"):
            open_catalog(place, encoder=ColourEncoder())
    assert opened == []
    several = f"lancedb:/mine {kind}" if " " not in kind else kind  # one with a space can be named alone
    for others, given in ((several, None), ("", kind)):
        monkeypatch.setenv("TEXT_IMAGE_SIMILARITY_STORES", others)
        with open_catalog(place, store=given, encoder=ColourEncoder()) as catalog:
            catalog.match("red")
    assert opened == [kind, kind]


def test_a_setting_that_has_two_values_is_checked_as_it_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a file made by a stranger, an index can contradict its table, so that two queries find different stores."""
    opened: list[str] = []
    monkeypatch.setattr("text_image_similarity.search.opening.open_store", lambda kind, *_: opened.append(kind))
    monkeypatch.delenv("TEXT_IMAGE_SIMILARITY_STORES", raising=False)
    with shop_in(tmp_path, "sqlite"):
        pass
    stranger = "qdrant://10.0.0.1:6333/shop"
    change = "UPDATE sqlite_master SET sql = ? WHERE name = 'setting'"
    with closing(sqlite3.connect(tmp_path / "catalog.sqlite")) as database:
        kept = dict(database.execute("SELECT name, value FROM setting"))
        (index,) = database.execute("SELECT * FROM sqlite_master WHERE name = 'sqlite_autoindex_setting_1'")
        (sql,) = database.execute("SELECT sql FROM sqlite_master WHERE name = 'setting'").fetchone()
        database.execute("PRAGMA writable_schema = ON")
        database.execute("DELETE FROM sqlite_master WHERE name = ?", (index[1],))
        database.execute(change, (sql.replace("PRIMARY KEY", ""),))
        database.commit()
    with closing(sqlite3.connect(tmp_path / "catalog.sqlite")) as database, database:
        database.execute("UPDATE setting SET name = 'other'")  # which the index does not learn
        database.executemany("INSERT INTO setting VALUES (?, ?)", (kept | {"store": stranger}).items())
        database.execute("PRAGMA writable_schema = ON")
        database.execute("INSERT INTO sqlite_master VALUES (?, ?, ?, ?, ?)", index)
        database.execute(change, (sql,))
    with closing(sqlite3.connect(tmp_path / "catalog.sqlite")) as database:
        assert dict(database.execute("SELECT name, value FROM setting"))["store"] == stranger
        assert database.execute("SELECT value FROM setting WHERE name = ?", ("store",)).fetchall() == [("sqlite",)]
    with pytest.raises(UsageError, match=f"external store, {stranger}"):
        open_catalog(tmp_path, encoder=ColourEncoder()).match("red")
    assert not opened


@pytest.mark.parametrize(
    "name", [r"\\evil\share\m", "//evil/share/m", r"local-dir:\\evil\m", "open_clip:ViT-B-32////evil/m.pt"]
)
def test_a_model_on_a_host_that_only_the_catalogue_names_is_not_looked_for(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On Windows, merely looking for a file there would log in to that host."""
    with shop_in(tmp_path, "sqlite") as catalog:
        catalog.add(product("a"))
    with closing(sqlite3.connect(tmp_path / "catalog.sqlite")) as database, database:
        database.execute("UPDATE generation SET model = ?", (name,))
    for module in (
        "encoders.load",
        "encoders.calibrated",
    ):  # such a path has no files, so that looking for one would raise
        monkeypatch.setattr(f"text_image_similarity.{module}.model_folder", PureWindowsPath)
    with open_catalog(tmp_path) as catalog, pytest.raises(ModelNameError, match=r"network share.* --model"):
        catalog.match("red")
    with open_catalog(tmp_path, encoder=ColourEncoder()) as catalog:
        assert [match.probability for match in catalog.match("red")] == [None]
    monkeypatch.setattr("text_image_similarity.pipeline.scorer.load_encoder", lambda _: ColourEncoder())
    with open_catalog(tmp_path, model=name) as catalog:
        assert ids(catalog.match("red")) == ["a"]


@contextmanager
def restored_from_backup(place: Path) -> Iterator[Catalog]:
    """Open a catalogue, and give its ledger back as it was before, while its store has gone on."""
    backup = place.with_name("backup.sqlite")
    with shop_in(place) as catalog:
        catalog.add(product("old"))
    shutil.copy(place / "catalog.sqlite", backup)
    with shop_in(place) as catalog:
        yield catalog
    shutil.copy(backup, place / "catalog.sqlite")


def test_a_store_that_is_ahead_of_a_restored_ledger_is_built_again(tmp_path: Path) -> None:
    with restored_from_backup(tmp_path / "a") as catalog:
        catalog.add([product("old", "blue")])
        catalog.add([product("later", "red")])
    with shop_in(tmp_path / "a") as catalog:
        found = catalog.match("red")
        assert ids(found) == ["old"]
        assert found.total == 1
        assert found[0].similarity == pytest.approx(1.0)
        assert catalog.check(queries=1).missing == 0


def test_a_restored_ledger_that_is_written_to_first_is_followed_too(tmp_path: Path) -> None:
    with restored_from_backup(tmp_path / "a") as catalog:
        catalog.delete("old")
    with shop_in(tmp_path / "a") as catalog:
        catalog.add(product("b", "blue"))
        catalog.add(product("c", "green"))
        assert sorted(ids(catalog.match("red"))) == ["b", "c", "old"]


@pytest.mark.parametrize("kind", STORES)
def test_a_cleared_store_is_as_new(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if kind == "pgvector":
        request.getfixturevalue("postgres")
    store, shop = STORES[kind](tmp_path, ALL_FIELDS, WIDTH), Shop()
    store.apply(shop.change({number: Shown({"_id": str(number)}, unit_vectors(number, 2)) for number in range(1, 5)}))
    store.clear()
    assert (store.version, store.count(None)) == (0, 0)
    assert not len(store.search(unit_vectors(1, 1), None, 5, exact=True)[0].rows)
    store.apply(shop.change({9: Shown({"_id": "9"}, unit_vectors(9, 1))}))
    assert (store.version, store.count(None)) == (shop.version, 1)
    store.drop()


def test_a_check_counts_what_the_store_lacks(tmp_path: Path) -> None:
    with shop_in(tmp_path / "a") as catalog:
        catalog.add(product(id) for id in "abc")
        session = catalog._session
        store = session.store(session.generations.live())
        store._table.delete("slot = 0 AND f0 = 'b'")  # type: ignore[attr-defined]
        assert catalog.check(queries=2).missing == 1


def test_a_search_does_not_wait_for_a_thread_that_brings_the_store_up_to_date(tmp_path: Path) -> None:
    def hold() -> None:
        with catalog._session._following:
            held.set()
            released.wait()

    held, released = Event(), Event()
    with shop_in(tmp_path / "a") as catalog, ThreadPoolExecutor(2) as threads:
        catalog.add(product(id) for id in "ab")
        threads.submit(hold)
        try:
            assert held.wait(60)
            catalog._session.ledger.delete(["a"])
            assert ids(threads.submit(catalog.match, "red").result(60)) == ["b"]
        finally:
            released.set()
