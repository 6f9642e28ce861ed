"""Spark: the same scores as `score_pairs`, whatever the partitions and the batches, and whatever happens to a worker."""

from __future__ import annotations

import datetime
import os
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest
from pyspark import TaskContext
from pyspark.errors import PythonException
from pyspark.resource import ResourceInformation
from pyspark.sql import types as T
from pyspark.sql.functions import expr

from tests.support.images import make_png
from tests.support.pages import probability_line
from tests.support.server import Server, response
from tests.support.spark_sessions import SCHEMA, faulty_rows, kill_a_worker
from text_image_similarity import (
    Config,
    ConfigError,
    InputTypeError,
    Limits,
    Record,
    UsageError,
    load_calibration,
    score_pairs,
)
from text_image_similarity.encoders import model_folder
from text_image_similarity.spark import score_dataframe, similarity_udf, worker

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

# Pictures and captions encoded one at a time have the same last digits in whatever company.
ALONE = Config(model="mini", batch_size=1, base_dir=Path("/nowhere"))
# A busy machine may keep a server waiting.
LOOPBACK = Config(model="mini", batch_size=1, timeout_s=90, limits=Limits(total_s=200, allow_private_addresses=True))
ROWS = faulty_rows(80)
NO_PICTURE = "not_an_image: the content is text"


@pytest.fixture(scope="module")
def expected() -> dict[int, tuple[float | None, str | None]]:
    results = score_pairs([Record.of(url, caption) for _, url, caption in ROWS], ALONE)
    return {i: (None if r.error else r.similarity, r.error) for i, r in enumerate(results)}


def found(scored: DataFrame) -> dict[int, tuple[float | None, str | None]]:
    rows = scored.collect()
    assert len(rows) == len({row.number for row in rows})
    return {row.number: (row.similarity, row.error) for row in rows}


@pytest.mark.parametrize(
    ("partitions", "records"), [(1, 10_000), pytest.param(3, 10, marks=pytest.mark.extended), (7, 1)]
)
def test_scores_do_not_depend_on_partitions_and_batches(
    spark: SparkSession, expected: dict[int, Any], partitions: int, records: int
) -> None:
    spark.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", records)
    df = spark.createDataFrame(ROWS, SCHEMA).repartition(partitions)
    assert found(score_dataframe(df, ALONE)) == expected
    spark.conf.unset("spark.sql.execution.arrow.maxRecordsPerBatch")
    assert len({error.partition(":")[0] for _, error in expected.values() if error}) == 6


def test_sql_gives_the_same_scores(spark: SparkSession, expected: dict[int, Any]) -> None:
    spark.udf.register("similarity", similarity_udf(ALONE))
    spark.createDataFrame(ROWS, SCHEMA).repartition(3).createOrReplaceTempView("pairs")
    scored = spark.sql("SELECT *, s.similarity, s.error FROM (SELECT *, similarity(url, caption) AS s FROM pairs)")
    assert found(scored) == expected


def test_sql_scores_each_row_once(spark: SparkSession, server: Server) -> None:
    server.routes["/p"] = response(make_png("red"))
    spark.udf.register("similarity", similarity_udf(LOOPBACK))
    rows = [(i, server.url(f"/p?{i}"), f"wall {i}") for i in range(40)]
    spark.createDataFrame(rows, SCHEMA).repartition(2).createOrReplaceTempView("pairs")
    scored = spark.sql(
        "SELECT number, s.similarity, s.error FROM (SELECT *, similarity(url, caption) AS s FROM pairs) "
        "WHERE s.similarity > -2 AND s.similarity < 2 AND number < 30"
    )
    assert len(found(scored)) == 30
    assert set(server.hits.values()) == {1}


def test_other_columns_pass_as_they_are(spark: SparkSession) -> None:
    moment = datetime.datetime(2020, 3, 29, 2, 30, 0, 123456)
    columns: list[tuple[str, T.DataType, Any]] = [
        ("url", T.StringType(), "data:,x"),
        ("caption", T.StringType(), "a wall"),
        ("big", T.LongType(), 2**53 + 1),
        ("byte", T.ByteType(), -128),
        ("float", T.FloatType(), 0.5),
        ("flag", T.BooleanType(), False),
        ("decimal", T.DecimalType(38, 10), Decimal("1.2300000001")),
        ("day", T.DateType(), datetime.date(1, 1, 1)),
        ("wall clock", T.TimestampNTZType(), moment),
        ("moment", T.TimestampType(), moment),
        ("span", T.DayTimeIntervalType(), datetime.timedelta(days=1, microseconds=7)),
        ("bytes", T.BinaryType(), bytearray(b"\0\xff")),
        ("array", T.ArrayType(T.LongType()), [1, None, 2**53 + 1]),
        ("map", T.MapType(T.StringType(), T.ArrayType(T.DateType())), {"k": [datetime.date(2020, 1, 1)], "none": None}),
        (
            "struct",
            T.StructType().add("a", T.StringType()).add("b", T.StructType().add("c", T.ShortType())),
            ("x", (1,)),
        ),
        ("void", T.NullType(), None),
        ("with.dot", T.StringType(), "ä\0\U0001f600"),
        ("with`tick", T.StringType(), ""),
        ("twice", T.IntegerType(), 1),
        ("twice", T.StringType(), "2"),
    ]
    fields = [T.StructField(name, kind, True, {"note": name}) for name, kind, _ in columns]
    values = tuple(value for *_, value in columns)
    empty = ("data:,x", "a wall", *([None] * (len(columns) - 2)))
    df = spark.createDataFrame([values, empty, values], T.StructType(fields)).repartition(5)  # some are without rows
    variants = df.selectExpr("`url`", "`caption`", "parse_json('{\"a\": [1]}') AS variant")
    for frame in (df, variants):
        scored = score_dataframe(frame, ALONE)
        assert scored.schema.fields[: len(frame.columns)] == frame.schema.fields
        assert [field.metadata for field in scored.schema][:-2] == [field.metadata for field in frame.schema]
        assert scored.columns == [*frame.columns, "similarity", "error"]
        before, after = (sorted(map(repr, map(tuple, f.collect()))) for f in (frame, scored))
        assert [row[:-1] + f", None, {NO_PICTURE!r})" for row in before] == after


def test_another_kind_of_frame_is_named() -> None:
    with pytest.raises(
        InputTypeError,
        match=r"df must be a Spark DataFrame, not a pyarrow Table; create one with spark.createDataFrame",
    ):
        score_dataframe(pa.table({"url": ["a"], "caption": ["b"]}), ALONE)


def test_a_frame_without_rows_has_the_columns(spark: SparkSession) -> None:
    scored = score_dataframe(spark.createDataFrame([], SCHEMA), ALONE)
    assert scored.dtypes[3:] == [("similarity", "double"), ("error", "string")]
    assert scored.collect() == []


def test_numbers_are_texts(spark: SparkSession) -> None:
    df = spark.sql("SELECT 'data:,x' AS u, 7 AS c UNION ALL SELECT 'data:,x', NULL")
    errors = {row.error for row in score_dataframe(df, ALONE, col_url="u", col_text="c").collect()}
    assert errors == {NO_PICTURE, "empty_caption: the caption is empty or missing"}


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("SELECT 1 AS x", "columns 'url', 'caption' are missing from the DataFrame; it has the columns: x"),
        ("SELECT '' AS url, '' AS url, '' AS caption", "the DataFrame has two columns named 'url'"),
        ("SELECT '' AS url, '' AS caption, 1 AS Similarity", "already has a column 'Similarity'"),
        ("SELECT '' AS url, X'00' AS caption", "column 'caption' is of type binary, not string; cast it"),
        (
            "SELECT array(X'00') AS url, '' AS caption",
            "column 'url' is of type array<binary>, not string, binary or a struct",
        ),
        (
            "SELECT struct('a.jpg' AS src) AS url, '' AS caption",
            "column 'url' is of type struct<src:string>, not string",
        ),
        ("SELECT '' AS url, array('') AS caption", "column 'caption' is of type array<string>"),
        ("SELECT '' AS url, date'2020-01-01' AS caption", "column 'caption' is of type date"),
        ("SELECT '' AS url, '' AS caption, INTERVAL 1 YEAR AS y", r"drop or cast 'y' \(interval year\)"),
    ],
)
def test_a_frame_that_cannot_be_scored_is_refused_at_once(spark: SparkSession, query: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        score_dataframe(spark.sql(query), ALONE)


def test_images_in_columns_are_scored_like_files(spark: SparkSession, tmp_path: Path) -> None:
    red = make_png("red")
    (tmp_path / "red.png").write_bytes(red)
    rows = [
        ("red.png", red, (red, None), "red"),
        (None, None, (None, None), "red"),
        ("none.png", b"a.jpg", (b"", "none.png"), "red"),
    ]
    kinds: list[tuple[str, T.DataType]] = [("url", T.StringType()), ("data", T.BinaryType())]
    kinds += [
        ("image", T.StructType().add("bytes", T.BinaryType()).add("path", T.StringType())),
        ("caption", T.StringType()),
    ]
    df = spark.createDataFrame(rows, T.StructType([T.StructField(name, kind) for name, kind in kinds])).coalesce(1)
    config = Config(model="mini", batch_size=1, base_dir=tmp_path)
    (expected,) = score_pairs([Record(red, "red")], config)
    spark.udf.register("similarity", similarity_udf(config))
    df.createOrReplaceTempView("images")
    for name, last in (("url", "file_not_found"), ("data", "not_an_image"), ("image", "file_not_found")):
        sql = spark.sql(f"SELECT s.* FROM (SELECT similarity({name}, caption) AS s FROM images)")
        for scored in (score_dataframe(df, config, col_url=name), sql):
            found = [(row.similarity, (row.error or "").partition(":")[0]) for row in scored.collect()]
            assert found == [(expected.similarity, ""), (None, "invalid_url"), (None, last)]


def test_names_that_differ_in_case_are_others_where_spark_says_so(spark: SparkSession) -> None:
    spark.conf.set("spark.sql.caseSensitive", "true")
    df = score_dataframe(spark.sql("SELECT 'data:,x' AS url, 'a' AS caption, 1 AS Error"), ALONE)
    assert [row.error for row in df.collect()] == [NO_PICTURE]
    spark.conf.unset("spark.sql.caseSensitive")


def test_the_function_refuses_what_pandas_would_spoil(spark: SparkSession) -> None:
    spark.udf.register("similarity", similarity_udf(ALONE))
    with pytest.raises(PythonException, match=r"takes strings .*, not 5; use CAST"):
        spark.sql("SELECT similarity('data:,x', 5)").collect()
    (row,) = spark.sql("SELECT similarity('data:,x', CAST(5 AS STRING)) AS s, similarity(NULL, 'a') AS none").collect()
    assert tuple(row.s) == (None, NO_PICTURE)
    assert tuple(row.none) == (None, "invalid_url: the image is empty or missing")


def test_why_a_model_cannot_be_loaded_reaches_the_driver(spark: SparkSession) -> None:
    df = spark.createDataFrame(ROWS[:1], SCHEMA)
    with pytest.raises(PythonException, match="ModelNameError: model folder /no/model does not exist"):
        score_dataframe(df, Config(model="/no/model")).collect()


def test_a_worker_loads_a_model_once(spark: SparkSession) -> None:
    config = Config(model="mini", timeout_s=9.75)

    def loads(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for _ in batches:
            before = worker._encoder.cache_info().misses
            with ThreadPoolExecutor(2) as threads:
                first, second = threads.map(worker.encoder_for, [config, config])
            assert first is second
            yield pa.RecordBatch.from_pydict(
                {"process": [os.getpid()], "loads": [worker._encoder.cache_info().misses - before]}
            )

    by_process: Counter[int] = Counter()
    for row in spark.range(0, 8, 1, 8).mapInArrow(loads, "process long, loads long").collect():
        by_process[row.process] += row.loads
    assert set(by_process.values()) == {1}


def test_a_model_folder_that_was_written_since_is_loaded_again(tmp_path: Path) -> None:
    for path in model_folder("mini").iterdir():
        (tmp_path / path.name).symlink_to(path)
    config = Config(model=tmp_path, backend="torch")
    first = worker.encoder_for(config)
    assert worker.encoder_for(config) is first
    (tmp_path / "note.txt").touch()
    again = worker.encoder_for(config)
    assert again is not first
    (tmp_path / "gone.txt").symlink_to(tmp_path / "nowhere")
    assert worker.encoder_for(config) is again


def test_downloads_go_on_across_arrow_batches(spark: SparkSession, server: Server) -> None:
    together = threading.Barrier(6, timeout=60)  # of which six Arrow batches have one row each

    def answer(connection: Any, _: str) -> None:
        together.wait()
        connection.sendall(response(make_png("red")))

    server.routes["/p"] = answer
    spark.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", 1)
    rows = [(i, server.url(f"/p?{i}"), "a wall") for i in range(6)]
    scored = found(score_dataframe(spark.createDataFrame(rows, SCHEMA).coalesce(1), LOOPBACK))
    spark.conf.unset("spark.sql.execution.arrow.maxRecordsPerBatch")
    assert [error for _, error in scored.values()] == [None] * 6


def test_a_worker_that_is_killed_costs_no_row(spark: SparkSession, server: Server) -> None:
    go_on = threading.Event()

    def answer(connection: Any, _: str) -> None:
        if sum(server.hits.values()) > 20:
            go_on.wait(60)
        connection.sendall(response(make_png("red")))

    server.routes["/p"] = answer
    rows = [(i, server.url(f"/p?{i}"), f"wall {i}") for i in range(80)]
    df = score_dataframe(spark.createDataFrame(rows, SCHEMA).repartition(2), LOOPBACK)
    with ThreadPoolExecutor(1) as threads:
        scored = threads.submit(found, df)
        server.wait_for("/p", 20, 60)
        kill_a_worker(server.port)
        go_on.set()
        after_the_kill = scored.result()
    assert max(server.hits.values()) == 2  # a task was run again
    results = score_pairs([Record(url, caption) for _, url, caption in rows], LOOPBACK)
    assert after_the_kill == {i: (r.similarity, None) for i, r in enumerate(results)}


@pytest.mark.parametrize(
    ("visible", "address", "device"),
    [(None, "1", "cuda:1"), ("2,3", "3", "cuda:1"), ("GPU-a,GPU-b", "GPU-b", "cuda:1")],
)
def test_a_task_takes_the_gpu_that_spark_gave_it(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, address: str, device: str
) -> None:
    give_gpu(monkeypatch, visible, address)
    assert worker.placed(Config(model="mini")) == Config(model="mini", device=device)
    assert worker.placed(Config(model="mini", device="cpu")).device == "cpu"


def test_a_gpu_that_the_process_does_not_see_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    give_gpu(monkeypatch, None, "GPU-b")
    with pytest.raises(ConfigError, match="GPU-b"):
        worker.placed(Config(model="mini"))


def give_gpu(monkeypatch: pytest.MonkeyPatch, visible: str | None, address: str) -> None:
    class Task:
        def resources(self) -> dict[str, ResourceInformation]:
            return {"gpu": ResourceInformation("gpu", [address])}

    monkeypatch.setattr(TaskContext, "get", Task)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)


def test_without_pyspark_the_pip_command_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("text_image_similarity.system.find_spec", lambda _: None)
    nothing: Any = None
    for call in (lambda: similarity_udf(ALONE), lambda: score_dataframe(nothing, ALONE)):
        with pytest.raises(ConfigError, match=r'pip install "\.\[spark\]"'):
            call()


def test_the_line_for_probabilities_adds_the_column(spark: SparkSession) -> None:
    curve = load_calibration("mini")
    scored = spark.createDataFrame([(0.3,), (None,)], "similarity double")
    found = eval(probability_line("Spark"), {"curve": curve, "scored": scored, "expr": expr}).collect()
    assert found[0].probability == pytest.approx(float(curve.probability(0.3)))
    assert found[1].probability is None
