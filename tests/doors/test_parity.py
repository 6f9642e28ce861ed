"""The same numbers through every door: a table scored here, on Spark, on Ray and by the service, equal to the last bit."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from tests.support.faulty_table import faulty_table
from tests.support.pages import blocks
from tests.support.paths import ROOT, copy_challenge_set
from tests.support.server import Server
from tests.support.services import app_of, mini_settings, serving
from text_image_similarity import Config, Limits, score_csv
from text_image_similarity.client import ServiceEngine

CONFIG = Config(model="mini", retries=0, limits=Limits(allow_private_addresses=True))


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A Parquet file (id, url, caption) of 700 rows with faults and the challenge set; relative URLs start from its folder."""
    folder = tmp_path_factory.mktemp("doors")
    copy_challenge_set(folder)
    with Server() as server:
        faulty = pq.read_table(faulty_table(folder, 700, server))
        challenge = pyarrow.csv.read_csv(ROOT / "challenge_set.csv")
        challenge = challenge.add_column(0, "id", pa.array(range(700, 700 + len(challenge)), pa.int64()))
        pq.write_table(pa.concat_tables([faulty, challenge]), folder / "both.parquet")
        yield folder / "both.parquet"


@pytest.fixture(scope="module")
def here(table: Path) -> dict[int, tuple[float | None, str | None]]:
    """What `score_csv` gives."""
    out = table.parent / "here.parquet"
    summary = score_csv(table, out, CONFIG)
    found = outcome(out)
    assert len(found) == summary.rows == 751
    assert summary.scored > 500
    assert len(summary.failures) >= 12
    return found


def outcome(path: Path) -> dict[int, tuple[float | None, str | None]]:
    """Return similarity and error code by row."""
    found = pq.read_table(path, columns=["id", "similarity", "error"]).to_pylist()
    assert max(Counter(row["id"] for row in found).values()) == 1
    return {row["id"]: (row["similarity"], row["error"] and row["error"].partition(":")[0]) for row in found}


def test_spark_gives_the_same_numbers(table: Path, here: dict[int, tuple[float | None, str | None]]) -> None:
    import pyspark

    out = table.parent / "spark.parquet"
    arguments = ["local-cluster[2,1,1024]", str(table), str(out), str(table.parent), "7"]
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PYSPARK_PYTHON": sys.executable,
        "SPARK_HOME": str(Path(pyspark.__file__).parent),
        "SPARK_LOCAL_IP": "127.0.0.1",
    }
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.parity_on_spark", *arguments],
        cwd=table.parent,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "executors, driver included: 3" in done.stdout
    assert outcome(out) == here


def test_ray_gives_the_same_numbers(table: Path, here: dict[int, tuple[float | None, str | None]]) -> None:
    out = table.parent / "ray.parquet"
    program = (
        "import sys, ray\n"
        "from text_image_similarity import Config, Limits\n"
        "from text_image_similarity.ray_data import score_dataset\n"
        "source, target, base_dir = sys.argv[1:]\n"
        "ray.init(num_cpus=2, include_dashboard=False)\n"
        "config = Config(model='mini', base_dir=base_dir, retries=0, limits=Limits(allow_private_addresses=True))\n"
        "pairs = ray.data.read_parquet(source).repartition(7)\n"
        "score_dataset(pairs, config, batch_size=60).write_parquet(target)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(table), str(out), str(table.parent)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert outcome(out) == here


def test_the_service_gives_the_same_numbers(table: Path, here: dict[int, tuple[float | None, str | None]]) -> None:
    out = table.parent / "service.parquet"
    with serving(app_of(mini_settings())) as client, ServiceEngine(str(client.base_url)) as engine:
        score_csv(table, out, Config(chunk_size=60), engine=engine)
    assert outcome(out) == here


PARTS = ("--chunk-size", "10", "--quiet")
COMMANDS = [line for block in blocks("distributed.md", "## The command line", "console") for line in block.splitlines()]


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
