"""The same numbers through every door: a table scored here, on Spark and by the service, equal to the last bit.

Ray's door is in `tests/ray_data/test_dataset.py`, which has a Ray running.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyspark
import pytest

from tests.support.faulty_table import Outcome, faulty_and_challenge_set, outcome
from tests.support.packages import zip_package
from tests.support.pages import blocks
from tests.support.paths import ROOT
from tests.support.server import Server
from tests.support.services import app_of, mini_settings, serving
from tests.support.spark_job import check_job, run_job
from text_image_similarity import Config, Limits, score_csv
from text_image_similarity.client import ServiceEngine

CONFIG = Config(model="mini", retries=0, limits=Limits(allow_private_addresses=True))


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with Server() as server:
        yield faulty_and_challenge_set(tmp_path_factory.mktemp("doors"), server)


@pytest.fixture(scope="module")
def here(table: Path) -> dict[int, Outcome]:
    """What `score_csv` gives."""
    out = table.parent / "here.parquet"
    summary = score_csv(table, out, CONFIG)
    found = outcome(out)
    assert len(found) == summary.rows == 751
    assert summary.scored > 500
    assert len(summary.failures) >= 12
    return found


@pytest.mark.extended
@pytest.mark.spark
def test_on_a_cluster_of_spark(table: Path, here: dict[int, Outcome], tmp_path: Path) -> None:
    """Two workers score a table, use the wheel they were sent and the GPU they were given, and may be killed."""
    script = tmp_path / "gpus.sh"
    script.write_text('#!/bin/sh\necho \'{"name": "gpu", "addresses": ["5"]}\'\n')
    script.chmod(0o755)
    resources = {f"spark.{who}.resource.gpu.amount": "1" for who in ("worker", "executor", "task")}
    scripts = {f"spark.{who}.resource.gpu.discoveryScript": str(script) for who in ("worker", "executor")}
    conf = {
        "spark.master": "local-cluster[2,1,1024]",
        "spark.submit.pyFiles": str(zip_package(tmp_path)),
        "spark.sql.execution.arrow.maxRecordsPerBatch": "70",
    }
    cache, out = tmp_path / "cache", tmp_path / "spark.parquet"
    spark = {"SPARK_HOME": str(Path(pyspark.__file__).parent), "XDG_CACHE_HOME": str(cache)}
    said = run_job({**conf, **resources, **scripts}, table, out, **spark)
    assert said["executors"] == 3  # the driver included
    assert outcome(out) == here
    assert (
        said["auto"]
        == "ConfigError: device='cuda:5' needs an NVIDIA or AMD GPU, but this process finds none; use auto or cpu"
    )
    assert (cache / "text-image-similarity" / "packaged").is_dir()  # copied out of the zip
    check_job(said)


def test_the_service_gives_the_same_numbers(table: Path, here: dict[int, Outcome]) -> None:
    out = table.parent / "service.parquet"
    with serving(app_of(mini_settings())) as client, ServiceEngine(str(client.base_url)) as engine:
        score_csv(table, out, Config(chunk_size=60), engine=engine)
    assert outcome(out) == here


PARTS = ("--chunk-size", "10", "--quiet")
COMMANDS = [line for block in blocks("distributed.md", "## The command line", "console") for line in block.splitlines()]


@pytest.mark.extended
@pytest.mark.parametrize("line", COMMANDS, ids=["spark", "ray"])
def test_the_command_gives_the_same_file(line: str, tmp_path: Path) -> None:
    prompt, program, score, table, out, *options = shlex.split(line)
    assert (prompt, program, score, options[:3]) == (
        "$",
        "text-image-similarity",
        "score",
        ["--model", "mini", "--engine"],
    )
    done = subprocess.run(
        [sys.executable, "-m", "text_image_similarity", "score", table, str(tmp_path / out), *options, *PARTS],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    score_csv(ROOT / table, tmp_path / "local.csv", Config(model="mini", chunk_size=10))
    assert (tmp_path / out).read_bytes() == (tmp_path / "local.csv").read_bytes()
