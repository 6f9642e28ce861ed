"""`filter` as its users meet it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.test_cli import command
from text_image_similarity import Calibration

CURVE = Calibration(
    slope=20.0, intercept=-5.0, prior=0.5, matching=9, mismatching=9, brier=0.1, calibration_error=0.1, model="mini"
)


def test_the_command_says_what_stayed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scored, out = tmp_path / "scored.csv", tmp_path / "out.parquet"
    scored.write_text("id,similarity\n1,0.3\n2,\n3,0.1\n4,0.25\n5,0.3\n6,-0.2\n7,\n8,0.25\n9,0.25\n10,0.9\n")
    assert command("filter", scored, out, "--top", "50%") == 0
    said = capsys.readouterr().out
    for line in ("kept             4 (40.0 %)", "threshold        0.25", "ties left out    2"):
        assert line in said
    assert command("filter", scored, "--plan", "--min", "0.3") == 0
    assert "    0.3          3  30.0 %  with these options" in capsys.readouterr().out
    CURVE.save(tmp_path)
    assert command("filter", scored, "--plan", "--probability", "0.5", "--calibration", tmp_path) == 0
    assert "probability" in capsys.readouterr().out
    assert command("filter", scored, out, "--plan", "--min", "0.3") == 2
    assert command("filter", scored, "--min", "0.3") == 2
    assert command("filter", scored, out) == 2
    assert command("filter", scored, out, "--min", "0.3", "--top", "3") == 2
