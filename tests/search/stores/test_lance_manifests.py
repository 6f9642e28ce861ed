"""A Lance table in a catalogue's folder leads to no other place."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from lancedb.embeddings import EmbeddingFunctionRegistry

from tests.support.stores import ALL_FIELDS, WIDTH, Shop, Shown, unit_vectors
from text_image_similarity.errors import DatabaseError
from text_image_similarity.search.stores.lancedb import LanceStore
from text_image_similarity.search.stores.open import open_store

QUERY = unit_vectors(7, 1)
_EMBEDDING = json.dumps([{"name": "strangers", "model": {}, "source_column": "f0", "vector_column": "other"}])


def text(number: int, value: bytes) -> bytes:
    """Return a field of a protobuf message that has a text or a message."""
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def whole(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value)


def _varint(value: int) -> bytes:
    return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + _varint(value >> 7)


def newest(folder: Path) -> Path:
    return min((folder / "pictures.lance" / "_versions").glob("*.manifest"))  # the names count down


def add(manifest: Path, added: bytes, index: bytes | None = None) -> None:
    """Add fields to a manifest, and an index."""
    data = manifest.read_bytes()
    start = int.from_bytes(data[-16:-8], "little")
    head, body = data[:start], data[start + 4 : -16] + added
    if index is not None:
        body += whole(6, start)
        section = text(1, index)
        head += len(section).to_bytes(4, "little") + section
    tail = len(head).to_bytes(8, "little") + data[-8:]
    manifest.write_bytes(head + len(body).to_bytes(4, "little") + body + tail)


def base(path: str) -> bytes:
    return text(18, whole(1, 1) + text(4, path.encode()))


def named_file(name: bytes) -> bytes:
    return text(2, text(2, text(1, name)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    store = LanceStore(str(tmp_path / "vectors-1"), ALL_FIELDS, WIDTH)
    for number in (1, 2):
        store.apply(Shop().change({number: Shown({}, QUERY)}))
    return tmp_path / "vectors-1"


@pytest.mark.parametrize(
    ("added", "reason"),
    [
        (base("s3://elsewhere/x"), "names 's3://elsewhere/x'"),
        (base("/home/user"), "names '/home/user'"),
        (whole(9, 1 << 4), "several places"),
        (text(20, b"other"), "belongs to a branch"),
        (text(2, text(2, text(1, b"x.lance") + whole(7, 1))), "data in another place"),
        (text(2, text(2, text(1, b"x.lance") + whole(7, 0))), "data in another place"),
        (text(2, text(3, whole(7, 1))), "deleted rows in another place"),
        (text(2, text(6, text(1, b"rows"))), "rows in other files"),
        (text(2, text(11, text(1, text(1, b"x.lance") + whole(7, 1)))), "data in another place"),
        (named_file(b"../../x.lance"), "names the file '../../x.lance'"),
        (named_file(b"s3://elsewhere/x.lance"), "names the file 's3:"),
        (text(1, text(2, b"x") + text(10, text(1, b"ARROW:extension:name") + text(2, b"lance.blob.v2"))), "of files"),
        (text(5, text(1, b"embedding_functions") + text(2, _EMBEDDING.encode())), "a model to load"),
    ],
)
def test_a_manifest_that_leads_elsewhere_is_refused(folder: Path, added: bytes, reason: str) -> None:
    add(newest(folder), added)
    with pytest.raises(DatabaseError, match=f"the vectors in {folder} are not opened.*{reason}.*remove that folder"):
        LanceStore(str(folder), ALL_FIELDS, WIDTH)


@pytest.mark.parametrize(
    ("index", "reason"),
    [
        (text(3, b"x") + whole(9, 1), "an index in another place"),
        (text(6, text(1, b"/lance.table.MemWalIndexDetails")), "MemWalIndexDetails"),
        (text(10, text(1, b"../x.idx")), "files in other folders"),
    ],
)
def test_an_index_that_leads_elsewhere_is_refused(folder: Path, index: bytes, reason: str) -> None:
    add(newest(folder), b"", index)
    with pytest.raises(DatabaseError, match=reason):
        LanceStore(str(folder), ALL_FIELDS, WIDTH)


def test_old_versions_and_branches_are_checked_too(folder: Path) -> None:
    oldest = max((folder / "pictures.lance" / "_versions").glob("*.manifest"))
    before = oldest.read_bytes()
    add(oldest, base("s3://elsewhere/x"))
    with pytest.raises(DatabaseError, match="s3://elsewhere/x"):
        LanceStore(str(folder), ALL_FIELDS, WIDTH)
    branch = folder / "pictures.lance" / "tree" / "other" / "_versions"
    branch.mkdir(parents=True)
    oldest.rename(branch / oldest.name)
    oldest.write_bytes(before)
    with pytest.raises(DatabaseError, match="s3://elsewhere/x"):
        LanceStore(str(folder), ALL_FIELDS, WIDTH)


def test_a_newer_version_that_leads_elsewhere_is_refused(folder: Path) -> None:
    reader, writer = (LanceStore(str(folder), ALL_FIELDS, WIDTH) for _ in range(2))
    writer.apply(Shop().change({3: Shown({}, QUERY)}))
    assert reader.count(None) == 3
    writer.apply(Shop().change({4: Shown({}, QUERY)}))
    add(newest(folder), base("s3://elsewhere/x"))
    for _ in range(2):
        with pytest.raises(DatabaseError, match="s3://elsewhere/x"):
            reader.search(QUERY, None, 1)


def test_a_store_that_was_just_created_follows_no_other_place(tmp_path: Path) -> None:
    store = LanceStore(str(tmp_path), ALL_FIELDS, WIDTH)
    store.apply(Shop().change({1: Shown({}, QUERY)}))
    reader = LanceStore(str(tmp_path), ALL_FIELDS, WIDTH)
    store.apply(Shop().change({2: Shown({}, QUERY)}))
    add(newest(tmp_path), base("s3://elsewhere/x"))
    for each in (store, reader):
        with pytest.raises(DatabaseError, match="s3://elsewhere/x"):
            each.count(None)


@pytest.mark.parametrize("linked", [".", "pictures.lance", "pictures.lance/data", "pictures.lance/_versions"])
def test_a_symbolic_link_is_refused(folder: Path, linked: str) -> None:
    place = folder / linked
    moved = place.rename(folder.parent / "moved")
    place.symlink_to(moved, target_is_directory=True)
    with pytest.raises(DatabaseError, match="is a symbolic link"):
        LanceStore(str(folder), ALL_FIELDS, WIDTH)


def test_a_list_of_tables_in_other_places_is_refused(folder: Path) -> None:
    (folder / "__manifest").mkdir()
    with pytest.raises(DatabaseError, match="may name tables in other places"):
        LanceStore(str(folder), ALL_FIELDS, WIDTH)


@pytest.fixture
def made() -> Iterator[list[str]]:
    """The embedding functions that were made, of a kind that only this test knows."""
    registry = EmbeddingFunctionRegistry.get_instance()  # type: ignore[no-untyped-call]
    found: list[str] = []

    class Strangers:
        @staticmethod
        def create(**_: object) -> None:
            found.append("made")

    registry._functions["strangers"] = Strangers
    yield found
    del registry._functions["strangers"]


def test_no_model_that_the_table_names_is_made(folder: Path, made: list[str]) -> None:
    add(newest(folder), text(5, text(1, b"embedding_functions") + text(2, _EMBEDDING.encode())))
    with pytest.raises(DatabaseError):
        LanceStore(str(folder), ALL_FIELDS, WIDTH).apply(Shop().change({3: Shown({}, QUERY)}))
    assert made == []


@pytest.mark.parametrize("damage", [b"\x0b", b"\x80" * 11, text(2, b"\x07"), b"\x0a\x7f", whole(6, 1 << 40)])
def test_a_damaged_manifest_is_refused(folder: Path, damage: bytes) -> None:
    add(newest(folder), damage)
    with pytest.raises(DatabaseError, match=r"cannot be opened: .*manifest"):
        LanceStore(str(folder), ALL_FIELDS, WIDTH)


def test_a_manifest_is_not_read_if_it_is_too_large(folder: Path) -> None:
    with newest(folder).open("r+b") as file:
        file.truncate(1 << 30)
    with pytest.raises(DatabaseError, match="more than 16 MiB"):
        LanceStore(str(folder), ALL_FIELDS, WIDTH)


def test_a_place_that_the_user_names_may_lead_elsewhere(folder: Path) -> None:
    add(newest(folder), base(str(folder.parent / "other")))
    store = open_store(f"lancedb:{folder.parent}", "catalog", 1, ALL_FIELDS, WIDTH)
    assert store.count(None) == 2
    with pytest.raises(DatabaseError, match="lead to another place"):
        open_store("lancedb", str(folder.parent), 1, ALL_FIELDS, WIDTH)
