"""The command line's engine on Spark: on this machine, and on a cluster of two workers on this machine."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest

from tests.support.images import make_png
from tests.support.server import Server
from tests.support.spark_job import CONFIG
from tests.support.spark_sessions import faulty_rows, plain
from text_image_similarity import (
    Config,
    ConfigError,
    ModelError,
    ModelUnavailableError,
    Record,
    RunStats,
    ScoreResult,
    TableError,
    UsageError,
    load_encoder,
    score_pairs,
)
from text_image_similarity.spark import SparkEngine
from text_image_similarity.spark import session as sessions
from text_image_similarity.spark.engine import _advice
from text_image_similarity.spark.engine import _parts_at_once as parts
from text_image_similarity.spark.worker import load_task

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyspark.sql import SparkSession

pytestmark = pytest.mark.spark
RED = make_png("red")
RECORDS = [Record.of(url, caption) for _, url, caption in faulty_rows(60)]


@pytest.fixture
def engine(spark: SparkSession) -> Iterator[SparkEngine]:
    with SparkEngine({}) as opened:
        yield opened


def test_it_starts_with_what_the_worker_says_of_the_model(engine: SparkEngine) -> None:
    encoder = load_encoder(CONFIG)
    assert engine.start(CONFIG) == encoder.info
    assert engine.at_once == 4  # of two cores


@pytest.mark.parametrize(
    ("config", "kind"),
    [(Config(model="/no/model"), ModelUnavailableError), (Config(model="mini", device="cuda:7"), ConfigError)],
)
def test_what_keeps_the_model_from_loading_is_raised_here(engine: SparkEngine, config: Config, kind: type) -> None:
    with pytest.raises(kind) as there:
        engine.start(config)
    with pytest.raises(kind) as here:
        load_encoder(config)
    assert (type(there.value), str(there.value)) == (type(here.value), str(here.value))


def test_a_model_of_another_family_is_a_model_error(engine: SparkEngine, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ModelError) as there:  # of a private subclass, in the worker
        engine.start(Config(model=tmp_path))
    with pytest.raises(ModelError) as here:
        load_encoder(Config(model=tmp_path))
    assert str(there.value) == str(here.value)


@pytest.mark.extended
def test_parts_from_several_threads_get_the_scores_of_score_pairs(engine: SparkEngine) -> None:
    odd = [
        Record(RECORDS[0].url, "half a character \ud800"),
        Record.of(None, "a"),
        Record.of(Path("missing\udcff.png"), "a"),
        Record.of(["no text"], {"no": "text"}),
        *(
            Record(image, "red")
            for image in (RED, {"bytes": RED, "path": None}, memoryview(RED), b"", b"a.jpg", RED[:50])
        ),
    ]
    parts = [[*RECORDS, *odd], RECORDS[10:50], odd, RECORDS[::-1], []]
    engine.start(CONFIG)
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(engine.score, parts))
    assert [plain(part) for part in found] == [plain(score_pairs(part, CONFIG)) for part in parts]
    assert isinstance(found[0][0], ScoreResult)


def test_captions_that_were_cut_are_counted_with_their_part(engine: SparkEngine) -> None:
    engine.start(CONFIG)
    good, *_ = (
        record for record, result in zip(RECORDS, score_pairs(RECORDS, CONFIG), strict=True) if not result.error
    )
    long = Record(good.url, "a red square " * 100)
    stats, parts = RunStats(), [[(0, long), (0, good), (0, Record.of(None, "a"))], [(1, good)], [(2, long), (2, long)]]
    found = [(tag, stats.captions_cut) for tag, _ in engine.score_parts(parts, stats)]
    assert found == [(0, 1)] * 3 + [(1, 1)] + [(2, 3)] * 2


@pytest.mark.extended
def test_what_spark_cannot_get_over_ends_the_run_with_its_reason(engine: SparkEngine, tmp_path: Path) -> None:
    engine.start(Config(model="mini", embedding_cache=tmp_path))  # a folder, which nobody opened yet
    with pytest.raises(
        TableError, match=rf"a part of 1 rows .*: .*ConfigError: .*{tmp_path}.*run the same command again"
    ) as raised:
        engine.score(RECORDS[:1])
    assert raised.value.__cause__ is not None


def test_a_session_that_was_there_stays_and_parts_in_work_are_ended(spark: SparkSession, server: Server) -> None:
    server.routes["/"] = server.hang
    with SparkEngine({}) as engine, ThreadPoolExecutor(1) as threads:
        engine.start(CONFIG)
        left = threads.submit(engine.score, [Record(server.url("/"), "a wall")])
        server.wait_for("/", 1, 60)
        engine.__exit__()
        with pytest.raises(TableError, match="cancelled"):
            left.result()
    assert spark.range(3).count() == 3


LOOPBACK = {"spark.driver.bindAddress": "127.0.0.1", "spark.driver.host": "127.0.0.1", "spark.ui.enabled": "false"}
ALONE = {"spark.master": "local[*,4]", **LOOPBACK}
TWO = {"spark.master": "local[2]"}


def test_a_spark_that_is_gone_fails_the_table_and_is_left_quietly(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone:
        def __getattr__(self, name: str) -> Any:
            raise ConnectionRefusedError("nobody listens")

    monkeypatch.setattr("text_image_similarity.spark.engine.open_session", lambda _: (Gone(), True))
    with SparkEngine({}) as engine:
        with pytest.raises(TableError, match="the model cannot be loaded on Spark: nobody listens"):
            engine.start(CONFIG)
        with pytest.raises(TableError, match="a part of 60 rows could not be scored on Spark: nobody listens"):
            engine.score(RECORDS)


@pytest.mark.parametrize(
    ("conf", "environment", "settings"),
    [
        ({}, {}, ALONE),
        ({"spark.executor.memory": "2g"}, {}, {"spark.executor.memory": "2g", **ALONE}),
        (TWO, {}, {**LOOPBACK, **TWO}),
        ({**TWO, "spark.ui.enabled": "true"}, {}, {**LOOPBACK, **TWO, "spark.ui.enabled": "true"}),
        ({}, {"MASTER": "local[2]"}, {**LOOPBACK, **TWO}),
        ({"spark.master": "yarn"}, {}, {"spark.master": "yarn"}),
        ({"spark.remote": "sc://host.example"}, {}, {"spark.remote": "sc://host.example"}),
        ({}, {"MASTER": "yarn"}, {}),
        ({}, {"SPARK_REMOTE": "sc://host.example"}, {}),
        ({}, {"PYSPARK_GATEWAY_PORT": "1"}, {}),
        ({}, {"PYSPARK_SUBMIT_ARGS": "--master yarn pyspark-shell"}, {}),
        ({}, {"SPARK_CONF_DIR": "conf"}, {}),
        (TWO, {"SPARK_CONF_DIR": "conf"}, {**LOOPBACK, **TWO}),
        ({}, {"SPARK_HOME": "home"}, {"spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1"}),
        ({}, {"SPARK_HOME": "empty"}, ALONE),
    ],
)
def test_what_somebody_chose_is_kept_and_on_this_machine_nothing_listens_beyond_it(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    conf: dict[str, str],
    environment: dict[str, str],
    settings: dict[str, str],
) -> None:
    for folder, text in {
        "conf": "# none\n spark.master  yarn\n",
        "home/conf": "spark.master=local[2]\nspark.ui.enabled true\nspark.empty\n",
    }.items():
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "spark-defaults.conf").write_text(text)
    monkeypatch.chdir(tmp_path)
    for name in (
        "MASTER",
        "SPARK_REMOTE",
        "PYSPARK_GATEWAY_PORT",
        "PYSPARK_SUBMIT_ARGS",
        "SPARK_CONF_DIR",
        "SPARK_HOME",
    ):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert {k: v for k, v in sessions._settings(conf).items() if k not in sessions._QUIET} == settings


def test_a_name_that_is_no_setting_of_spark_is_refused() -> None:
    with pytest.raises(UsageError, match=r"'concurrency' is not a Spark setting.*'spark.'"):
        SparkEngine({"spark.master": "local[2]", "concurrency": "8"})


def test_settings_that_come_too_late_are_named(spark: SparkSession, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("WARNING", "text_image_similarity"), SparkEngine({"spark.task.cpus": "2"}):
        assert "settings that were not applied: spark.task.cpus" in caplog.text


def test_two_parts_for_each_task_are_in_work_up_to_a_limit() -> None:
    found = [parts(*each) for each in ((8, None), (8, "1"), (8, "3"), (8, "16"), (1000, "1"))]
    assert found == [16, 16, 4, 2, 256]


def test_a_part_that_is_too_large_for_a_task_names_the_way_out() -> None:
    # Spark's own words
    failure = RuntimeError(
        "Job aborted due to stage failure: Serialized task 3:0 was 140000000 bytes, which exceeds max allowed: "
        "spark.rpc.message.maxSize (134217728 bytes). Consider increasing spark.rpc.message.maxSize or using broadcast "
        "variables for large values."
    )
    assert "smaller --chunk-size" in _advice(failure)
    assert "chunk-size" not in _advice(RuntimeError("the executor is gone"))


def test_files_that_a_worker_needs_are_read_before_the_run() -> None:
    asked = pa.RecordBatch.from_pydict({"number": [0]})
    for config, name in ((Config(ca_file="/none"), "ca_file"), (Config(headers_file="/none"), "headers_file")):
        found = json.loads(next(load_task(iter([asked]), config)).column("found")[0].as_py())
        assert found["kind"] == "ConfigError"
        assert found["message"].startswith(f"{name}=/none cannot be ")
