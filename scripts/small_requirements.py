"""Write the requirements of the small install, with poetry.lock's versions: `python -m scripts.small_requirements`.

`requirements/small.txt` is enough to score, `small-serve.txt` to run the service too, `small-search.txt` to run the
service with catalogues, and `small-cloud.txt` to read and write buckets too. `torch.txt` is PyTorch with the
requirements of its wheels, and `full-*.txt` everything else in container images with torch. The files are for `pip
install --no-deps --require-hashes`, so each lists every package: pip has no other way to leave out a dependency.
`deploy/triton/requirements.txt` lists the packages that Triton's python models import, in the same way.
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

# Packages that PyTorch's own index provides, with hashes that differ from the lock's; its CPU wheels need no CUDA
# packages.
_OF_TORCH = re.compile("(torch|torchvision|triton|(cuda|nvidia)-[a-z0-9-]+)==")

# Files that container images with torch do not install.
_ELSEWHERE = re.compile(
    "macosx|win32|win_|musllinux|android|ios_|emscripten|pyodide|pyemscripten|-cp3(10|9|8|7)-cp3|[.]tar[.]gz$|[.]zip$"
)

# Scoring with `mini` and exported models does not need these: they are for training, export, evaluation, or speed.
LEFT_OUT = {"torch", "torchvision", "transformers", "onnx", "onnxscript", "scipy", "pandas", "hf-xet", "uvloop"}

TRITON = ROOT / "deploy" / "triton" / "requirements.txt"
_TRITON_NEEDS = ["onnxruntime", "pillow", "safetensors", "sentencepiece", "tokenizers"]
# Triton's python backend supports only NumPy 1, which is not in the lock; these are the wheels for NVIDIA's container
# images.
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
    """Return the content of each file, by name."""
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
    """Return the content of Triton's file; it pins Pillow, because pixels depend on its version."""
    lock = tomllib.loads((ROOT / "poetry.lock").read_text(encoding="utf-8"))
    lines = pins(lock, {"dependencies": _TRITON_NEEDS}, [])
    return _HEAD + _TRITON_NUMPY + "".join(f"{line}\n" for line in lines if not line.startswith("numpy=="))


def pins(
    lock: dict[str, Any], project: dict[str, Any], extras: list[str], left_out: Set[str] = frozenset(LEFT_OUT)
) -> list[str]:
    """Return `name==version` with hashes, and a marker if it needs one, for each package that the project needs.

    Args:
        lock: The content of poetry.lock.
        project: The `project` table of pyproject.toml.
        extras: The project's extras to include.
        left_out: Packages to leave out, together with the packages that only they need.
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
    """Return names, each with a marker or "": a requirement's own, and those of its extras."""
    name, marker = canonicalize_name(found.name), str(found.marker or "")
    extras = [line for package in packages[name] for extra in found.extras for line in package["extras"][extra]]
    return [(name, marker), *((canonicalize_name(Requirement(line).name), marker) for line in extras)]


def _needs(package: dict[str, Any]) -> list[Requirement]:
    """Return the requirements of a package without any of its extras."""
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
    """Return a requirement: with its own marker if a package is locked per Python version, otherwise with `markers`."""
    own = package.get("markers", "")
    own = own["main"] if isinstance(own, dict) else own
    own = re.sub(r' and extra == "[^"]+"$', "", own)  # the extra is included
    if own and "extra ==" not in own and "python" in own:
        markers = {own}
    marker = "" if "" in markers else " or ".join(sorted(markers))
    hashes = "".join(f" \\\n    --hash={found}" for found in sorted({file["hash"] for file in package["files"]}))
    return f"{package['name']}=={package['version']}" + (f" ; {marker}" if marker else "") + hashes


if __name__ == "__main__":
    main()
