"""The building code: who may import whom, what importing costs, what is public."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.markers import Marker

import text_image_similarity

PACKAGE = Path(text_image_similarity.__file__).parent
FLOORS = {
    "errors": 0,
    "records": 1,
    "config": 1,
    "files": 1,
    "fetch": 2,
    "decode": 2,
    "preprocess": 2,
    "similarity": 2,
    "embedding_cache": 2,
    "formats": 2,
    "metrics": 2,
    "encoders": 3,
    "dataset": 3,
    "pipeline": 4,
    "client": 5,
    "evaluation": 5,
    "predictor": 5,
    "ray_data": 5,
    "report": 5,
    "service": 5,
    "spark": 5,
    "tables": 5,
    "training": 5,
    "cli": 6,
    "__init__": 7,  # only names what the others hold
    "__main__": 7,
}
# The only rooms that may hold these libraries.
DOORS = {
    # All but fetch and client only name an injected transport; the client's is fetch's.
    "httpx": {"client", "fetch", "dataset", "pipeline", "report", "service", "tables"},
    "httpcore": {"fetch"},
    "torch": {"encoders", "training", "preprocess"},  # the last for the fast way, when it is asked for
    "onnxruntime": {"encoders"},
    "sqlite3": {"embedding_cache"},
    "mlflow": {"training"},
    "matplotlib": {"training"},
    "transformers": {"encoders"},
    "huggingface_hub": {"encoders", "dataset"},
    "datasets": {"dataset"},
    "scipy": {"metrics"},
    "fsspec": {"formats"},
    "tqdm": {"cli"},
    "pyspark": {"spark"},
    "ray": {"ray_data", "service"},
    "fastapi": {"service"},
    "starlette": {"service"},
    "uvicorn": {"service"},
    "pydantic": {"service"},
    "prometheus_client": {"service"},
    "opentelemetry": {"service"},
}


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> set[tuple[str, str]]:
    """Return (kind, name) of all a module imports: rooms of this package, and top-level libraries."""
    found: set[tuple[str, str]] = set()
    depth = len(path.relative_to(PACKAGE).parts) - (path.name == "__init__.py")
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {("library", alias.name.partition(".")[0]) for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add(("library", str(node.module).partition(".")[0]))
        elif isinstance(node, ast.ImportFrom):
            outside = node.level > depth if path.name == "__init__.py" else node.level >= depth
            if path.name == "__init__.py" and len(path.relative_to(PACKAGE).parts) > 1:
                outside = node.level >= 2
            if outside:
                found |= {("room", str(node.module or alias.name).partition(".")[0]) for alias in node.names}
    return found


MODULES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_strictly_downward(path: Path) -> None:
    assert room(path) in FLOORS, f"{room(path)} has no floor: give it one here and in the design"
    for kind, name in imports(path):
        if kind == "room" and name != room(path):
            assert FLOORS[name] < FLOORS[room(path)], f"{room(path)} must not import {name}"
        assert name != "text_image_similarity", "imports inside the package are relative"


def test_the_layering_test_sees_imports() -> None:
    assert ("room", "errors") in imports(PACKAGE / "fetch" / "transport.py")
    assert ("room", "encoders") in imports(PACKAGE / "pipeline" / "__init__.py")
    assert ("room", "preprocess") in imports(PACKAGE / "encoders" / "__init__.py")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_libraries_stay_in_their_rooms(path: Path) -> None:
    for kind, name in imports(path):
        if kind == "library" and name in DOORS:
            assert room(path) in DOORS[name], f"{name} belongs to {DOORS[name]}"


def test_only_decode_opens_images() -> None:
    opening = re.compile(r"Image\.open\(|Image\.OPEN|ImagePlugin")
    openers = {room(path) for path in MODULES if opening.search(path.read_text(encoding="utf-8"))}
    assert openers == {"decode"}


@pytest.mark.parametrize(
    "statement", ["import text_image_similarity", "from text_image_similarity import Config, Record"]
)
def test_importing_loads_nothing_heavy(statement: str) -> None:
    code = (
        f"{statement}\nimport sys\nprint([m for m in ('torch', 'pandas', 'numpy', 'PIL', 'httpx') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "arguments", [["score", "--help"], ["evaluate", "--help"], ["evaluate", "x.csv", "--batch-size", "0"]]
)
def test_help_and_a_wrong_option_load_no_torch(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom text_image_similarity.cli import main\n"
        f"try:\n    main({arguments})\nexcept SystemExit:\n    sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


def test_the_lock_installs_each_package_once() -> None:
    """Two versions of one package, installed side by side, overwrite each other's files."""

    def applies(markers: str | dict[str, str] | None) -> bool:
        of_groups = markers.values() if isinstance(markers, dict) else [markers]
        return any(marker is None or Marker(marker).evaluate() for marker in of_groups)

    lock = tomllib.loads((PACKAGE.parent / "poetry.lock").read_text(encoding="utf-8"))
    versions: dict[str, list[str]] = {}
    for package in lock["package"]:
        if applies(package.get("markers")):
            versions.setdefault(package["name"], []).append(package["version"])
    assert len(versions) > 50
    assert {name: found for name, found in versions.items() if len(found) > 1} == {}


def test_public_names_are_sorted_and_real() -> None:
    names = text_image_similarity.__all__
    assert names == sorted(names)
    assert len(set(names)) == len(names)
    for name in names:
        assert getattr(text_image_similarity, name).__name__ == name
        assert name in dir(text_image_similarity)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        text_image_similarity.nonsense  # noqa: B018 - the access is the test


def test_modules_can_be_read_in_one_sitting() -> None:
    for path in MODULES:
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 350, path
