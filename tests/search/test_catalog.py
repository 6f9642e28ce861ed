"""Products in a catalogue: added, replaced, deleted, kept over processes, and what is refused."""

from __future__ import annotations

import math
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.clock import FakeClock
from tests.support.images import inline, make_png
from tests.support.shop import FIELDS, CountingEncoder, ids, product, shop
from text_image_similarity import (
    Config,
    DatabaseError,
    Field,
    InputTypeError,
    ModelError,
    Product,
    Query,
    Record,
    Term,
    UsageError,
    open_catalog,
    score_pairs,
)
from text_image_similarity.encoders import model_folder
from text_image_similarity.encoders.testing import ColourEncoder
from text_image_similarity.preprocess import Pixels
from text_image_similarity.search import Judgement, ProductColumns, ingest
from text_image_similarity.similarity import Embeddings


def test_what_was_added_is_found_again_in_another_process(tmp_path: Path) -> None:
    given = Product(
        "mug-1", "A red mug", inline("red"), "for tea", {"price": 8.5, "tags": ["kitchen", "red"]}, group="mugs"
    )
    with shop(tmp_path / "shop.catalog") as catalog:
        report = catalog.add(given)
        assert (report.added, report.encoded, report.products) == (1, 1, 1)
    with open_catalog(tmp_path / "shop.catalog", encoder=ColourEncoder()) as catalog:
        assert catalog.fields == FIELDS
        (found,) = catalog.match("red")
        assert found.product == given
        assert (found.similarity, found.rank, found.image) == (1.0, 1, given.images[0])
        assert catalog.get("mug-1") == given
        assert catalog.get("mug-2") is None
        assert len(catalog) == 1


def test_similarities_are_those_of_score_pairs() -> None:
    colours = [(200, 30, 90), (3, 250, 120), (90, 90, 91), (255, 128, 0)]
    config, encoder = Config(), ColourEncoder()
    with shop() as catalog:
        catalog.add(product(str(number), colour) for number, colour in enumerate(colours))
        for text in ("red", "yellow", "white and blue"):
            found = {match.product.id: match.similarity for match in catalog.match(text)}
            records = [Record(inline(colour), text) for colour in colours]
            scores = [result.similarity for result in score_pairs(records, config, encoder=encoder)]
            assert [found[str(number)] for number in range(len(colours))] == scores


def test_a_catalogue_shows_its_fields_also_once_it_is_closed() -> None:
    with open_catalog(":memory:", fields=FIELDS, encoder=ColourEncoder()) as catalog:
        shown = repr(catalog)
    assert shown == repr(catalog) == f"Catalog(fields={[field.name for field in FIELDS]})"


def test_a_product_is_replaced_by_one_with_its_id() -> None:
    with shop() as catalog:
        catalog.add([product("a", "red", price=1), product("b", "blue")])
        report = catalog.add([product("a", "green", price=2)])
        assert (report.added, report.updated, len(catalog)) == (0, 1, 2)
        assert ids(catalog.match(Query("green", top_k=1))) == ["a"]
        assert catalog.match("red").matches[-1].similarity == 0.0
        assert [match.product.fields["price"] for match in catalog.match(Query(where="price exists"))] == [2]


def test_of_several_with_one_id_the_last_counts() -> None:
    with shop() as catalog:
        catalog.add([product("a", "red"), product("b", "blue"), product("a", "green")])
        assert len(catalog) == 2
        assert ids(catalog.match(Query("green", top_k=1))) == ["a"]


def test_known_pictures_are_not_encoded_again(tmp_path: Path) -> None:
    encoder = CountingEncoder()
    with shop(tmp_path / "c", encoder) as catalog:
        catalog.add([product("a", "red", price=1), product("b", "blue")])
        assert encoder.images == 2
    with shop(tmp_path / "c", encoder) as catalog:
        report = catalog.add([product("a", "red", price=1), product("b", "blue")])
        assert (report.unchanged, report.encoded) == (2, 0)
        report = catalog.add([product("a", "red", price=2), product("c", "red")])
        assert (report.updated, report.added, report.encoded) == (1, 1, 0)
        assert encoder.images == 2


def test_a_product_that_says_the_same_otherwise_is_unchanged(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(make_png("red"))
    with open_catalog(":memory:", fields=FIELDS, config=Config(base_dir=tmp_path), encoder=ColourEncoder()) as catalog:
        catalog.add(Product("a", images="a.png", fields={"price": Decimal(3)}))
        again = Product("a", images=str(tmp_path / "a.png"), fields={"price": 3, "tags": None}, group="")
        assert catalog.add(again).unchanged == 1
        assert catalog.add(replace(again, group="mugs")).updated == 1


def test_a_picture_that_changes_under_its_name_is_encoded_again(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(make_png("red"))
    with shop() as catalog:
        thing = Product("a", images=str(tmp_path / "a.png"))
        catalog.add(thing)
        (tmp_path / "a.png").write_bytes(make_png("blue"))
        assert catalog.add(thing).updated == 1
        assert catalog.match("blue").matches[0].similarity == 1.0


def test_a_product_counts_with_its_best_picture() -> None:
    with shop() as catalog:
        several = Product("a", images=[inline("red"), inline("yellow"), inline("blue")])
        catalog.add([several, product("b", "green")])
        found = catalog.match("yellow").matches
        assert [(match.product.id, match.image) for match in found] == [("a", inline("yellow")), ("b", inline("green"))]
        assert catalog.match("blue").matches[0].image == inline("blue")
        assert catalog.match("red").total == 2


def test_a_catalogue_does_not_tell_what_internal_names_resolve_to(tmp_path: Path) -> None:
    config = Config(model="mini", retries=0)
    with open_catalog(tmp_path / "c", fields=[], config=config, encoder=ColourEncoder()) as catalog:
        catalog.add(Product("p", images=["http://localhost/x.png"]))
        found = catalog.match(Query(facets=["_error"])).facets
    assert [list(counts) for counts in found.values()] == [["blocked_address: the address is not public"]]


def test_a_picture_that_fails_keeps_its_error_and_its_product(tmp_path: Path) -> None:
    with shop(tmp_path / "c") as catalog:
        late = Product("late", "a late lamp", str(tmp_path / "late.png"), fields={"price": 3})
        report = catalog.add([late, product("a", "red"), Product("half", images=["data:,x", inline("red")])])
        assert report.failures == {"file_not_found": 1, "not_an_image": 1}
        assert ids(catalog.match("red")) == ["a", "half"]
        assert ids(catalog.match(Query(where="price = 3"))) == ["late"]
        assert ids(catalog.match(Query("lamp", fusion="rrf"))) == ["a", "late", "half"]  # both are first in one list
        assert ids(catalog.match(Query(where="_error exists"))) == ["half", "late"]
        (tmp_path / "late.png").write_bytes(make_png("blue"))
        report = catalog.retry()
        assert (report.updated, report.unchanged) == (1, 1)
        assert ids(catalog.match(Query("blue", top_k=1))) == ["late"]
        assert ids(catalog.match(Query(where="_error exists"))) == ["half"]


def test_a_retry_leaves_alone_what_was_deleted_or_changed_meanwhile(tmp_path: Path) -> None:
    class Meddling(CountingEncoder):
        """Another process deletes and changes products while pictures are encoded."""

        def encode_pixels(self, pixels: Sequence[Pixels]) -> Embeddings:
            with shop(tmp_path / "c") as other:
                other.delete("gone")
                other.add(Product("changed", "newer", inline("blue"), fields={"price": 99}))
            return super().encode_pixels(pixels)

    names = ("gone", "changed", "late")
    with shop(tmp_path / "c", Meddling()) as catalog:
        catalog.add(Product(name, images=str(tmp_path / f"{name}.png")) for name in names)
        for number, name in enumerate(names):
            (tmp_path / f"{name}.png").write_bytes(make_png((9 * number, 200, 0)))
        catalog.retry()
        assert catalog.get("gone") is None
        assert [each.name for each in catalog.products("_id = 'changed'")] == ["newer"]
        assert sorted(ids(catalog.match("green"))) == ["changed", "late"]
        assert list(catalog.failures()) == []


def test_values_that_json_lacks_keep_nobody_else_out() -> None:
    with shop() as catalog:
        prices = [1, Decimal("9.99"), {1, 2}, 2]
        report = catalog.add(Product(str(number), fields={"price": price}) for number, price in enumerate(prices))
        assert (report.added, report.refused) == (3, 1)
        assert [each.fields["price"] for each in catalog.products()] == [1, 9.99, 2]


def test_a_picture_that_fails_later_keeps_its_vector(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(make_png("red"))
    with shop() as catalog:
        thing = Product("a", images=str(tmp_path / "a.png"))
        catalog.add(thing)
        (tmp_path / "a.png").unlink()
        assert catalog.add(thing).failures == {"file_not_found": 1}
        assert catalog.match("red").matches[0].similarity == 1.0
        assert ids(catalog.match(Query(where="_error exists"))) == ["a"]


def test_what_is_deleted_is_never_found_again() -> None:
    with shop() as catalog:
        catalog.add([product("a", "red"), product("b", "red"), product("c", "red")])
        assert ids(catalog.match("red")) == ["a", "b", "c"]
        assert catalog.delete(["b", "nobody"]) == 1
        assert ids(catalog.match("red")) == ["a", "c"]
        assert ids(catalog.match(Query("thing", fusion="rrf"))) == ["a", "c"]
        assert catalog.match(Query()).total == 2
        catalog.add(product("b", "blue"))
        assert catalog.match("red").matches[-1].product.id == "b"


def test_another_process_sees_what_is_written(tmp_path: Path) -> None:
    with shop(tmp_path / "c") as writer, shop(tmp_path / "c") as reader:
        assert reader.match("red").total == 0
        writer.add([product("a", "red"), product("b", "blue")])
        assert ids(reader.match("red")) == ["a", "b"]
        writer.delete("a")
        assert ids(reader.match("red")) == ["b"]
        reader.add(product("c", "red"))
        assert ids(writer.match("red")) == ["c", "b"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"colour": "red"},
            r"product 'a': the field 'colour' does not exist; the fields are kind, price, new, added, tags",
        ),
        ({"x" * 201: 1}, "xxx has 201 characters; a field's name has at most 200"),
        ({"price": "n/a"}, r"product 'a': 'price' must be a number, not 'n/a'"),
        ({"price": float("inf")}, "'price' must be a finite number, not inf"),
        ({"new": "perhaps"}, "'new' must be true or false, not 'perhaps'"),
        ({"added": "yesterday"}, "'added' must be a date such as 2026-11-28"),
        ({"kind": "x" * 10_001}, "'kind' is 10,001 characters long"),
        ({"kind": "\ud800"}, "'kind' contains a lone surrogate"),
        ({"kind": float("inf")}, "'kind' must be text, not inf"),
        ({"kind": Decimal("1e9999999")}, "'kind' must be text, not Decimal"),
        ({"price": "1_000"}, "'price' must be a number, not '1_000'"),
        ({"added": 1769817600}, "'added' must be a date such as 2026-11-28"),
        ({"added": "1611121301234"}, "'added' must be a date such as 2026-11-28"),
    ],
)
def test_a_value_that_does_not_fit_keeps_its_product_out(fields: dict[str, object], message: str) -> None:
    with shop() as catalog:
        report = catalog.add([Product("a", fields=fields), product("b")])
        assert (report.refused, report.added) == (1, 1)
        assert message.replace("\\", "") in report.refusals[0]


def test_missing_values_are_missing() -> None:
    with shop() as catalog:
        nothing = [None, float("nan"), "", np.nan]
        catalog.add(Product(str(number), fields={"price": value}) for number, value in enumerate(nothing))
        assert catalog.match(Query(where={"price": {"exists": False}})).total == len(nothing)


@pytest.mark.parametrize("kind", [7, 7.0, np.float32(7), Decimal("7.00"), "7"])
def test_a_text_that_was_a_number_is_found_by_any_equal_one(kind: object) -> None:
    with shop() as catalog:
        assert catalog.add(Product("a", fields={"kind": kind})).refusals == []
        for where in ("kind = 7", 'kind = "7"', {"kind": 7}, {"kind": 7.0}, {"kind": Decimal(7)}, '{"kind": 7e0}'):
            assert [each.id for each in catalog.products(where)] == ["a"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Product(""), "Product.id is empty"),
        (lambda: Product(7), "Product.id must be a string, not an int"),  # type: ignore[arg-type]
        (lambda: Product("a", images=[None]), r"Product.images\[0\] must be a path, a URL or an encoded"),  # type: ignore[list-item]
        (lambda: Product("a", images=["x"] * 9), "at most 8 images, not 9"),
        (lambda: Product(" "), "Product.id is empty"),
        (lambda: Product("a", images=[""]), r"Product.images\[0\] is '', which is not an image; leave it out"),
        (lambda: Product("a", images=""), r"Product.images\[0\] is '', which is not an image"),
        (lambda: Product("a", images=[5]), r"Product.images\[0\] must be a path, a URL or an encoded file's bytes, not an int"),  # type: ignore[list-item]
        (lambda: Product("a", images=7), "Product.images must be a path, a URL, or several, not an int"),  # type: ignore[arg-type]
        (lambda: ProductColumns(id=5), "ProductColumns.id must be the name of a column, not an int"),  # type: ignore[arg-type]
        (lambda: ProductColumns(name=5), "ProductColumns.name must be the name of a column, or None"),  # type: ignore[arg-type]
        (lambda: ProductColumns(images=5), "ProductColumns.images must be the name of a column, or several"),  # type: ignore[arg-type]
        (lambda: ProductColumns(fields=["a"]), "ProductColumns.fields must be a mapping from fields to columns"),  # type: ignore[arg-type]
        (lambda: ProductColumns(fields={"a": 5}), r"ProductColumns.fields\[0\] must be a string"),  # type: ignore[dict-item]
        (lambda: Judgement("a", "b", True), "Judgement.term must be a Term of one text or one image"),  # type: ignore[arg-type]
        (lambda: Judgement(Term(product="a"), "b", True), "Judgement.term is a product; judge a text or an image"),
        (lambda: Judgement(Term("a"), 5, True), "Judgement.product must be a product's id"),  # type: ignore[arg-type]
        (lambda: Judgement(Term("a"), "b", "yes"), "Judgement.match must be True or False, not 'yes'"),  # type: ignore[arg-type]
        (lambda: Product("a", fields=[1]), "Product.fields must be a mapping"),  # type: ignore[arg-type]
        (lambda: Field("_id2"), "begins with _"),
        (lambda: Field("x", "colour"), "is not one of text, number, bool, date, texts"),  # type: ignore[arg-type]
    ],
)
def test_what_cannot_be_a_product_or_a_field(make: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make()  # type: ignore[operator]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda shop: shop.get(5), "id must be a product's id, which is a string, not an int"),
        (lambda shop: shop.get("\ud800"), "id contains a lone surrogate"),
        (lambda shop: shop.delete(5), "ids must be a product's id, or several, not an int"),
        (lambda shop: shop.delete(["a", None]), r"ids\[1\] must be a product's id, which is a string, not None"),
        (lambda shop: shop.check(queries=-1), "queries=-1 must be a whole number of at least 1"),
        (lambda shop: shop.check(filters="price < 3"), "filters must be a list of filters, not a str"),
        (lambda shop: shop.add(5), "products must be a Product, or several, not an int"),
        (lambda shop: shop.add({"id": "a"}), "products must be a Product, or several, not a dict"),
        (lambda shop: shop.add([], progress=5), "progress must be a function, not an int"),
        (lambda shop: shop.add([], total=-1), "total=-1 must be a whole number of at least 0"),
        (lambda shop: shop.retry(progress=5), "progress must be a function"),
        (lambda shop: shop.add_table("in.csv", 5), "columns must be a ProductColumns, not an int"),
        (lambda shop: shop.add_table("in.csv", stop=5), "stop must be a function, not an int"),
        (lambda shop: shop.export("out.csv", 5), "columns must be a ProductColumns, not an int"),
        (lambda shop: shop.export("out.csv", force=5), "force must be True or False, not 5"),
        (lambda shop: shop.export("out.csv", where=5), "where must be a filter, a mapping or a string"),
        (lambda shop: shop.reindex("mini", encoder=5), "encoder must be a loaded encoder, .*, not an int"),
        (lambda shop: shop.reindex("mini", stop=5), "stop must be a function, not an int"),
        (lambda shop: shop.reindex("mini", allow_lost=-1), "allow_lost=-1 must be a whole number of at least 0"),
        (lambda shop: shop.calibrate(5), "judgements must be a list of Judgement, not an int"),
        (lambda shop: shop.calibrate([5]), r"judgements\[0\] must be a Judgement, not an int"),
    ],
)
def test_arguments_that_cannot_be_used_are_named(
    call: Callable[[Any], object], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with shop() as catalog:
        catalog.add(product("a"))
        with pytest.raises(UsageError, match=message):
            call(catalog)
        assert len(catalog) == len(catalog.generations) == 1


@pytest.mark.parametrize(
    ("place", "options", "message"),
    [
        (5, {}, "place must be a path or a URL, not an int"),
        ("", {}, "place='' cannot be a catalogue; name a folder"),
        ("a\0b", {}, "cannot be a catalogue"),
        (
            "s3://bucket/shop",
            {},
            "s3://bucket/shop cannot be a catalogue: a catalogue is a folder, or is in PostgreSQL",
        ),
        ("postgresql://me:secret@[", {}, "^place is not a valid URL: Invalid IPv6 URL$"),
        (":memory:", {"store": "qdrant://host:port/shop"}, "^store is not a valid URL: Port could not"),
        (":memory:", {"store": 5}, "store=5 is not one of sqlite, lancedb"),
        (":memory:", {"encoder": 5}, "encoder must be a loaded encoder"),
        (":memory:", {"config": 5}, "config must be a Config"),
        (":memory:", {"config": 5, "model": "mini"}, "config must be a Config"),
        (":memory:", {"model": 5}, "model=5 is not valid"),
        (":memory:", {"fields": 5}, "fields must be a list of Field, not an int"),
    ],
)
def test_a_catalogue_is_not_made_of_what_cannot_be_used(
    place: Any, options: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=message):
        open_catalog(place, **{"fields": [], "encoder": ColourEncoder(), **options})


def test_a_catalogue_keeps_its_store(tmp_path: Path) -> None:
    with shop(tmp_path / "c"):
        pass
    with open_catalog(tmp_path / "c", store="sqlite", encoder=ColourEncoder()) as catalog:
        assert catalog.describe()["store"] == "sqlite"
    with pytest.raises(
        UsageError, match=r"has the store sqlite, not lancedb, and cannot change it; create a new catalogue"
    ):
        open_catalog(tmp_path / "c", store="lancedb", encoder=ColourEncoder())
    assert [path.name for path in (tmp_path / "c").iterdir()] == ["catalog.sqlite"]


def test_what_stands_for_nothing_is_the_same_as_leaving_it_out() -> None:
    with shop() as catalog:
        catalog.add(Product("a", "A", group=""))
        assert catalog.add(Product("a", "A", group="")).unchanged == 1
        assert catalog.get("a") == Product("a", "A")


def test_what_is_not_a_product_is_refused_and_those_before_it_are_in() -> None:
    with shop() as catalog:
        with pytest.raises(InputTypeError, match=r"products\[1\] must be a Product, not a dict"):
            catalog.add([product("a"), {"id": "b"}])  # type: ignore[list-item]
        assert len(catalog) == 1


def test_a_catalogue_is_made_only_on_purpose(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"there is no catalogue at .*; create one with text-image-similarity catalog create"
    ):
        open_catalog(tmp_path / "none", encoder=ColourEncoder())
    with shop(tmp_path / "c"):
        pass
    with pytest.raises(UsageError, match=r"was created with the fields kind:text, .*, not size:text"):
        open_catalog(tmp_path / "c", fields=[Field("size")], encoder=ColourEncoder())
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("precious")
    with pytest.raises(DatabaseError, match="is a folder with other files in it"):
        open_catalog(tmp_path / "notes", fields=[], encoder=ColourEncoder())
    with pytest.raises(DatabaseError, match="is a file; name a folder for the catalogue"):
        open_catalog(tmp_path / "notes" / "a.txt", fields=[], encoder=ColourEncoder())
    with pytest.raises(UsageError, match="store='paper' is not one of"):
        open_catalog(tmp_path / "d", fields=[], store="paper", encoder=ColourEncoder())
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize(
    ("made", "named"),
    [
        ("ALTER TABLE setting RENAME TO s0; CREATE VIEW setting AS SELECT * FROM s0", "'(s0|setting)'"),
        ("CREATE VIEW more AS SELECT 1", "view 'more'"),
        ("CREATE TRIGGER t AFTER INSERT ON counter BEGIN SELECT zeroblob(1 << 30); END", "trigger 't'"),
        ("DROP TABLE removed; CREATE TABLE removed (number INTEGER PRIMARY KEY, version AS (1))", "table 'removed'"),
        ("ALTER TABLE product ADD COLUMN f99 TEXT AS (zeroblob(1 << 30))", "table 'product'"),
        ("CREATE INDEX mine ON product (name)", "index 'mine'"),
        ("DROP TABLE words; CREATE TABLE words (name, description)", "table 'words'"),
        ("CREATE TABLE other (x)", "table 'other'"),
        (
            "PRAGMA writable_schema = ON; UPDATE sqlite_master SET sql = replace(sql, 'sz BLOB', 'sz AS (zeroblob(1 << 30))') "
            "WHERE name = 'words_docsize'",
            "table 'words_docsize'",
        ),
    ],
)
def test_a_catalogue_with_tables_of_others_is_refused(made: str, named: str, tmp_path: Path) -> None:
    with shop(tmp_path / "c") as catalog:
        catalog.add(product("a"))
    with closing(sqlite3.connect(tmp_path / "c" / "catalog.sqlite")) as file:
        file.executescript(made)
    with pytest.raises(DatabaseError, match=f"this package did not create its .*{named}; if you added it, drop it"):
        open_catalog(tmp_path / "c", encoder=ColourEncoder())


def test_a_catalogue_with_statistics_is_opened(tmp_path: Path) -> None:
    with shop(tmp_path / "c") as catalog:
        catalog.add(product("a"))
        catalog.optimize()
    with closing(sqlite3.connect(tmp_path / "c" / "catalog.sqlite")) as file:
        file.executescript("ANALYZE; VACUUM")
        assert file.execute("SELECT 1 FROM sqlite_master WHERE name = 'sqlite_stat1'").fetchone()
    with open_catalog(tmp_path / "c", encoder=ColourEncoder()) as catalog:
        assert [each.id for each in catalog.products()] == ["a"]


def test_a_damaged_file_is_told(tmp_path: Path) -> None:
    with shop(tmp_path / "c") as catalog:
        catalog.add(product("a"))
    file = tmp_path / "c" / "catalog.sqlite"
    whole = file.read_bytes()
    file.write_bytes(b"x" * 4096 + whole[4096:])
    with pytest.raises(DatabaseError, match="file is not a database"):
        open_catalog(tmp_path / "c", encoder=ColourEncoder())
    file.write_bytes(b"")
    with pytest.raises(DatabaseError, match="is not a catalogue"):
        open_catalog(tmp_path / "c", encoder=ColourEncoder())
    file.write_bytes(whole)
    with sqlite3.connect(file) as raw:
        raw.execute("PRAGMA user_version = 99")
    with pytest.raises(DatabaseError, match=r"created by another version of this package \(layout 99"):
        open_catalog(tmp_path / "c", encoder=ColourEncoder())


@pytest.mark.parametrize(
    "edit",
    [
        "DELETE FROM setting WHERE name = 'store'",
        "UPDATE setting SET value = '3' WHERE name = 'fields'",
        "UPDATE generation SET state = 'kept'",
        "UPDATE generation SET probes = x'00'",
        "UPDATE generation SET calibration = '{'",
        "UPDATE picture SET vector = x'00112233'",
        "UPDATE product SET images = 'a.jpg'",
        "UPDATE product SET f4 = 'a', f5 = 'b', f6 = 'c', f7 = 'd'",
        "DELETE FROM counter",
        "DROP TABLE words",
    ],
)
def test_a_file_that_somebody_edited_is_told(tmp_path: Path, edit: str) -> None:
    file = tmp_path / "c" / "catalog.sqlite"
    with shop(tmp_path / "c") as catalog:
        catalog.add([product("a", "red"), product("b", "blue")])
    with sqlite3.connect(file) as raw:
        raw.execute(edit)
    match = f"{file} (contains|cannot be used).*restore it from a backup, or add its products to a new"
    with pytest.raises(DatabaseError, match=match), open_catalog(tmp_path / "c", encoder=ColourEncoder()) as catalog:
        catalog.match(Query("red", fusion="rrf"))


def test_another_model_is_refused(tmp_path: Path) -> None:
    class Other(CountingEncoder):
        def encode_text(self, texts: object) -> Embeddings:
            return super().encode_text(texts)[:, ::-1]  # type: ignore[arg-type]

    with shop(tmp_path / "c") as catalog:
        catalog.add(product("a"))
    with open_catalog(tmp_path / "c", encoder=Other()) as catalog:  # type: ignore[arg-type]
        assert ids(catalog.match(Query(where="_id = 'a'"))) == ["a"]  # needs no model
        with pytest.raises(DatabaseError, match="their vectors cannot be compared"):
            catalog.match("red")
        with pytest.raises(DatabaseError, match="their vectors cannot be compared"):
            catalog.add(product("b"))


def test_a_model_whose_folder_has_moved_is_named(tmp_path: Path) -> None:
    shutil.copytree(model_folder("mini"), tmp_path / "here")
    with open_catalog(tmp_path / "c", fields=[], model=tmp_path / "here") as catalog:
        catalog.add(product("a"))
    (tmp_path / "here").rename(tmp_path / "there")
    with open_catalog(tmp_path / "c") as catalog, pytest.raises(ModelError, match="here"):
        catalog.match("red")
    with open_catalog(tmp_path / "c", model=tmp_path / "there") as catalog:
        assert ids(catalog.match("red")) == ["a"]


def test_many_products_without_pictures_are_written_as_they_come() -> None:
    written: list[int] = []
    with shop() as catalog:
        given = (Product(str(number), images=inline("red") if number == 2500 else ()) for number in range(3000))
        catalog.add(given, progress=lambda done, *_: written.append(done))
        assert written[:2] == [1000, 2000]
        assert written[-1] == len(catalog) == 3000


def test_products_that_come_slowly_are_written_as_they_come(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock(monkeypatch, ingest)
    with shop() as catalog:

        def given() -> Iterator[Product]:
            for number in range(12):
                clock.move_on(0.3)
                yield product(str(number), (number, 0, 200))
                seen.append(len(catalog))

        seen: list[int] = []
        catalog.add(given())
        assert seen[-1] >= 8
        assert len(catalog) == 12


def test_relative_references_start_from_the_base_folder(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(make_png("red"))
    config = Config(base_dir=tmp_path)
    with open_catalog(":memory:", fields=[], config=config, encoder=ColourEncoder()) as catalog:
        assert not catalog.add(Product("a", images="a.png")).failures
        assert catalog.match("red").matches[0].image == str(tmp_path / "a.png")


def test_a_process_that_slept_while_deletions_were_forgotten_reads_all_again(tmp_path: Path) -> None:
    with shop(tmp_path / "c") as writer, shop(tmp_path / "c") as asleep, shop(tmp_path / "c") as awake:
        writer.add([product("a", "red"), product("b", "blue"), product("c", "green")])
        assert asleep.match("red").total == awake.match("red").total == 3
        writer.delete(["a"])
        assert ids(awake.match("green")) == ["c", "b"]
        for number in range(2):
            writer.optimize()
            writer.add(product(f"new {number}", (0, number, 255)))
        assert ids(asleep.match("red")) == ids(awake.match("red"))
        assert asleep.match("red").total == 4


def test_optimizing_changes_no_answer(tmp_path: Path) -> None:
    with shop(tmp_path / "c") as catalog:
        catalog.add(product(str(number), (number * 11 % 256, 7, 90), price=number) for number in range(40))
        catalog.delete([str(number) for number in range(0, 40, 3)])
        query = Query("magenta", where="price < 30", top_k=30, facets=["price"])
        before = catalog.match(query)
        catalog.optimize()
        assert catalog.match(query) == before
        catalog.add(product("x", "magenta", price=1))
        assert ids(catalog.match(replace(query, top_k=1))) == ["x"]


def test_a_write_whose_time_is_up_begins_no_more_transactions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest, "_BATCH", 2)
    monkeypatch.setattr(ingest, "_LONGEST_S", math.inf)
    with open_catalog(tmp_path / "c", fields=[], encoder=ColourEncoder()) as catalog:
        products = [Product(f"p{number}", images=[inline("red")]) for number in range(7)]
        checked: list[str] = []
        report = catalog.searcher.add(products, lambda some: checked.extend(one.id for one in some), ends=lambda: True)
        assert checked == ["p0", "p1"]
        assert (report.added, len(catalog)) == (2, 2)
        catalog.searcher.add(products, lambda some: None, ends=lambda: False)
        assert len(catalog) == 7
