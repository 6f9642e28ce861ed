"""Tables of every format: what was in them comes out again, and what is no table is refused with its place."""

from __future__ import annotations

import csv
import datetime
import decimal
import gzip
import io
import json
import math
import os
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tests.support.images import make_png
from text_image_similarity import Config, Dialect, LocalEngine, TableError, UsageError, score_csv
from text_image_similarity.bounded_json import parse_json
from text_image_similarity.encoders.testing import ColourEncoder
from text_image_similarity.files import without_nan
from text_image_similarity.formats import check_columns, check_no_columns, each_value, open_table, parquet
from text_image_similarity.formats.json_text import without
from text_image_similarity.tables import Summary, TableOptions

CONFIG = Config(batch_size=4, io_workers=2, retries=0, chunk_size=3)
QUOTED = replace(CONFIG, dialect=Dialect(quoting="minimal"))
ENCODER = ColourEncoder()
DOT = "data:image/gif;base64,R0lGODlhAQABAIAAAP8AAP///ywAAAAAAQABAAACAkQBADs="
# More of them: ROUNDS=1000 python -m pytest tests/formats/test_formats.py
ROUNDS = int(os.environ.get("ROUNDS", "25"))
ROUND = settings(max_examples=ROUNDS, suppress_health_check=[HealthCheck.too_slow])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for colour in ("red", "blue"):
        (tmp_path / f"{colour}.png").write_bytes(make_png(colour))
    return tmp_path


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tables")


def score(source: Path | str, target: Path | str, config: Config = CONFIG, **given: Any) -> Summary:
    return score_csv(source, target, config, engine=LocalEngine(encoder=ENCODER), **given)


# Text that UTF-8 can write; names of columns that are not ours.
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
NAMES = st.lists(TEXT.filter(lambda name: name not in ("url", "caption", "similarity", "error")), max_size=3)


@st.composite
def texts(draw: st.DrawFn) -> tuple[list[str], list[list[str]]]:
    names = ["url", *draw(NAMES), "caption"]
    row = st.tuples(*([st.just("data:,x"), *[TEXT] * (len(names) - 2), st.just("red")])).map(list)
    return names, draw(st.lists(row, max_size=8))


@pytest.mark.slow
@ROUND
@given(texts(), st.sampled_from([("csv", ","), ("tsv", "\t")]), st.sampled_from(["", ".gz", ".zst"]))
def test_texts_round_trip(
    scratch: Path, table: tuple[list[str], list[list[str]]], kind: tuple[str, str], codec: str
) -> None:
    names, rows = table
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=kind[1], quoting=csv.QUOTE_ALL).writerows([names, *rows])
    place = scratch / f"in.{kind[0]}{codec}"
    write(place, text.getvalue().encode())
    score(place, scratch / f"out.{kind[0]}{codec}", QUOTED)
    found = list(
        csv.reader(io.StringIO(read(scratch / f"out.{kind[0]}{codec}").decode(), newline=""), delimiter=kind[1])
    )
    assert [row[:-2] for row in found] == [names, *rows]
    assert found[0][-2:] == ["similarity", "error"]


def write(place: Path, data: bytes) -> None:
    if place.suffix in (".gz", ".zst"):
        with pa.output_stream(str(place), compression="gzip" if place.suffix == ".gz" else "zstd") as file:
            file.write(data)
    else:
        place.write_bytes(data)


def read(place: Path) -> bytes:
    with pa.input_stream(str(place), compression="detect") as file:
        content: bytes = file.read()
    return content


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.slow
@ROUND
@given(st.lists(st.dictionaries(st.text(max_size=3), JSON, max_size=4), min_size=1, max_size=8), st.booleans())
def test_objects_keep_their_very_text(scratch: Path, rows: list[dict[str, object]], spaced: bool) -> None:
    separators = (" , ", " :\t") if spaced else (",", ":")
    lines = [json.dumps({**row, "url": "data:,x", "caption": "red"}, separators=separators) for row in rows]
    (scratch / "in.jsonl").write_text("\n".join(lines), encoding="utf-8")
    score(scratch / "in.jsonl", scratch / "out.jsonl")
    found = (scratch / "out.jsonl").read_text(encoding="utf-8").splitlines()
    for line, scored in zip(lines, found, strict=True):
        assert scored.startswith(line[:-1].rstrip())
        value = json.loads(scored)
        assert value.pop("similarity") is None
        assert value.pop("error").startswith("not_an_image")
        assert value == json.loads(line)


TYPES = {
    pa.int8(): st.integers(-128, 127),
    pa.uint64(): st.integers(0, 2**64 - 1),
    pa.float32(): st.floats(width=32),
    pa.float64(): st.floats(),
    pa.bool_(): st.booleans(),
    pa.string(): TEXT,
    pa.large_string(): TEXT,
    pa.binary(): st.binary(),
    pa.date32(): st.dates(),
    pa.timestamp("us", "UTC"): st.datetimes(timezones=st.just(datetime.UTC)),
    pa.decimal128(20, 4): st.decimals(-(10**15), 10**15, places=4),
    pa.list_(pa.int64()): st.lists(st.integers(-(2**63), 2**63 - 1), max_size=3),
    pa.struct([("a", pa.string()), ("b", pa.int32())]): st.fixed_dictionaries(
        {"a": TEXT, "b": st.integers(-(2**31), 2**31 - 1)}
    ),
    pa.map_(pa.string(), pa.float64()): st.dictionaries(TEXT, st.floats(), max_size=2).map(lambda d: list(d.items())),
    pa.dictionary(pa.int8(), pa.string()): TEXT,
    pa.null(): st.none(),
}


@st.composite
def typed(draw: st.DrawFn) -> pa.Table:
    count = draw(st.integers(0, 8))
    columns: dict[str, pa.Array] = {"url": pa.array(["data:,x"] * count, pa.string())}
    for name in draw(st.lists(TEXT.filter(lambda n: n not in ("url", "caption")), max_size=3, unique=True)):
        kind = draw(st.sampled_from(list(TYPES)))
        values = draw(st.lists(st.none() | TYPES[kind], min_size=count, max_size=count))
        if pa.types.is_dictionary(kind):
            columns[name] = pa.array(values, kind.value_type).dictionary_encode().cast(kind)
        else:
            columns[name] = pa.array(values, kind)
    columns["caption"] = pa.array(["red"] * count, pa.large_string())
    return pa.table(columns).replace_schema_metadata({"who": "me"})


@pytest.mark.slow
@ROUND
@given(typed(), st.integers(1, 5))
def test_types_round_trip(scratch: Path, table: pa.Table, group: int) -> None:
    pq.write_table(table, scratch / "in.parquet", row_group_size=group)
    score(scratch / "in.parquet", scratch / "out.parquet")
    found = pq.read_table(scratch / "out.parquet")
    assert found.schema.names[-2:] == ["similarity", "error"]
    assert found.schema.metadata[b"who"] == b"me"
    kept = found.drop_columns(["similarity", "error"])
    stored = pq.read_table(scratch / "in.parquet")  # what Parquet itself keeps of a type
    for i, column in enumerate(stored.schema):
        if pa.types.is_dictionary(column.type):  # only its indices become wider
            wider = pa.dictionary(pa.int32(), column.type.value_type, column.type.ordered)
            stored = stored.set_column(i, column.name, stored[i].cast(wider))
    assert kept.schema == stored.schema
    assert str(kept.to_pylist()) == str(stored.to_pylist())  # as text, because NaN is not equal to itself


@pytest.mark.slow
@ROUND
@given(texts(), st.sampled_from(["csv", "tsv.zst", "jsonl", "jsonl.gz", "parquet"]), st.data())
def test_formats_turn_into_each_other(
    scratch: Path, table: tuple[list[str], list[list[str]]], ending: str, data: st.DataObject
) -> None:
    """Through any two formats, texts are what they were."""
    names, rows = table
    assume(len(set(names)) == len(names))
    text = io.StringIO(newline="")
    csv.writer(text, quoting=csv.QUOTE_ALL).writerows([names, *rows])
    (scratch / "a.csv").write_bytes(text.getvalue().encode())
    score(scratch / "a.csv", scratch / f"b.{ending}", QUOTED)
    assume(rows or not ending.startswith("jsonl"))  # no row, no column
    last = data.draw(st.sampled_from(["csv", "parquet", "jsonl"]))
    dialect = QUOTED if ending in ("csv", "tsv.zst") else CONFIG
    score(scratch / f"b.{ending}", scratch / f"c.{last}", dialect, options=TableOptions(overwrite_column=True))
    got = open_table(str(scratch / f"c.{last}"), dialect=QUOTED.dialect if last == "csv" else None)
    got.scan()
    values = [dict(zip(names, row, strict=True)) for row in rows]
    found = [row for part in got.read(0, 100) for row in zip(*(part.column(name) for name in names), strict=True)]
    assert [dict(zip(names, row, strict=True)) for row in found] == values


def test_types_become_text_and_json(folder: Path) -> None:
    table = pa.table(
        {
            "url": ["red.png"] * 2,
            "caption": ["red", None],
            "n": pa.array([1, None], pa.int64()),
            "x": [0.1, math.nan],
            "when": pa.array([datetime.datetime(2026, 1, 2, 3, 4, 5), None], pa.timestamp("ms")),
            "price": pa.array([decimal.Decimal("1.50"), None]),
            "tags": [["a", "b"], None],
            "yes": [True, None],
        }
    )
    pq.write_table(table, folder / "in.parquet")
    score(folder / "in.parquet", folder / "out.csv")
    assert list(csv.reader(io.StringIO((folder / "out.csv").read_text(), newline=""))) == [
        ["url", "caption", "n", "x", "when", "price", "tags", "yes", "similarity", "error"],
        ["red.png", "red", "1", "0.1", "2026-01-02 03:04:05.000", "1.50", '["a", "b"]', "true", "1.0", ""],
        ["red.png", "", "", "", "", "", "", "", "", "empty_caption: the caption is empty or missing"],
    ]
    score(folder / "in.parquet", folder / "out.jsonl")
    first, second = map(json.loads, (folder / "out.jsonl").read_text().splitlines())
    assert (first["n"], first["x"], first["tags"], first["similarity"], first["error"]) == (
        1,
        0.1,
        ["a", "b"],
        1.0,
        None,
    )
    assert (second["x"], second["similarity"]) == (None, None)


def test_bytes_need_parquet(folder: Path) -> None:
    pq.write_table(pa.table({"url": ["red.png"], "caption": ["red"], "raw": [b"\xff"]}), folder / "in.parquet")
    for name in ("out.csv", "out.jsonl"):
        with pytest.raises(UsageError, match=r"column 'raw' \(binary\) contains bytes, which only Parquet can"):
            score(folder / "in.parquet", folder / name)
    score(folder / "in.parquet", folder / "out.parquet")
    assert pq.read_table(folder / "out.parquet")["raw"].to_pylist() == [b"\xff"]


@pytest.mark.parametrize(
    "column",
    [
        pa.array([{"bytes": b"a", "path": "x"}]),
        pa.array([[b"a"]], pa.list_(pa.large_binary())),
        pa.array([[("a", b"a")]], pa.map_(pa.string(), pa.binary(1))),
        pa.array([b"a"]).dictionary_encode(),
    ],
    ids=lambda column: str(column.type),
)
def test_bytes_at_any_depth_need_parquet(folder: Path, column: pa.Array) -> None:
    pq.write_table(pa.table({"url": ["red.png"], "caption": ["red"], "raw": column}), folder / "in.parquet")
    for name in ("out.csv", "out.jsonl"):
        with pytest.raises(UsageError, match=r"column 'raw' .* contains bytes"):
            score(folder / "in.parquet", folder / name)


@pytest.mark.parametrize(
    ("column", "text", "value"),
    [
        (pa.array([0.1], pa.float32()), "0.1", 0.1),
        (pa.array([math.inf], pa.float32()), "inf", None),
        (pa.array([[0.1, math.nan]], pa.list_(pa.float32())), "[0.1, null]", [0.1, None]),
        (pa.array([[("a", math.nan)]], pa.map_(pa.string(), pa.float64())), '[["a", null]]', [["a", None]]),
        (pa.array([6600000], pa.int32()).cast(pa.date32()), "20040-03-09", "20040-03-09"),
        (pa.array([123456789], pa.time64("ns")), "00:00:00.123456789", "00:00:00.123456789"),
        (pa.array([1], pa.duration("ns")), "1", 1),
        (pa.array([10**18 + 1], pa.timestamp("ns")), "2001-09-09 01:46:40.000000001", "2001-09-09 01:46:40.000000001"),
        (pa.array([0], pa.timestamp("ms", "Asia/Tokyo")), "1970-01-01 00:00:00.000Z", "1970-01-01 00:00:00.000Z"),
        (pa.array([0], pa.timestamp("ms", "Mars/Base")), "1970-01-01 00:00:00.000Z", "1970-01-01 00:00:00.000Z"),
        (
            pa.array(
                [{"day": datetime.date(2026, 1, 2), "x": 0.1}], pa.struct({"day": pa.date32(), "x": pa.float32()})
            ),
            '{"day": "2026-01-02", "x": 0.1}',
            {"day": "2026-01-02", "x": 0.1},
        ),
        (pa.array([datetime.date(2026, 1, 2)]).dictionary_encode(), "2026-01-02", "2026-01-02"),
    ],
    ids=lambda given: str(given.type) if isinstance(given, pa.Array) else "",
)
def test_values_are_spelled_out_without_loss(folder: Path, column: pa.Array, text: str, value: object) -> None:
    pq.write_table(pa.table({"url": ["red.png"], "caption": ["red"], "x": column}), folder / "in.parquet")
    score(folder / "in.parquet", folder / "out.csv")
    assert list(csv.reader(io.StringIO((folder / "out.csv").read_text())))[1][2] == text
    score(folder / "in.parquet", folder / "out.jsonl")
    assert json.loads((folder / "out.jsonl").read_text())["x"] == value
    assert "NaN" not in (folder / "out.jsonl").read_text()


def test_times_without_a_text_name_their_column(folder: Path) -> None:
    when = pa.array([9 * 10**15], pa.timestamp("s"))
    pq.write_table(pa.table({"url": ["red.png"], "caption": ["red"], "when": when}), folder / "in.parquet")
    for name in ("out.csv", "out.jsonl"):
        with pytest.raises(TableError, match=r"column 'when' \(timestamp\[ms\]\) cannot be written as text"):
            score(folder / "in.parquet", folder / name)


def test_integers_that_no_float_stands_for_stay_exact_beside_floats(folder: Path) -> None:
    lines = [{"url": "red.png", "caption": "red", "n": n, "m": m} for n, m in [(2**53 + 1, 2**53), (0.5, 0.5)]]
    (folder / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    score(folder / "in.jsonl", folder / "out.parquet")
    found = pq.read_table(folder / "out.parquet")
    assert found["n"].to_pylist() == ["9007199254740993", "0.5"]
    assert found["m"].to_pylist() == [float(2**53), 0.5]


def test_json_becomes_columns(folder: Path) -> None:
    lines = [
        {"url": "red.png", "caption": "red", "n": 1, "x": 1, "mixed": 1, "deep": {"a": [1]}},
        {"url": "red.png", "caption": "red", "n": 2**60, "x": 0.5, "mixed": "one", "yes": True},
    ]
    (folder / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    score(folder / "in.jsonl", folder / "out.parquet")
    table = pq.read_table(folder / "out.parquet")
    types = {name: str(table.schema.field(name).type) for name in table.schema.names}
    assert types["n"] == "int64"
    assert types["x"] == "double"
    assert types["mixed"] == types["deep"] == "string"
    assert types["yes"] == "bool"
    assert table["n"].to_pylist() == [1, 2**60]
    assert table["mixed"].to_pylist() == ["1", '"one"']
    assert table["deep"].to_pylist() == ['{"a": [1]}', None]


def test_pandas_reads_its_index_back(folder: Path) -> None:
    frame = pd.DataFrame({"url": ["red.png"] * 5, "caption": ["red"] * 5}, index=pd.Index(list("abcde"), name="id"))
    frame.to_parquet(folder / "in.parquet")
    score(folder / "in.parquet", folder / "out.parquet")
    assert pd.read_parquet(folder / "out.parquet").index.tolist() == list("abcde")


@pytest.mark.parametrize("group", [2, 100])
def test_ordered_categories_keep_their_order(folder: Path, group: int) -> None:
    order = pd.CategoricalDtype(["low", "mid", "high"], ordered=True)
    values = ["high", "high", "low", "high", "mid", "low", "high"]
    frame = pd.DataFrame({"url": ["red.png"] * 7, "caption": ["red"] * 7, "size": pd.Series(values, dtype=order)})
    frame.to_parquet(folder / "in.parquet", row_group_size=group)
    score(folder / "in.parquet", folder / "out.parquet")
    found = pd.read_parquet(folder / "out.parquet")["size"]
    assert found.tolist() == values
    assert found.dtype == pd.read_parquet(folder / "in.parquet")["size"].dtype == order


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_an_earlier_score_is_replaced_only_when_asked(folder: Path, ending: str) -> None:
    (folder / "in.csv").write_text("id,url,caption\n1,red.png,red\n2,none.png,red\n")
    score(folder / "in.csv", folder / f"once.{ending}")
    with pytest.raises(UsageError, match="already has a column 'similarity'; replace it with --overwrite-column"):
        score(folder / f"once.{ending}", folder / f"twice.{ending}")
    score(folder / f"once.{ending}", folder / f"twice.{ending}", options=TableOptions(overwrite_column=True))
    assert (folder / f"once.{ending}").read_bytes() == (folder / f"twice.{ending}").read_bytes()


@given(st.dictionaries(st.text(max_size=3), JSON, max_size=5), st.sampled_from([(",", ":"), (" ,\t", "  : ")]))
def test_members_are_taken_out_of_an_object(row: dict[str, object], separators: tuple[str, str]) -> None:
    text = json.dumps({**row, "error": [1, {"error": "}"}]}, separators=separators)
    left = {name: value for name, value in row.items() if name != "error"}
    assert json.loads(without(text, frozenset({"error"}))) == left


def test_blanks_between_members_are_not_passed_one_by_one() -> None:
    class Counted(str):
        looks = 0

        def __getitem__(self, at: Any) -> str:
            Counted.looks += 1
            return super().__getitem__(at)

    blank = " \t\r\n" * 10_000
    text = Counted(f'{{{blank}"a"{blank}:{blank}1{blank},{blank}"error":2{blank}}}')
    assert json.loads(without(text, frozenset({"error"}))) == {"a": 1}
    assert Counted.looks < 20


class TestSeveralFiles:
    def test_a_folder_is_one_table(self, folder: Path) -> None:
        (folder / "t").mkdir()
        for i in range(3):
            (folder / "t" / f"{i}.csv").write_text("url,caption\n" + f"../{'red' if i else 'none'}.png,red\n" * 4)
        (folder / "t" / "_SUCCESS").write_text("")
        (folder / "t" / ".crc").write_text("")
        summary = score(folder / "t", folder / "out.csv", replace(CONFIG, files_under=folder))
        assert (summary.rows, summary.scored) == (12, 8)

    def test_a_pattern_is_one_table(self, folder: Path) -> None:
        for i in range(3):
            (folder / "deep" / str(i)).mkdir(parents=True)
            (folder / "deep" / str(i) / "t.jsonl.gz").write_bytes(
                gzip.compress(b'{"url": "red.png", "caption": "red"}\n' * 5)
            )
        summary = score(
            str(folder / "deep" / "*" / "t.jsonl.gz"), folder / "out.parquet", replace(CONFIG, base_dir=folder)
        )
        assert (summary.rows, summary.scored) == (15, 15)
        assert (
            score(str(folder / "deep" / "**" / "*.gz"), folder / "out.csv", replace(CONFIG, base_dir=folder)).rows == 15
        )

    def test_files_that_do_not_agree(self, folder: Path) -> None:
        (folder / "t").mkdir()
        (folder / "t" / "a.csv").write_text("url,caption\n")
        (folder / "t" / "b.csv").write_text("url,text\n")
        with pytest.raises(TableError, match=r"b\.csv has the columns url, text, but .*a\.csv has url, caption"):
            score(folder / "t", folder / "out.csv")
        (folder / "t" / "b.csv").rename(folder / "t" / "b.tsv")
        with pytest.raises(UsageError, match=r"several formats \(csv, tsv\)"):
            score(folder / "t", folder / "out.csv")
        (folder / "t" / "b.tsv").unlink()
        (folder / "t" / "more").mkdir()
        with pytest.raises(UsageError, match=r"contains the folder .*more; name the files with a pattern"):
            score(folder / "t", folder / "out.csv")

    def test_parquet_files_that_do_not_agree(self, folder: Path) -> None:
        (folder / "t").mkdir()
        pq.write_table(pa.table({"url": ["red.png"], "caption": ["red"], "n": [1]}), folder / "t" / "a.parquet")
        pq.write_table(pa.table({"url": ["red.png"], "caption": ["red"], "n": ["1"]}), folder / "t" / "b.parquet")
        with pytest.raises(
            TableError,
            match=r"b\.parquet has columns whose types differ from those in .*a\.parquet: 'n' \(string instead of int64\); cast them to one type$",
        ):
            score(folder / "t", folder / "out.csv")
        pq.write_table(pa.table({"url": ["red.png"], "caption": ["red"], "m": [1]}), folder / "t" / "b.parquet")
        with pytest.raises(
            TableError, match=r"b\.parquet has different columns from .*; only one of them has 'm', 'n'$"
        ):
            score(folder / "t", folder / "out.csv")
        for name, columns in (("a", ["url", "n", "n", "caption"]), ("b", ["url", "n", "caption", "n"])):
            texts = [pa.array(["red"])] * 4
            pq.write_table(pa.Table.from_arrays(texts, columns), folder / "t" / f"{name}.parquet")
        with pytest.raises(
            TableError, match=r"b\.parquet has different columns from .*; the order of their columns differs$"
        ):
            score(folder / "t", folder / "out.csv")

    @pytest.mark.parametrize("first", ["none", "some"])
    def test_a_column_without_a_value_in_one_file(self, folder: Path, first: str) -> None:
        (folder / "t").mkdir()
        for name in ("none", "some"):
            values = ["x" if name == "some" else None] * 2
            frame = pd.DataFrame({"url": ["../red.png"] * 2, "caption": ["red"] * 2, "note": values})
            frame.to_parquet(folder / "t" / f"{'a' if name == first else 'b'}.parquet")
        score(folder / "t", folder / "out.parquet", replace(CONFIG, files_under=folder))
        notes = pq.read_table(folder / "out.parquet")["note"].to_pylist()
        assert notes == ([None, None, "x", "x"] if first == "none" else ["x", "x", None, None])

    def test_a_nested_column_without_a_value_in_one_file(self, folder: Path) -> None:
        (folder / "t").mkdir()
        for name, path in (("a", None), ("b", "x"), ("c", None)):
            image = {"path": path, "tags": [path], "size": 1}
            row: dict[str, Any] = {"url": "../red.png", "caption": "red", "image": image}
            pq.write_table(pa.Table.from_pylist([row]), folder / "t" / f"{name}.parquet")
        score(folder / "t", folder / "out.parquet", replace(CONFIG, files_under=folder))
        found = pq.read_table(folder / "out.parquet")["image"].to_pylist()
        assert found == [{"path": path, "tags": [path], "size": 1} for path in (None, "x", None)]
        row["image"]["size"] = "1"
        pq.write_table(pa.Table.from_pylist([row]), folder / "t" / "c.parquet")
        with pytest.raises(
            TableError, match=r"c\.parquet has columns whose types differ from those in .*a\.parquet: 'image'"
        ):
            score(folder / "t", folder / "new.parquet")

    @pytest.mark.parametrize("chunk", [50, 1000])
    def test_more_categories_than_a_short_index_can_tell_apart(self, folder: Path, chunk: int) -> None:
        (folder / "t").mkdir()
        for i in range(2):
            frame = pd.DataFrame(
                {"url": ["none.png"] * 100, "caption": ["red"] * 100, "kind": [f"{i}-{j}" for j in range(100)]}
            )
            frame.astype({"kind": "category"}).to_parquet(folder / "t" / f"{i}.parquet")
        score(folder / "t", folder / "out.parquet", replace(CONFIG, chunk_size=chunk))
        wanted = [f"{i}-{j}" for i in range(2) for j in range(100)]
        assert pq.read_table(folder / "out.parquet")["kind"].to_pylist() == wanted
        found = pd.read_parquet(folder / "out.parquet")["kind"]
        assert isinstance(found.dtype, pd.CategoricalDtype)
        assert found.tolist() == wanted

    @pytest.mark.parametrize("ending", ["tsv.gz", "jsonl", "parquet"])
    def test_a_folder_of_folders_says_what_to_name(self, folder: Path, ending: str) -> None:
        (folder / "t" / "more").mkdir(parents=True)
        (folder / "t" / "more" / "README").write_text("")
        (folder / "t" / "more" / f"a.{ending}").write_text("")
        with pytest.raises(UsageError, match=rf'with a pattern such as ".*/t/\*\*/\*\.{ending}"; relative'):
            open_table(str(folder / "t"))

    @pytest.mark.parametrize("place", ["t", "t/*/*.csv", "t/**/*.csv", "t/day=*/a.csv", "t/day=1/*/*.csv"])
    def test_partitions_are_refused(self, folder: Path, place: str) -> None:
        (folder / "t" / "day=1" / "hour=2").mkdir(parents=True)
        for name in ("day=1/a.csv", "day=1/hour=2/b.csv"):
            (folder / "t" / name).write_text("url,caption\nnone.png,red\n")
        with pytest.raises(UsageError, match=r"belongs to the partition \w+=\d, whose column .* would be lost"):
            open_table(str(folder / place))

    def test_one_partition_named_in_full_is_a_table(self, folder: Path) -> None:
        (folder / "t" / "day=1").mkdir(parents=True)
        (folder / "t" / "day=1" / "a=b.csv").write_text("url,caption\nnone.png,red\n")
        for place in ("t/day=1", "t/day=1/*.csv", "t/day=1/a=b.csv"):
            assert open_table(str(folder / place)).columns == ["url", "caption"]

    @pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
    def test_the_digest_notices_every_file(self, folder: Path, ending: str) -> None:
        def digest_with(changed: int | None) -> str:
            for i in range(3):
                frame = pd.DataFrame({"url": ["x"], "caption": ["new" if i == changed else "old"]})
                write: Any = {"csv": frame.to_csv, "parquet": frame.to_parquet}.get(ending)
                place = folder / "t" / f"{i}.{ending}"
                write(place, index=False) if write else frame.to_json(place, orient="records", lines=True)
            table = open_table(str(folder / "t"))
            table.scan()
            return table.digest

        (folder / "t").mkdir()
        digests = [digest_with(changed) for changed in (None, 0, 1, 2)]
        assert len(set(digests)) == 4
        assert digest_with(None) == digests[0]
        assert {len(digest) for digest in digests} == {32}

    def test_the_output_is_no_part_of_the_input(self, folder: Path) -> None:
        (folder / "t").mkdir()
        (folder / "t" / "a.csv").write_text("url,caption\n")
        for source, target in [("t", "t/out.csv"), ("t/*.csv", "t/out.csv"), ("t/**/*.csv", "t/deep/out.csv")]:
            (folder / target).parent.mkdir(exist_ok=True)
            with pytest.raises(UsageError, match="would be part of the input"):
                score(str(folder / source), folder / target)
        assert score(str(folder / "t" / "*.csv"), folder / "t" / "deep" / "out.csv").rows == 0


@pytest.mark.parametrize(
    ("name", "content", "error", "message"),
    [
        (
            "in.tsv",
            b"url\tcaption\na\tb\tc\n",
            TableError,
            "row 1 of .* has 3 fields, but the header has 2: it continues with 'c'",
        ),
        ("in.csv", b"url,caption\na\n", TableError, "row 1 of .*: it has no column 'caption'"),
        ("in.csv", b"url;caption\na;b\n", UsageError, "if it is separated by semicolons"),
        ("in.csv", b"url,cap\0tion\na,b\n", UsageError, "if it is UTF-16 without a byte-order mark"),
        ("in.csv", b"url,caption\na,b\n\xff\xfe,b\n", TableError, "column 'url' in row 2 of .* is not UTF-8"),
        ("in.csv", b"url,capti\xf6n\n", TableError, "column 2 in the header of .* is not UTF-8"),
        (
            "in.csv",
            b'url,caption\na,b\na,"b"c\n',
            TableError,
            r"row 2 of .* \(on line 3\) is not valid: [^;]*; double the quotation marks inside",
        ),
        (
            "in.csv",
            b'url,caption\na,b\n\na,"b\nc\nd\n',
            TableError,
            r"row 2 of .* \(on lines 4 to 6\) is not valid: unexpected end of data; if a quotation mark has been open since line 4, close it; if",
        ),
        ("in.csv", b'url,caption\n"a\nb"\n', TableError, r"row 1 of .* \(on lines 2 to 3\) has 1 fields"),
        ("in.csv", b"url\tcaption\na\tb\n", UsageError, "if it is separated by tabs"),
        (
            "in.csv",
            b"url, caption\na,b\n",
            UsageError,
            "'caption' is missing from .*; it has the columns: url, ' caption'; if you mean ' caption'",
        ),
        ("in.csv", "\ufeffurl,caption\n".encode("utf-32-le"), TableError, "is UTF-32; add --encoding utf-32"),
        ("in.csv.gz", b"url,caption\n", TableError, "is not compressed with gzip, although its name says so"),
        (
            "in.csv.gz",
            gzip.compress(b"url,caption\n" + b"a,b\n" * 9999, mtime=0)[:-9],
            TableError,
            "cannot be read: Truncated",
        ),
        ("in.csv.zst", b"url,caption\n", TableError, "is not compressed with zstd, although its name says so"),
        ("in.jsonl", b'{"url": "a", "caption": "b"}\n{"url": \n', TableError, "row 2 of .* is not valid JSON"),
        ("in.jsonl", b'{"url": "a", "caption": "b"}\n\n[1]\n', TableError, "row 2 of .* is not a JSON object but"),
        ("in.jsonl", b'{"url": "a", "title": "b"}\n', UsageError, "column 'caption' is missing from .*: url, title"),
        ("in.jsonl", b'{"url": "a", "caption": "\xff"}\n', TableError, "row 1 of .* is not UTF-8"),
        (
            "in.jsonl",
            b'{"url": "a", "caption": "b"}\n\n' * 1000 + b'{"url": "\xe9"}\n' + b"{}\n" * 9999,
            TableError,
            "row 1001 of .* is not UTF-8",
        ),
        ("in.jsonl", b"", UsageError, "in.jsonl is empty"),
        ("in.jsonl", b"\n\n", UsageError, "in.jsonl is empty"),
        ("in.jsonl", b"[" * 100_000, TableError, "row 1 of .* cannot be read: it is nested more than 100 levels deep"),
        ("in.jsonl", b'{"n": ' + b"9" * 5000 + b"}", TableError, "row 1 of .* cannot be read: a number"),
        ("in.parquet", b"url,caption\n", TableError, "in.parquet is a text file; give it the extension .csv or .tsv"),
        ("in.parquet", b"PAR1\0", TableError, "cannot be read as Parquet"),
        ("in.parquet", b"", TableError, "cannot be read as Parquet"),
        ("in.parquet.gz", b"", UsageError, "Parquet files are compressed internally"),
        ("in.txt", b"", UsageError, r"cannot tell the format of .*in.txt; give it the extension .csv or .tsv"),
        ("in.tab", b"", UsageError, r"cannot tell the format of .*in.tab; use one of the extensions \.csv"),
    ],
)
def test_what_is_no_table_is_refused_with_its_place(
    folder: Path, name: str, content: bytes, error: type[Exception], message: str
) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(error, match=message):
        score_csv(folder / name, folder / "out.csv", Config(model="/no/such/model"))
    assert sorted(path.name for path in folder.iterdir()) == sorted(["blue.png", "red.png", name])


def test_an_open_quote_ends_before_memory_does(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("text_image_similarity.formats.delimited._FIELD_CHARACTERS", 1000)
    (folder / "in.csv").write_text('url,caption\nred.png,red\nred.png,"red\n' + "red.png,red\n" * 10_000)
    with pytest.raises(
        TableError,
        match=r"row 2 of .* \(on lines 3 to \d\d\) .*field larger.*; if a quotation mark has been open since line 3, close it",
    ):
        score(folder / "in.csv", folder / "out.csv")


@pytest.mark.parametrize(
    ("name", "begin", "again"),
    [
        ("in.csv", "url,caption\nred.png,red\n", "a"),
        ("in.csv.gz", "url,caption\nred.png,red\n", "a"),
        ("in.csv.zst", "url,caption\nred.png,red\n", "\N{SNOWMAN}"),
        ("in.csv", "url,caption\nred.png,red\n", '"\n",'),  # a row of many short lines
        ("in.tsv", "url\tcaption\nred.png\tred\n", "\t"),
        ("in.jsonl.zst", '{"url": "red.png", "caption": "red"}\n', "["),
    ],
)
def test_a_row_ends_before_memory_does(
    folder: Path, name: str, begin: str, again: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("text_image_similarity.formats.text._ROW_CHARACTERS", 1000)
    whole = begin + again * 100 + "\n"
    long = begin + again * 1001
    for text, refused in ((whole, False), (long, True)):
        with pa.output_stream(folder / name) as file:  # compressed as the name says
            file.write(text.encode())
        with pytest.raises(TableError) as found:
            score(folder / name, folder / "out.csv")
        assert ("has a row of more than 1,000 characters" in str(found.value)) == refused


@pytest.mark.parametrize("again", [",", '"\n",', '"",'])
def test_a_row_of_delimiters_ends_before_memory_does(folder: Path, again: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("text_image_similarity.formats.text._SHORT", 100)
    monkeypatch.setattr("text_image_similarity.formats.text._ROW_DELIMITERS", 200)
    for count, refused in ((199, False), (400, True)):
        (folder / "in.csv").write_text("url,caption\nred.png,red\n" + again * count + "\n")
        with pytest.raises(TableError) as found:
            score(folder / "in.csv", folder / "out.csv")
        assert ("has a row with more than 200 delimiters" in str(found.value)) == refused


@pytest.mark.parametrize(
    ("name", "begin", "row", "blank"),
    [
        ("in.csv.gz", "url,caption\n", "red.png,red\n", "\n"),
        ("in.tsv.zst", "url\tcaption\n", "red.png\tred\n", "\r\n"),
        ("in.jsonl.gz", "", '{"url": "red.png", "caption": "red"}\n', " \n"),
    ],
)
def test_blank_lines_may_be_many_but_not_far_more_than_rows(
    folder: Path, name: str, begin: str, row: str, blank: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("text_image_similarity.formats.text._BLANK_LINES", 100, raising=False)
    for text, refused in (
        (begin + blank * 90 + row + blank * 10, False),
        (begin + (row + blank * 9) * 50, False),
        (begin + row + blank * 200 + row, True),
        (begin + (row + blank * 30) * 50, True),
        (blank * 200 + begin + row, True),
    ):
        with pa.output_stream(folder / name) as file:  # compressed as the name says
            file.write(text.encode())
        if refused:
            with pytest.raises(TableError, match="far more blank lines"):
                score(folder / name, folder / "out.csv")
        else:
            assert score(folder / name, folder / "out.csv").rows == text.count(row)
        (folder / "out.csv").unlink(missing_ok=True)


@pytest.mark.parametrize("quoting", ["auto", "minimal", "backslash"])
def test_a_row_of_very_many_lines_is_refused_by_name(
    folder: Path, quoting: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("text_image_similarity.formats.text._SHORT", 10)
    monkeypatch.setattr("text_image_similarity.formats.text._ROW_LINES", 20, raising=False)
    config = replace(CONFIG, dialect=Dialect(quoting=quoting))
    begin = 'url,caption\nred.png,"red\n' + "x\n" * 10 + '"\n'
    (folder / "in.csv").write_text(begin + begin.partition("\n")[2] * 5)  # together more than 20 lines
    assert score(folder / "in.csv", folder / "out.csv", config).rows == 6
    (folder / "in.csv").write_text(begin + 'red.png,"red\n' + "x\n" * 50 + '"\n')
    said = r"row 2 of .*in.csv \(on lines 14 to \d+\) is not valid: it has more than 20 lines; if a quotation mark has been"
    with pytest.raises(TableError, match=said):
        score(folder / "in.csv", folder / "out2.csv", config)


def test_long_rows_may_have_more_delimiters_together(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("text_image_similarity.formats.text._SHORT", 10)
    monkeypatch.setattr("text_image_similarity.formats.text._ROW_DELIMITERS", 20)
    (folder / "in.csv").write_text("url,caption\n" + 'red.png,"red,,,,\n,,,,,,\n,,"\n' * 20)
    assert score(folder / "in.csv", folder / "out.csv").rows == 20


def test_rows_may_have_more_characters_together(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("text_image_similarity.formats.text._ROW_CHARACTERS", 50)
    (folder / "in.csv").write_text("url,caption\n" + 'red.png,"red\nred"\n' * 20)
    (folder / "in.jsonl").write_text('{"url": "red.png", "caption": "red"}\n' * 20)
    for name in ("in.csv", "in.jsonl"):
        assert score(folder / name, folder / "out.csv").rows == 20


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_encodings_and_line_ends(folder: Path, encoding: str, end: str) -> None:
    text = end.join(["url,caption", 'red.png,"red\n\N{SNOWMAN}"', "red.png,blue", ""])
    mark = "\ufeff" if encoding == "utf-16-be" else ""
    (folder / "in.csv").write_bytes((mark + text).encode(encoding))
    assert score(folder / "in.csv", folder / "out.csv").rows == 2
    rows = list(csv.reader(io.StringIO((folder / "out.csv").read_bytes().decode(), newline="")))
    assert [row[:3] for row in rows[1:]] == [["red.png", "red\n\N{SNOWMAN}", "1.0"], ["red.png", "blue", "0.0"]]


def test_columns_of_one_name_stay_and_are_refused_in_json(folder: Path) -> None:
    (folder / "in.csv").write_text("a,url,a,caption\n1,red.png,2,red\n")
    score(folder / "in.csv", folder / "out.tsv")
    assert (folder / "out.tsv").read_text().splitlines()[1] == "1\tred.png\t2\tred\t1.0\t"
    with pytest.raises(UsageError, match="JSON cannot have two columns named 'a'"):
        score(folder / "in.csv", folder / "out.jsonl")
    for source, target in [("in.csv", "once.parquet"), ("once.parquet", "twice.parquet")]:
        score(folder / source, folder / target, options=TableOptions(overwrite_column=True))
        with pq.ParquetFile(folder / target) as file:
            found = file.read()
        assert found.column_names == ["a", "url", "a", "caption", "similarity", "error"]
        assert [column.to_pylist() for column in found.columns[:4]] == [["1"], ["red.png"], ["2"], ["red"]]


def test_half_a_character_stays_in_json_and_is_refused_elsewhere(folder: Path) -> None:
    line = r'{"url": "red.png", "caption": "red", "note": "\ud800"}'
    (folder / "in.jsonl").write_text('{"url": "red.png", "caption": "red"}\n' * 4 + line)
    score(folder / "in.jsonl", folder / "out.jsonl")
    assert (folder / "out.jsonl").read_text().splitlines()[4].startswith(line[:-1])
    for name in ("out.csv", "out.parquet"):
        with pytest.raises(TableError, match="column 'note' in row 5 contains a lone surrogate"):
            score(folder / "in.jsonl", folder / name)
    (folder / "in.jsonl").write_text(r'{"url": "red.png", "caption": "red", "\ud800": 1}')
    score(folder / "in.jsonl", folder / "out.jsonl")
    for name in ("new.csv", "new.parquet"):
        with pytest.raises(UsageError, match=r"column '\\ud800' has a lone surrogate in its name"):
            score(folder / "in.jsonl", folder / name)


def test_parts_of_long_rows_are_shorter(folder: Path) -> None:
    """Memory is bounded by bytes too: a part ends with the row that takes it over 16 MiB."""
    long = "x" * (9 * 1024 * 1024)
    (folder / "in.csv").write_text("url,caption,note\n" + f"red.png,red,{long}\n" * 3)
    table = open_table(str(folder / "in.csv"))
    assert [len(rows) for rows in table.read(0, 100)] == [2, 1]


def test_parts_of_rows_with_many_values_are_shorter(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A short text in JSON may stand for a dictionary."""
    monkeypatch.setattr("text_image_similarity.formats.text.PART_SIZE", 1000)
    row = {"url": "red.png", "caption": "red", "note": [{}] * 4}
    (folder / "in.jsonl").write_text((json.dumps(row) + "\n") * 4)
    with tarfile.open(folder / "in.tar", "w") as shard:
        for number in range(4):
            data = json.dumps(row).encode()
            member = tarfile.TarInfo(f"{number}.json")
            member.size = len(data)
            shard.addfile(member, io.BytesIO(data))
    for name in ("in.jsonl", "in.tar"):
        table = open_table(str(folder / name))
        assert [len(rows) for rows in table.read(0, 100)] == [2, 2]


def test_a_row_of_json_has_so_many_values(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parse_json, "__kwdefaults__", {**(parse_json.__kwdefaults__ or {}), "most_parts": 9})
    row = {"url": "red.png", "caption": "red, red, red, red, red, red, red", "note": [1, 2, 3, 4, 5, 6]}
    (folder / "in.jsonl").write_text(json.dumps(row) + "\n")
    assert score(folder / "in.jsonl", folder / "out.csv").rows == 1
    row["note"] = [{}] * 7
    with (folder / "in.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
    with pytest.raises(TableError, match=r"row 2 of .*in.jsonl cannot be read: it has more than 9 commas and brackets"):
        score(folder / "in.jsonl", folder / "again.csv")


def test_parts_of_long_rows_are_shorter_in_parquet(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A text that the file holds once is in memory as often as it occurs, and counts so."""
    monkeypatch.setattr("text_image_similarity.formats.parquet.PART_SIZE", 1 << 20)
    rows = {"url": ["red.png"] * 300, "caption": ["red"] * 300, "note": ["x" * 10_000] * 300}
    pq.write_table(pa.table(rows), folder / "in.parquet", row_group_size=110)
    frame = pd.DataFrame(rows).astype({"note": "category"})
    frame.to_parquet(folder / "categories.parquet", row_group_size=110)
    for name in ("in.parquet", "categories.parquet"):
        table = open_table(str(folder / name))
        lengths = [len(part) for part in table.read(0, 1000)]
        assert lengths == [105, 105, 90]  # of 10,0xx bytes each
        assert [len(part) for part in table.read(105, 1000)] == lengths[1:]
        assert [len(part) for part in table.read(0, 40)] == [40] * 7 + [20]


@pytest.mark.parametrize("deep", [False, True])
def test_a_text_that_is_stored_once_is_not_made_for_all_rows_at_once(
    folder: Path, deep: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sixty texts of 10 kB come from 10 kB of the file, and never are more than what a part may have."""
    for module in ("parquet", "parquet_encodings"):
        monkeypatch.setattr(f"text_image_similarity.formats.{module}.PART_SIZE", 100_000)
    notes: list[Any] = ["x" * 10_000] * 60
    rows = {
        "url": ["red.png"] * 60,
        "caption": ["red"] * 60,
        "note": [[{"k": note}] for note in notes] if deep else notes,
    }
    pq.write_table(pa.table(rows), folder / "in.parquet", store_schema=False)
    made: list[int] = []
    kept, whole = parquet.ParquetTable._kept, parquet.ParquetTable._dense

    def as_stored(self: parquet.ParquetTable, batch: pa.RecordBatch) -> pa.RecordBatch:
        assert batch.nbytes < 100_000
        return kept(self, batch)

    def dense(self: parquet.ParquetTable, batch: pa.RecordBatch, file: str) -> pa.RecordBatch:
        made.append((found := whole(self, batch, file)).nbytes)
        return found

    monkeypatch.setattr(parquet.ParquetTable, "_kept", as_stored)
    monkeypatch.setattr(parquet.ParquetTable, "_dense", dense)
    found = [value for part in open_table(str(folder / "in.parquet")).read(0, 60) for value in part.column("note")]
    assert found == rows["note"]
    assert max(made) < 101_000
    assert len(made) < 10


@pytest.mark.parametrize("encoding", ["DELTA_BYTE_ARRAY", "a large dictionary"])
def test_texts_of_unknown_length_are_read_a_few_at_a_time(
    folder: Path, encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = {"url": ["red.png"] * 9, "caption": ["red"] * 9, "note": [f"{'x' * 10_000}{number}" for number in range(9)]}
    if encoding == "DELTA_BYTE_ARRAY":
        options: dict[str, Any] = {"use_dictionary": ["url"], "column_encoding": {"note": encoding}}
    else:
        options = {"compression": "none"}
        monkeypatch.setattr("text_image_similarity.formats.parquet_encodings._LOOKED_AT", 80_000)
    pq.write_table(pa.table(rows), folder / "in.parquet", **options)
    read: list[int] = []
    kept = parquet.ParquetTable._kept

    def count(self: parquet.ParquetTable, batch: pa.RecordBatch) -> pa.RecordBatch:
        read.append(batch.num_rows)
        return kept(self, batch)

    monkeypatch.setattr(parquet.ParquetTable, "_kept", count)
    (part,) = open_table(str(folder / "in.parquet")).read(0, 9)
    assert part.column("note") == rows["note"]
    assert max(read) == 4


def read_batches(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[pa.RecordBatch]:
    """Read a table, and return what was read of it at once."""
    read: list[pa.RecordBatch] = []
    kept = parquet.ParquetTable._kept

    def keep(self: parquet.ParquetTable, batch: pa.RecordBatch) -> pa.RecordBatch:
        read.append(batch)
        return kept(self, batch)

    monkeypatch.setattr(parquet.ParquetTable, "_kept", keep)
    table = open_table(str(folder / "in.parquet"))
    assert sum(map(len, table.read(0, 1000))) == table.row_count
    return read


def write_plain(path: Path, *groups: list[str]) -> None:
    """Write texts without dictionaries, each list into a row group of its own."""
    schema = pa.schema([("url", pa.string()), ("note", pa.string())])
    with pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=False, write_statistics=False) as file:
        for notes in groups:
            file.write_table(pa.table({"url": ["red.png"] * len(notes), "note": notes}, schema=schema))


def test_short_rows_in_other_row_groups_hide_no_long_ones(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("text_image_similarity.formats.parquet_encodings.PART_SIZE", 100_000)
    write_plain(folder / "in.parquet", ["x"] * 20_000, ["x" * 10_000] * 60)
    assert max(batch.nbytes for batch in read_batches(folder, monkeypatch)) < 101_000


def test_values_of_fixed_length_count_as_often_as_they_occur(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("text_image_similarity.formats.parquet_encodings.PART_SIZE", 100_000)
    notes = pa.array([b"x" * 10_000] * 60, pa.binary(10_000))
    pq.write_table(pa.table({"url": ["red.png"] * 60, "note": notes}), folder / "in.parquet")
    assert max(batch.nbytes for batch in read_batches(folder, monkeypatch)) < 101_000


def test_few_rows_of_a_row_group_that_is_compressed_a_lot_are_read_at_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The long rows may be among very many short ones."""
    monkeypatch.setattr("text_image_similarity.formats.parquet_encodings._LARGE_GROUP", 100_000)
    monkeypatch.setattr("text_image_similarity.formats.parquet_encodings._MOST_COMPRESSED", 100_000)
    write_plain(folder / "in.parquet", [*["x"] * 100, *["x" * 50_000] * 4])
    assert {batch.num_rows for batch in read_batches(folder, monkeypatch)} == {4}


def test_a_row_group_of_parquet_is_not_compressed_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("text_image_similarity.formats.parquet_encodings._LARGE_GROUP", 1_000_000)
    write_plain(tmp_path / "fits.parquet", ["x" * 10_000] * 90)
    write_plain(tmp_path / "long.parquet", ["x"], ["x" * 10_000] * 110)
    assert open_table(str(tmp_path / "fits.parquet")).row_count == 90
    with pytest.raises(
        TableError,
        match=r"column 'note' of .*long.parquet has 1,1\d\d,\d\d\d bytes, compressed to \d+, in a row group with",
    ):
        open_table(str(tmp_path / "long.parquet"))


def test_a_dictionary_counts_even_if_the_encodings_lack_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The footer's list of encodings is not needed to read a column."""
    monkeypatch.setattr("text_image_similarity.formats.parquet_encodings.PART_SIZE", 100_000)
    pq.write_table(pa.table({"url": ["red.png"] * 60, "note": ["x" * 10_000] * 60}), folder / "in.parquet")
    data, declared = (folder / "in.parquet").read_bytes(), bytes([0x35, 0, 2 * 3, 2 * 8])  # PLAIN, RLE, RLE_DICTIONARY
    assert data.count(declared) == 2
    (folder / "in.parquet").write_bytes(data.replace(declared, declared[:3] + declared[2:3]))
    assert pq.read_metadata(folder / "in.parquet").row_group(0).column(1).encodings == ("PLAIN", "RLE", "RLE")
    assert max(batch.nbytes for batch in read_batches(folder, monkeypatch)) < 101_000


def test_a_text_that_occurs_in_many_cells_is_in_memory_once() -> None:
    column = pa.DictionaryArray.from_arrays(pa.array([1, 0, None, 1, 1], pa.int8()), pa.array(["a b", "c d"]))
    found = list(each_value(pa.chunked_array([column.slice(1), column])))
    assert found == ["a b", None, "c d", "c d", "c d", "a b", None, "c d", "c d"]
    assert found[2] is found[3]


def test_a_cell_of_parquet_has_so_many_bytes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("text_image_similarity.formats.parquet._CELL_BYTES", 1000)
    monkeypatch.setattr("text_image_similarity.formats.parquet.PART_SIZE", 1000)
    image = make_png("red") + bytes(2000)  # has a limit of its own
    rows = {"url": [image] * 5, "caption": ["red"] * 5, "note": [["x" * 10] * 3] * 4 + [["x" * 300] * 4]}
    pq.write_table(pa.table(rows), folder / "in.parquet", row_group_size=3)
    with pytest.raises(
        TableError, match=r"column 'note' in row 5 of .*in.parquet has 1,200 bytes, more than 1,000; shorten it"
    ):
        score(folder / "in.parquet", folder / "out.parquet")
    pq.write_table(pa.table(rows).slice(0, 4), folder / "less.parquet", row_group_size=3)
    assert score(folder / "less.parquet", folder / "scored.parquet").scored == 4


@pytest.mark.parametrize(
    ("columns", "refused"),
    [
        ({f"note{i}": "x" * 300 for i in range(3)}, None),
        (
            {f"note{i}": "x" * 300 for i in range(4)},
            r"row 2 of .*in.parquet has 1,2\d\d bytes without its images, more than 1,000",
        ),
        ({f"image{i}": bytes(1000) for i in range(3)}, None),
        (
            {f"image{i}": bytes(1000) for i in range(4)},
            r"row 2 of .*in.parquet has 4,\d\d\d bytes, more than 4,000; leave out columns",
        ),
    ],
)
def test_a_row_of_parquet_has_so_many_bytes(
    folder: Path, columns: dict[str, Any], refused: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("text_image_similarity.formats.parquet._CELL_BYTES", 1000)
    monkeypatch.setattr("text_image_similarity.formats.parquet._ROW_BYTES", 4000)
    monkeypatch.setattr("text_image_similarity.formats.parquet.PART_SIZE", 500)
    rows = {"url": ["red.png"] * 2, "caption": ["red"] * 2, **{name: [None, value] for name, value in columns.items()}}
    pq.write_table(pa.table(rows), folder / "in.parquet")
    if refused is None:
        assert score(folder / "in.parquet", folder / "out.parquet").scored == 2
        return
    with pytest.raises(TableError, match=refused):
        score(folder / "in.parquet", folder / "out.parquet")


def test_lists_of_parquet_are_counted_before_they_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("text_image_similarity.formats.parquet._LIST_VALUES", 100)
    monkeypatch.setattr("text_image_similarity.formats.parquet._ROW_VALUES", 80)
    for name, note in (("fits", [[0] * 101, [0] * 59]), ("few", [[0] * 100]), ("long", [[0] * 160, [0]])):
        pq.write_table(pa.table({"url": ["a"] * len(note), "note": note}), tmp_path / f"{name}.parquet")
    assert open_table(str(tmp_path / "fits.parquet")).columns == open_table(str(tmp_path / "few.parquet")).columns
    with pytest.raises(
        TableError, match=r"column 'note' of .*long.parquet has 161 values in 2 rows, more than 80 per row"
    ):
        open_table(str(tmp_path / "long.parquet"))


def test_lists_that_take_hardly_any_bytes_of_parquet_are_counted_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("text_image_similarity.formats.parquet._PACKED_VALUES", 1000)
    for name, note in (("varied", [list(range(20_000)), []]), ("few", [[0] * 990, []]), ("equal", [[0] * 20_000, []])):
        pq.write_table(pa.table({"url": ["a"] * 2, "note": note}), tmp_path / f"{name}.parquet")
    assert open_table(str(tmp_path / "varied.parquet")).columns == open_table(str(tmp_path / "few.parquet")).columns
    with pytest.raises(
        TableError, match=r"column 'note' of .*equal.parquet has 20,001 values in \d+ bytes, more than 64 per byte"
    ):
        open_table(str(tmp_path / "equal.parquet"))


def test_rows_of_parquet_take_some_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count = 4_000_000

    def write(name: str, rows: int = count, **columns: pa.Array) -> str:
        pq.write_table(pa.table(columns), tmp_path / name, row_group_size=rows, max_rows_per_page=rows)
        return str(tmp_path / name)

    nothing = {name: pa.nulls(count, pa.string()) for name in ("url", "caption")}
    numbers = {**nothing, "id": pa.array([number // 8 for number in range(count)])}
    packed = write("packed.parquet", **nothing)
    assert open_table(packed).columns == ["url", "caption"]  # few enough that it does not matter
    monkeypatch.setattr("text_image_similarity.formats.parquet._MOST_PACKED_ROWS", 1_000_000)
    with pytest.raises(
        TableError, match=r"packed.parquet has 4,000,000 rows in [\d,]+ bytes, more than 1,024 per byte"
    ):
        open_table(packed)
    assert open_table(write("numbers.parquet", **numbers)).columns == ["url", "caption", "id"]
    constant = {"url": pa.repeat("red.png", count), "caption": pa.nulls(count, pa.string())}
    pq.write_table(pa.table(constant), tmp_path / "constant.parquet")  # in pages of ordinary lengths
    assert open_table(str(tmp_path / "constant.parquet")).columns == ["url", "caption"]


def test_rows_of_several_files_of_parquet_take_some_bytes_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("text_image_similarity.formats.parquet._MOST_PACKED_ROWS", 2_000_000)
    for name in "abc":
        table = pa.table({"url": pa.nulls(1_900_000, pa.string())})
        pq.write_table(table, tmp_path / f"{name}.parquet", row_group_size=1_900_000, max_rows_per_page=1_900_000)
    assert open_table(str(tmp_path / "a.parquet")).columns == ["url"]
    with pytest.raises(TableError, match=r"a.parquet and the 2 files like it have 5,700,000 rows"):
        open_table(str(tmp_path / "*.parquet"))


@pytest.mark.parametrize("nested", [pa.list_, lambda kind: pa.struct([("a", kind)])])
def test_columns_of_parquet_are_nested_so_deep(nested: Callable[[pa.DataType], pa.DataType], tmp_path: Path) -> None:
    kind = pa.int32()
    for depth in range(1, 302):
        kind = nested(kind)
        if depth in (100, 101, 301):
            table = pa.table({"url": ["a"], "note": pa.nulls(1, kind)})
            pq.write_table(table, tmp_path / f"{depth}.parquet", store_schema=False)
    assert open_table(str(tmp_path / "100.parquet")).columns == ["url", "note"]
    for name in ("101.parquet", "301.parquet"):
        with pytest.raises(
            TableError, match=rf"column 'note' of .*{name} is nested more than 100 levels deep; write the file"
        ):
            open_table(str(tmp_path / name))


def test_a_table_has_so_many_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("text_image_similarity.formats.columns._MOST_COLUMNS", 3)
    for number, fits in ((3, True), (4, False)):
        names = [f"c{number}" for number in range(number)]
        (tmp_path / "in.csv").write_text(",".join(names) + "\n")
        (tmp_path / "in.jsonl").write_text("".join(f'{{"{name}": 1}}\n' for name in names))
        pq.write_table(pa.table({name: [1] for name in names}), tmp_path / "in.parquet")
        for ending in ("csv", "jsonl", "parquet"):
            if fits:
                table = open_table(str(tmp_path / f"in.{ending}"))
                table.scan()
                assert len(table.columns) == number
                continue
            with pytest.raises(TableError, match=rf"in.{ending} has more than 3 columns; leave out"):
                open_table(str(tmp_path / f"in.{ending}")).scan()


def test_rows_of_empty_fields_end_a_part_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("text_image_similarity.formats.text.PART_SIZE", 800)
    (tmp_path / "in.csv").write_text("a" + "," * 99 + "\n" + ("," * 99 + "\n") * 3)
    parts = list(open_table(str(tmp_path / "in.csv")).read(0, 1000))
    assert [len(part) for part in parts] == [1, 1, 1]
    assert parts[0].nbytes == 800


def test_parquet_without_what_would_hide_the_new_columns(folder: Path) -> None:
    table = pa.table({"url": ["red.png"], "caption": ["red"]})
    with pq.ParquetWriter(folder / "in.parquet", table.schema, store_schema=False) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({"org.apache.spark.sql.parquet.row.metadata": "old", "kept": "yes"})
    score(folder / "in.parquet", folder / "out.parquet")
    assert set(pq.read_metadata(folder / "out.parquet").metadata) == {b"kept", b"ARROW:schema"}


def test_dictionaries_inside_other_types_can_be_read_back(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("text_image_similarity.formats.parquet_output._GROUP_ROWS", 1)
    deep = pa.StructArray.from_arrays([pa.array(list("abcd")).dictionary_encode()], ["k"])
    pq.write_table(
        pa.table({"url": ["red.png"] * 4, "caption": ["red"] * 4, "deep": deep}),
        folder / "in.parquet",
        row_group_size=2,
    )
    score(folder / "in.parquet", folder / "out.parquet")
    assert pq.read_table(folder / "out.parquet")["deep"].to_pylist() == [{"k": letter} for letter in "abcd"]


@pytest.mark.parametrize("start", range(12))
def test_reading_begins_anywhere(folder: Path, start: int) -> None:
    """Parts that begin at the same row are the same ones, whatever was read before."""
    rows = [{"url": f"{i}", "caption": "x", "kind": "ab"[i % 2]} for i in range(11)]
    frame = pd.DataFrame(rows)
    frame.to_csv(folder / "in.csv", index=False)
    frame.to_json(folder / "in.jsonl", orient="records", lines=True)
    frame.astype({"kind": "category"}).to_parquet(folder / "in.parquet", row_group_size=4)
    for name in ("in.csv", "in.jsonl", "in.parquet"):
        parts = list(open_table(str(folder / name)).read(start, 3))
        assert [value for part in parts for value in part.column("url")] == [row["url"] for row in rows[start:]]
        assert {len(part) for part in parts[:-1]} <= {3}
        if start < 8 and name == "in.parquet":
            assert parts[0].arrow().column(2).dictionary.to_pylist() == ["ab"[start % 2], "ab"[1 - start % 2]]


def test_two_colons_alone_make_no_url(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    Path("one::two.csv").write_text("url,caption\nred.png,red\n")
    assert score("one::two.csv", "three::four.csv").scored == 1
    assert Path("three::four.csv").exists()


def test_columns_are_there_once() -> None:
    check_columns(["url", "caption", "x", "x"], ["url", "caption"], "in.csv")
    for columns, message in (
        ([], "^in.csv is empty: it has neither rows nor columns$"),
        (
            ["url"],
            "^column 'caption' is missing from in.csv; it has the columns: url; name another one with --url-col or --caption-col ",
        ),
        (
            ["img", "txt"],
            "^columns 'url', 'caption' are missing from in.csv; it has the columns: img, txt; name another one with --url-col or "
            r"--caption-col \(col_url, col_text\)$",
        ),
        (["img", "captions"], r"^columns 'url', 'caption' are .*name another one .*; did you mean 'captions'\?$"),
        (["url", "caption", "url"], "^in.csv has two columns named 'url'; rename or drop one$"),
        (["caption"] * 3 + ["url"], "^in.csv has 3 columns named 'caption'; rename or drop one$"),
    ):
        with pytest.raises(UsageError, match=message):
            check_columns(columns, ["url", "caption"], "in.csv")


def test_columns_to_add_are_not_there() -> None:
    check_no_columns(["url", "Error"], ["similarity", "error"], "the dataset", "rename it")
    for columns, ignore_case, message in (
        (["url", "error"], False, "^the dataset already has a column 'error'; rename it$"),
        (["url", "Error"], True, "^the dataset already has a column 'Error'; rename it$"),
    ):
        with pytest.raises(UsageError, match=message):
            check_no_columns(columns, ["similarity", "error"], "the dataset", "rename it", ignore_case=ignore_case)


def test_json_has_no_nan() -> None:
    value = {1: math.nan, "a": [math.inf, (1.5, -math.inf)], "b": {"c": math.nan}, "d": True}
    assert without_nan(value) == {"1": None, "a": [None, [1.5, None]], "b": {"c": None}, "d": True}


@pytest.mark.parametrize("dictionary", [["a.b"], False])
def test_dropped_columns_of_parquet_are_not_read(folder: Path, dictionary: list[str] | bool) -> None:
    """Their pages are overwritten here, which only reading them would show."""
    rows = {
        "url": ["data:,x"] * 3,
        "a.b": ["secret"] * 3,
        "s": [{"b": "secret"}] * 3,
        "n": [1, 2, 3],
        "caption": ["red"] * 3,
    }
    source = folder / "dropped.parquet"
    pq.write_table(pa.table(rows), source, compression="none", use_dictionary=dictionary, write_statistics=False)
    data = bytearray(source.read_bytes())
    group = pq.ParquetFile(source).metadata.row_group(0)
    for chunk in (
        group.column(i) for i in range(group.num_columns) if group.column(i).path_in_schema in ("a.b", "s.b")
    ):
        start = chunk.dictionary_page_offset or chunk.data_page_offset
        data[start : start + chunk.total_compressed_size] = b"\xff" * chunk.total_compressed_size
    source.write_bytes(data)
    table = open_table(str(source), dropped=frozenset({"a.b", "s"}))
    assert [list(part.arrow().to_pydict().values()) for part in table.read(0, 9)] == [
        [*map(rows.get, ("url", "n", "caption"))]
    ]
    with pytest.raises(TableError):
        list(open_table(str(source)).read(0, 9))


def test_columns_whose_names_begin_alike_are_read_once(folder: Path) -> None:
    rows = {"a.b": ["1"], "url": ["data:,x"], "a": [{"b": "2"}], "caption": ["red"], "note": ["x"]}
    source = folder / "alike.parquet"
    pq.write_table(pa.table(rows), source)
    for dropped in ("note", "a", "a.b"):
        (part,) = open_table(str(source), dropped=frozenset({dropped})).read(0, 9)
        assert part.arrow().to_pydict() == {name: cells for name, cells in rows.items() if name != dropped}
