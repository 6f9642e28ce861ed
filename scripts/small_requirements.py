"""Write what the small install needs, with the versions of poetry.lock: `python -m scripts.small_requirements`.

`requirements/small.txt` scores; `small-serve.txt` runs the service, too; `small-search.txt` the service with catalogues; `small-cloud.txt`
reads and writes buckets, too. They are for `pip install --no-deps`, so each names every package: pip has no other way to leave a
dependency out.
"""

from __future__ import annotations

import tomllib
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

# `mini` and exported models are scored without these: they train, export and evaluate, or only make things faster.
LEFT_OUT = {"torch", "torchvision", "transformers", "onnx", "onnxscript", "scipy", "pandas", "hf-xet", "uvloop"}

_HEAD = "# Made from poetry.lock by `python -m scripts.small_requirements`, for pip's --no-deps. See docs/small-install.md.\n"


def main() -> None:
    """Write the files."""
    for name, text in texts().items():
        (FOLDER / name).write_text(text, encoding="utf-8")


def texts() -> dict[str, str]:
    """Return the content of each file by its name."""
    lock = tomllib.loads((ROOT / "poetry.lock").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return {
        name: _HEAD + "".join(f"{line}\n" for line in pins(lock, project, extras)) for name, extras in FILES.items()
    }


def pins(lock: dict[str, Any], project: dict[str, Any], extras: list[str]) -> list[str]:
    """Return `name==version`, with a marker where it needs one, of all that the project needs but for LEFT_OUT.

    Args:
        lock: The content of poetry.lock.
        project: The table `project` of pyproject.toml.
        extras: The project's extras that are wanted.
    """
    packages: dict[str, list[dict[str, Any]]] = {}
    for package in lock["package"]:
        packages.setdefault(canonicalize_name(package["name"]), []).append(package)
    lines = [*project["dependencies"], *(line for extra in extras for line in project["optional-dependencies"][extra])]
    asked = [need for line in lines for need in _asked(packages, Requirement(line))]
    markers: dict[NormalizedName, set[str]] = {}
    while asked:
        name, marker = asked.pop()
        if name in LEFT_OUT:
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
    """Return one line: for a package that is locked once for each Python, its own marker; otherwise that of who asks."""
    own = package.get("markers", "")
    if own and "extra ==" not in own and "python" in own:
        markers = {own}
    marker = "" if "" in markers else " or ".join(sorted(markers))
    return f"{package['name']}=={package['version']}" + (f" ; {marker}" if marker else "")


if __name__ == "__main__":
    main()
