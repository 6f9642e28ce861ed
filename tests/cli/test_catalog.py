"""`catalog` and `match` as their users meet them."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.images import make_png
from tests.support.models import save_clip
from tests.support.paths import ROOT
from text_image_similarity import Field, UsageError, cli, open_catalog
from text_image_similarity.cli.products import create_command, declared_field
from text_image_similarity.encoders import model_folder

SAMPLE = ROOT / "sample_catalog"


def command(*arguments: object) -> int:
    """Run the command in this process and return its exit code."""
    with pytest.raises(SystemExit) as caught:
        cli.main([str(argument) for argument in arguments])
    return int(caught.value.code or 0)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six products of the sample catalogue, one of them without its picture, and a row without an id."""
    with (SAMPLE / "products.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    kept = rows[:7]
    kept[6][rows[0].index("image")] = "gone.jpg"
    kept.append(["", *kept[1][1:]])
    path = tmp_path_factory.mktemp("shop") / "products.csv"
    shutil.copytree(SAMPLE / "images", path.with_name("images"))
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(kept)
    return path


@pytest.fixture(scope="module")
def filled(table: Path) -> Path:
    """A catalogue with these products."""
    place = table.with_name("shop.catalog")
    assert command("catalog", "create", place, "--fields-from", table, "--quiet") == 0
    assert command("catalog", "add", place, table, "--quiet") == 0
    return place


def test_a_catalogue_is_made_filled_shown_and_emptied(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "shop.catalog"
    fields = ["--field", "category", "--field", "price:number", "--field", "added:date"]
    assert command("catalog", "create", place, *fields) == 0
    assert "fields        category (text), price (number), added (date)" in capsys.readouterr().out
    assert command("catalog", "add", place, table) == 0
    said = capsys.readouterr().out
    for line in (
        "products                       7",
        "added                          6",
        "refused                        1",
    ):
        assert line in said
    assert "images failed: file_not_found  1" in said
    assert "row 7: it has no id in the column 'id'" in said
    assert command("catalog", "add", place, table, "--strict", "--quiet") == 4
    assert command("catalog", "show", place, "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["products"], shown["failures"], shown["store"]) == (6, {"file_not_found": 1}, "sqlite")
    assert command("catalog", "show", place, "runner-red") == 0
    said = capsys.readouterr().out
    assert re.search(r"^price +79.9$", said, re.MULTILINE)
    assert re.search(r"^images +/\S+\.jpg$", said, re.MULTILINE)
    (tmp_path / "ids.txt").write_text("runner-red\n\nnobody\n")
    assert command("catalog", "delete", place, "runner-blue", "--from", tmp_path / "ids.txt") == 0
    assert capsys.readouterr().out == "deleted        2\nnot found      1\nproducts left  4\n"
    assert command("catalog", "optimize", place) == 0


def test_pictures_that_failed_are_retried(table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in.csv").write_text("id,name,image\na,A,late.png\n")
    place = tmp_path / "c"
    command("catalog", "create", place, "--quiet")
    command("catalog", "add", place, tmp_path / "in.csv", "--quiet")
    (tmp_path / "late.png").write_bytes(make_png())
    assert command("catalog", "add", place, "--retry") == 0
    assert "updated         1" in capsys.readouterr().out
    assert command("catalog", "add", place) == 2
    assert "name a table of products, or use --retry" in capsys.readouterr().err


def test_a_table_for_no_catalogue_says_how_to_make_it(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "a shop"
    assert command("catalog", "add", place, table) == 2
    error = capsys.readouterr().err.strip()
    words = shlex.split(error.partition("for this table with: ")[2])
    assert words[:4] == ["text-image-similarity", "catalog", "create", str(place)]
    assert words[4:] == [
        word
        for field in ("category", "kind", "color", "pattern", "price:number", "in_stock:bool", "added:date")
        for word in ("--field", field)
    ]
    assert not place.exists()
    assert command("match", place, "red") == 2
    assert f"there is no catalogue at {place}" in capsys.readouterr().err


def test_a_field_is_declared_by_name_and_kind() -> None:
    fields = [Field("price", "number"), Field("a:b"), Field("text", "texts"), Field("x:text", "date"), Field("it's")]
    words = shlex.split(create_command("c", fields))
    assert [declared_field(word) for word in words[5::2]] == fields
    assert declared_field("size:large:text") == Field("size:large")
    with pytest.raises(UsageError, match="'money' is not one of the kinds text, number, bool, date, texts"):
        declared_field("price:money")


def test_an_export_is_added_again(filled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.jsonl"
    assert command("catalog", "export", filled, out, "--where", "price > 80", "--id-col", "sku") == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["price"] for row in rows] == [129, 84.9, 89]
    assert command("catalog", "export", filled, out) == 2
    assert "already exists" in capsys.readouterr().err
    assert command("catalog", "add", filled, out, "--id-col", "sku", "--files-under", filled.parent) == 0
    assert "unchanged                      3" in capsys.readouterr().out


def test_matches_are_a_table_with_the_next_page(filled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["match", filled, "a red shoe", "--where", "category = 'Footwear'", "--top-k", "2", "--facet", "color"]
    assert command(*asked) == 0
    said = capsys.readouterr().out
    heads, first = said.splitlines()[:2]
    assert heads.split()[-3:] == ["color", "category", "kind"]
    assert re.fullmatch(r" +1 +0\.\d{4} .* runner-red +Red shoe +red +Footwear +shoe", first)
    assert "color\nblack " in said
    following = said.partition("next page")[2].splitlines()[0].strip()
    ids = re.findall(r"^ +\d+ .*?((?:runner|hiker)-\w+)", said, re.MULTILINE)
    while True:
        assert command(*shlex.split(following)[1:]) == 0
        said = capsys.readouterr().out
        ids += re.findall(r"^ +\d+ .*?((?:runner|hiker)-\w+)", said, re.MULTILINE)
        if "next page" not in said:
            break
        following = said.partition("next page")[2].splitlines()[0].strip()
    with open_catalog(filled) as catalog:
        everything = [found.product.id for found in catalog.match("a red shoe")]
    assert ids == everything


def test_without_a_match_it_is_said_what_kept_products_out(filled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["match", filled, "--facet", "color", "--facet", "kind", "--where"]
    assert command(*asked, "category = 'Boats'") == 0
    assert capsys.readouterr().out == "found  0: no product meets --where\n"
    assert command(*asked, "category = 'Boats'", "--min-similarity", "0.9", "--like", "runner-red") == 0
    assert capsys.readouterr().out == "found  0: no product meets --where and --min-similarity\n"


def test_dates_are_shown_as_dates(filled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "found.html"
    assert command("match", filled, "a red shoe", "--facet", "added", "--html", page) == 0
    said = capsys.readouterr().out
    days = dict(re.findall(r"^(20\d\d-\d\d-\d\d) +(\d)$", said, re.MULTILINE))
    assert sum(map(int, days.values())) == 5
    text = page.read_text(encoding="utf-8")
    assert all(text.count(day) == int(count) + 1 for day, count in days.items())  # its products, and the facet
    day, count = next(iter(days.items()))
    assert command("match", filled, "a red shoe", "--where", f"added = '{day}'", "--facet", "added", "--json") == 0
    assert json.loads(capsys.readouterr().out)["facets"]["added"] == [{"value": day, "count": int(count)}]


def test_matches_are_json(filled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = SAMPLE / "images" / "red_shoe.jpg"
    assert command("match", filled, "--image", picture, "--without", "blue", "--top-k", "1", "--json") == 0
    found = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert (found["total"], len(found["matches"]), found["plan"]) == (5, 1, "exact")
    (match,) = found["matches"]
    assert match["product"]["id"] == "runner-red"
    assert sum(reason["contribution"] for reason in match["why"]) == pytest.approx(match["score"], abs=1e-6)


def test_a_table_is_searched_without_a_catalogue(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(table.parent.iterdir())
    assert command("match", table, "a red shoe", "--where", "price < 80 and in_stock", "--sort=-price") == 2
    assert "in_stock" in capsys.readouterr().err
    assert command("match", table, "a red shoe", "--where", "price < 80 and color = 'red'", "--json") == 0
    said = capsys.readouterr()
    assert {found["product"]["id"] for found in json.loads(said.out)["matches"]} == {"runner-red"}
    assert "row 7: it has no id" in said.err
    assert "images that cannot be read: file_not_found, 1" in said.err
    assert sorted(table.parent.iterdir()) == before


def test_words_find_products_of_a_table_without_pictures(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("match", table, "a red shoe", "--image-col", "", "--json") == 0
    found = json.loads(capsys.readouterr().out)["matches"]
    assert found[0]["product"]["id"] == "runner-red"
    assert [reason["term"] for reason in found[0]["why"]] == ["words"]
    assert command("catalog", "create", tmp_path / "c", "--fields-from", table, "--quiet") == 0
    assert command("catalog", "add", tmp_path / "c", table, "--image-col", "", "--quiet") == 0
    (tmp_path / "in.csv").write_text("q\na red shoe\n")
    asked = ["match-table", tmp_path / "c", tmp_path / "in.csv", tmp_path / "out.csv", "--text-col", "q", "--quiet"]
    assert command(*asked) == 0
    with (tmp_path / "out.csv").open(newline="", encoding="utf-8") as file:
        assert [row["product_id"] for row in csv.DictReader(file)] == ["runner-red"]


def test_matches_are_a_page(filled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "found.html"
    asked = ["match", filled, "<b>red</b>", "--top-k", "3", "--facet", "color", "--html", page]
    assert command(*asked) == 0
    text = page.read_text(encoding="utf-8")
    assert text.count("data:image/jpeg;base64,") == 3
    assert "&lt;b&gt;red&lt;/b&gt;" in text
    assert "<b>red</b>" not in text
    assert "default-src 'none'" in text
    assert "<title>text &#x27;&lt;b&gt;red&lt;/b&gt;&#x27;: products found</title>" in text
    assert command(*asked) == 0
    page.write_text("mine")
    assert command(*asked) == 2
    assert "was not written by this command" in capsys.readouterr().err


def test_names_do_nothing_to_a_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = {"id": "\x1b[31mred", "name": "two\nlines\x07 " + "x" * 99, "image": ""}
    (tmp_path / "in.jsonl").write_text(json.dumps(row) + "\n")
    assert command("match", tmp_path / "in.jsonl") == 0
    line = capsys.readouterr().out.splitlines()[1]
    assert line == "   1           –  [31mred  two lines " + "x" * 29 + "…"


def test_models_are_switched_and_measured(filled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("catalog", "check", filled, "--recall", "4", "--where", "price > 80") == 0
    assert "recall@10, mean    1.0000" in capsys.readouterr().out
    for action in ("switch", "rollback"):
        assert command("catalog", action, filled) == 1
        assert "there is no generation to" in capsys.readouterr().err
    assert command("catalog", "drop", filled) == 0
    assert capsys.readouterr().out == "dropped  nothing\n"


@pytest.mark.parametrize("number", ["1_0", "１０"])
def test_a_number_is_spelled_as_in_a_table(filled: Path, number: str, capsys: pytest.CaptureFixture[str]) -> None:
    for option, kind in (("--top-k", "a whole number"), ("--min-similarity", "a number")):
        assert command("match", filled, "a red shoe", option, number) == 2
        assert f"argument {option}: {number!r} is not {kind}\n" in capsys.readouterr().err


def test_a_model_is_named_where_it_counts(filled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("match", filled, "a red shoe", "--model", "accurate") == 2
    assert f"catalog reindex {filled} --model accurate" in capsys.readouterr().err


def test_a_model_that_has_moved_is_named_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    here, there, place = tmp_path / "here", tmp_path / "there", tmp_path / "c"
    shutil.copytree(model_folder("mini"), here)
    (tmp_path / "t.csv").write_text("id,name\n1,a red shoe\n")
    assert command("catalog", "create", place, "--model", here) == 0
    assert command("catalog", "add", place, tmp_path / "t.csv", "--image-col", "", "--quiet") == 0
    here.rename(there)
    capsys.readouterr()
    assert command("match", place, "a red shoe") == 2
    error = capsys.readouterr().err
    assert "if it has moved, run: text-image-similarity catalog set-model CATALOG MODEL" in error
    assert f"model folder {here} does not exist" in error
    other = save_clip(tmp_path / "other")
    assert command("catalog", "set-model", place, other, "--backend", "torch") == 1
    assert f"{other} (16 dimensions) is a different model" in capsys.readouterr().err
    assert command("match", place, "a red shoe") == 2  # nothing was noted
    assert command("catalog", "set-model", place, there) == 0
    assert capsys.readouterr().out == f"model        {there}\ngenerations  1\n"
    assert command("match", place, "a red shoe", "--json") == 0
    assert command("catalog", "set-model", tmp_path / "none", there) == 2
    assert "there is no catalogue at" in capsys.readouterr().err


def test_a_table_of_queries_is_answered(filled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in.csv").write_text('q\na red shoe\n""\n')
    asked = ["match-table", filled, tmp_path / "in.csv", tmp_path / "out.csv"]
    assert command(*asked) == 2
    assert "name the column of texts with --text-col" in capsys.readouterr().err
    assert command(*asked, "--text-col", "q", "--where", "colour = 'red'") == 2
    assert "error: the field 'colour'" in capsys.readouterr().err
    assert command(*asked, "--text-col", "q", "--where", "color = 'red'") == 0
    said = capsys.readouterr().out
    assert "answered               1\nfailed: empty_caption  1\n" in said
    with (tmp_path / "out.csv").open(newline="", encoding="utf-8") as file:
        first, second = csv.DictReader(file)
    assert (first["product_id"], second["product_id"]) == ("runner-red", "")
    assert command(*asked, "--text-col", "q", "--where", "color = 'red'", "--strict", "--quiet") == 4


def test_similarities_get_a_meaning(filled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "shop.catalog"
    shutil.copytree(filled, place)
    ids = ["runner-red", "runner-blue", "runner-black", "runner-green"]
    pairs = "".join(f"a {colour} shoe,{id},{int(colour in id)}\n" for colour in ("red", "blue") for id in ids)
    (tmp_path / "pairs.csv").write_text(f"q,product,match\n{pairs}a red shoe,nobody,1\n")
    assert command("catalog", "calibrate", place, tmp_path / "pairs.csv", "--text-col", "q") == 0
    said = capsys.readouterr().out
    assert "text queries        25.0 % of the pairs match" in said
    assert "left out            1" in said
    assert command("match", place, "a red shoe", "--top-k", "1") == 0
    assert re.match(r"rank  similarity  probability  id", capsys.readouterr().out)


@pytest.mark.slow
def test_a_killed_add_goes_on_with_the_same_command(tmp_path: Path) -> None:
    count = 1500
    (tmp_path / "red.png").write_bytes(make_png())
    rows = "".join(f"p{number},Product {number},red.png\n" for number in range(count))
    (tmp_path / "in.csv").write_text(f"id,name,image\n{rows}")
    place = tmp_path / "c"
    assert command("catalog", "create", place, "--quiet") == 0
    words = [sys.executable, "-m", "text_image_similarity", "catalog", "add", str(place), str(tmp_path / "in.csv")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with open_catalog(place) as catalog:
        with subprocess.Popen(words, env=environment, stdout=subprocess.PIPE) as process:
            while len(catalog) == 0 and process.poll() is None:
                pass
            process.send_signal(signal.SIGKILL)
        kept = len(catalog)
        assert process.returncode == -signal.SIGKILL
        assert 0 < kept < count
        done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
        first = re.search(r"resuming at row ([\d,]+)", done.stderr)
        assert len(catalog) == count
        # The position is written after the products, so a kill between the two leads back by one batch at most.
        assert first is None or int(first[1].replace(",", "")) <= kept + 1
        assert f"catalogue       {place}, {count:,} products" in done.stdout


STRANGE = "\x1b]0;owned\x07\x1b[2J\u202e"
DAMAGED = "contains something that this package did not write"
CURVE = {
    "slope": 1.0,
    "intercept": 0.0,
    "prior": 0.5,
    "matching": 2,
    "mismatching": 2,
    "brier": 0.1,
    "calibration_error": 0.1,
    "model": "x",
}


@pytest.mark.parametrize(
    ("change", "value", "codes", "said"),
    [
        ("UPDATE generation SET model = ?", f"mini{STRANGE}", (0, 2), "owned"),
        (
            "UPDATE setting SET value = ? WHERE name = 'fields'",
            json.dumps([[f"kind{STRANGE}", "text"]]),
            (0, 2),
            "the fields are kind\\x1b]0;owned",
        ),
        ("UPDATE setting SET value = ? WHERE name = 'store'", STRANGE, (2, 2), "in an external store, \\x1b]0;owned"),
        ("UPDATE setting SET value = ? WHERE name = 'fields'", "[" * 200_000, (1, 1), f"{DAMAGED} (RecursionError"),
        ("UPDATE generation SET calibration = ?", json.dumps({"text": {"curve": {STRANGE: 1}}}), (1, 1), DAMAGED),
        (
            "UPDATE generation SET calibration = ?",
            json.dumps({"text": {"curve": CURVE | {"slope": "1"}}}),
            (1, 1),
            DAMAGED,
        ),
        (
            "UPDATE generation SET calibration = ?",
            json.dumps({"text": {"curve": CURVE, "prevalence": STRANGE}}),
            (1, 1),
            DAMAGED,
        ),
        ("UPDATE generation SET probes = ?", 1 << 40, (1, 1), f"{DAMAGED} (TypeError"),
    ],
    ids=["model", "fields", "store", "deep", "curve", "slope", "prevalence", "probes"],
)
def test_a_catalogue_of_a_stranger_does_nothing_to_the_terminal(
    change: str,
    value: str | int,
    codes: tuple[int, int],
    said: str,
    filled: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    place = tmp_path / "strange.catalog"
    place.mkdir()
    shutil.copy(filled / "catalog.sqlite", place)
    with closing(sqlite3.connect(place / "catalog.sqlite")) as database, database:
        database.execute(change, (value,))
    assert (command("catalog", "show", place), command("match", place, "red", "--where", "nothing = 1")) == codes
    found = "".join(capsys.readouterr())
    assert said in found
    assert found.replace("\n", "").isprintable()
