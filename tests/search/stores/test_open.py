"""Which store a catalogue gets."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.stores import ALL_FIELDS, WIDTH, Shop, Shown, unit_vectors
from text_image_similarity.errors import ConfigError
from text_image_similarity.search.stores import MemoryStore
from text_image_similarity.search.stores.lancedb import LanceStore
from text_image_similarity.search.stores.open import check_kind, open_store


@pytest.mark.parametrize(
    "kind", ["sqlite", "lancedb", "lancedb:s3://bucket/shop", "pgvector", "qdrant://h/shop", "qdrants://h:1/shop"]
)
def test_kinds_that_there_are(kind: str) -> None:
    check_kind(kind, "postgresql://localhost/shop")


@pytest.mark.parametrize("kind", ["", "faiss", "lance", "sqlite:", "qdrant", "QDRANT://h/x", "postgresql://h"])
def test_other_kinds_are_refused_with_those_that_there_are(kind: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="sqlite, lancedb"):
        check_kind(kind, "postgresql://localhost/shop")
    with pytest.raises(ConfigError, match="sqlite, lancedb"):
        open_store(kind, str(tmp_path), 1, ALL_FIELDS, WIDTH)


@pytest.mark.parametrize("kind", ["qdrant://h", "qdrant://h/", "qdrant:///shop"])
def test_a_collection_needs_a_host_and_a_name(kind: str) -> None:
    with pytest.raises(ConfigError, match="needs a host and a unique name"):
        check_kind(kind, "postgresql://localhost/shop")


def test_stores_lie_in_the_catalogue_or_where_they_are_told(tmp_path: Path) -> None:
    assert isinstance(open_store("sqlite", str(tmp_path), 1, ALL_FIELDS, WIDTH), MemoryStore)
    place, apart = tmp_path / "shop.catalog", tmp_path / "apart"
    place.mkdir()
    for generation in (1, 2):
        for kind in ("lancedb", f"lancedb:{apart}/"):
            store = open_store(kind, str(place), generation, ALL_FIELDS, WIDTH)
            assert isinstance(store, LanceStore)
            store.apply(Shop().change({generation: Shown({}, unit_vectors(1, 1))}))
            assert store.search(unit_vectors(1, 1), None, 1)[0].rows.tolist() == [generation]
    for folder in (place, apart):
        assert sorted(path.name for path in folder.iterdir()) == ["vectors-1", "vectors-2"]
    with pytest.raises(ConfigError, match="not a folder"):
        open_store("lancedb", ":memory:", 1, ALL_FIELDS, WIDTH)


def test_pgvector_is_refused_beside_a_folder() -> None:
    with pytest.raises(ConfigError, match="needs a catalogue in PostgreSQL"):
        check_kind("pgvector", "shop.catalog")
