"""What a run's parts come to."""

from __future__ import annotations

import csv
import json
import os
import time
from pathlib import Path

import numpy as np
import pytest

from tests.support.images import inline
from text_image_similarity import Config, Record, RunStats, ScoreResult, StoppedError, TableOptions, score_csv
from text_image_similarity.metrics import Histogram
from text_image_similarity.pipeline import score_concurrently
from text_image_similarity.tables.summary import outcome
from text_image_similarity.tables.summary_file import read_summary
from text_image_similarity.workspace import Part

RED, BLUE = inline("red"), inline("blue")


def test_parts_are_summed_and_figures_rounded() -> None:
    first = Part(0, 3, "x", 2, {"timeout": 1}, 1, {"total": 0.50004, "fetch": 1.00006})
    second = Part(1, 2, "y", 1, {"corrupt": 1}, 2, {"total": 1.00004, "fetch": 0.5, "encode": 0.25})
    found = outcome([first, second], "cosine")
    assert (found["rows"], found["scored"], found["captions_cut"]) == (5, 3, 3)
    assert list(found["failures"].items()) == [("corrupt", 1), ("timeout", 1)]
    assert found["seconds"] == {"encode": 0.25, "fetch": 1.5, "total": 1.5}
    assert found["pairs_per_second"] == 3.33
    assert found["throughput"] == [(0.0, 0), (0.5, 3), (1.5, 5)]


def test_parts_that_cannot_tell_leave_the_captions_uncounted() -> None:
    parts = [Part(0, 1, "x", 1, {}, 1, {"total": 1}), Part(1, 1, "y", 1, {}, None, {"total": 1})]
    assert outcome(parts, "cosine")["captions_cut"] is None


@pytest.mark.parametrize(("kind", "scale", "width"), [("cosine", 1.0, 0.002), ("clip_score", 100.0, 0.2)])
def test_the_scores_of_all_parts_have_a_mean_and_quantiles(kind: str, scale: float, width: float) -> None:
    scores = scale * np.random.default_rng(0).normal(0.28, 0.05, 5000).clip(0.0, 1.0)
    parts = []
    for number, some in enumerate(np.array_split(scores, 3)):
        counted = Histogram(kind)
        counted.add_all(some.tolist())
        parts.append(
            Part(number, len(some), "x", len(some), {}, 0, {"total": 1.0}, json.loads(json.dumps(counted.kept())))
        )
        assert len(json.dumps(counted.kept())) < 2000
    found = outcome(parts, kind)["similarity"]
    assert found["mean"] == pytest.approx(scores.mean(), abs=1e-6)
    assert (found["min"], found["max"]) == (round(scores.min(), 6), round(scores.max(), 6))
    shares = {"p5": 0.05, "p25": 0.25, "median": 0.5, "p75": 0.75, "p95": 0.95}
    assert {name: found[name] for name in shares} == pytest.approx(
        {name: np.quantile(scores, share) for name, share in shares.items()}, abs=1.5 * width
    )
    without = Part(3, 1, "x", 1, {}, 0, {"total": 1.0})
    assert outcome([*parts, without], kind)["similarity"] is None, "of a run that an earlier version began"


@pytest.fixture
def table(tmp_path: Path) -> Path:
    long = "a red square " * 40
    rows = [(RED, long), (RED, "a red square"), (RED, long), ("gone.png", long), (BLUE, f"{long} and more")] * 3
    with (tmp_path / "in.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("url", "caption"), *rows])
    return tmp_path / "in.csv"


@pytest.mark.parametrize("chunk_size", [2, 100])
def test_scored_rows_whose_caption_was_cut_are_counted(table: Path, chunk_size: int) -> None:
    config = Config(model="mini", chunk_size=chunk_size, embedding_cache=table.with_name("cache.sqlite"))
    for _ in ("new", "from the cache"):
        assert score_csv(table, table.with_name("out.csv"), config).captions_cut == 9
    assert json.loads(table.with_name("out.csv.summary.json").read_text())["captions_cut"] == 9


def test_a_run_that_goes_on_says_so_and_counts_all_parts(table: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = Config(model="mini", chunk_size=5)
    whole = score_csv(table, table.with_name("whole.csv"), config)
    asked = iter([False, False, True])
    caplog.set_level("INFO")
    with pytest.raises(StoppedError):
        score_csv(table, table.with_name("out.csv"), config, stop=lambda: next(asked))
    assert "resuming" not in caplog.text
    parts = table.with_name("out.csv.parts")
    os.utime(parts / "part-000000.csv", (at := time.mktime((2026, 11, 30, 12, 44, 0, 0, 0, -1)), at))
    found = score_csv(table, table.with_name("out.csv"), config)
    said = f"resuming: 10 of 15 rows done ({parts}, begun 2026-11-30 12:44); --restart starts over"
    assert said in caplog.text
    assert found.captions_cut == 9
    with table.with_name("out.csv").open(newline="") as file:
        scores = [float(row["similarity"]) for row in csv.DictReader(file) if row["similarity"]]
    assert found.similarity is not None
    assert found.similarity == whole.similarity
    assert found.similarity["mean"] == pytest.approx(sum(scores) / len(scores), abs=1e-6)


def test_a_run_that_retries_failures_counts_the_others_too(table: Path) -> None:
    out, config = table.with_name("out.csv"), Config(model="mini")
    score_csv(table, out, config)
    assert score_csv(table, out, config, options=TableOptions(start="retry_failed")).captions_cut == 9


def test_an_engine_that_scores_parts_side_by_side_counts_each_with_its_part() -> None:
    stats, rows = RunStats(), [[(n, Record(RED, "red"))] for n in range(6)]
    counts = iter([1, 2, 0, 3, 0, 4])
    results = score_concurrently(lambda _: ([ScoreResult(0.5)], next(counts)), rows, stats, at_once=1)
    assert [stats.captions_cut for _ in results] == [1, 3, 3, 6, 6, 10]
    stats = RunStats()
    assert len(list(score_concurrently(lambda _: ([ScoreResult(0.5)], None), rows, stats, at_once=2))) == 6
    assert stats.captions_cut is None


def test_no_parts_come_to_nothing() -> None:
    assert outcome([], "cosine")["rows"] == 0


@pytest.mark.parametrize("name", ["seconds", "failures", "similarity", "probability"])
def test_a_number_in_place_of_numbers_by_name_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "out.csv.summary.json").write_text(json.dumps({name: 5}))
    with pytest.raises(ValueError, match=f"its '{name}' is not what a run writes"):
        read_summary(str(tmp_path / "out.csv"))
