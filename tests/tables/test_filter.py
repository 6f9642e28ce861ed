"""filter_table: exactly the rows that a rule keeps, in every format, and nothing replaced that is not its own."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from text_image_similarity import (
    BusyError,
    Calibration,
    Config,
    ConfigError,
    FilterRule,
    LocalEngine,
    TableError,
    UsageError,
    cli,
    embed_table,
    filter_table,
    plan_filter,
    score_csv,
)
from text_image_similarity.encoders.testing import ColourEncoder
from text_image_similarity.tables import ranks
from text_image_similarity.tables.ranks import ScoreFile
from text_image_similarity.tables.rules import most_rows
from text_image_similarity.workspace import Workspace

CURVE = Calibration(
    slope=20.0, intercept=-5.0, prior=0.5, matching=9, mismatching=9, brier=0.1, calibration_error=0.1, model="mini"
)
SCORES = [0.3, None, 0.1, 0.25, 0.3, -0.2, None, 0.25, 0.25, 0.9]


@pytest.fixture
def scored(tmp_path: Path) -> Path:
    """A table whose text a careless reader would change."""
    lines = [f'00{i},"a, b",{"" if s is None else s},{"timeout: x" if s is None else ""}' for i, s in enumerate(SCORES)]
    path = tmp_path / "scored.csv"
    path.write_text("\n".join(["id,caption,similarity,error", *lines]) + "\n")
    return path


def kept(path: Path) -> list[int]:
    return [int(line.split(",")[0]) for line in path.read_text().splitlines()[1:]]


@given(
    st.lists(st.floats(allow_nan=True, allow_infinity=False), min_size=1, max_size=60).filter(
        lambda scores: not all(map(math.isnan, scores))
    ),
    st.data(),
)
def test_the_kth_highest_score_is_that_of_a_sort(scores: list[float], data: st.DataObject) -> None:
    ordered = sorted((score for score in scores if not math.isnan(score)), reverse=True)
    k = data.draw(st.integers(1, len(ordered)))
    with pytest.MonkeyPatch.context() as patch, ScoreFile() as file:
        patch.setattr(ranks, "_AT_ONCE", 7)
        file.append(np.array(scores))
        rank = file.highest(k)
        assert (rank.score, rank.there) == (ordered[k - 1], ordered.count(ordered[k - 1]))
        assert rank.taken == ordered[:k].count(ordered[k - 1])
        assert file.at_least(rank.score) == k - rank.taken + rank.there


@pytest.mark.parametrize(
    ("rule", "stay", "threshold", "ties"),
    [
        ({"min_score": 0.25}, [0, 3, 4, 7, 8, 9], 0.25, 0),
        ({"min_score": -1}, [0, 2, 3, 4, 5, 7, 8, 9], -1, 0),
        ({"min_score": 2.0}, [], 2.0, 0),
        ({"top": 4}, [0, 3, 4, 9], 0.25, 2),
        ({"top": "50%"}, [0, 3, 4, 9], 0.25, 2),
        ({"top": "51%"}, [0, 3, 4, 7, 9], 0.25, 1),
        ({"top": 100}, [0, 2, 3, 4, 5, 7, 8, 9], -0.2, 0),
        ({"drop_failed": True}, [0, 2, 3, 4, 5, 7, 8, 9], None, 0),
    ],
)
def test_a_rule_keeps_its_rows(
    scored: Path, rule: dict[str, float | int | str | bool], stay: list[int], threshold: float | None, ties: int
) -> None:
    found = filter_table(scored, scored.with_name("out.csv"), **rule)  # type: ignore[arg-type]
    assert (found.rows, found.failed, found.kept) == (10, 2, len(stay))
    assert (found.threshold, found.ties_left_out) == (threshold, ties)
    lines = scored.read_text().splitlines(keepends=True)
    assert scored.with_name("out.csv").read_text() == "".join([lines[0], *(lines[i + 1] for i in stay)])
    written = json.loads(scored.with_name("out.csv.summary.json").read_text())
    assert (written["kept"], written["threshold"]) == (len(stay), threshold)
    assert sorted(path.name for path in scored.parent.iterdir()) == ["out.csv", "out.csv.summary.json", "scored.csv"]


@pytest.mark.parametrize("source", ["csv", "tsv", "jsonl.gz", "parquet"])
@pytest.mark.parametrize("target", ["tsv.gz", "jsonl", "parquet"])
def test_any_format_becomes_any_other(scored: Path, source: str, target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("text_image_similarity.tables.scored_rows._AT_ONCE", 3)
    middle, out, back = (scored.with_name(name) for name in (f"middle.{source}", f"out.{target}", "back.csv"))
    filter_table(scored, middle, min_score=-1)
    filter_table(middle, out, top=4)
    filter_table(out, back, drop_failed=True)
    assert back.read_text().splitlines()[1:] == [
        f'{i:03},"a, b",{score},' for i, score in ((0, 0.3), (3, 0.25), (4, 0.3), (9, 0.9))
    ]


def test_parquet_keeps_types_bytes_and_metadata(tmp_path: Path) -> None:
    table = pa.table(
        {
            "jpg": pa.array([b"\xff\xd8", b"", None]),
            "tags": pa.array([["a"], [], None], pa.list_(pa.string())),
            "kind": pa.array(["x", "y", "x"]).dictionary_encode(),
            "similarity": pa.array([0.1, None, 0.5], pa.float32()),
        }
    ).replace_schema_metadata({"made": "by us"})
    pq.write_table(table, tmp_path / "in.parquet")
    filter_table(tmp_path / "in.parquet", tmp_path / "out.parquet", drop_failed=True)
    found = pq.read_table(tmp_path / "out.parquet")
    assert found.to_pylist() == table.take([0, 2]).to_pylist()
    assert [field.type for field in found.schema] == [
        field.type if field.name != "kind" else pa.dictionary(pa.int32(), pa.string()) for field in table.schema
    ]
    assert found.schema.metadata[b"made"] == b"by us"


def test_a_probability_goes_through_a_calibration_or_a_column(scored: Path, caplog: pytest.LogCaptureFixture) -> None:
    out = scored.with_name("out.csv")
    with pytest.raises(UsageError, match="evaluate SOURCE --model MODEL --calibrate FOLDER"):
        filter_table(scored, out, probability=0.7)
    CURVE.save(scored.parent)
    found = filter_table(scored, out, probability=0.7, calibration=scored.parent)
    assert found.threshold == CURVE.cosine(0.7)
    assert kept(out) == [i for i, s in enumerate(SCORES) if s is not None and CURVE.probability(s) >= 0.7]
    summary = scored.with_name("scored.csv.summary.json")
    summary.write_text(json.dumps({"model": str(scored.parent), "score": "cosine"}))  # the model has the calibration
    assert filter_table(scored, out, probability=0.7).threshold == CURVE.cosine(0.7)
    summary.write_text(json.dumps({"model": "fast", "score": "cosine"}))
    filter_table(scored, out, probability=0.7, calibration=scored.parent)
    assert "is for mini" in caplog.text
    summary.write_text(json.dumps({"model": "mini", "score": "unit"}))
    with pytest.raises(UsageError, match="scores of kind unit"):
        filter_table(scored, out, probability=0.7, calibration=scored.parent)
    replace(CURVE, slope=-1.0).save(scored.parent)
    summary.unlink()
    with pytest.raises(UsageError, match="does not mean a more likely match"):
        filter_table(scored, out, probability=0.7, calibration=scored.parent)
    other = scored.with_name("matches.csv")
    other.write_text("id,similarity,probability\n0,0.9,0.1\n1,0.1,0.9\n2,,\n")
    assert filter_table(other, out, probability=0.7).score_column == "probability"
    assert kept(out) == [1]


def test_a_summary_that_is_a_pipe_is_not_opened(scored: Path) -> None:
    os.mkfifo(scored.with_name("scored.csv.summary.json"))
    assert plan_filter(scored, FilterRule(top=4)).rows == 10


def test_a_plan_agrees_with_what_is_then_kept(scored: Path) -> None:
    plan = plan_filter(scored, FilterRule(top=4))
    assert (plan.rows, plan.failed) == (10, 2)
    assert plan.chosen is not None
    assert (plan.chosen.threshold, plan.chosen.kept) == (0.25, 4)
    assert [one.share for one in plan.thresholds][:2] == [100, 90]
    for one in plan.thresholds:
        assert filter_table(scored, scored.with_name("out.csv"), min_score=one.threshold).kept == one.kept
    scored.write_text("id,similarity\n1,\n")
    assert plan_filter(scored, FilterRule(top="10%")).thresholds == []
    assert filter_table(scored, scored.with_name("out.csv"), top="10%").kept == 0


def test_what_no_filter_wrote_is_not_replaced(scored: Path) -> None:
    out = scored.with_name("out.csv")
    out.write_text("mine\n")
    with pytest.raises(UsageError, match="was not written by this command"):
        filter_table(scored, out, top=1)
    filter_table(scored, out, top=1, force=True)
    filter_table(scored, out, top=2)
    out.write_text(out.read_text() + "\n")
    with pytest.raises(UsageError, match="was changed after it was written"):
        filter_table(scored, out, top=1)
    (scored.parent / "pairs.csv").write_text("url,caption\nnone.png,red\n")
    other = scored.with_name("other.csv")
    score_csv(scored.with_name("pairs.csv"), other, Config(), engine=LocalEngine(encoder=ColourEncoder()))
    before = other.read_bytes()
    with pytest.raises(UsageError, match=r"other\.csv was written by score"):
        filter_table(scored, other, top=1)
    with pytest.raises(UsageError, match="is also the input"):
        filter_table(scored, scored, top=1)
    assert other.read_bytes() == before


def test_another_run_is_left_alone(scored: Path) -> None:
    out = scored.with_name("out.csv")
    with Workspace(out.with_name("out.csv.parts"), str(out), "csv"), pytest.raises(BusyError):
        filter_table(scored, out, top=1)
    folder = out.with_name("out.csv.parts")
    folder.mkdir()
    (folder / "manifest.jsonl").write_text('{"layout": 1, "versions": {}, "run": {}}\n{"rows": 1}\n')
    with pytest.raises(UsageError, match="a run that is not finished"):
        filter_table(scored, out, top=1)
    assert (folder / "manifest.jsonl").exists()


def test_a_value_that_is_not_a_score_is_named(scored: Path) -> None:
    for bad in ("high", "0.1 0.2"):
        scored.write_text(f"id,similarity\n1,0.5\n2,{bad}\n")
        with pytest.raises(TableError, match=f"'similarity' in row 2 holds '{bad}', which is not a score"):
            filter_table(scored, scored.with_name("out.csv"), top=1)
    assert not scored.with_name("out.csv").exists()
    scored.write_text("id,similarity\n1,0.5\n2,-inf\n3,Infinity\n4,\n")
    found = filter_table(scored, scored.with_name("out.csv"), drop_failed=True)
    assert (found.kept, found.failed) == (1, 3), "an infinite score is none"
    with pytest.raises(UsageError, match=r"if you mean 'similarity', name it with --score-col"):
        filter_table(scored, scored.with_name("out.csv"), top=1, col_score="Similarity")


def test_a_table_that_changes_meanwhile_gives_no_output(scored: Path) -> None:
    def change(done: int, failed: int, total: int) -> None:
        if done == total:
            scored.write_text(scored.read_text() + "0,,0.1,\n")

    with pytest.raises(TableError, match="was changed while it was being read"):
        filter_table(scored, scored.with_name("out.csv"), top=1, progress=change)
    assert [path.name for path in scored.parent.iterdir()] == ["scored.csv"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "one of --min, --top, --probability and --drop-failed"),
        ({"top": 1, "drop_failed": True}, "one of --min"),
        ({"top": "0%"}, "must be a number of rows"),
        ({"top": 0}, "must be a number of rows"),
        ({"top": "101%"}, "must be a number of rows"),
        ({"top": True}, "must be a number of rows"),
        ({"probability": 1.0}, "must be between 0 and 1"),
        ({"min_score": math.nan}, "must be a finite number"),
        ({"min_score": "0.3"}, "must be a number"),
    ],
)
def test_a_rule_that_cannot_be_is_refused(given: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        FilterRule(**given)  # type: ignore[arg-type]


def test_a_share_is_exact() -> None:
    assert most_rows("0.1%", 1_000_000_000) == 1_000_000
    assert most_rows("30%", 10) == 3
    assert most_rows("33.3%", 1000) == 333


def test_the_command_says_where_no_row_has_a_score(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_text("id,similarity\n1,\n2,\n")
    for options in ([str(out), "--drop-failed"], ["--plan"]):
        with pytest.raises(SystemExit) as ended:
            cli.main(["filter", str(source), *options])
        assert ended.value.code == 0
    written, plan = capsys.readouterr().out.split("output", 1)
    assert "threshold        no row has a score" in written
    assert plan.endswith("without a score  2\n\nno row has a score, so there is no threshold to choose\n")


def test_no_command_replaces_the_output_of_another(scored: Path) -> None:
    (scored.parent / "pairs.csv").write_text("url,caption\nnone.png,red\n")
    pairs, outs = scored.with_name("pairs.csv"), {name: scored.with_name(f"{name}.csv") for name in ("score", "embed")}
    runs: dict[str, Callable[[Path], object]] = {
        "filter": lambda out: filter_table(scored, out, top=1),
        "score": lambda out: score_csv(pairs, out, Config(), engine=LocalEngine(encoder=ColourEncoder())),
        "embed": lambda out: embed_table(pairs, out, Config(), encoder=ColourEncoder()),
    }
    outs["filter"] = scored.with_name("filter.csv")
    for name, run in runs.items():
        run(outs[name])
        run(outs[name])  # its own output is replaced
    for name, out in outs.items():
        before = out.read_bytes()
        for other in runs.keys() - {name}:
            with pytest.raises(UsageError, match=f"was written by {name}; name another output, or replace it with"):
                runs[other](out)
        assert out.read_bytes() == before
