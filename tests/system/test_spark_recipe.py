"""The job in deploy/spark runs under `spark-submit`, with the package as a zip; the documents' first example as written."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import pyspark
import pytest
import yaml
from pyspark.errors import AnalysisException

from tests.support.packages import zip_package
from tests.support.pages import blocks
from tests.support.paths import ROOT
from tests.support.spark_sessions import ENVIRONMENT, ON_LOOPBACK, faulty_rows
from text_image_similarity import Config, Record, score_pairs
from text_image_similarity.spark import similarity_udf

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

RECIPE = ROOT / "deploy" / "spark"
ROWS = faulty_rows(40)


def submit(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the job in a folder, where no package is but the zip that is sent along."""
    home = Path(pyspark.__file__).parent
    conf = [f"--conf={name}={value}" for name, value in ON_LOOPBACK.items()]
    environment = {**os.environ, **ENVIRONMENT, "SPARK_HOME": str(home)}
    environment.pop("PYTHONPATH")
    command = [str(home / "bin" / "spark-submit"), "--master=local[2,4]", *conf, "--py-files=text_image_similarity.zip"]
    return subprocess.run(
        [*command, RECIPE / "score_job.py", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.extended
def test_the_job_scores_a_table(tmp_path: Path) -> None:
    zip_package(tmp_path)
    columns = dict(zip(("number", "picture", "text"), zip(*ROWS, strict=True), strict=True))
    (tmp_path / "pairs").mkdir()
    for half in (0, 1):
        pq.write_table(
            pa.table({name: pa.array(c[half::2]) for name, c in columns.items()}), tmp_path / f"pairs/{half}.parquet"
        )
    arguments = [
        "pairs",
        "scored",
        "--url-col=picture",
        "--caption-col=text",
        "--model=mini",
        "--partitions=3",
        "--score=unit",
    ]
    done = submit(tmp_path, *arguments)
    assert done.returncode == 0, done.stderr
    scored = pq.read_table(tmp_path / "scored").sort_by("number")
    assert scored.column_names == ["number", "picture", "text", "similarity", "error"]
    results = list(
        score_pairs([Record.of(u, c) for _, u, c in ROWS], Config(model="mini", score="unit", base_dir=tmp_path))
    )
    assert scored["similarity"].to_pylist() == [None if r.error else r.similarity for r in results]
    assert scored["error"].to_pylist() == [r.error for r in results]


@pytest.mark.extended
def test_the_job_replaces_an_output_only_if_asked(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pq.write_table(pa.table({"url": ["data:,x"], "caption": ["a wall"]}), tmp_path / "pairs.parquet")
    (tmp_path / "scored").mkdir()
    (tmp_path / "scored" / "note.txt").touch()
    arguments = [str(tmp_path / "pairs.parquet"), str(tmp_path / "scored"), "--model=mini"]
    monkeypatch.setattr("sys.argv", ["score_job.py", *arguments])
    with pytest.raises(AnalysisException, match="PATH_ALREADY_EXISTS"):
        runpy.run_path(str(RECIPE / "score_job.py"), run_name="__main__")
    assert [path.name for path in (tmp_path / "scored").iterdir()] == ["note.txt"]
    monkeypatch.setattr("sys.argv", ["score_job.py", *arguments, "--overwrite"])
    runpy.run_path(str(RECIPE / "score_job.py"), run_name="__main__")
    assert spark.read.parquet(str(tmp_path / "scored")).count() == 1


def test_the_job_refuses_a_format_without_names_of_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["score_job.py", "pairs.csv", "scored", "--format=csv"])
    with pytest.raises(SystemExit):
        runpy.run_path(str(RECIPE / "score_job.py"), run_name="__main__")
    assert "parquet" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["emr_step.json", "emr_serverless_job.json", "databricks.yml"])
def test_a_recipe_gives_the_job_arguments_it_takes(name: str) -> None:
    text = (RECIPE / name).read_text(encoding="utf-8")
    assert yaml.safe_load(text)  # of which JSON is a part
    shown = subprocess.run(
        [sys.executable, RECIPE / "score_job.py", "--help"],
        cwd=ROOT,
        env={**os.environ, **ENVIRONMENT},
        capture_output=True,
        text=True,
        check=True,
    )
    of_spark = {"--deploy-mode", "--archives", "--conf"}
    assert (
        {"--model", "--partitions"}
        <= set(re.findall(r"--[a-z-]+", text)) - of_spark
        <= set(re.findall(r"--[a-z-]+", shown.stdout))
    )


@pytest.mark.extended
def test_the_first_example_prints_what_the_page_says(tmp_path: Path) -> None:
    (program,), (promised,) = (blocks("spark.md", "## A first example", kind) for kind in ("python", "text"))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "SPARK_LOCAL_IP": "127.0.0.1"}
    environment.pop("PYSPARK_PYTHON", None)
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == promised


@pytest.mark.extended
def test_the_sql_of_the_page_runs(spark: SparkSession) -> None:
    (program,), (query,) = (blocks("spark.md", "## SQL", kind) for kind in ("python", "sql"))
    exec(program, {"spark": spark, "similarity_udf": similarity_udf, "Config": Config})
    spark.createDataFrame(ROWS, "number int, url string, caption string").createOrReplaceTempView("pairs")
    results = list(score_pairs([Record.of(url, caption) for _, url, caption in ROWS], Config(model="mini")))
    assert 0 < sum(result.similarity > 0.2 for result in results) < len(results)
    assert spark.sql(query).count() == sum(result.similarity > 0.2 for result in results)
