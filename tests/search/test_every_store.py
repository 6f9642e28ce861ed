"""A catalogue answers the same whatever store it has: products, similarities, totals, facets and pages."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from qdrant_client import QdrantClient

from tests.search.test_generations import DimEncoder
from tests.search.test_queries import AWKWARD, QUERIES, thing
from tests.support.images import inline
from tests.support.postgres import schema_at
from tests.support.shop import FIELDS, all_pages, ids, product, shop
from text_image_similarity import Catalog, Config, Product, Query, open_catalog
from text_image_similarity.encoders.testing import ColourEncoder
from text_image_similarity.search.stores.protocol import Alone

pytestmark = [
    pytest.mark.filterwarnings("ignore:Payload indexes have no effect"),
    pytest.mark.filterwarnings("ignore:Local mode performs exact"),
]
Open = Callable[[], Catalog]


@pytest.fixture(scope="module")
def plain() -> Iterator[Catalog]:
    """The shop in memory, which the others are compared with."""
    with shop() as catalog:
        catalog.add(thing(number, random.Random(number)) for number in range(90))
        yield catalog


@pytest.fixture(params=["sqlite", "lancedb", "qdrant", "pgvector"])
def opened(
    request: pytest.FixtureRequest, tmp_path: Path, postgres: None, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Open]:
    """Opens an empty catalogue with a store, or the one that is there."""
    kind = request.param
    place = schema_at(tmp_path) if kind == "pgvector" else str(tmp_path / "shop.catalog")
    client = QdrantClient(path=str(tmp_path / "qdrant"))
    close = client.close
    monkeypatch.setattr("text_image_similarity.search.stores.qdrant.connect", lambda _: client)
    monkeypatch.setattr(client, "close", lambda: None)  # a folder can be open once
    store = "qdrant://localhost/shop" if kind == "qdrant" else kind
    config = Config(batch_size=4, io_workers=2)
    yield lambda: open_catalog(place, fields=FIELDS, store=store, config=config, encoder=ColourEncoder())
    close()


def test_answers_are_those_of_the_plain_catalogue(opened: Open, plain: Catalog) -> None:
    with opened() as catalog:
        catalog.add(product(f"old{number}") for number in range(5))
        catalog.add(thing(number, random.Random(number + 1)) for number in range(50))
        catalog.add(thing(number, random.Random(number)) for number in range(90))
        catalog.delete(f"old{number}" for number in range(5))
    with opened() as catalog:
        for query in QUERIES:
            wide = replace(query, top_k=50, facets=["kind", "tags", "price", "_group"])
            assert catalog.match(wide).matches == plain.match(wide).matches
            assert (catalog.match(wide).total, catalog.match(wide).facets) == (
                plain.match(wide).total,
                plain.match(wide).facets,
            )
            assert all_pages(catalog, replace(query, top_k=17)) == all_pages(plain, replace(query, top_k=17))
        catalog.optimize()
        assert catalog.match_many(QUERIES) == [replace(catalog.match(query)) for query in QUERIES]
        assert catalog.match(QUERIES[0]).matches == plain.match(QUERIES[0]).matches
        assert catalog.check(queries=10, filters=[None, "price < 10"]).worst == 1.0


def test_awkward_ids_and_values_round_trip_in_every_store(opened: Open) -> None:
    given = [Product(id, id, inline("red"), id, {"kind": id, "tags": [id]}, id) for id in AWKWARD]
    with opened() as catalog:
        catalog.add(given)
        assert {each.id: each for each in catalog.products()} == {each.id: each for each in given}
        for each in given:
            for where in ({"kind": each.id}, {"tags": each.id}, {"_id": each.id}, {"_group": each.id}):
                assert ids(catalog.match(Query("red", where=where))) == [each.id]
        assert catalog.delete(AWKWARD) == len(AWKWARD)
        assert catalog.match("red").total == 0


def test_others_add_while_a_store_is_optimized(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    added: list[int] = []
    with opened() as catalog, opened() as other, ThreadPoolExecutor() as threads:
        catalog.add(product("a"))
        store = catalog._session.store(catalog.generations[0])
        optimize = store.optimize

        def while_others_add(alone: Alone) -> None:
            added.append(threads.submit(other.add, product("b", "blue")).result(timeout=20).added)
            optimize(alone)

        monkeypatch.setattr(store, "optimize", while_others_add)
        catalog.optimize()
        assert added == [1] * store.shared  # else each process has a store of its own
        catalog.add(product("c", "green"))
        assert ids(catalog.match(Query("blue"))) == ids(other.match(Query("blue")))


def test_every_store_has_generations(opened: Open) -> None:
    with opened() as catalog, opened() as reader:
        catalog.add([product("r", "red"), product("b", "blue")])
        catalog.reindex("dim", encoder=DimEncoder())
        reader._session.lend(catalog.generations[1], DimEncoder())
        catalog.add(product("g", "green"))
        assert ids(reader.match(Query("red", top_k=1))) == ["r"]
        catalog.switch()
        assert ids(reader.match(Query("red", top_k=1))) == ["b"]
        assert reader.match("green").total == 3
        catalog.rollback()
        assert ids(reader.match(Query("red", top_k=1))) == ["r"]
        catalog.drop()
        assert ids(reader.match(Query("green", top_k=1))) == ["g"]
