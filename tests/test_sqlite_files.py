"""Files next to an SQLite database, with which a stranger could make SQLite change other files."""

from __future__ import annotations

import errno
import os
import sqlite3
import struct
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.shop import shop
from text_image_similarity import ConfigError, DatabaseError, UsageError
from text_image_similarity.embeddings.cache import EmbeddingCache
from text_image_similarity.search.match_log import open_match_log
from text_image_similarity.sqlite_files import check_sqlite_place
from text_image_similarity.training.tracking import _check_schema


def naming(victim: Path) -> bytes:
    """A journal of one page outside the database, which names a super-journal; see SQLite's `readSuperJournal`."""
    name = os.fsencode(victim)
    lock_page = struct.pack(">I", 0x40000000 // 4096 + 1)
    return bytes(512) + lock_page + name + struct.pack(">II", len(name), sum(name)) + bytes.fromhex("d9d505f920a163d7")


def open_catalogue(path: Path) -> None:
    with shop(path.parent) as catalog:
        catalog.match("red")


def open_log(path: Path) -> None:
    open_match_log(path).close()


def open_cache(path: Path) -> None:
    EmbeddingCache(path, 4).close()


def open_tracking(path: Path) -> None:
    _check_schema(f"sqlite:///{path}")


DOORS: list[tuple[str, Callable[[Path], None], type[Exception]]] = [
    ("c/catalog.sqlite", open_catalogue, DatabaseError),
    ("log.sqlite", open_log, DatabaseError),
    ("cache.sqlite", open_cache, ConfigError),
    ("mlflow.db", open_tracking, UsageError),
]


@pytest.mark.parametrize(("name", "opened", "error"), DOORS, ids=[name for name, *_ in DOORS])
def test_no_journal_makes_sqlite_delete_another_file(
    tmp_path: Path, name: str, opened: Callable[[Path], None], error: type[Exception]
) -> None:
    path, victim = tmp_path / name, tmp_path / "victim"
    opened(path)
    victim.write_text("precious")
    journal = path.with_name(f"{path.name}-journal")
    journal.write_bytes(naming(victim))
    with pytest.raises(error, match=f"{journal} was not written by this package"):
        opened(path)
    assert victim.read_text() == "precious"
    journal.unlink()
    opened(path)


def test_the_journal_next_to_the_file_that_a_link_leads_to_counts(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "there")
    (tmp_path / "there-journal").write_bytes(naming(tmp_path / "victim"))
    with pytest.raises(DatabaseError, match="there-journal was not written"):
        check_sqlite_place(tmp_path / "link")


@pytest.mark.parametrize("ending", ["journal", "wal", "shm"])
@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda place, _: os.mkfifo(place), marks=pytest.mark.skipif(os.name == "nt", reason="no pipes")),
        lambda place, _: place.mkdir(),
        lambda place, victim: place.symlink_to(victim),
        lambda place, victim: place.hardlink_to(victim),
    ],
    ids=["pipe", "folder", "link", "hard link"],
)
def test_only_a_file_of_its_own_is_taken_for_one_of_sqlite_s(
    tmp_path: Path, ending: str, make: Callable[[Path, Path], None]
) -> None:
    (tmp_path / "victim").write_text("precious")
    make(tmp_path / f"a-{ending}", tmp_path / "victim")
    with pytest.raises(DatabaseError, match=f"a-{ending} was not written"):
        check_sqlite_place(tmp_path / "a")


def test_an_unreadable_journal_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, _: str) -> None:  # permissions do not stop root
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    (tmp_path / "a-journal").touch()
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(DatabaseError, match="a-journal cannot be read: Permission denied"):
        check_sqlite_place(tmp_path / "a")


def test_the_journal_of_a_killed_process_is_rolled_back(tmp_path: Path) -> None:
    path, copy = tmp_path / "a.sqlite", tmp_path / "b.sqlite"
    with closing(sqlite3.connect(path)) as file:
        file.executescript("CREATE TABLE t (x); INSERT INTO t VALUES (1)")
        file.execute("PRAGMA cache_spill = 1")
        file.execute("BEGIN IMMEDIATE")
        file.execute("UPDATE t SET x = 2")
        journal = path.with_name("a.sqlite-journal").read_bytes()
        copy.write_bytes(path.read_bytes())
        copy.with_name("b.sqlite-journal").write_bytes(journal)
        file.rollback()
    check_sqlite_place(copy)
    with closing(sqlite3.connect(copy)) as file:
        assert file.execute("SELECT x FROM t").fetchall() == [(1,)]
