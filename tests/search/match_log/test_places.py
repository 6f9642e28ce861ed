"""Where a match log may be, and what is said where it cannot."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import mongomock
import pymongo
import pytest
from pymongo.errors import BulkWriteError, ServerSelectionTimeoutError

from text_image_similarity import open_catalog
from text_image_similarity.encoders.testing import ColourEncoder
from text_image_similarity.errors import DatabaseError, UsageError
from text_image_similarity.search.match_log import LogEntry, MatchLog, new_match_id, open_match_log

MONGO = "mongodb://writer:secret@db.example/shop/matches?authSource=admin"


def entry() -> LogEntry:
    return LogEntry(new_match_id(), 0.0)


def test_the_log_of_a_catalogue_is_a_file_in_its_folder(tmp_path: Path) -> None:
    place = tmp_path / "shop.catalog"
    with pytest.raises(UsageError, match="there is no catalogue at"):
        open_match_log(place)
    open_catalog(place, fields=[], encoder=ColourEncoder()).close()
    with pytest.raises(UsageError, match="there is no match log at"):
        open_match_log(place, create=False)
    with open_match_log(place) as log, open_match_log(place / "log.sqlite", create=False) as same:
        log.append([given := entry()])
        assert list(same.entries()) == [given]
    with closing(sqlite3.connect(place / "log.sqlite")) as file:
        assert file.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    open_catalog(place, encoder=ColourEncoder()).close()


def test_files_of_others_stay_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "other.sqlite"
    with closing(sqlite3.connect(path)) as file:
        file.execute("CREATE TABLE entry (id TEXT)")
    before = path.read_bytes()
    with pytest.raises(DatabaseError, match=r"other.sqlite is not a match log; name another file"):
        open_match_log(path)
    assert path.read_bytes() == before
    path.write_text("no database" * 1000)
    with pytest.raises(DatabaseError, match=r"other.sqlite cannot be used: file is not a database; name another file"):
        open_match_log(path)
    with pytest.raises(DatabaseError, match="its folder must exist"):
        open_match_log(tmp_path / "missing" / "log.sqlite")
    open_match_log(tmp_path / "log.sqlite").close()
    with closing(sqlite3.connect(tmp_path / "log.sqlite")) as file:
        file.execute("PRAGMA user_version = 99")
    with pytest.raises(DatabaseError, match=r"another version of this package \(layout 99, not 1\)"):
        open_match_log(tmp_path / "log.sqlite")


@pytest.mark.parametrize("made", ["VIEW more AS SELECT 1", "TABLE entry (id TEXT PRIMARY KEY, body TEXT AS ('x'))"])
def test_a_log_with_tables_of_others_is_refused(made: str, tmp_path: Path) -> None:
    path = tmp_path / "log.sqlite"
    open_match_log(path).close()
    name = made.split()[1]
    with closing(sqlite3.connect(path)) as file:
        file.executescript(f"DROP TABLE IF EXISTS {name}; CREATE {made}; ANALYZE")
    with pytest.raises(DatabaseError, match=f"log.sqlite cannot be used: .* '{name}'; if you added it, drop it"):
        open_match_log(path)


def test_a_transaction_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with open_match_log(tmp_path / "log.sqlite") as log, closing(sqlite3.connect(tmp_path / "log.sqlite")) as file:
        file.execute("DROP TABLE event")
        with pytest.raises(DatabaseError, match=r"log.sqlite cannot be used: no such table: event"):
            log.append([entry()])
        assert list(log.entries()) == []


def test_a_forked_process_opens_a_log_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_match_log(tmp_path / "log.sqlite") as log:
        with monkeypatch.context() as patch:
            patch.setattr(os, "getpid", lambda: -1)
            with pytest.raises(DatabaseError, match="before this process was forked; open it after the fork"):
                log.append([entry()])
            log.close()
        log.append([entry()])


@pytest.mark.parametrize("first", ["log", "catalogue"])
def test_a_log_and_a_catalogue_share_a_schema_of_postgres(postgres_url: str, first: str) -> None:
    def make_log() -> None:
        with open_match_log(postgres_url) as log:
            log.append([entry()])

    def make_catalogue() -> None:
        open_catalog(postgres_url, fields=[], encoder=ColourEncoder()).close()

    with pytest.raises(UsageError, match="there is no match log at"):
        open_match_log(postgres_url, create=False)
    steps = [make_log, make_catalogue]
    for step in steps if first == "log" else reversed(steps):
        step()
    with open_match_log(postgres_url, create=False) as log:
        assert len(list(log.entries())) == 1
    with open_catalog(postgres_url, encoder=ColourEncoder()) as catalog:
        assert len(catalog) == 0


def test_a_postgres_that_is_away_is_named_without_its_password() -> None:
    with pytest.raises(
        DatabaseError, match=r"in PostgreSQL at 127.0.0.1/db cannot be used: .*check the address"
    ) as caught:
        open_match_log("postgresql://shop:secret@127.0.0.1:1/db")
    assert "secret" not in str(caught.value)


@pytest.fixture
def mongo(monkeypatch: pytest.MonkeyPatch) -> Any:
    client: Any = mongomock.MongoClient()
    monkeypatch.setattr(pymongo, "MongoClient", lambda *_, **__: client)
    return client


def test_a_log_in_mongo_has_two_collections(mongo: Any) -> None:
    with open_match_log(MONGO) as log:
        log.append([given := entry()])
    assert [document["_id"] for document in mongo.shop.matches.find()] == [given.id]
    assert mongo.shop.matches_events.count_documents({}) == 0
    for url in ("mongodb://db.example", "mongodb://db.example/shop"):
        with pytest.raises(UsageError, match="must be mongodb://HOST/DATABASE/COLLECTION"):
            open_match_log(url)


@pytest.mark.parametrize(
    "details",
    [
        {"writeErrors": [{"code": 11000}, {"code": 121}]},
        {"writeErrors": [], "writeConcernErrors": [{"code": 64}]},
    ],
)
def test_what_mongo_did_not_write_is_told(mongo: Any, monkeypatch: pytest.MonkeyPatch, details: dict[str, Any]) -> None:
    def fail(*_: object, **__: object) -> None:
        raise BulkWriteError(details)

    with open_match_log(MONGO) as log:
        monkeypatch.setattr(mongomock.Collection, "insert_many", fail)
        with pytest.raises(
            DatabaseError, match=r"mongodb://db.example/shop/matches cannot be used: batch op errors"
        ) as caught:
            log.append([entry()])
    assert "secret" not in str(caught.value)


def test_a_mongo_that_is_away_is_named_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ServerSelectionTimeoutError("nobody answers")

    monkeypatch.setattr(pymongo, "MongoClient", fail)
    with pytest.raises(DatabaseError, match="shop/matches cannot be used: nobody answers; check the address") as caught:
        open_match_log(MONGO)
    assert "secret" not in str(caught.value)


def test_a_log_in_memory_ends_with_its_object() -> None:
    for _ in range(2):
        with open_match_log(":memory:", create=False) as log:
            assert isinstance(log, MatchLog)
            assert list(log.entries()) == []
            log.append([entry()])
