"""A run of the command line's engine in a process of its own: settings of Spark as JSON in, what happened as JSON out.

A Python worker is killed under a part, then under a DataFrame, and the engine is left while a part is in progress. Where a table
is named, it is scored first. Nothing of `conftest` is imported here, which would give this process a cache folder of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from tests.support.images import make_png
from tests.support.paths import ROOT
from tests.support.server import Server, response
from tests.support.spark_sessions import ENVIRONMENT, ON_LOOPBACK, SCHEMA, Row, faulty_rows, kill_a_worker, plain
from text_image_similarity import Config, Limits, Record, TableError, TextImageSimilarityError, score_pairs
from text_image_similarity.spark import SparkEngine, score_dataframe

# A busy machine may keep a server waiting.
CONFIG = Config(
    model="mini",
    batch_size=1,
    device="cpu",
    timeout_s=90,
    base_dir="/nowhere",
    limits=Limits(total_s=200, allow_private_addresses=True),
)


def start_job(conf: dict[str, str], *tables: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run this file with settings of Spark, and a Parquet table to score and where to, if any."""
    return subprocess.run(
        [sys.executable, "-m", "tests.support.spark_job", json.dumps(conf), *map(str, tables)],
        cwd=ROOT,
        env={**os.environ, **ENVIRONMENT, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def run_job(conf: dict[str, str], *tables: Path, **environment: str) -> dict[str, Any]:
    """Return what a job says, which must end well."""
    done = start_job(conf, *tables, **environment)
    assert done.returncode == 0, done.stderr[-3000:]
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def check_job(said: dict[str, Any]) -> None:
    """Compare what a job says with what is right on any Spark."""
    assert said["part"] == plain(score_pairs([Record.of(url, caption) for _, url, caption in faulty_rows(60)], CONFIG))
    red = [score for score, _ in said["part, killed"]["found"]]
    assert len(red) == 80
    assert said["part, killed"]["tries"] == said["frame, killed"]["tries"] == 2
    assert said["frame, killed"]["found"] == [[i, score, None] for i, score in enumerate(red)]
    assert "1 rows could not be scored on Spark" in said["left"]
    assert said["stopped"]


def killed(path: str, work: Callable[[list[Row]], Any]) -> Any:
    """Return what some work on pictures gives under which a worker is killed; each failed try asks for pictures again."""
    go_on = threading.Event()

    def answer(connection: Any, _: str) -> None:
        if sum(server.hits.values()) > 20:
            go_on.wait(60)
        connection.sendall(response(make_png("red")))

    with Server() as server, ThreadPoolExecutor(1) as threads:
        server.routes[path] = answer
        found = threads.submit(work, [(i, server.url(f"{path}?{i}"), f"wall {i}") for i in range(80)])
        server.wait_for(path, 20, 100)
        kill_a_worker(server.port)
        go_on.set()
        return {"found": found.result(), "tries": max(server.hits.values())}


def main(conf: dict[str, str], source: str = "", target: str = "") -> dict[str, Any]:
    from pyspark.sql import SparkSession

    said: dict[str, Any] = {}
    with SparkEngine({**ON_LOOPBACK, **conf}) as engine, Server() as silent, ThreadPoolExecutor(1) as threads:
        session = SparkSession.active()
        session.sparkContext.setLogLevel("OFF")
        said["master"] = session.sparkContext.master
        said["info"] = asdict(engine.start(CONFIG))
        said["at_once"] = engine.at_once

        def part(rows: list[Row]) -> list[tuple[float, str | None]]:
            return [
                (r.similarity if r.error is None else -9, r.error)
                for r in engine.score([Record.of(*r[1:]) for r in rows])
            ]

        def frame(rows: list[Row]) -> list[Any]:
            df = session.createDataFrame(rows, SCHEMA).repartition(2)
            return sorted([r.number, r.similarity, r.error] for r in score_dataframe(df, CONFIG).collect())

        if source:
            config = replace(CONFIG, batch_size=Config().batch_size, base_dir=Path(source).parent, retries=0)
            score_dataframe(session.read.parquet(source).repartition(7), config).write.parquet(target)
            said["executors"] = len(session.sparkContext._jsc.sc().statusTracker().getExecutorInfos())
        said["part"] = part(faulty_rows(60))
        said["part, killed"] = killed("/part", part)
        said["frame, killed"] = killed("/frame", frame)
        try:
            engine.start(Config(model="mini"))
            said["auto"] = "cpu"
        except TextImageSimilarityError as exc:
            said["auto"] = f"{type(exc).__name__}: {exc}"
        engine.start(CONFIG)
        silent.routes["/"] = silent.hang
        left = threads.submit(part, [(0, silent.url("/"), "a wall")])
        silent.wait_for("/", 1, 60)
        engine.__exit__()
        try:
            left.result()
        except TableError as exc:
            said["left"] = str(exc)
    said["stopped"] = session.sparkContext._jsc is None
    return said


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]), *sys.argv[2:])))  # noqa: T201 - read by the test
