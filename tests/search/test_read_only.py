"""Catalogues that can be read and not written."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp

import pytest

from tests.support.shop import FIELDS, ids, product
from text_image_similarity import Catalog, DatabaseError, Query, open_catalog
from text_image_similarity.encoders.testing import ColourEncoder

NOBODY = 65534


def opened(place: Path, **options: object) -> Catalog:
    return open_catalog(place, encoder=ColourEncoder(), **options)  # type: ignore[arg-type]


@contextmanager
def without_rights(place: Path) -> Iterator[None]:
    """Run a block as a user who may read a folder and all in it, and write nothing; to root no right is denied."""
    before = {path: path.stat().st_mode for path in (place, *place.rglob("*"))}
    for path in before:
        path.chmod(0o555 if path.is_dir() else 0o444)
    if root := os.geteuid() == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        for path, mode in before.items():
            if path.exists():
                path.chmod(mode)


@pytest.fixture
def place() -> Iterator[Path]:
    """A catalogue in a folder that every user can get to."""
    folder = Path(mkdtemp())  # not pytest's own, which is closed to others
    folder.chmod(0o755)
    yield folder / "c"
    shutil.rmtree(folder)


@pytest.mark.parametrize("store", ["sqlite", "lancedb"])
def test_what_cannot_be_written_is_found_and_stays_as_it_is(place: Path, store: str) -> None:
    with opened(place, fields=FIELDS, store=store) as catalog:
        catalog.add([product("a", "red", price=7), product("b", "blue")])
    before = {path: path.stat().st_mtime_ns for path in place.rglob("*")}
    with without_rights(place), opened(place) as catalog:
        assert ids(catalog.match("red")) == ["a", "b"]
        assert ids(catalog.match(Query("thing", where="price = 7", fusion="rrf", facets=["price"]))) == ["a"]
        assert [each.id for each in catalog.products()] == ["a", "b"]
        assert catalog.check(queries=2).missing == 0
        for write in (
            lambda: catalog.add(product("c")),
            lambda: catalog.delete("a"),
            catalog.optimize,
            lambda: catalog.reindex("mini"),
        ):
            with pytest.raises(
                DatabaseError,
                match="it can only be read here: this user cannot write to its folder, its file or the file",
            ):
                write()
        assert ids(catalog.match("red")) == ["a", "b"]
    assert {path: path.stat().st_mtime_ns for path in place.rglob("*")} == before
    with opened(place) as catalog:
        assert catalog.add(product("c")).added == 1


def test_what_others_write_is_seen_by_those_who_cannot(place: Path) -> None:
    with opened(place, fields=FIELDS) as catalog:
        catalog.add(product("a"))
    with without_rights(place):
        reader = opened(place)
        assert ids(reader.match("red")) == ["a"]
    with opened(place) as writer:
        writer.add(product("b"))
        with without_rights(place):
            assert ids(reader.match("red")) == ["a", "b"]
        writer.delete("a")
        with without_rights(place):
            assert ids(reader.match("red")) == ["b"]
            with opened(place) as second:  # beside a writer
                assert ids(second.match("red")) == ["b"]
                with pytest.raises(DatabaseError, match="it can only be read here"):
                    second.add(product("c"))
    with opened(place) as writer:
        writer.add(product("c"))
    with without_rights(place):
        assert ids(reader.match("red")) == ["b", "c"]
        reader.close()


def test_a_store_that_cannot_follow_answers_all_the_same(place: Path) -> None:
    with opened(place, fields=FIELDS, store="lancedb") as catalog:
        catalog.add([product("a"), product("b", "blue")])
        catalog._session.ledger.delete(["a"])  # as by a process that was killed before its store followed
    with without_rights(place), opened(place) as catalog:
        assert ids(catalog.match("red")) == ["b"]
        with pytest.raises(DatabaseError, match="it can only be read here"):
            catalog.delete("b")
    with opened(place) as catalog:
        assert catalog.match("red").total == 1


def test_changes_that_cannot_be_read_are_not_passed_over(place: Path) -> None:
    catalog = opened(place, fields=FIELDS)
    catalog.add(product("a"))
    copy = place.with_name("copy")
    copy.mkdir()
    for name in ("catalog.sqlite", "catalog.sqlite-wal"):  # as a process that was killed leaves it
        shutil.copy(place / name, copy / name)
    catalog.close()
    with (
        without_rights(copy),
        pytest.raises(DatabaseError, match=r"its latest changes are still in .*catalog.sqlite-wal"),
    ):
        opened(copy)
    with opened(copy) as catalog:
        assert ids(catalog.match("red")) == ["a"]


def test_a_folder_that_cannot_be_entered_is_told(place: Path) -> None:
    with opened(place, fields=FIELDS):
        pass
    mode = place.stat().st_mode
    place.chmod(0)
    if root := os.geteuid() == 0:
        os.seteuid(NOBODY)
    try:
        with pytest.raises(DatabaseError, match="c cannot be read: Permission denied"):
            opened(place)
    finally:
        if root:
            os.seteuid(0)
        place.chmod(mode)
