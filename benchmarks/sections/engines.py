"""Score the same images with `score_pairs`, Spark and Ray Data, to measure what an engine costs on one machine.

Engines are warm: their workers are running, with the model loaded, before the clock starts. Ray Data starts its actors
again for every dataset, so its clock starts when the first actor begins its first part.
"""

from __future__ import annotations

import os
import re
import sys
import time
from typing import Any

import pyarrow as pa

from text_image_similarity import Config, Record, load_encoder, score_pairs

from ..inputs import ROOT, Row, read_rows, warm
from ..job import Job
from ..results import Options, Rounds, Section, at, markdown, mid, rate, ratios, spread
from ..scoring import MINI, VIT, config_of

CORES = 2
PART = 125  # rows per part; few, so that 2,000 rows make enough parts to keep two workers busy until the end
_NAMES = {VIT: "ViT-B/32", MINI: "mini"}
_LABELS = {
    "alone": "`score_pairs`",
    "spark": "`score_dataframe`, Spark `local[2]`",
    "ray": "`score_dataset`, Ray, 2 actors",
}


def alone(model: str, pairs: int) -> dict[str, Any]:
    """Time `score_pairs` in this process."""
    rows, spare, config = _inputs(model, pairs)
    began = time.perf_counter()
    encoder = load_encoder(config)
    list(score_pairs(_records(spare), config, encoder=encoder))
    started = time.perf_counter()
    errors = [result.error for result in score_pairs(_records(rows), config, encoder=encoder)]
    return _found(errors, pairs, time.perf_counter() - started, started - began)


def spark(model: str, pairs: int) -> dict[str, Any]:
    """Time `score_dataframe` in a local session with two cores."""
    from pyspark.sql import SparkSession

    from text_image_similarity.spark import score_dataframe

    os.environ["PYSPARK_PYTHON"] = sys.executable
    rows, spare, config = _inputs(model, pairs)
    began = time.perf_counter()
    builder = SparkSession.builder.master(f"local[{CORES}]").config("spark.ui.enabled", "false")
    session = (
        builder.config("spark.driver.host", "127.0.0.1").config("spark.executorEnv.PYTHONPATH", str(ROOT)).getOrCreate()
    )

    def score(some: list[Row]) -> list[str | None]:
        frame = session.createDataFrame([(row.url, row.caption) for row in some], "url string, caption string")
        return [row.error for row in score_dataframe(frame.repartition(CORES), config).select("error").collect()]

    score(spare)
    started = time.perf_counter()
    errors = score(rows)
    seconds = time.perf_counter() - started
    session.stop()
    return _found(errors, pairs, seconds, started - began)


def ray(model: str, pairs: int) -> dict[str, Any]:
    """Time `score_dataset` with an actor for each CPU."""
    import ray

    from text_image_similarity.ray_data import score_dataset

    rows, spare, config = _inputs(model, pairs)
    there = {"env_vars": {"PYTHONPATH": str(ROOT)}}
    began = time.perf_counter()
    ray.init(num_cpus=CORES, include_dashboard=False, log_to_driver=False, runtime_env=there)

    def score(some: list[Row]) -> Any:
        table = pa.table({"url": [row.url for row in some], "caption": [row.caption for row in some]})
        return score_dataset(ray.data.from_arrow(table), config, concurrency=CORES).materialize()

    score(spare)
    started = time.perf_counter()
    scored = score(rows)
    # Ray's own time for the operator, from the first actor's first row to the last actor's last row.
    seconds = re.search(r"MapBatches\(Scorer\): .*?produced in ([\d.]+)s", scored.stats())
    assert seconds is not None
    errors = [row["error"] for row in scored.take_all()]
    ray.shutdown()
    return _found(errors, pairs, float(seconds[1]), started - began)


def _inputs(model: str, pairs: int) -> tuple[list[Row], list[Row], Config]:
    """Return the rows to score, some rows to warm up with, and the settings."""
    rows = read_rows("pairs.csv", pairs)
    warm(rows)
    return rows, rows[-2 * PART :], config_of(model, chunk_size=PART)


def _records(rows: list[Row]) -> list[Record]:
    return [Record(row.url, row.caption) for row in rows]


def _found(errors: list[str | None], pairs: int, seconds: float, startup: float) -> dict[str, Any]:
    if len(errors) != pairs or any(errors):
        raise RuntimeError(f"{len(errors)} of {pairs} rows came back, with errors: {[e for e in errors if e][:3]}")
    return {"pairs": pairs, "seconds": seconds, "startup": startup}


def jobs(options: Options) -> list[Job]:
    return [
        Job(
            f"{engine} with {model}",
            f"benchmarks.sections.engines:{engine}",
            {"model": model, "pairs": options.engine_pairs},
        )
        for model in (VIT, MINI)
        for engine in _LABELS
    ]


def table(rounds: Rounds) -> str:
    lines = []
    for model, name in _NAMES.items():
        plain = rounds.get(f"alone with {model}", [])
        for engine, label in _LABELS.items():
            if found := rounds.get(f"{engine} with {model}"):
                ratio = "" if engine == "alone" else spread(ratios(found, plain))
                lines.append([name, label, f"{mid(found, rate):.1f}", ratio, f"{mid(found, at('startup')):.1f}"])
    return markdown(["model", "scored with", "pairs/s", "relative to `score_pairs`", "start-up, s"], lines, words=2)


SECTION = Section("engines", jobs, table)
