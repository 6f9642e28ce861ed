"""Several captions of an image: columns, lists in cells, references; and how their rows count."""

from __future__ import annotations

import csv
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.pipeline.test_scorer import Counting
from tests.support.images import make_png
from tests.support.records import CONFIG, Web
from text_image_similarity import (
    Config,
    InputTypeError,
    LocalEngine,
    StoppedError,
    Summary,
    TableOptions,
    TooManyFailuresError,
    UsageError,
    cli,
    score_frame,
    score_table,
)
from text_image_similarity.encoders.testing import ColourEncoder
from text_image_similarity.formats.captions import read_captions
from text_image_similarity.records import MOST_LISTED

HALF = 0.70710677
PNG = make_png("red")
ROWS: list[dict[str, Any]] = [
    {"url": PNG, "caption": "red", "machine": "yellow", "many": ["red", "yellow"]},
    {"url": PNG, "caption": "blue", "machine": "", "many": ["red", "", "blue"]},
    {"url": b"none", "caption": "red", "machine": "red", "many": ["red"]},
    {"url": PNG, "caption": "red", "machine": None, "many": []},
    {"url": PNG, "caption": "red", "machine": "red", "many": None},
]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    schema = pa.schema([("url", pa.binary()), ("caption", pa.string()), ("machine", pa.string())])
    schema = schema.append(pa.field("many", pa.list_(pa.string())))
    pq.write_table(pa.Table.from_pylist(ROWS, schema), tmp_path / "in.parquet")
    return tmp_path / "in.parquet"


def score(table: Path, out: Path, *captions: str, encoder: Any = None, **given: Any) -> Summary:
    options = TableOptions(**given)
    engine = LocalEngine(encoder=encoder or ColourEncoder())
    return score_table(table, out, CONFIG, "url", captions, options=options, engine=engine)


def code(error: str | None) -> str | None:
    return error if error is None else error.partition(":")[0]


def test_each_column_of_captions_has_its_own_scores_and_the_image_is_encoded_once(table: Path) -> None:
    encoder, out = Counting(), table.with_name("out.parquet")
    summary = score(table, out, "caption", "machine", encoder=encoder)
    found = pq.read_table(out).to_pylist()
    assert list(found[0])[4:] == ["similarity_caption", "error_caption", "similarity_machine", "error_machine"]
    assert [row["similarity_caption"] for row in found] == [1.0, 0.0, None, 1.0, 1.0]
    assert [row["similarity_machine"] for row in found] == pytest.approx([HALF, None, None, None, 1.0])
    assert [code(row["error_caption"]) for row in found] == [None, None, "not_an_image", None, None]
    assert [code(row["error_machine"]) for row in found] == [
        None,
        "empty_caption",
        "not_an_image",
        "empty_caption",
        None,
    ]
    assert sum(encoder.images) == 1
    # A row counts as failed where one of its captions has no score.
    assert (summary.rows, summary.scored, summary.failures) == (5, 2, {"empty_caption": 2, "not_an_image": 1})
    with pytest.raises(TooManyFailuresError):
        score(table, table.with_name("other.parquet"), "caption", "machine", max_failures=2)


@pytest.mark.parametrize("ending", ["parquet", "jsonl", "csv"])
def test_a_list_of_captions_gives_a_list_of_scores(table: Path, ending: str) -> None:
    out = table.with_name(f"out.{ending}")
    summary = score(table, out, "many", drop_columns=("url",))
    if ending == "parquet":
        found = pq.read_table(out).to_pylist()
        assert pq.read_schema(out).field("similarity").type == pa.list_(pa.float64())
    elif ending == "jsonl":
        found = [json.loads(line) for line in out.read_text().splitlines()]
    else:
        rows = list(csv.DictReader(out.read_text().splitlines()))
        found = [{name: json.loads(row[name]) for name in ("similarity", "error")} for row in rows]
    assert [row["similarity"] for row in found] == [
        pytest.approx([1.0, HALF]),
        [1.0, None, 0.0],
        [None],
        [None],
        [None],
    ]
    assert [[code(error) for error in row["error"]] for row in found] == [
        [None, None],
        [None, "empty_caption", None],
        ["not_an_image"],
        ["empty_caption"],
        ["empty_caption"],
    ]
    assert (summary.scored, summary.failures) == (1, {"empty_caption": 3, "not_an_image": 1})


@pytest.mark.parametrize("ending", ["parquet", "jsonl"])
def test_a_list_of_too_many_captions_fails_without_being_encoded(tmp_path: Path, ending: str) -> None:
    lists = [["red"], ["blue"] * (MOST_LISTED + 1), ["red"] * MOST_LISTED]
    (tmp_path / "red.png").write_bytes(PNG)
    rows = [{"url": "red.png", "caption": each} for each in lists]
    table = tmp_path / f"in.{ending}"
    if ending == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), table)
    else:
        table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    encoder, out = Counting(), tmp_path / "out.parquet"
    summary = score(table, out, "caption", encoder=encoder)
    found = pq.read_table(out, columns=["similarity", "error"]).to_pylist()
    assert [row["similarity"] for row in found] == [[1.0], [None], [1.0] * MOST_LISTED]
    assert found[1]["error"] == ["too_many_bytes: the cell has 10,001 captions, but at most 10,000 are accepted"]
    assert summary.failures == {"too_many_bytes": 1}
    assert "blue" not in encoder.texts


def test_lists_in_json_lines_and_texts_among_them(tmp_path: Path) -> None:
    (tmp_path / "red.png").write_bytes(PNG)
    rows = [{"url": "red.png", "caption": each} for each in (["red", "blue"], "red", [], {"a": 1})]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    score(tmp_path / "in.jsonl", tmp_path / "out.jsonl", "caption")
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["similarity"] for row in found] == [[1.0, 0.0], [1.0], [None], [None]]
    assert "is a dict" in found[3]["error"][0]
    # A text in CSV stays a text, whatever it looks like.
    (tmp_path / "in.csv").write_text('url,caption\nred.png,"[""red"", ""blue""]"\n')
    score(tmp_path / "in.csv", tmp_path / "out.csv", "caption")
    (row,) = csv.DictReader((tmp_path / "out.csv").read_text().splitlines())
    assert float(row["similarity"]) == pytest.approx(HALF)  # red and blue are magenta


@pytest.mark.parametrize("captions", [("caption", "machine"), ("many",), ("many", "caption")])
def test_a_stopped_run_ends_with_the_bytes_of_one_that_was_not(table: Path, captions: tuple[str, ...]) -> None:
    whole, stopped = table.with_name("whole.parquet"), table.with_name("stopped.parquet")
    config = Config(chunk_size=2)
    engine = LocalEngine(encoder=ColourEncoder())
    score_table(table, whole, config, "url", captions, engine=engine)
    answers = iter([False, True])
    with pytest.raises(StoppedError, match="2 of 5 rows"):
        score_table(table, stopped, config, "url", captions, engine=engine, stop=lambda: next(answers))
    summary = score_table(table, stopped, config, "url", captions, engine=engine)
    assert stopped.read_bytes() == whole.read_bytes()
    assert summary.rows == 5
    with pytest.raises(UsageError, match="written with other settings"):
        score_table(
            table, stopped, config, "url", ("caption",), engine=engine, options=TableOptions(start="retry_failed")
        )


@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_failures_that_may_have_passed_are_retried_caption_by_caption(tmp_path: Path, form: str) -> None:
    lines = [
        {"url": "http://photos.test/red/1.png", "caption": ["red", ""]},
        {"url": "http://photos.test/blue/1.png", "caption": ["blue", "red"]},
    ]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    web, out = Web(), tmp_path / f"out.{form}"

    def run(transport: Any, **given: Any) -> list[dict[str, Any]]:
        engine = LocalEngine(encoder=ColourEncoder(), transport=transport)
        score_table(tmp_path / "in.jsonl", out, CONFIG, engine=engine, options=TableOptions(**given))
        if form == "jsonl":
            return [json.loads(line) for line in out.read_text().splitlines()]
        rows = csv.DictReader(out.read_text().splitlines())
        return [{name: json.loads(row[name]) for name in ("similarity", "error")} for row in rows]

    import httpx

    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(503) if "blue" in request.url.path else web.transport().handle_request(request)

    first = run(httpx.MockTransport(answer))
    assert [[code(error) for error in row["error"]] for row in first] == [
        [None, "empty_caption"],
        ["http_5xx", "http_5xx"],
    ]
    asked = dict(web.asked)
    second = run(web.transport(), start="retry_failed")
    assert [row["similarity"] for row in second] == [[1.0, None], [1.0, 0.0]]
    assert web.asked["/red/1.png"] == asked["/red/1.png"]  # what has its results is not fetched again
    assert web.asked["/blue/1.png"] == 1


def test_references_as_lists_json_and_texts(tmp_path: Path) -> None:
    (tmp_path / "red.png").write_bytes(PNG)
    (tmp_path / "in.csv").write_text(
        "url,caption,people,other\n"
        'red.png,red,"[""red"", ""blue""]",\n'  # CLIPScore 2.5, nearest reference 1
        "red.png,red,blue,green\n"  # no reference is near
        "red.png,yellow,green,\n"
        "red.png,red,,\n"
    )
    config, engine = Config(score="ref_clipscore"), LocalEngine(encoder=ColourEncoder())
    given: dict[str, Any] = {"col_references": ["people", "other"], "engine": engine}
    summary = score_table(tmp_path / "in.csv", tmp_path / "out.csv", config, **given)
    rows = list(csv.DictReader((tmp_path / "out.csv").read_text().splitlines()))
    clips = 2.5 * HALF
    expected = [5 / 3.5, 0, 2 * clips * HALF / (clips + HALF)]
    assert [float(row["similarity"]) for row in rows[:3]] == pytest.approx(expected, rel=1e-6)
    assert (summary.score, summary.failures) == ("ref_clipscore", {"empty_caption": 1})
    for settings, columns in ((config, None), (Config(), "people")):
        with pytest.raises(UsageError, match="must be used together"):
            score_table(tmp_path / "in.csv", tmp_path / "o.csv", settings, col_references=columns, engine=engine)


def test_names_of_columns_that_cannot_be(table: Path) -> None:
    for captions, kind, said in (
        ((), UsageError, "one or more columns"),
        (("caption", "caption"), UsageError, "without duplicates"),
        (("caption", 7), InputTypeError, "col_text"),
        (("caption", "gone"), UsageError, "'gone' is missing"),
        (("url",), UsageError, "contains bytes"),
    ):
        with pytest.raises(kind, match=said):
            score(table, table.with_name("out.parquet"), *captions)


def test_the_command_takes_several_columns_and_reports_each_caption(table: Path) -> None:
    out, page = table.with_name("out.csv"), table.with_name("page.html")
    columns = ("--caption-col", "machine", "--caption-col", "many", "--drop-col", "url")
    given = ("score", table, out, "--model", "mini", *columns, "--report", page, "--quiet")
    with pytest.raises(SystemExit) as caught:
        cli.main([str(each) for each in given])
    assert caught.value.code == 0
    header = out.read_text().splitlines()[0]
    assert header == "caption,machine,many,similarity_machine,error_machine,similarity_many,error_many"
    summary = json.loads(Path(f"{out}.summary.json").read_text())
    assert (summary["rows"], summary["scored"]) == (5, 1)
    text = page.read_text()
    assert "yellow" in text
    assert "6 of 13 rows scored" in text  # rows of the page, one a caption


@pytest.mark.parametrize("kind", ["pandas", "polars", "arrow"])
def test_a_frame_gets_columns_for_each_column_of_captions(kind: str) -> None:
    import pandas as pd
    import polars as pl

    rows = {"url": [PNG, b"none"], "caption": ["red", "red"], "machine": ["blue", ""]}
    df: Any = {"pandas": pd.DataFrame, "polars": pl.DataFrame, "arrow": pa.table}[kind](rows)
    encoder = Counting()
    scored: Any = score_frame(df, CONFIG, col_text=["caption", "machine"], encoder=encoder)
    assert type(scored) is type(df)
    table = scored if kind == "arrow" else pa.table(scored)
    names = ["similarity_caption", "error_caption", "similarity_machine", "error_machine"]
    assert [name for name in table.column_names if not name.startswith("__")] == [*rows, *names]
    found = table.to_pylist()
    assert (found[0]["similarity_caption"], found[0]["similarity_machine"]) == (1.0, 0.0)
    assert [str(found[1][name]).partition(":")[0] for name in ("error_caption", "error_machine")] == [
        "not_an_image",
        "empty_caption",
    ]
    assert sum(encoder.images) == 1
    again = score_frame(scored, CONFIG, col_text=["caption", "machine"], encoder=encoder, overwrite_column=True)
    assert list(again.columns if kind != "arrow" else again.column_names)[-4:] == names
    with pytest.raises(UsageError, match="similarity_caption"):
        score_frame(scored, CONFIG, col_text=["caption", "machine"], encoder=encoder)


@pytest.mark.parametrize("piece", ["a", '""', 'a""'])
def test_a_long_quoted_caption_takes_memory_for_its_letters_only(piece: str, tmp_path: Path) -> None:
    path = tmp_path / "captions.txt"
    text = piece * (1 << 20)
    path.write_text(f'image,caption\n"{text}",a cat\na.jpg,"{text}"\n')
    tracemalloc.start()
    try:
        found = [row for _, row in read_captions(str(path))]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    letters = text.replace('""', '"')
    assert found == [(letters, "a cat"), ("a.jpg", letters)]
    assert peak < 20 * len(text)
