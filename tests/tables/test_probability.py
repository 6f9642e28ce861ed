"""The column `probability`: what each score means, by the model's calibration."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow.parquet as pq
import pytest

from tests.cli.test_cli import command
from tests.support.images import make_png
from tests.support.pages import probability_line
from text_image_similarity import (
    Calibration,
    Config,
    ConfigError,
    LocalEngine,
    ModelError,
    Summary,
    TableOptions,
    UsageError,
    load_calibration,
    score_table,
)
from text_image_similarity.encoders.testing import ColourEncoder
from text_image_similarity.errors import StoppedError, TextImageSimilarityError

CURVE = Calibration(
    slope=4.0, intercept=-3.0, prior=0.5, matching=9, mismatching=9, brier=0.1, calibration_error=0.1, model="colour"
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for colour in ("red", "lime", "tan"):
        (tmp_path / f"{colour}.png").write_bytes(make_png(colour))
    (tmp_path / "in.csv").write_text("url,caption\nred.png,red\nlime.png,red\nnone.png,red\ntan.png,red\nred.png,tan\n")
    CURVE.save(tmp_path)
    return tmp_path


def score(folder: Path, name: str, config: Config | None = None, **given: Any) -> Summary:
    how = TableOptions(**{"probability": True, "calibration": folder, **given.pop("how", {})})
    engine = LocalEngine(encoder=ColourEncoder())
    config = config or Config(model="colour", chunk_size=2)
    return score_table(folder / "in.csv", folder / name, config, options=how, engine=engine, **given)


def test_each_score_has_its_probability_beside_it(folder: Path) -> None:
    summary = score(folder, "out.csv")
    with (folder / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["url", "caption", "similarity", "probability", "error"]
    assert (rows[2]["similarity"], rows[2]["probability"]) == ("", "")
    scored = [row for row in rows if not row["error"]]
    expected = CURVE.probability([float(row["similarity"]) for row in scored])
    assert len(set(expected)) == 4
    assert [float(row["probability"]) for row in scored] == pytest.approx(expected, abs=1e-7)
    assert summary.probability is not None
    assert summary.probability["mean"] == pytest.approx(np.mean(expected), abs=0.002)
    assert (summary.probability["min"], summary.probability["max"]) == pytest.approx(
        (min(expected), max(expected)), abs=1e-6
    )
    assert json.loads((folder / "out.csv.summary.json").read_text())["probability"] == summary.probability
    score(folder, "out.parquet")
    table = pq.read_table(folder / "out.parquet")
    assert table.column("probability").to_pylist() == [
        float(row["probability"]) if row["probability"] else None for row in rows
    ]


def test_a_run_resumes_and_retries_with_the_calibration_that_it_began_with(folder: Path) -> None:
    score(folder, "whole.csv")
    asked = iter((False, True))
    with pytest.raises(StoppedError):
        score(folder, "out.csv", stop=lambda: next(asked))
    replace(CURVE, slope=5.0).save(folder)
    with pytest.raises(UsageError, match=r"calibration slope was 4\.0 and is now 5\.0"):
        score(folder, "out.csv")
    CURVE.save(folder)
    score(folder, "out.csv")
    assert (folder / "out.csv").read_bytes() == (folder / "whole.csv").read_bytes()
    (folder / "none.png").write_bytes(make_png("tan"))
    score(folder, "out.csv", how={"start": "retry_failed"})
    assert (folder / "out.csv").read_bytes() == (folder / "whole.csv").read_bytes(), "a missing file is not temporary"


@pytest.mark.parametrize(
    ("config", "how", "kind", "message"),
    [
        (
            Config(),
            {"calibration": None},
            ConfigError,
            "no calibration for the scores of openai/clip-vit-base-patch32.*evaluate SOURCE --model openai/clip-vit-base-patch32 --calibrate",
        ),
        (Config(score="unit"), {}, ConfigError, "computed from cosines; use --score cosine instead of unit"),
        (Config(), {"calibration": "nowhere"}, ModelError, "nowhere holds no calibration.json"),
        (Config(), {"probability": False}, ConfigError, "a calibration is used only with --probability"),
        (Config(), {"fallback_model": "mini"}, ConfigError, "without a fallback_model"),
    ],
)
def test_what_cannot_have_probabilities_is_refused_before_a_row_is_scored(
    config: Config, how: dict[str, Any], kind: type[TextImageSimilarityError], message: str, folder: Path
) -> None:
    before = sorted(folder.iterdir())
    with pytest.raises(kind, match=message):
        score(folder, "out.csv", config, how=how)
    assert sorted(folder.iterdir()) == before


def test_a_calibration_that_falls_and_several_models_are_refused(folder: Path) -> None:
    replace(CURVE, slope=-1.0).save(folder)
    with pytest.raises(UsageError, match="a higher score does not mean a more likely match"):
        score(folder, "out.csv")
    with pytest.raises(UsageError, match=r"with several models, use --ensemble probability \(ensemble='probability'\)"):
        score_table(
            folder / "in.csv",
            folder / "out.csv",
            Config(),
            models=("mini", "fast"),
            options=TableOptions(probability=True),
        )


def test_the_command_shows_probabilities(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    assert command("score", "in.csv", "out.csv", "--model", "mini", "--probability") == 0
    shown = capsys.readouterr().out
    summary = json.loads((folder / "out.csv.summary.json").read_text())
    assert f"mean probability        {summary['probability']['mean']:.3f}\n" in shown
    assert command("score", "red.png", "red", "tan", "--model", "mini", "--probability") == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [caption for *_, caption in lines] == ["red", "tan"]
    for similarity, probability, _ in lines:
        assert float(probability) == pytest.approx(load_calibration("mini").probability(float(similarity)), abs=0.002)
    assert command("score", "red.png", "red", "--model", "fast", "--probability") == 2
    assert "there is no calibration for the scores of fast" in capsys.readouterr().err


def test_the_lines_for_frames_add_the_column() -> None:
    expected = [float(CURVE.probability(0.5)), np.nan]
    assert expected[0] == pytest.approx(1 / (1 + np.exp(1)))
    scored = pd.DataFrame({"similarity": [0.5, np.nan]})
    exec(probability_line("pandas"), {"curve": CURVE, "scored": scored})
    assert scored["probability"].tolist() == pytest.approx(expected, nan_ok=True)
    given = {"curve": CURVE, "scored": pl.DataFrame({"similarity": [0.5, None]})}
    assert eval(probability_line("polars"), given)["probability"].to_list() == pytest.approx(expected, nan_ok=True)
    assert eval(probability_line("scores in an array"), {"curve": CURVE, "scores": [0.5, np.nan]}) == pytest.approx(
        expected, nan_ok=True
    )
