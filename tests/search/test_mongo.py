"""Products in MongoDB, whose server is here one in memory."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import mongomock
import pymongo
import pytest
from bson import Decimal128, ObjectId

from tests.support.images import inline
from text_image_similarity import Field, Product, TableError, UsageError, open_catalog
from text_image_similarity.encoders.testing import ColourEncoder
from text_image_similarity.search import ProductColumns
from text_image_similarity.search.mongo import MongoCollection

URL = "mongodb://reader:secret@db.example/shop/products?authSource=admin"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Any:
    client: Any = mongomock.MongoClient()
    monkeypatch.setattr(pymongo, "MongoClient", lambda *_, **__: client)
    return client


def test_documents_become_products(server: Any) -> None:
    first = ObjectId("64b000000000000000000001")
    server.shop.products.insert_many(
        [
            {"_id": ObjectId("64b000000000000000000002"), "name": "B", "images": [], "price": "free"},
            {"_id": first, "name": "A", "images": [inline("red")], "price": Decimal128("9.50"), "tags": ["x"]},
            {"_id": 7, "name": "C", "images": inline("green"), "added": datetime(2026, 1, 2)},
        ]
    )
    fields = [Field("price", "number"), Field("tags", "texts"), Field("added", "date"), Field("not there")]
    with open_catalog(":memory:", fields=fields, encoder=ColourEncoder()) as catalog:
        report = catalog.add_table(URL)
        assert (report.added, report.refusals) == (2, ["row 3: 'price' must be a number, not 'free'"])
        assert catalog.get(str(first)) == Product(str(first), "A", inline("red"), fields={"price": 9.5, "tags": ["x"]})
        assert catalog.get("7") == Product("7", "C", inline("green"), fields={"added": "2026-01-02T00:00:00"})
        assert catalog.match("green")[0].product.id == "7"
        assert catalog.add_table(URL).unchanged == 2
    assert server.shop.products.count_documents({}) == 3


def test_members_are_chosen_and_guessed(server: Any) -> None:
    server.shop.products.insert_many([{"_id": 1, "sku": "a", "title": "A", "photo": "", "price": 2, "new": True}])
    source = MongoCollection(URL, ProductColumns(id="sku", images=("photo",)))
    assert source.guess_fields() == (Field("_id"), Field("price", "number"), Field("new", "bool"))[1:]
    assert [found for _, found in source.products([])] == [Product("a", "A")]


def test_a_place_without_a_collection_is_refused(server: Any) -> None:
    for url in ("mongodb://db.example", "mongodb://db.example/shop", "mongodb://db.example/shop/"):
        with pytest.raises(UsageError, match="must be mongodb://HOST/DATABASE/COLLECTION"):
            MongoCollection(url)


def test_a_server_that_fails_is_named_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise pymongo.errors.ServerSelectionTimeoutError("nobody answers")

    monkeypatch.setattr(pymongo, "MongoClient", fail)
    with pytest.raises(TableError) as caught:
        MongoCollection(URL)
    assert str(caught.value) == "mongodb://db.example/shop/products cannot be read: nobody answers"
