"""Files that are one table though they differ: in the order of their columns, and in the width of their types."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.images import inline, make_png
from text_image_similarity import Config, LocalEngine, TableError, score_csv
from text_image_similarity.encoders.testing import ColourEncoder
from text_image_similarity.formats import open_table
from text_image_similarity.formats.arrow_types import common_type
from text_image_similarity.tables import Summary

RED, BLUE = inline("red"), inline("blue")


def score(source: Path, target: Path) -> Summary:
    return score_csv(source, target, Config(files_under=source.parent), engine=LocalEngine(encoder=ColourEncoder()))


@pytest.mark.parametrize(
    ("one", "other", "together"),
    [
        (pa.string(), pa.large_string(), pa.large_string()),
        (pa.string_view(), pa.string(), pa.large_string()),
        (pa.dictionary(pa.int8(), pa.string()), pa.string(), pa.string()),
        (pa.binary(), pa.large_binary(), pa.large_binary()),
        (pa.int32(), pa.int64(), pa.int64()),
        (pa.uint8(), pa.int8(), pa.int16()),
        (pa.uint32(), pa.int32(), pa.int64()),
        (pa.float32(), pa.float64(), pa.float64()),
        (pa.decimal128(5, 2), pa.decimal128(9, 2), pa.decimal128(9, 2)),
        (pa.timestamp("s"), pa.timestamp("us"), pa.timestamp("us")),
        (pa.timestamp("ms", "UTC"), pa.timestamp("ns", "UTC"), pa.timestamp("ns", "UTC")),
        (pa.date32(), pa.date64(), pa.date64()),
        (pa.list_(pa.int32()), pa.large_list(pa.int64()), pa.large_list(pa.int64())),
        (pa.time32("ms"), pa.time64("us"), pa.time64("us")),
        (pa.duration("s"), pa.duration("ms"), pa.duration("ms")),
        (pa.list_(pa.int8(), 2), pa.list_(pa.int8(), 3), pa.list_(pa.int8())),
        (pa.map_(pa.string(), pa.int32()), pa.map_(pa.string(), pa.int64()), pa.map_(pa.string(), pa.int64())),
        (pa.struct([("n", pa.int8())]), pa.struct([("n", pa.int64())]), pa.struct([("n", pa.int64())])),
    ],
)
def test_types_that_differ_harmlessly_are_one_column(
    one: pa.DataType, other: pa.DataType, together: pa.DataType
) -> None:
    assert common_type(one, other) == together
    assert common_type(other, one) == together


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (pa.int64(), pa.uint64()),
        (pa.int64(), pa.float64()),
        (pa.string(), pa.int64()),
        (pa.string(), pa.binary()),
        (pa.bool_(), pa.int8()),
        (pa.timestamp("s"), pa.timestamp("s", "UTC")),
        (pa.timestamp("s"), pa.date32()),
        (pa.decimal128(5, 2), pa.decimal128(5, 3)),
        (pa.list_(pa.int32()), pa.list_(pa.string())),
    ],
)
def test_types_that_differ_in_their_values_are_not(one: pa.DataType, other: pa.DataType) -> None:
    assert common_type(one, other) is None
    assert common_type(other, one) is None


def test_the_types_of_a_file_without_rows_do_not_matter(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    for name, table in (
        ("a", {"url": pa.array([], pa.string()), "caption": pa.array([], pa.int8()), "n": pa.array([], pa.float64())}),
        ("b", {"url": [RED], "caption": ["red"], "n": [2**60]}),
    ):
        pq.write_table(pa.table(table), tmp_path / "t" / f"{name}.parquet")
    assert score(tmp_path / "t", tmp_path / "out.parquet").scored == 1
    assert pq.read_table(tmp_path / "out.parquet")["n"].to_pylist() == [2**60]


def test_times_and_structs_that_differ_harmlessly_keep_their_values(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    one = {"at": pa.array([0], pa.timestamp("ms", "UTC")), "s": pa.array([{"a": 1, "b": "x"}])}
    other = {"at": pa.array([1_000_000], pa.timestamp("us", "+00:00")), "s": pa.array([{"b": "y", "a": 2}])}
    for name, columns in (("a", one), ("b", other)):
        pq.write_table(pa.table({"url": [RED], "caption": ["red"], **columns}), tmp_path / "t" / f"{name}.parquet")
    score(tmp_path / "t", tmp_path / "out.parquet")
    found = pq.read_table(tmp_path / "out.parquet")
    assert found["s"].to_pylist() == [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]
    assert found["at"].cast(pa.int64()).to_pylist() == [0, 1_000_000]


def test_shards_that_differ_harmlessly_are_one_table(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    days = pa.array([0, 1], pa.timestamp("s"))
    columns = {
        "url": [RED, BLUE],
        "caption": ["red", "blue"],
        "n": pa.array([1, 2], pa.int32()),
        "day": days,
    }
    pq.write_table(pa.table(columns), tmp_path / "t" / "a.parquet")
    wide = {
        "day": pa.array([2_000_000, 3_000_000], pa.timestamp("us")),
        "n": pa.array([3, 2**40]),
        "caption": pa.array(["blue", "red"], pa.large_string()),
        "url": pa.array([BLUE, RED]).dictionary_encode(),
    }
    pq.write_table(pa.table(wide), tmp_path / "t" / "b.parquet")
    summary = score(tmp_path / "t", tmp_path / "out.parquet")
    found = pq.read_table(tmp_path / "out.parquet")
    assert (summary.scored, found["similarity"].to_pylist()) == (4, [1.0] * 4)
    assert found["n"].to_pylist() == [1, 2, 3, 2**40]
    assert found["day"].cast(pa.int64()).to_pylist() == [0, 1_000_000, 2_000_000, 3_000_000]
    assert found["caption"].to_pylist() == ["red", "blue", "blue", "red"]
    table = open_table(str(tmp_path / "t"), dropped=frozenset({"n"}))
    assert [row for part in table.read(3, 9) for row in part.column("url")] == [RED]


def test_a_value_that_the_common_type_cannot_hold_is_told_with_its_file(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    for name, value in (("a", pa.array([2**60], pa.timestamp("ms"))), ("b", pa.array([1], pa.timestamp("ns")))):
        pq.write_table(pa.table({"url": ["x"], "caption": ["y"], "at": value}), tmp_path / "t" / f"{name}.parquet")
    with pytest.raises(
        TableError,
        match=r"a\.parquet has a value that does not fit the type of its column in the other files",
    ):
        score(tmp_path / "t", tmp_path / "out.parquet")


def test_csv_files_may_have_their_columns_in_another_order(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    for colour in ("red", "blue"):
        (tmp_path / f"{colour}.png").write_bytes(make_png(colour))
    (tmp_path / "t" / "a.csv").write_text("url,caption,n\n../red.png,red,1\n")
    (tmp_path / "t" / "b.csv").write_text("n,url,caption\n2,../blue.png,blue\n")
    score(tmp_path / "t", tmp_path / "out.csv")
    rows = (tmp_path / "out.csv").read_text().splitlines()
    assert rows == ["url,caption,n,similarity,error", "../red.png,red,1,1.0,", "../blue.png,blue,2,1.0,"]
