"""Write what the small install needs, with the versions of poetry.lock: `python -m scripts.small_requirements`.

`requirements/small.txt` scores; `small-serve.txt` runs the service, too; `small-search.txt` the service with catalogues; `small-cloud.txt`
reads and writes buckets, too. `torch.txt` is PyTorch with what its wheels need, and `full-*.txt` all else that images with torch have.
They are for `pip install --no-deps --require-hashes`, so each names every package: pip has no other way
to leave a dependency out. `deploy/triton/requirements.txt` has what Triton's python models import, in the same way.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Set
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import NormalizedName, canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "requirements"
FILES = {
    "small.txt": ["onnx"],
    "small-serve.txt": ["onnx", "serve"],
    "small-search.txt": ["onnx", "serve", "search", "redis"],
    "small-cloud.txt": ["onnx", "cloud"],
}

FULL = {
    "full-serve.txt": ["onnx", "serve", "search", "redis"],
    "full-cloud.txt": ["cloud"],
    "full-ray.txt": ["onnx", "ray", "serve"],
}

# What comes from PyTorch's own index, where it is asked, with other hashes than the lock's; its wheels for the processor need no more.
_OF_TORCH = re.compile("(torch|torchvision|triton|(cuda|nvidia)-[a-z0-9-]+)==")

# Files that no image with torch installs.
_ELSEWHERE = re.compile(
    "macosx|win32|win_|musllinux|android|ios_|emscripten|pyodide|pyemscripten|-cp3(10|9|8|7)-cp3|[.]tar[.]gz$|[.]zip$"
)

# `mini` and exported models are scored without these: they train, export and evaluate, or only make things faster.
LEFT_OUT = {"torch", "torchvision", "transformers", "onnx", "onnxscript", "scipy", "pandas", "hf-xet", "uvloop"}

TRITON = ROOT / "deploy" / "triton" / "requirements.txt"
_TRITON_NEEDS = ["onnxruntime", "pillow", "safetensors", "sentencepiece", "tokenizers"]
# Triton's python backend knows NumPy 1 alone, which is not in the lock; of its last version the wheels for NVIDIA's images.
_TRITON_NUMPY = """numpy==1.26.4 \\
    --hash=sha256:666dbfb6ec68962c033a450943ded891bed2d54e6755e35e5835d63f4f6931d5 \\
    --hash=sha256:675d61ffbfa78604709862923189bad94014bef562cc35cf61d3a07bba02a7ed \\
    --hash=sha256:7ab55401287bfec946ced39700c053796e7cc0e3acbef09993a9ad2adba6ca6e \\
    --hash=sha256:9fad7dcb1aac3c7f0584a5a8133e3a43eeb2fe127f47e3632d43d677c66c102b
"""

_HEAD = "# Made from poetry.lock by `python -m scripts.small_requirements`, for pip's --no-deps and --require-hashes. See docs/small-install.md.\n"


def main() -> None:
    """Write the files."""
    for name, text in texts().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
    TRITON.write_text(triton_text(), encoding="utf-8")


def texts() -> dict[str, str]:
    """Return the content of each file by its name."""
    lock = tomllib.loads((ROOT / "poetry.lock").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found = {name: pins(lock, project, extras) for name, extras in FILES.items()}
    for package in lock["package"]:
        wheels = [file for file in package["files"] if not _ELSEWHERE.search(file["file"])]
        package["files"] = wheels or package["files"]
    for name, extras in FULL.items():
        found[name] = [line for line in pins(lock, project, extras, set()) if not _OF_TORCH.match(line)]
    torch = pins(lock, {"dependencies": ["torch", "torchvision"]}, [], set())
    found["torch.txt"] = [line for line in torch if _OF_TORCH.match(line)]
    return {name: _HEAD + "".join(f"{line}\n" for line in lines) for name, lines in found.items()}


def triton_text() -> str:
    """Return the content of Triton's file; pixels depend on Pillow's version."""
    lock = tomllib.loads((ROOT / "poetry.lock").read_text(encoding="utf-8"))
    lines = pins(lock, {"dependencies": _TRITON_NEEDS}, [])
    return _HEAD + _TRITON_NUMPY + "".join(f"{line}\n" for line in lines if not line.startswith("numpy=="))


def pins(
    lock: dict[str, Any], project: dict[str, Any], extras: list[str], left_out: Set[str] = frozenset(LEFT_OUT)
) -> list[str]:
    """Return `name==version` with the hashes of its files, and a marker where it needs one, of all that the project needs.

    Args:
        lock: The content of poetry.lock.
        project: The table `project` of pyproject.toml.
        extras: The project's extras that are wanted.
        left_out: Packages that are not, nor what they alone need.
    """
    packages: dict[str, list[dict[str, Any]]] = {}
    for package in lock["package"]:
        packages.setdefault(canonicalize_name(package["name"]), []).append(package)
    lines = [*project["dependencies"], *(line for extra in extras for line in project["optional-dependencies"][extra])]
    asked = [need for line in lines for need in _asked(packages, Requirement(line))]
    markers: dict[NormalizedName, set[str]] = {}
    while asked:
        name, marker = asked.pop()
        if name in left_out:
            continue
        if name not in markers:
            asked += [
                need for package in packages[name] for found in _needs(package) for need in _asked(packages, found)
            ]
        markers.setdefault(name, set()).add(marker)
    return sorted(_pin(package, markers[name]) for name in markers for package in _once(packages[name]))


def _asked(packages: dict[str, list[dict[str, Any]]], found: Requirement) -> list[tuple[NormalizedName, str]]:
    """Return names, each with a marker or "": a requirement's own, and those of the extras that it asks for."""
    name, marker = canonicalize_name(found.name), str(found.marker or "")
    extras = [line for package in packages[name] for extra in found.extras for line in package["extras"][extra]]
    return [(name, marker), *((canonicalize_name(Requirement(line).name), marker) for line in extras)]


def _needs(package: dict[str, Any]) -> list[Requirement]:
    """Return what a package needs without extras of its own."""
    found = []
    for name, needed in package.get("dependencies", {}).items():
        for choice in needed if isinstance(needed, list) else [needed]:
            table = choice if isinstance(choice, dict) else {}
            if "extra ==" not in (marker := table.get("markers", "")):
                extras = f"[{','.join(table.get('extras', []))}]"
                found.append(Requirement(f"{name}{extras}" + (f" ; {marker}" if marker else "")))
    return found


def _once(packages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return list({package["version"]: package for package in packages}.values())


def _pin(package: dict[str, Any], markers: set[str]) -> str:
    """Return one requirement: for a package that is locked once for each Python, its own marker; otherwise that of who asks."""
    own = package.get("markers", "")
    own = own["main"] if isinstance(own, dict) else own
    own = re.sub(r' and extra == "[^"]+"$', "", own)  # which is wanted
    if own and "extra ==" not in own and "python" in own:
        markers = {own}
    marker = "" if "" in markers else " or ".join(sorted(markers))
    hashes = "".join(f" \\\n    --hash={found}" for found in sorted({file["hash"] for file in package["files"]}))
    return f"{package['name']}=={package['version']}" + (f" ; {marker}" if marker else "") + hashes


if __name__ == "__main__":
    main()
