"""The gate itself: what `.ci/run` forbids is found out, in one process and in several."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

SKIPPED = """
import pytest

def test_passes(): pass

@pytest.mark.gpu
def test_without_a_gpu(): pytest.skip("no GPU")

@pytest.mark.xfail
def test_fails_as_it_should(): assert False
"""
UNNOTICED = """
@pytest.mark.skipif(True, reason="a step was left out")
def test_unnoticed(): pass
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "processes", "forbidden"),
    [
        (SKIPPED, (), []),
        (SKIPPED + UNNOTICED, (), ["test_unnoticed"]),
        (SKIPPED + UNNOTICED, ("-n", "2", "--dist", "loadgroup"), ["test_unnoticed"]),
    ],
    ids=["allowed", "forbidden", "forbidden, in two processes"],
)
def test_a_skip_that_nobody_asked_for_fails_the_run(
    tmp_path: Path, code: str, processes: tuple[str, ...], forbidden: list[str]
) -> None:
    (tmp_path / "test_skips.py").write_text(code)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.conftest", "-W", "ignore", "--no-skips", *processes]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    named = [line for line in done.stdout.splitlines() if "--no-skips forbids" in line]
    assert [line.rpartition("::")[2].partition("@")[0] for line in named] == forbidden, done.stdout + done.stderr
    assert done.returncode == len(forbidden)
