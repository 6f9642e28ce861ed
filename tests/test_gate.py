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
        (SKIPPED + UNNOTICED, ("-n", "2", "--dist", "loadfile"), ["test_unnoticed"]),
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
    assert [line.rpartition("::")[2] for line in named] == forbidden, done.stdout + done.stderr
    assert done.returncode == len(forbidden)


WHERE = """
import os, pathlib, pytest

@pytest.mark.parametrize("number", range(4))
def test_is_here(number):
    with pathlib.Path(__file__).with_suffix(".txt").open("a") as file:
        file.write(os.environ["PYTEST_XDIST_WORKER"] + "\\n")
"""


@pytest.mark.extended
@pytest.mark.parametrize("cluster", ["spark", "ray_data"])
def test_a_file_stays_in_one_process_and_so_does_a_cluster(tmp_path: Path, cluster: str) -> None:
    (tmp_path / "tests" / cluster).mkdir(parents=True)
    names = ("test_a.py", "test_b.py", f"{cluster}/test_c.py", f"{cluster}/test_d.py")
    files = [tmp_path / "tests" / name for name in names]
    for file in files:
        file.write_text(WHERE)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "tests.conftest",
        "--rootdir",
        str(tmp_path),
        "--no-loadscope-reorder",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(
        [*command, "-n", "2", "--dist", "loadfile", str(tmp_path)], cwd=ROOT.parent, env=environment, check=True
    )
    a, b, c, d = (file.with_suffix(".txt").read_text().split() for file in files)
    assert [len(each) for each in (a, b, c, d)] == [4] * 4
    assert [len(set(each)) for each in (a, b, c + d)] == [1] * 3
    assert set(a + b + c + d) == {"gw0", "gw1"}
