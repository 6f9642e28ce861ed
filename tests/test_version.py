"""The version: written once, in pyproject.toml, and the same wherever it is shown."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from zipfile import ZipFile

import httpx
import pytest

import text_image_similarity
from tests.support.fake_service import FakeService
from tests.support.packages import zip_package
from tests.support.paths import ROOT
from text_image_similarity import Config
from text_image_similarity.client import ServiceEngine
from text_image_similarity.fetch import Fetcher
from text_image_similarity.tables.summary import versions

VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
PROGRAM = "import text_image_similarity; print(text_image_similarity.__file__, text_image_similarity.__version__)"


def metadata(version: str) -> str:
    return f"Metadata-Version: 2.1\nName: text-image-similarity\nVersion: {version}\n"


def version_from(path: Path, folder: Path) -> str:
    """Return the version that a copy of the package says of itself, while this one is installed too."""
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(path)!r}); {PROGRAM}"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    file, _, version = done.stdout.strip().rpartition(" ")
    assert Path(file).is_relative_to(path)
    return version


def test_the_package_the_command_and_the_summaries_say_the_version_of_pyproject() -> None:
    assert text_image_similarity.__version__ == VERSION
    assert "__version__" in dir(text_image_similarity)
    assert versions()["text-image-similarity"] == VERSION
    command = [sys.executable, "-m", "text_image_similarity", "--version"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == (f"text-image-similarity {VERSION}\n", "")


def test_requests_say_the_version() -> None:
    agents = []

    def answer(request: httpx.Request) -> httpx.Response:
        agents.append(request.headers["user-agent"])
        return httpx.Response(200, content=b"bytes")

    Fetcher(Config(), transport=httpx.MockTransport(answer)).fetch("http://photos.example/a.jpg")
    service = FakeService()
    with ServiceEngine("http://service.example", transport=httpx.MockTransport(service)) as engine:
        engine.start(Config())
    agents += [head["user-agent"] for head in service.heads]
    assert len(agents) > 1
    assert set(agents) == {f"text-image-similarity/{VERSION}"}


def test_a_copy_says_the_version_that_lies_beside_it(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    shutil.copytree(
        ROOT / "text_image_similarity", tree / "text_image_similarity", ignore=lambda *_: ["weights", "service"]
    )
    assert version_from(tree, tmp_path) == "unknown"
    installed = tree / "text_image_similarity-7.0.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text(metadata("7.0.0"), encoding="utf-8")
    assert version_from(tree, tmp_path) == "7.0.0"
    project = tree / "pyproject.toml"
    project.write_text('[project]\nname = "another"\nversion = "3"\n', encoding="utf-8")
    assert version_from(tree, tmp_path) == "7.0.0"
    project.write_text('[project]\nname = "text-image-similarity"\nversion = "8.0.0"\n', encoding="utf-8")
    assert version_from(tree, tmp_path) == "8.0.0"


def test_a_zip_says_the_version_of_the_wheel_that_it_is(tmp_path: Path) -> None:
    package = zip_package(tmp_path)
    assert version_from(package, tmp_path) == "unknown"
    with ZipFile(package, "a") as zipped:
        zipped.writestr("text_image_similarity-9.0.0.dist-info/METADATA", metadata("9.0.0"))
    assert version_from(package, tmp_path) == "9.0.0"


def written(line: str, version: str) -> bool:
    """Say whether a line has a version of this package written out, whole or without its last number."""
    short = re.escape(version.rpartition(".")[0])
    named = rf"(?:image[-_ ]similarity(?:-\w+)?|agent\}}?|__version__|version|tag|image)\W{{0,6}}v?(?:{short})(?!\.?\d)"
    return bool(re.search(rf"(?<![\d.=]){re.escape(version)}(?![\d.])", line) or re.search(named, line, re.IGNORECASE))


def test_the_version_is_written_in_one_place() -> None:
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    names = {*filter(None, tracked.split("\0"))} - {"CHANGELOG.md", "poetry.lock", "pyproject.toml"}
    found = []
    for name in sorted(names):
        path = ROOT / name
        if path.suffix in {".jpg", ".png", ".gif", ".webp", ".safetensors", ".onnx", ".svg"} or not path.is_file():
            continue
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        found += [f"{name}:{i}: {line[:100]}" for i, line in enumerate(lines, 1) if written(line, VERSION)]
    assert len(names) > 300
    assert found == []


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("pip install text_image_similarity-1.2.3-py3-none-any.whl", True),
        ("newTag: 1.2.3-cpu", True),
        ('USER_AGENT = f"{AGENT}/1.2"', True),
        ("User-Agent: text-image-similarity/1.2", True),
        ('__version__ = "1.2"', True),
        ('"another-package==1.2.3"', False),
        ("http://1.2.3.4/", False),
        ("text-image-similarity scored 1.25 pairs", False),
        ("a picture 1.2 times as wide", False),
    ],
)
def test_a_written_version_is_seen(line: str, expected: bool) -> None:
    assert written(line, "1.2.3") is expected
