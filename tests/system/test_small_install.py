"""The small install, in an environment of its own: what requirements/ names and the wheel, and neither torch nor transformers."""

from __future__ import annotations

import base64
import csv
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pyarrow.csv
import pyarrow.parquet
import pytest
from packaging.requirements import Requirement

from scripts import small_requirements
from tests.support.paths import ROOT
from tests.support.processes import free_port, running
from text_image_similarity import Config, score_csv

# What training, exporting, evaluating and frames of pandas need, and scoring does not.
HEAVY = ("torch", "torchvision", "transformers", "onnx", "scipy", "pandas")

# pyarrow asks for pandas whenever it makes an array, and goes on without.
WATCHED = {*HEAVY} - {"pandas"}

# Python runs it at every start there, by a .pth file. Unlike a finder, an audit hook is not told of `is_installed`.
WATCH = """
import os, sys, traceback
def watch(event, found):
    if event == "import" and found[0].partition(".")[0] in {heavy}:
        with open({log!r}, "a") as log:
            log.write(found[0] + "\\n" + "".join(traceback.format_stack()))
    elif event == "import" and found[0] == "onnxruntime":
        with open({log!r} + ".seen", "a") as log:
            log.write("onnxruntime\\n")
sys.addaudithook(watch)
"""

# Argument 1 is a table in Parquet, 2 the scored one, 3 the handler, 4 a picture.
PROGRAM = """
import base64, importlib.util, json, pathlib, sys
from text_image_similarity import Config, Record, score_pairs, score_table
table, scored, handler, picture = sys.argv[1:]
score_table(table, scored, Config(model="mini", base_dir="."))
(result,) = score_pairs([Record(url=picture, text="a farm")], Config(model="mini"))
spec = importlib.util.spec_from_file_location("handler", handler)
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
url = "data:image/jpeg;base64," + base64.b64encode(pathlib.Path(picture).read_bytes()).decode()
(answer,) = module.handler({"pairs": [{"url": url, "caption": "a farm"}]}, None)["results"]
print(json.dumps([result.similarity, answer["similarity"]]))
"""


@dataclass
class Small:
    """An environment: its folder, and where each import of a heavy library is written down."""

    folder: Path
    log: Path

    @property
    def bin(self) -> Path:
        return self.folder / "bin"

    def run(self, *command: str | Path) -> str:
        """Run a program of the environment from the repository's root, and return what it prints."""
        done = subprocess.run(
            [self.bin / command[0], *command[1:]], cwd=ROOT, env=clean(), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


def clean() -> dict[str, str]:
    """Return the environment's variables without those that would show this checkout to another Python."""
    return {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "VIRTUAL_ENV"}}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Small]:
    folder = tmp_path_factory.mktemp("small") / "venv"
    found = Small(folder, folder.parent / "heavy.log")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    pip: list[str | Path] = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        found.bin / "python",
        "install",
        "--quiet",
        "--no-compile",
        "--no-deps",
    ]
    for what in (["--require-hashes", "-r", ROOT / "requirements" / "small-serve.txt"], [ROOT]):
        subprocess.run([*pip, *what], env=clean(), check=True)
    packages = Path(found.run("python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    subprocess.run([ROOT / "deploy" / "trim.sh", packages], check=True)
    (packages / "watch_imports.py").write_text(WATCH.format(heavy=WATCHED, log=str(found.log)), encoding="utf-8")
    (packages / "watch_imports.pth").write_text("import watch_imports\n", encoding="utf-8")
    yield found
    assert not found.log.exists(), found.log.read_text(encoding="utf-8")
    assert Path(f"{found.log}.seen").exists(), "the hook sees nothing"


@pytest.fixture(scope="module")
def challenge(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    """The challenge set as this environment, which has everything, scores it."""
    path = tmp_path_factory.mktemp("challenge") / "scored.csv"
    score_csv(str(ROOT / "challenge_set.csv"), path, Config(model="mini"))
    return rows(path)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def similarities(found: list[dict[str, str]]) -> list[float | None]:
    return [float(row["similarity"]) if row["similarity"] else None for row in found]


def test_it_is_below_350_mb(small: Small) -> None:
    sizes = {path: path.stat().st_size for path in small.folder.rglob("*") if path.is_file() and not path.is_symlink()}
    assert 200e6 < sum(sizes.values()) < 350e6
    assert not [path for name in HEAVY for path in small.folder.glob(f"lib/*/site-packages/{name}")]


def test_the_command_scores_a_table(small: Small, challenge: list[dict[str, str]], tmp_path: Path) -> None:
    small.run("text-image-similarity", "score", "challenge_set.csv", tmp_path / "scored.csv", "--model", "mini")
    assert rows(tmp_path / "scored.csv") == challenge
    assert len([row for row in challenge if row["similarity"]]) == 49


def test_the_first_score_loads_no_tables(small: Small) -> None:
    code = """
import sys
from text_image_similarity.cli import main
try:
    main(["score", "challenge_set/farm.jpg", "a farm", "--model", "mini"])
except SystemExit as done:
    assert not done.code, done.code
print([name for name in ("pyarrow", "huggingface_hub", "rich") if name in sys.modules])
"""
    similarity, loaded = small.run("python", "-c", code).splitlines()
    assert 0 < float(similarity) < 1
    assert loaded == "[]"


def test_python_scores_parquet_and_pairs_and_so_does_the_function(
    small: Small, challenge: list[dict[str, str]], tmp_path: Path
) -> None:
    table, scored = tmp_path / "in.parquet", tmp_path / "out.parquet"
    pyarrow.parquet.write_table(pyarrow.csv.read_csv(ROOT / "challenge_set.csv"), table)
    handler, picture = ROOT / "deploy" / "lambda" / "handler.py", ROOT / "challenge_set" / "farm.jpg"
    environment = {**clean(), "SCORE_CONFIG": json.dumps({"model": "mini", "model_cache": str(tmp_path)})}
    program: list[str | Path] = [small.bin / "python", "-c", PROGRAM, table, scored, handler, picture]
    done = subprocess.run(program, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    direct, answered = json.loads(done.stdout)
    assert direct == answered
    assert 0 < direct < 1
    found = pyarrow.parquet.read_table(scored)["similarity"].to_pylist()
    assert found == pytest.approx(similarities(challenge), abs=1e-7)


def test_the_service_answers(small: Small, challenge: list[dict[str, str]], tmp_path: Path) -> None:
    port = free_port()
    command = [str(small.bin / "text-image-similarity"), "serve", "--model", "mini", "--port", str(port)]
    good = [row for row in challenge if row["similarity"]][:8]
    pairs = [
        {"image_base64": base64.b64encode((ROOT / row["url"]).read_bytes()).decode(), "caption": row["caption"]}
        for row in good
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PYTHONPATH", raising=False)
        with running(command, port, tmp_path / "log", probe="/readyz") as service:
            answer = httpx.post(service.url("/v1/similarity"), json={"pairs": pairs}, timeout=60).raise_for_status()
    found = [result["similarity"] for result in answer.json()["results"]]
    assert found == pytest.approx(similarities(good), abs=1e-7)


def test_the_files_name_what_the_lock_does() -> None:
    for name, text in small_requirements.texts().items():
        assert (small_requirements.FOLDER / name).read_text(
            encoding="utf-8"
        ) == text, "run: python -m scripts.small_requirements"
        if name in small_requirements.FILES:
            assert not {line.partition("==")[0] for line in text.splitlines()} & set(HEAVY)


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13", "3.14"])
@pytest.mark.parametrize("name", [*small_requirements.FILES, *small_requirements.FULL])
def test_pip_finds_each_package_once_with_its_hashes(name: str, python: str) -> None:
    names = [name, "torch.txt"] if name in small_requirements.FULL else [name]
    text = "".join((small_requirements.FOLDER / each).read_text(encoding="utf-8") for each in names)
    pins = re.findall(r"^(\S+==[^\\\n]+?) ((?:\\\n    --hash=sha256:[0-9a-f]{64} ?)+)$", text, re.MULTILINE)
    assert len(pins) == len(re.findall(r"^\w", text, re.MULTILINE))
    there = {
        "python_version": python,
        "python_full_version": f"{python}.1",
        "sys_platform": "linux",
        "platform_system": "Linux",
    }
    asked = [
        found
        for found in map(Requirement, (pin for pin, _ in pins))
        if not found.marker or found.marker.evaluate(there)
    ]
    assert len(asked) == len({found.name for found in asked})
    assert ("torch" in {found.name for found in asked}) == (name in small_requirements.FULL)


@pytest.mark.parametrize("dockerfile", sorted(ROOT.glob("deploy/*/Dockerfile")), ids=lambda path: path.parent.name)
def test_images_install_nothing_without_its_hash(dockerfile: Path) -> None:
    text = dockerfile.read_text(encoding="utf-8").replace("\\\n", " ")
    installs = re.findall(r" -m pip (?:--python \S+ )?install (.*?)(?: && |;|$)", text, re.MULTILINE)
    assert installs
    for found in installs:
        ours = "text_image_similarity-*.whl" in found
        assert "--no-deps" in found
        assert "--require-hashes" in found or ours or '--index-url "$TORCH_INDEX"' in found, found
