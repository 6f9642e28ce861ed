"""Spark and Ray as a process starts them for itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.pages import DOCS, fenced
from tests.support.paths import ROOT, copy_challenge_set
from tests.support.spark_job import check_job, run_job, start_job

LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"


@pytest.mark.spark
def test_spark_that_cannot_start_is_a_wrong_setting() -> None:
    done = start_job({"spark.master": "nonsense"})
    assert done.returncode == 1
    assert "ConfigError: Spark cannot be started: " in done.stderr
    assert "Master must either be" in done.stderr  # Spark's own message


@pytest.mark.extended
@pytest.mark.spark
def test_alone_it_starts_a_session_of_its_own_and_stops_it() -> None:
    said = run_job({})
    assert said["master"] == "local[*,4]"
    assert said["auto"] == "cpu"
    check_job(said)


@pytest.mark.extended
@pytest.mark.ray
def test_a_ray_that_the_engine_starts_is_private_and_ends_with_it(tmp_path: Path) -> None:
    program = """
import json, os, signal, psutil
from text_image_similarity import Config, Record
from text_image_similarity.pipeline import portable
from text_image_similarity.ray_data import RayEngine
told = []
signal.signal(signal.SIGTERM, lambda *_: told.append("SIGTERM"))
with RayEngine({"num_cpus": "1"}) as cluster:
    import ray
    cluster.start(Config(model="mini"))
    result = cluster.score([Record("data:image/gif;base64,R0lGODlhAQABAIAAAP8AAP///ywAAAAAAQABAAACAkQBADs=", "red")])
    family = psutil.Process().children(recursive=True)
    listening = {c.laddr.ip for p in family for c in p.net_connections("inet") if c.status == "LISTEN"}
    os.kill(os.getpid(), signal.SIGTERM)
gone, left = psutil.wait_procs(family, 60)
print(json.dumps([len(result), sorted(listening), cluster.at_once, told, ray.is_initialized(), len(left)]))
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    count, listening, at_once, told, there, left = json.loads(done.stdout.splitlines()[-1])
    assert (count, at_once, told, there, left) == (1, 2, ["SIGTERM"], False, 0)
    assert {ip.removeprefix("::ffff:") for ip in listening} == {"127.0.0.1"}


@pytest.mark.extended
@pytest.mark.ray
def test_the_page_prints_what_it_says(tmp_path: Path) -> None:
    page = (DOCS / "ray_data.md").read_text(encoding="utf-8")
    (program,), (promised,) = (fenced(page, kind) for kind in ("python", "text"))
    copy_challenge_set(tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0", LOOPBACK: "0"}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    lines = [line for line in done.stdout.splitlines(keepends=True) if "(raylet)" not in line]  # of a busy machine
    assert "".join(lines) == promised
