"""Tables of products: which column holds what, rows that are refused, resuming, and tables made of a catalogue."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.images import inline, make_png
from tests.support.shards import sample, write_tar
from tests.support.shop import FIELDS, CountingEncoder, ids, shop
from text_image_similarity import (
    Catalog,
    Config,
    Dialect,
    Field,
    Product,
    Query,
    StoppedError,
    TableError,
    Term,
    UsageError,
    open_catalog,
)
from text_image_similarity.encoders.testing import ColourEncoder
from text_image_similarity.records import MOST_LISTED
from text_image_similarity.search import ProductColumns, ProductTable
from text_image_similarity.search.guessing import guess_fields
from text_image_similarity.search.product_columns import cell_texts

AWKWARD = [
    Product("a", 'A "quoted" name, with a comma\nand a line', inline("red"), "|x|", {"tags": ["a|b", '["c"]', "d,e"]}),
    Product("b'; DROP TABLE product", "", (), "", {"kind": "  spaces ", "price": -0.5, "new": False}, group="g|h"),
    Product(
        "😀", "x" * 10_000, (inline("red"), inline("green")), "", {"added": "2026-11-28T09:30:00+01:00", "price": 8}
    ),
    Product("[1]", "[", (), "null", {"kind": "007", "price": 1e308, "new": True, "tags": ["solo"]}),
]


@pytest.fixture
def catalog() -> Iterator[Catalog]:
    with shop() as opened:
        yield opened


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["out.csv", "out.tsv", "out.jsonl", "out.jsonl.gz", "out.parquet"])
def test_a_table_made_of_a_catalogue_is_read_again(tmp_path: Path, catalog: Catalog, name: str) -> None:
    given = AWKWARD[name.endswith("tsv") :]  # most TSV has no quoting, so line ends need `--quoting minimal`
    catalog.add(given)
    assert catalog.export(tmp_path / name) == len(given)
    with shop() as other:
        report = other.add_table(tmp_path / name)
        assert (report.added, report.refusals) == (len(given), [])
        assert list(other.products()) == list(catalog.products())
    assert catalog.add_table(tmp_path / name).unchanged == len(given)


@pytest.mark.parametrize(
    ("name", "text"),
    [("out.tsv", "two\nlines"), ("out.tsv", "a\ttab"), ("out.tsv", '"quoted'), ("out.csv", 'two\n\\"lines')],
)
def test_a_table_that_is_read_only_with_its_quoting_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, text: str
) -> None:
    config = Config(dialect=Dialect(quoting="minimal"))
    with shop() as catalog, open_catalog(":memory:", fields=FIELDS, config=config, encoder=ColourEncoder()) as other:
        catalog.add(Product("a", text))
        catalog.export(tmp_path / name)
        assert other.add_table(tmp_path / name).added == 1
        assert list(other.products()) == list(catalog.products())
        with pytest.raises(TableError, match="--quoting minimal"):
            catalog.add_table(tmp_path / name)
        assert "add --quoting minimal" in caplog.text
        caplog.clear()
        catalog.delete("a")
        catalog.add(Product("a", 'one \\"line'))
        catalog.export(tmp_path / name, force=True)
        assert catalog.add_table(tmp_path / name).unchanged == 1
        assert not caplog.text


def test_a_table_is_written_complete_or_not_at_all(tmp_path: Path, catalog: Catalog) -> None:
    catalog.add(AWKWARD)
    out = tmp_path / "out.csv"
    out.write_text("mine")
    with pytest.raises(UsageError, match="already exists; name another file, or replace it with --force"):
        catalog.export(out)
    assert out.read_text() == "mine"
    assert catalog.export(out, where="price > 1", force=True) == 2
    assert len(list(tmp_path.iterdir())) == 1
    with pytest.raises(UsageError, match="is a URL"):
        catalog.export("memory://out.csv")


def test_columns_that_would_have_one_name_are_refused(tmp_path: Path) -> None:
    with open_catalog(":memory:", fields=[Field("name")], encoder=ColourEncoder()) as catalog:
        catalog.add(Product("a", "A", fields={"name": "of the field"}))
        with pytest.raises(UsageError, match="two columns would be called 'name'"):
            catalog.export(tmp_path / "out.csv")
        columns = ProductColumns(fields={"name": "label"})
        catalog.export(tmp_path / "out.csv", columns)
        header, row = (tmp_path / "out.csv").read_text().splitlines()
        assert (header, row) == ("id,name,description,group,images,label", "a,A,,,[],of the field")
        assert catalog.add_table(tmp_path / "out.csv", columns).unchanged == 1


def test_columns_are_found_by_their_usual_names(tmp_path: Path, catalog: Catalog) -> None:
    (tmp_path / "red.png").write_bytes(make_png())
    table = write_rows(
        tmp_path / "in.jsonl",
        [
            {
                "id": 7,
                "title": "Seven",
                "image_url": "red.png",
                "url": "https://shop.example/7",
                "kind": None,
                "price": 1,
            },
            {"id": 8, "title": 8, "image_url": "", "new": True, "added": "2026-01-01", "tags": ["x", None, "", "x"]},
        ],
    )
    assert catalog.add_table(table).added == 2
    assert catalog.get("7") == Product("7", "Seven", str(tmp_path / "red.png"), fields={"price": 1})
    assert catalog.get("8") == Product("8", "8", fields={"new": True, "added": "2026-01-01", "tags": ["x", "x"]})


def test_other_columns_can_be_named(tmp_path: Path, catalog: Catalog) -> None:
    table = tmp_path / "in.csv"
    red, green = inline("red"), inline("green")
    table.write_text(f'nr,front,back,Preis,Tags\n1,"{red}","{green}"," 9.50",a| b |\n')
    names = {"price": "Preis", "tags": "Tags", "kind": "", "new": "", "added": ""}
    report = catalog.add_table(table, ProductColumns(id="nr", name="", images=("front", "back"), fields=names))
    assert report.refusals == []
    assert catalog.get("1") == Product("1", "", (red, green), fields={"price": 9.5, "tags": ["a", "b"]})


def test_a_row_of_parquet_has_values_of_its_types(tmp_path: Path, catalog: Catalog) -> None:
    day = pa.array([20000], pa.date32())
    columns = {"id": [1], "name": ["x"], "image": [None], "price": [Decimal("1.10")], "new": [True], "added": day}
    pq.write_table(pa.table({**columns, "kind": [3.5], "tags": [["b", "a"]]}), tmp_path / "in.parquet")
    assert catalog.add_table(tmp_path / "in.parquet").refusals == []
    fields = {"price": 1.1, "new": True, "added": "2024-10-04", "kind": 3.5, "tags": ["b", "a"]}
    assert catalog.get("1") == Product("1", "x", fields=fields)


def test_images_in_a_table_are_kept_and_found(tmp_path: Path, catalog: Catalog) -> None:
    red, green = make_png("red"), make_png("lime")
    (tmp_path / "green.png").write_bytes(green)
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    lists: list[Any] = [
        [{"bytes": red, "path": "x.png"}, {"bytes": None, "path": "green.png"}, {"bytes": None, "path": None}, None],
        [{"bytes": b"a.jpg", "path": None}],
        [],
        None,
        [{"bytes": red, "path": None}] * 9,
    ]
    ids = ["both", "text", "empty", "none", "many"]
    columns = {
        "lists": pa.array(lists, pa.list_(struct)),
        "structs": pa.array([cells[0] if cells else None for cells in lists], struct),
        "bytes": pa.array([red, b"a.jpg", None, None, red]),
    }
    left_out = [each.name for each in FIELDS]
    for name, column in columns.items():
        pq.write_table(pa.table({"id": ids, "name": ids, "images": column}), tmp_path / f"{name}.parquet")
        report = catalog.add_table(tmp_path / f"{name}.parquet", ProductColumns(fields=dict.fromkeys(left_out, "")))
        assert (report.failures, report.refused) == ({"not_an_image": 1}, 1 if name == "lists" else 0)
        found = {product.id: len(product.images) for product in catalog.products()}
        assert found["both"] == (2 if name == "lists" else 1)
        assert (found["text"], found["empty"], found["none"]) == (1, 0, 0)
        first = catalog.match(Query(terms=(Term(image=red),)))[0]
        assert (first.product.id, round(first.similarity or 0, 6)) == ("both", 1.0)
        catalog.delete([product.id for product in catalog.products()])
    product = Product("a", images=(red, {"bytes": green, "path": "y"}, {"path": "z.png"}))  # type: ignore[arg-type]
    assert [image.partition(",")[0] for image in product.images] == ["data:;base64", "data:;base64", "z.png"]


@pytest.mark.parametrize("name", ["out.csv", "out.jsonl", "out.parquet"])
def test_a_number_is_one_text_in_every_table(tmp_path: Path, catalog: Catalog, name: str) -> None:
    table = write_rows(tmp_path / "in.jsonl", [{"id": 7.0, "name": 8.0, "images": [], "kind": 9.0, "tags": [7.0, "7"]}])
    names = {"price": "", "new": "", "added": ""}
    catalog.add_table(table, ProductColumns(fields=names))
    catalog.export(tmp_path / name)
    with shop() as other:
        other.add_table(tmp_path / name)
        for each in (catalog, other):
            for where in ("_id = 7", "kind = 9", "tags = 7", {"kind": 9.0}, {"tags": [7.0]}):
                (found,) = each.products(where)
                assert (found.id, found.name) == ("7", "8")


def test_rows_that_cannot_be_products_are_refused_with_their_numbers(tmp_path: Path, catalog: Catalog) -> None:
    good = {
        "id": "a",
        "name": "A",
        "images": [],
        "price": 1,
        "kind": "",
        "new": True,
        "added": "2026-01-01",
        "tags": [],
    }
    changes: list[dict[str, Any]] = [
        {},
        {"id": " "},
        {"id": None},
        {"price": "soon"},
        {"price": 1e999},
        {"new": "maybe"},
        {"added": "yesterday"},
        {"tags": [{"a": 1}]},
        {"price": "1_000"},
        {"added": "20260101"},
        {"images": [inline("red")] * 9},
        {"images": 5},
        {"name": ["A"]},
        {"name": "half \ud800"},
        {"id": "b", "price": None},
    ]
    report = catalog.add_table(write_rows(tmp_path / "in.jsonl", [good | change for change in changes]))
    assert (report.added, report.refused, report.products) == (2, 13, 15)
    assert report.refusals == [
        "row 2: it has no id in the column 'id'",
        "row 3: it has no id in the column 'id'",
        "row 4: 'price' must be a number, not 'soon'",
        "row 5: 'price' must be a finite number, not inf",
        "row 6: 'new' must be true or false, not 'maybe'",
        "row 7: 'added' must be a date such as 2026-11-28 or 2026-11-28T09:30:00+01:00, not 'yesterday'",
        "row 8: 'tags' must be text, not {'a': 1}",
        "row 9: 'price' must be a number, not '1_000'",
        "row 10: 'added' must be a date such as 2026-11-28 or 2026-11-28T09:30:00+01:00, not '20260101'",
        "row 11: a product has at most 8 images, not 9",
        "row 12: 'images' must contain images, paths or URLs, not 5",
        "row 13: 'name' must be text, not ['A']",
        "row 14: Product.name contains a lone surrogate (half of a UTF-16 pair); remove it",
    ]


@pytest.mark.parametrize(
    ("header", "columns", "message"),
    [
        ("nr,name,image,kind", ProductColumns(), "column 'id' is missing"),
        ("id,label,image,kind", ProductColumns(), "no column 'name' or 'title'; name another one with --name-col"),
        ("id,name,photo,kind", ProductColumns(), "none of the columns 'images', 'image', 'image_url', 'url'"),
        (
            "id,name,image",
            ProductColumns(),
            "no column 'kind', which the catalogue's fields need; it has id, name, image",
        ),
        ("id,name,image,kind,kind", ProductColumns(), "two columns named 'kind'"),
        ("id,name,image,kind", ProductColumns(images=("photo",)), "column 'photo' is missing"),
        ("id,name,image,kind", ProductColumns(fields={"colour": "kind"}), "the field 'colour'"),
        ("id,name,image,kind", ProductColumns(id=""), "the column of ids cannot be left out"),
    ],
)
def test_a_missing_column_is_named(tmp_path: Path, header: str, columns: ProductColumns, message: str) -> None:
    (tmp_path / "in.csv").write_text(header + "\n")
    with open_catalog(":memory:", fields=[Field("kind")], encoder=ColourEncoder()) as catalog:
        with pytest.raises(UsageError, match=message):
            catalog.add_table(tmp_path / "in.csv", columns)
        assert len(catalog) == 0


def numbered(path: Path, count: int) -> Path:
    pictures = [inline((number % 256, number // 256, 77)) for number in range(count)]
    rows = [f'p{number},Product {number},"{picture}"\n' for number, picture in enumerate(pictures)]
    path.write_text("id,name,image\n" + "".join(rows))
    return path


@pytest.mark.parametrize("name", ["out.csv", "out.jsonl", "out.parquet"])
def test_columns_without_a_name_are_left_out(tmp_path: Path, name: str) -> None:
    columns = ProductColumns(description="", group="")
    with open_catalog(":memory:", fields=[Field("kind")], encoder=ColourEncoder()) as catalog:
        catalog.add(Product("a", "A", (inline("red"),), "left out", {"kind": "k"}, group="too"))
        assert catalog.export(tmp_path / name, columns) == 1
        catalog.delete("a")
        assert catalog.add_table(tmp_path / name, columns).added == 1
        assert list(catalog.products()) == [Product("a", "A", (inline("red"),), "", {"kind": "k"})]


def test_progress_counts_rows_and_not_their_images(tmp_path: Path) -> None:
    seen: list[tuple[int, ...]] = []
    (tmp_path / "in.csv").write_text("id,name,image\na,A,1.png|2.png|3.png\nb,B,\n")
    with open_catalog(":memory:", fields=[], encoder=ColourEncoder()) as catalog:
        report = catalog.add_table(tmp_path / "in.csv", progress=lambda *given: seen.append(given))
    assert report.failures.total() == 3
    assert seen[-1] == (2, 1, 2)


def test_an_interrupted_table_goes_on_where_it_ended(tmp_path: Path) -> None:
    table, encoder, seen = numbered(tmp_path / "in.csv", 1200), CountingEncoder(), []
    with open_catalog(tmp_path / "c", fields=[], encoder=encoder) as catalog:  # type: ignore[arg-type]
        with pytest.raises(StoppedError, match=r"stopped on request with [\d,]+ of 1,200 rows of .*in.csv done"):
            catalog.add_table(table, stop=lambda: len(catalog) > 0)
        kept = len(catalog)
        assert 0 < kept < 1200
    with open_catalog(tmp_path / "c", encoder=encoder) as catalog:  # type: ignore[arg-type]
        report = catalog.add_table(table, progress=lambda *given: seen.append(given))
        assert (report.added, report.unchanged, len(catalog)) == (1200 - kept, 0, 1200)
        assert (seen[0], seen[-1]) == ((kept, 0, 1200), (1200, 0, 1200))
        assert catalog.add_table(table).unchanged == 1200  # a finished table is looked at from its first row


def test_a_table_goes_on_in_postgresql(tmp_path: Path, postgres_url: str) -> None:
    table = numbered(tmp_path / "in.csv", 600)
    with open_catalog(postgres_url, fields=[], encoder=ColourEncoder()) as catalog:
        with pytest.raises(StoppedError):
            catalog.add_table(table, stop=lambda: len(catalog) > 0)
        kept = len(catalog)
        assert catalog.add_table(table).added == 600 - kept
        assert catalog.describe()["store"] == "pgvector"


def test_a_cell_with_very_many_parts_fails_its_row_alone(tmp_path: Path) -> None:
    many, more = "x|" * 9_999 + "x", "x|" * 10_000 + "x"
    rows = [f"a,A,,{more}", f"b,B,{more},", f"c,C,,{many}", f"d,D,{many},", f"e,E,{'|' * 10_000},"]
    (tmp_path / "in.csv").write_text("\n".join(["id,name,image,tags", *rows, ""]))
    with open_catalog(":memory:", fields=[Field("tags", "texts")], encoder=ColourEncoder()) as catalog:
        report = catalog.add_table(tmp_path / "in.csv")
        assert [each.id for each in catalog.products()] == ["c"]
    assert report.refusals == [
        "row 1: 'tags' has 10,001 items, but at most 10,000 are accepted",
        "row 2: 'image' has 10,001 items, but at most 10,000 are accepted",
        "row 4: a product has at most 8 images, not 10,000",
        "row 5: 'image' has 10,001 items, but at most 10,000 are accepted",
    ]


@pytest.mark.parametrize("form", [json.dumps, list, tuple])
def test_a_list_with_very_many_items_is_refused(form: Callable[[list[str]], Any]) -> None:
    assert cell_texts(form(["x"] * MOST_LISTED), "tags") == ["x"] * MOST_LISTED
    with pytest.raises(UsageError, match="'tags' has 10,001 items, but at most 10,000 are accepted"):
        cell_texts(form(["x"] * (MOST_LISTED + 1)), "tags")


def test_refused_rows_do_not_move_the_place_to_go_on(tmp_path: Path) -> None:
    table = numbered(tmp_path / "in.csv", 1200)
    lines = table.read_text().splitlines()
    lines[600:] = [
        f",{line.partition(',')[2]}" for line in lines[600:]
    ]  # without ids, and read ahead of what is written
    table.write_text("\n".join(lines) + "\n")
    with open_catalog(":memory:", fields=[], encoder=ColourEncoder()) as catalog:
        with pytest.raises(StoppedError):
            catalog.add_table(table, stop=lambda: len(catalog) > 0)
        catalog.add_table(table)
        assert len(catalog) == 599


def test_a_table_begins_again_after_deletions_however_many_are_remembered(tmp_path: Path) -> None:
    table = numbered(tmp_path / "in.csv", 1200)
    with open_catalog(":memory:", fields=[], encoder=ColourEncoder()) as catalog:
        catalog.add([Product(id="other", name="Other")])
        catalog.delete(["other"])
        with pytest.raises(StoppedError):
            catalog.add_table(table, stop=lambda: len(catalog) > 0)
        for _ in range(2):
            catalog.optimize()  # the second call forgets the deletion from before the first
        (gone,) = [product.id for product in islice(catalog.products(), 1)]
        catalog.delete([gone])
        catalog.add_table(table)
        assert len(catalog) == 1200


def test_a_table_that_has_changed_begins_again(tmp_path: Path) -> None:
    table = numbered(tmp_path / "in.csv", 1200)
    with open_catalog(":memory:", fields=[], encoder=ColourEncoder()) as catalog:
        with pytest.raises(StoppedError):
            catalog.add_table(table, stop=lambda: len(catalog) > 0)
        table.write_text(table.read_text().replace("Product 0,", "Product zero,"))
        report = catalog.add_table(table)
        assert (report.products, report.updated) == (1200, 1)


def test_a_table_that_changes_while_it_is_read_is_noticed(tmp_path: Path) -> None:
    table = numbered(tmp_path / "in.csv", 3)
    with open_catalog(":memory:", fields=[], encoder=ColourEncoder()) as catalog:

        def touch(*_: int) -> None:
            os.utime(table, ns=(1, 1))

        with pytest.raises(TableError, match="was changed while it was being read; run the same command again"):
            catalog.add_table(table, progress=touch)
        assert len(catalog) == 3


def test_fields_are_guessed_by_their_values(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text(
        "id,name,image,price,size,ean,sold,added,tags,none,_own,mixed\n"
        '1,A,,9.5,7,0071,true,2026-01-01,"[""a"", ""b""]",,x,1\n'
        '2,B,,-3,,123,False,2026-01-02T10:00,"[]",,y,2026-01-01\n'
    )
    assert ProductTable(str(tmp_path / "in.csv")).guess_fields() == (
        Field("price", "number"),
        Field("size", "number"),
        Field("ean"),
        Field("sold", "bool"),
        Field("added", "date"),
        Field("tags", "texts"),
        Field("none"),
        Field("mixed"),
    )
    rows = [{"id": "1", "name": "A", "url": "", "new": True, "tags": ["a"], "price": 1, "nested": {"a": 1}}]
    found = ProductTable(str(write_rows(tmp_path / "in.jsonl", rows))).guess_fields()
    assert found == (Field("new", "bool"), Field("tags", "texts"), Field("price", "number"))


def test_cells_that_say_that_nothing_is_known_are_missing(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text(
        "id,name,url,price,new,added,country,unknown\n1,A,,n/a,-,NULL,NA,n/a\n2,B,,9.5,true,2026-01-01,US,-\n3,C,,-,None,?,n/a,\n"
    )
    fields = ProductTable(str(tmp_path / "in.csv")).guess_fields()
    assert fields == (
        *(Field("price", "number"), Field("new", "bool"), Field("added", "date")),
        *(Field("country"), Field("unknown")),
    )
    with open_catalog(":memory:", fields=fields, encoder=ColourEncoder()) as catalog:
        assert catalog.add_table(tmp_path / "in.csv").added == 3
        for name in ("price", "new", "added"):
            assert ids(catalog.match(Query(where=f"{name} exists"))) == ["2"]
        assert ids(catalog.match(Query(where="country in ('NA', 'n/a')"))) == ["1", "3"]
    assert guess_fields(["a"], [{"a": ["-"]}, {"a": ["7"]}]) == (Field("a", "number"),)


def test_fields_that_were_guessed_take_every_row_of_their_table(tmp_path: Path, catalog: Catalog) -> None:
    catalog.add(AWKWARD)
    for name in ("out.csv", "out.jsonl", "out.parquet"):
        catalog.export(tmp_path / name)
        fields = ProductTable(str(tmp_path / name)).guess_fields()
        assert {field.name: field.kind for field in fields} == {field.name: field.kind for field in FIELDS}


def test_tar_shards_are_products(tmp_path: Path) -> None:
    members = [
        *sample("boots", "red", "Red boots", json=b'{"price": 7.5}'),
        ("bare.txt", b"No picture"),
        *sample("hat", "blue", "Blue hat"),
    ]
    table = ProductTable(str(write_tar(tmp_path / "shop.tar", members)))
    first, (number, refused), third = table.products(())
    assert isinstance(first[1], Product)
    assert (first[1].id, first[1].name, len(first[1].images)) == ("boots", "Red boots", 1)
    assert first[1].images[0].startswith("data:;base64,")
    assert number == 2
    assert str(refused).startswith("row 2: invalid_url: the sample bare has no image")
    assert isinstance(third[1], Product)
    assert [field.name for field in table.guess_fields()] == ["price"]
    named = ProductTable(str(tmp_path / "shop.tar"), ProductColumns(name="price"))
    assert isinstance(product := next(named.products(()))[1], Product)
    assert product.name == "7.5"


def test_a_product_whose_pictures_are_elsewhere_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "given"
    folder.mkdir()
    for path in (tmp_path / "red.png", folder / "red.png"):
        path.write_bytes(make_png("red"))
    (folder / "in.csv").write_text("id,name,image\na,A,red.png\nb,B,../red.png\n")
    with open_catalog(":memory:", fields=[], encoder=ColourEncoder()) as catalog:
        report = catalog.add_table(folder / "in.csv")
        assert (report.added, report.refused) == (1, 1)
        assert "row 2" in report.refusals[0]
        assert "--files-under FOLDER" in report.refusals[0]
    with open_catalog(":memory:", fields=[], config=Config(files_under="/"), encoder=ColourEncoder()) as catalog:
        assert catalog.add_table(folder / "in.csv").added == 2


@pytest.mark.parametrize(
    ("columns", "option"),
    [
        (ProductColumns(), "--id-col"),
        (ProductColumns(id="sku", name="none"), "--name-col"),
        (ProductColumns(id="sku", images=("none",)), "--image-col"),
    ],
)
def test_a_missing_column_names_its_option(tmp_path: Path, columns: ProductColumns, option: str) -> None:
    table = write_rows(tmp_path / "in.jsonl", [{"sku": "1", "name": "a", "image": "a.png"}])
    with pytest.raises(
        UsageError, match=f"is missing from .* the columns: sku, name, image; name another one with {option}"
    ):
        ProductTable(str(table), columns).guess_fields()


def test_all_columns_of_other_names_are_told_at_once(tmp_path: Path) -> None:
    table = write_rows(tmp_path / "in.jsonl", [{"Handle": "1", "Label": "a", "Image Src": "a.png"}])
    with pytest.raises(
        UsageError,
        match=r"has no columns 'id', 'name' or 'title', 'image'; it has the columns: Handle, Label, Image Src; name the right ones with "
        "--id-col Handle, --name-col, --image-col$",
    ):
        ProductTable(str(table)).guess_fields()
    table = write_rows(tmp_path / "in.jsonl", [{"product_id": "1", "name": "a", "image": "a.png"}])
    with pytest.raises(UsageError, match=r"name another one with --id-col .*, such as --id-col product_id$"):
        ProductTable(str(table)).guess_fields()


@pytest.mark.parametrize("price", ["$1,299.00", "1.299,00 €", "20,50", "1,299", "USD 20", "1 299,00", "-£5"])
def test_prices_as_people_write_them_are_told_what_to_write(price: str) -> None:
    with pytest.raises(
        UsageError, match=r"^'price' must be a number such as 1299\.00, without a currency or thousands"
    ):
        Field("price", "number").stored(price)


@pytest.mark.parametrize(
    ("values", "warned"),
    [
        (["7", "$1,299.00", "-"], True),
        (["1.299,00 €", None], True),
        (["$20", "soon"], False),  # words
        (["7", "8.5"], False),
        (["007", "1.299,00"], False),  # codes
    ],
)
def test_a_column_of_prices_that_becomes_text_is_told(
    values: list[str | None], warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    kind = guess_fields(["price"], [{"price": [value]} for value in values])[0].kind
    assert kind == ("number" if values == ["7", "8.5"] else "text")
    assert ("make the column 'price' a text field, which is not compared as a number" in caplog.text) == warned
