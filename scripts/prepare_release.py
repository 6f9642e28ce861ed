"""Prepare a checkout for a release: `python scripts/prepare_release.py https://HOST/OWNER/REPOSITORY v1.2.3`.

A package index shows README.md without the files next to it, so its links are rewritten to lead to the repository at
the tag. pyproject.toml gets the repository's address. build/release_notes.md gets the tag's section of CHANGELOG.md.
The workflow `.github/workflows/release.yml` runs this script in a checkout that it discards afterwards; the script
needs only Python.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_LINK = re.compile(r"(?P<image>!?)\[(?P<text>[^\]]*)\]\((?P<target>[^)\s]+)\)")


def main(repository: str, tag: str) -> None:
    """Change README.md and pyproject.toml, and write the notes.

    Raises:
        SystemExit: The tag does not match the version, or CHANGELOG.md has no release date for it.
    """
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    version = tomllib.loads(project)["project"]["version"]
    if tag != f"v{version}":
        raise SystemExit(f"the tag is {tag}, but pyproject.toml has the version {version}; tag v{version}")
    notes = release_notes((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), version)
    readme = ROOT / "README.md"
    readme.write_text(absolute_links(readme.read_text(encoding="utf-8"), repository, tag), encoding="utf-8")
    (ROOT / "pyproject.toml").write_text(with_urls(project, repository, tag), encoding="utf-8")
    (ROOT / "build").mkdir(exist_ok=True)
    (ROOT / "build" / "release_notes.md").write_text(notes, encoding="utf-8")


def absolute_links(text: str, repository: str, tag: str) -> str:
    """Return Markdown whose relative links lead to the repository at a tag; those of images lead to the raw files."""

    def absolute(link: re.Match[str]) -> str:
        target = link["target"]
        if "://" not in target and not target.startswith(("#", "mailto:")):
            target = f"{repository}/{'raw' if link['image'] else 'blob'}/{tag}/{target}"
        return f"{link['image']}[{link['text']}]({target})"

    return _LINK.sub(absolute, text)


def with_urls(project: str, repository: str, tag: str) -> str:
    """Return pyproject.toml with the project's URLs."""
    lines = [
        "[project.urls]",
        f'Repository = "{repository}"',
        f'Documentation = "{repository}/blob/{tag}/docs/index.md"',
        f'Changelog = "{repository}/blob/{tag}/CHANGELOG.md"',
        f'Issues = "{repository}/issues"',
    ]
    return project.replace("[project.scripts]", "\n".join([*lines, "", "[project.scripts]"]))


def release_notes(changelog: str, version: str) -> str:
    """Return the changelog's section on a version.

    Raises:
        SystemExit: The heading `## VERSION - YEAR-MONTH-DAY` is missing.
    """
    part = re.search(
        rf"^## {re.escape(version)} - \d{{4}}-\d\d-\d\d\n(.*?)(?=^## |\Z)", changelog, re.DOTALL | re.MULTILINE
    )
    if part is None:
        raise SystemExit(
            f"CHANGELOG.md has no heading '## {version} - YEAR-MONTH-DAY'; add one with the date of the release"
        )
    return part[1].strip() + "\n"


if __name__ == "__main__":
    main(*sys.argv[1:])
