"""Images are built and run for real: as their own user, on a root that cannot be written to.

The service's is built by every run; `make images` builds the others too, which take minutes and, with torch, up to 41 GB of disk while they are built.
"""

from __future__ import annotations

import base64
import csv
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.support.containers import Image, build, opened
from tests.support.paths import ROOT
from tests.support.processes import free_port, running
from text_image_similarity import Config, score_csv
from text_image_similarity.config import BackendName

pytestmark = [pytest.mark.server, pytest.mark.extended]

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


def score_here(backend: BackendName, path: Path) -> list[float | None]:
    """Score the challenge set on this machine and return the similarities, None for a row without one."""
    score_csv(str(ROOT / "challenge_set.csv"), path, Config(model="mini", backend=backend))
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


def score_by_service(image: Image, folder: Path) -> list[float | None]:
    """Start the image's service and return what it says of the challenge set."""
    port = free_port()
    command = image.command("--host", "127.0.0.1", "--port", str(port), "--model", "mini")
    with running(command, port, folder / "log", probe="/readyz") as service:
        answer = httpx.post(service.url("/v1/similarity"), json={"pairs": pictures()}, timeout=60).raise_for_status()
        status = Path(f"/proc/{service.popen.pid}/status").read_text(encoding="utf-8")
        assert "\nUid:\t10001\t10001\t10001\t10001\n" in status
        assert "\nCapEff:\t0000000000000000\n" in status
    return [result["similarity"] for result in answer.json()["results"]]


def score_by_job(image: Image, folder: Path) -> list[float | None]:
    """Let the image's entry point score the challenge set as the only pod of its Job."""
    out = folder / "out"
    out.mkdir(mode=0o777)
    out.chmod(0o777)
    words = ["score", "/here/challenge_set.csv", "/out", "--shards=1", '--config={"model":"mini","base_dir":"/here"}']
    run(image, *words, mounts=[(ROOT, "/here"), (out, "/out")])
    return [float(row["similarity"]) if row["similarity"] else None for row in rows(out / "challenge_set.csv")]


def score_by_handler(image: Image, folder: Path) -> list[float | None]:
    """Call the image's function with the challenge set, without Lambda's runtime, which is of another base."""
    pairs = [{"url": f"data:;base64,{pair['image_base64']}", "caption": pair["caption"]} for pair in pictures()]
    call = "import handler, json, sys; print(json.dumps(handler.handler({'pairs': json.load(sys.stdin)}, None)))"
    function = Image(image.root, {**image.config, "Entrypoint": ["python3", "-c"], "User": "10001"})
    answer = run(function, call, stdin=json.dumps(pairs))
    return [result["similarity"] for result in json.loads(answer)["results"]]


def score_by_command(image: Image, folder: Path) -> list[float | None]:
    """Let the command score the challenge set on a Ray of its own, as the user of Ray's images."""
    out = folder / "out"
    out.mkdir()
    out.chmod(0o777)
    command = Image(
        image.root, {**image.config, "Entrypoint": ["env", "HOME=/tmp", "text-image-similarity"], "User": "1000"}
    )
    words = ["score", "/here/challenge_set.csv", "/out/scored.csv", "--model=mini", "--engine=ray"]
    run(command, *words, mounts=[(ROOT, "/here"), (out, "/out")])
    return [float(row["similarity"]) if row["similarity"] else None for row in rows(out / "scored.csv")]


def run(image: Image, *words: str | Path, stdin: str = "", mounts: Sequence[tuple[Path, str]] = ()) -> str:
    command = image.command(*words, mounts=mounts)
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


@dataclass(frozen=True, slots=True)
class Recipe:
    """How an image of deploy/FOLDER is built, and how it scores the challenge set."""

    folder: str
    score: Callable[[Image, Path], list[float | None]]
    options: tuple[str, ...] = ()
    backend: BackendName = "onnx"  # what `auto` is in the image; scores of two backends differ in the seventh digit


RECIPES = {
    "cpu": Recipe("service", score_by_service, ("--target=cpu",)),
    "search": Recipe("service", score_by_service, ("--target=cpu", "--build-arg=REQUIREMENTS=small-search.txt")),
    "models": Recipe("service", score_by_service, ("--target=models", "--build-arg=MODELS=mini")),
    "cuda": Recipe("service", score_by_service, ("--target=cuda", "--build-arg=MODELS=mini")),
    "job": Recipe("kubernetes", score_by_job, ("--target=cpu",)),
    "job-torch": Recipe("kubernetes", score_by_job, ("--target=torch", "--build-arg=MODELS=mini"), backend="torch"),
    "lambda": Recipe("lambda", score_by_handler),
    "ray": Recipe("ray", score_by_command, ("--build-arg=MODELS=mini",)),
}


@pytest.mark.parametrize("name", CHOSEN)
def test_an_image_scores_the_challenge_set(name: str, context: Path, tmp_path: Path) -> None:
    recipe = RECIPES[name]
    expected = score_here(recipe.backend, tmp_path / "scored_here.csv")
    build(context / "deploy" / recipe.folder / "Dockerfile", name, context, *recipe.options)
    with tarfile.open(ROOT / "build" / "tools" / "base.tar") as base:
        base_bytes = sum(member.size for member in base)
    with opened(name, context.parent) as image:
        size = image.bytes
        sys.stderr.write(f"\n{name}: {size / 1e6:.0f} MB, of which {base_bytes / 1e6:.0f} MB are the base\n")
        assert recipe.score(image, tmp_path) == pytest.approx(expected, abs=1e-7)
        if name == "cpu":
            assert size - base_bytes + DEBIAN_BYTES < 450e6
            refuse_to_write(image)


def refuse_to_write(image: Image) -> None:
    """Make sure that /tmp can be written to, and nothing else."""
    command = Image(image.root, {**image.config, "Entrypoint": ["touch"]}).command("/opt/file", "/tmp/file")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "'/opt/file': Read-only file system" in done.stderr
    assert "/tmp/file" not in done.stderr
