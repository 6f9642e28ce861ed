"""Ask OSV for the known vulnerabilities of all versions in poetry.lock, and of the lowest that pyproject.toml allows.

`python -m scripts.audit` sends one request to osv.dev, or to the mirror named by OSV_URL, through the environment's
proxy, if one is set. The command exits with 0 if no vulnerabilities are known, with 1 if some are, and with 2 if the
database cannot be reached.
"""

from __future__ import annotations

import os
import sys
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import httpx
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
PLACE = "https://api.osv.dev"
_AT_ONCE = 1000  # queries per request, OSV's limit
_WAIT_S = 10.0

Package = tuple[str, str]  # a name and a version


def main() -> int:
    """Print the known vulnerabilities, and return the exit code."""
    place = os.environ.get("OSV_URL", PLACE)
    asked = packages(ROOT)
    try:
        with httpx.Client(base_url=place, timeout=_WAIT_S) as client:
            found = vulnerabilities(client, asked)
    except (httpx.HTTPError, ValueError) as exc:
        print(f"{place} cannot be reached ({type(exc).__name__}: {exc}), so nothing was checked.", file=sys.stderr)
        print(
            "Run this where it can be reached, or set HTTPS_PROXY to a proxy, or OSV_URL to a mirror.", file=sys.stderr
        )
        return 2
    for (name, version), known in found.items():
        print(f"{name} {version} ({asked[name, version]}): {', '.join(known)}")
    print(f"{len(found)} of {len(asked)} versions have known vulnerabilities; see https://osv.dev/vulnerability/ID")
    return 1 if found else 0


def packages(root: Path) -> dict[Package, str]:
    """Return the packages to look up, each with the place that names it: locked versions, and lower bounds."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    lock = tomllib.loads((root / "poetry.lock").read_text(encoding="utf-8"))
    extras, groups = project["project"]["optional-dependencies"], project["dependency-groups"]
    lines = [
        *project["project"]["dependencies"],
        *(line for part in (extras, groups) for found in part.values() for line in found),
    ]
    bounds = {bound: "the lowest version in pyproject.toml" for line in lines if (bound := lowest(Requirement(line)))}
    return {**bounds, **{(package["name"], package["version"]): "poetry.lock" for package in lock["package"]}}


def lowest(requirement: Requirement) -> Package | None:
    """Return the lowest version that a requirement allows, or None if it has no lower bound."""
    found = [each.version for each in requirement.specifier if each.operator in (">=", "==", "~=")]
    return (requirement.name, found[0]) if found else None


def vulnerabilities(client: httpx.Client, asked: Iterable[Package]) -> dict[Package, list[str]]:
    """Return the known vulnerabilities of packages, by name and version.

    Raises:
        httpx.HTTPError: The database cannot be reached.
        ValueError: The response does not come from OSV.
    """
    every, found = list(asked), {}
    for at in range(0, len(every), _AT_ONCE):
        some = every[at : at + _AT_ONCE]
        for package, result in zip(some, _ask(client, some), strict=True):
            if known := [each["id"] for each in result.get("vulns", ())]:
                found[package] = known
    return found


def _ask(client: httpx.Client, some: Sequence[Package]) -> list[dict[str, Any]]:
    queries = [{"package": {"ecosystem": "PyPI", "name": name}, "version": version} for name, version in some]
    answer = client.post("/v1/querybatch", json={"queries": queries}).raise_for_status().json()
    if not isinstance(answer, dict) or not isinstance(results := answer.get("results"), list):
        raise ValueError("the response does not come from OSV")
    return results


if __name__ == "__main__":
    sys.exit(main())
