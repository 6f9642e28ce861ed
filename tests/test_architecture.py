"""The building code: who may import whom, what importing costs, what is public."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest
from packaging.markers import Marker

import text_image_similarity

PACKAGE = Path(text_image_similarity.__file__).parent
FLOORS = {
    "errors": 0,
    "folders": 1,
    "bounded_json": 1,
    "checks": 1,
    "normal_forms": 1,
    "config": 2,
    "files": 2,
    "records": 2,
    "resize": 2,
    "sqlite_files": 2,
    "system": 2,
    "decode": 3,
    "embeddings": 3,
    "fetch": 3,
    "formats": 3,
    "metrics": 3,
    "preprocess": 3,
    "similarity": 3,
    "folder_lock": 3,
    "parts_folder": 3,
    "dataset": 4,
    "encoders": 4,
    "workspace": 4,
    "pipeline": 5,
    "client": 6,
    "evaluation": 6,
    "export": 6,
    "ray_data": 6,
    "report": 6,
    "search": 6,
    "spark": 6,
    "tables": 6,
    "training": 6,
    "service": 7,
    "cli": 8,
    "__init__": 9,  # only names what the others hold
    "__main__": 9,
}
# The same inside the largest rooms.
FLOORS_WITHIN = {
    "search": {
        "arguments": 0,
        "fields": 0,
        "nearest": 0,
        "database": 0,
        "time_limit": 0,
        "sqlite_schema": 0,
        "filters": 1,
        "products": 1,
        "postgres": 2,
        "query": 2,
        "product_columns": 2,
        "guessing": 3,
        "table_export": 3,
        "product_tables": 4,
        "table_answers": 5,
        "mongo": 5,
        "product_sources": 6,
        "stores": 3,
        "cursor": 3,
        "ledger": 4,
        "session": 5,
        "description": 6,
        "meaning": 5,
        "vectors": 5,
        "counting": 5,
        "calibrate": 6,
        "judgements": 7,
        "product_images": 6,
        "ingest": 7,
        "opening": 6,
        "ranking": 6,
        "predictor": 6,
        "table_ingest": 8,
        "recall": 7,
        "rank_fusion": 7,
        "listing": 7,
        "reindex": 8,
        "answer": 8,
        "searcher": 9,
        "catalog": 10,
        "match_log": 11,
        "table_catalog": 11,
        "__init__": 12,
    },
    "service": {
        "problems": 0,
        "clients": 0,
        "shares": 0,
        "keys": 0,
        "audit": 0,
        "settings": 1,
        "jobs": 1,
        "telemetry": 2,
        "pool": 2,
        "page": 2,
        "inference": 3,
        "search": 3,
        "http": 4,
        "ray": 5,
        "__init__": 6,
    },
}
# The only rooms that may hold these libraries.
DOORS = {
    # All but fetch, client and encoders (an inference server) only name an injected transport; the client's is fetch's.
    "httpx": {"client", "encoders", "fetch", "dataset", "pipeline", "report", "service"},
    "httpcore": {"fetch"},
    "h11": {"fetch"},
    "torch": {"encoders", "training", "preprocess"},  # the last for the fast way, when it is asked for
    "onnxruntime": {"encoders", "export"},  # the latter in a program that Triton runs
    "grpc": {"encoders"},
    "tritonclient": {"encoders"},
    "openvino": {"encoders"},
    "tensorrt": {"encoders"},
    "numba": {"resize"},
    "sqlite3": {"embeddings", "search"},
    "redis": {"embeddings"},
    "psycopg": {"search"},
    "pgvector": {"search"},
    "mlflow": {"export", "training"},
    "matplotlib": {"training"},
    "transformers": {"encoders"},
    "huggingface_hub": {"encoders", "dataset", "formats"},
    "datasets": {"dataset"},
    "scipy": {"metrics"},
    "fsspec": {"formats"},
    "tqdm": {"cli", "pipeline"},  # the latter for notebooks
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


def parts_of(path: Path) -> tuple[str, ...]:
    return path.relative_to(PACKAGE).with_suffix("").parts


@cache  # to read them all takes a second, and each is asked for more than once
def imports(path: Path) -> set[tuple[str, ...]]:
    """Return the files of this package that a file imports anywhere in it, also for types alone, as their parts."""
    package = parts_of(path)[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1] + tuple(
                (node.module or "").split(".") if node.module else ()
            )
            found |= {name for alias in node.names if (name := _file(base, alias.name)) is not None}
    return found


def _file(base: tuple[str, ...], name: str) -> tuple[str, ...] | None:
    """Return the file that `from base import name` reads."""
    for parts in ((*base, name), base):
        if PACKAGE.joinpath(*parts).with_suffix(".py").is_file() and parts:
            return parts
        if PACKAGE.joinpath(*parts, "__init__.py").is_file():
            return (*parts, "__init__")
    return None


@cache
def libraries(path: Path) -> set[str]:
    """Return the top-level libraries that a file imports anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add(str(node.module).partition(".")[0])
    return found


MODULES = sorted(PACKAGE.rglob("*.py"))


def all_imports() -> dict[tuple[str, ...], set[tuple[str, ...]]]:
    return {parts_of(path): imports(path) for path in MODULES}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_strictly_downward(path: Path) -> None:
    own = parts_of(path)
    assert own[0] in FLOORS, f"{own[0]} has no floor: give it one here and in docs/architecture.md"
    for other in imports(path):
        if other[0] != own[0]:
            assert FLOORS[other[0]] < FLOORS[own[0]], f"{own[0]} must not import {other[0]}"
        elif (within := FLOORS_WITHIN.get(own[0])) and other[1] != own[1]:
            assert within[other[1]] < within[own[1]], f"{own[0]}/{own[1]} must not import {other[1]}"
    if own[:2] != ("export", "triton_models"):  # programs that are copied
        assert "text_image_similarity" not in libraries(path), "imports inside the package are relative"


def test_no_files_import_each_other_in_a_circle() -> None:
    done: set[tuple[str, ...]] = set()
    found = all_imports()

    def visit(name: tuple[str, ...], above: tuple[tuple[str, ...], ...]) -> None:
        if name in above:
            raise AssertionError(" imports ".join("/".join(part) for part in (*above[above.index(name) :], name)))
        if name not in done:
            for other in sorted(found[name]):
                visit(other, (*above, name))
            done.add(name)

    for name in found:
        visit(name, ())


@pytest.mark.parametrize(
    "path", [path for path in MODULES if path.name == "__init__.py"], ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_an_init_is_a_face_that_defines_nothing(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree)
    defining = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
    assert not [node for node in ast.walk(tree) if isinstance(node, defining)]


def table_of(page: str, heading: str) -> dict[str, int]:
    """Return the rooms and their floors as the table says that begins with a heading."""
    _, _, behind = page.partition(f"| {heading} |")
    rows = re.match(r".*\n(?:\|.*\n)*", behind)
    assert rows is not None
    found = re.findall(r"^\| (\d+) \| `(\w+)/?` \| (?=\S)", rows[0], re.MULTILINE)
    assert len(found) == rows[0].count("\n") - 2, "each row has a floor, a room and its job"
    return {name: int(floor) for floor, name in found}


def test_the_documents_show_these_floors() -> None:
    page = (PACKAGE.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert table_of(page, "floor | room | its one job") == FLOORS
    for name, floors in FLOORS_WITHIN.items():
        assert table_of(page, f"floor | room of the {name} | its one job") == floors
    for name in FLOORS:
        assert f"`{name}/`" in page or not (PACKAGE / name).is_dir(), "a folder's name ends in /"
    picture = (PACKAGE.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    shown = {int(floor): names.split(" · ") for floor, names in re.findall(r'\["(\d) · (.*)"\]', picture)}
    assert {name: floor for floor, names in shown.items() for name in names} == {
        name: floor for name, floor in FLOORS.items() if not name.startswith("__")
    }


def test_the_layering_test_sees_imports() -> None:
    found = all_imports()
    assert ("errors",) in found["fetch", "transport"]
    assert ("encoders", "__init__") in found["pipeline", "score"]
    assert ("fetch", "fetcher") in found["fetch", "__init__"]
    assert ("service", "settings") in found["service", "http", "app"]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_libraries_stay_in_their_rooms(path: Path) -> None:
    for name in libraries(path) & DOORS.keys():
        assert room(path) in DOORS[name], f"{name} belongs to {DOORS[name]}"


def _at_the_top(path: Path) -> ast.Module:
    """Return a file's statements outside functions, without imports for types alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    tree.body = [node for node in tree.body if not isinstance(node, ast.FunctionDef | ast.ClassDef | ast.If)]
    return tree


def _imported(tree: ast.AST, path: Path) -> set[tuple[str, ...]]:
    """Return the files that a tree of a file imports; torch is `("torch",)`."""
    package, found = parts_of(path)[:-1], set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = (*package[: len(package) - node.level + 1], *filter(None, (node.module or "").split(".")))
            found |= {name for alias in node.names if (name := _file(base, alias.name)) is not None}
        elif isinstance(node, ast.Import | ast.ImportFrom):
            named = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            found |= {("torch",) for name in named if name.partition(".")[0] == "torch"}
    return found


def test_torch_is_imported_only_after_the_working_folder_was_checked() -> None:
    at_the_top = {parts_of(path): _imported(_at_the_top(path), path) for path in MODULES}
    heavy: set[tuple[str, ...]] = {("torch",)}
    while more := {name for name, found in at_the_top.items() if found & heavy and name not in heavy}:
        heavy |= more
    doors = {}
    for path in MODULES:
        for node in _functions_at_the_top(path) if parts_of(path) not in heavy else ():
            if _imported(node, path) & heavy:
                called = {ast.unparse(each.func) for each in ast.walk(node) if isinstance(each, ast.Call)}
                checks = called & {"require", "_require_torch", "refuse_planted_driver"}
                doors["/".join((*parts_of(path), node.name))] = bool(checks)
    assert len(doors) > 8
    assert [name for name, checked in doors.items() if not checked] == [
        "encoders/adapters/merged",
        "encoders/onnx_load/_export_once",
    ], "those get a loaded model"


def _functions_at_the_top(path: Path) -> list[ast.FunctionDef]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    bodies = [tree.body, *(node.body for node in tree.body if isinstance(node, ast.ClassDef))]
    return [node for body in bodies for node in body if isinstance(node, ast.FunctionDef)]


def test_only_decode_opens_images() -> None:
    opening = re.compile(r"Image\.open\(|Image\.OPEN|ImagePlugin")
    openers = {room(path) for path in MODULES if opening.search(path.read_text(encoding="utf-8"))}
    assert openers == {"decode"}


@pytest.mark.parametrize(
    "statement",
    [
        "import text_image_similarity",
        "from text_image_similarity import Config, Record",
        "from text_image_similarity import __version__",
        "import text_image_similarity.cli",
    ],
)
def test_importing_loads_nothing_heavy(statement: str) -> None:
    code = (
        f"{statement}\nimport sys\nprint([m for m in ('torch', 'pandas', 'numpy', 'PIL', 'httpx') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "arguments",
    [
        ["score", "--help"],
        ["evaluate", "--help"],
        ["evaluate", "x.csv", "--batch-size", "0"],
        ["train", "x.csv", "out", "--device", "cpu", "--precision", "fp16"],
    ],
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
        assert getattr(text_image_similarity, name).__name__ == {"score_csv": "score_table"}.get(name, name)
        assert name in dir(text_image_similarity)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        text_image_similarity.nonsense  # noqa: B018 - the access is the test


def test_modules_can_be_read_in_one_sitting() -> None:
    for path in MODULES:
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 330, path


def test_functions_fit_a_screen() -> None:
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                described = ast.get_docstring(node) is not None
                first = node.body[0]
                docstring = (first.end_lineno or 0) - first.lineno + 1 if described else 0
                length = (node.end_lineno or 0) - node.lineno + 1 - docstring
                assert length <= 55, f"{path}:{node.lineno} {node.name} has {length} lines"


def test_no_two_public_types_share_a_name() -> None:
    homes: dict[str, list[str]] = {}
    for path in MODULES:
        if path.parent.name == "triton_models":  # programs that are copied; Triton says what the class is called
            continue
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes.setdefault(node.name, []).append(str(path.relative_to(PACKAGE)))
    assert {name: found for name, found in homes.items() if len(found) > 1} == {}
