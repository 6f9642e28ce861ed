"""Images are built and run for real: as their own user, on a root that cannot be written to.

The service's is built by every run; IMAGES="cpu models search job lambda cuda ray triton" (`make images`) names more, which take minutes.
"""

from __future__ import annotations

import base64
import csv
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.containers import Image, build, opened
from tests.support.paths import ROOT
from tests.support.processes import free_port, running
from text_image_similarity import Config, score_csv

pytestmark = [pytest.mark.server, pytest.mark.slow]

CHOSEN = os.environ.get("IMAGES", "cpu").split()

# What Debian 12 with Python 3.11 takes as debootstrap makes it, and what the base of these tests stands for.
DEBIAN_BYTES = 127e6


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What a Dockerfile may copy, and a wheel of this checkout; images are kept beside it."""
    folder = tmp_path_factory.mktemp("images") / "context"
    folder.mkdir()
    for name in ("deploy", "requirements"):
        shutil.copytree(ROOT / name, folder / name)
    shutil.copy(ROOT / "poetry.lock", folder)
    pip: list[str | Path] = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--wheel-dir",
        folder / "dist",
        ROOT,
    ]
    subprocess.run(pip, check=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IMAGE_STORE", str(folder.parent))
        yield folder
    shutil.rmtree(folder.parent)  # pytest would keep it for three runs


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[float | None]:
    """The similarities of the challenge set here, None for a row without one."""
    path = tmp_path_factory.mktemp("challenge") / "scored.csv"
    score_csv(str(ROOT / "challenge_set.csv"), path, Config(model="mini"))
    found = [float(row["similarity"]) if row["similarity"] else None for row in rows(path)]
    assert len([value for value in found if value is not None]) == 49
    return found


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def pictures() -> list[dict[str, str]]:
    """Return the challenge set's pairs, with each picture's content; of the one that does not exist, nothing at all."""
    found = []
    for row in rows(ROOT / "challenge_set.csv"):
        path = ROOT / row["url"]
        content = path.read_bytes() if path.exists() else b""
        found.append({"image_base64": base64.b64encode(content).decode(), "caption": row["caption"]})
    return found


def ask(image: Image, log: Path, *arguments: str) -> list[float | None]:
    """Start the image's service and return what it says of the challenge set."""
    port = free_port()
    command = image.command("--host", "127.0.0.1", "--port", str(port), *arguments)
    with running(command, port, log, probe="/readyz") as service:
        answer = httpx.post(service.url("/v1/similarity"), json={"pairs": pictures()}, timeout=60).raise_for_status()
        status = Path(f"/proc/{service.popen.pid}/status").read_text(encoding="utf-8")
        assert "\nUid:\t10001\t10001\t10001\t10001\n" in status
        assert "\nCapEff:\t0000000000000000\n" in status
    return [result["similarity"] for result in answer.json()["results"]]


def test_the_service_is_small_and_scores_the_challenge_set(
    context: Path, expected: list[float | None], tmp_path: Path
) -> None:
    build(context / "deploy" / "service" / "Dockerfile", "cpu", context, "--target", "cpu")
    with tarfile.open(ROOT / "build" / "tools" / "base.tar") as base:
        base_bytes = sum(member.size for member in base)
    with opened("cpu", context.parent) as image:
        assert image.bytes - base_bytes + DEBIAN_BYTES < 450e6
        assert ask(image, tmp_path / "log", "--model", "mini") == pytest.approx(expected, abs=1e-7)
        refused = subprocess.run(
            Image(image.root, {**image.config, "Entrypoint": ["touch"]}).command("/opt/file", "/tmp/file"),
            capture_output=True,
            text=True,
            check=False,
        )
        assert "Read-only file system" in refused.stderr
        assert "/tmp/file" not in refused.stderr
