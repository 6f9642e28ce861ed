"""What is published: README and metadata that stand without the repository, and notes for the version."""

from __future__ import annotations

import re
import tomllib

import pytest

from scripts.prepare_release import absolute_links, release_notes, with_urls
from tests.support.paths import ROOT

REPOSITORY = "https://git.example/owner/name"
CHANGELOG = "# Changelog\n\n## 1.3.0 - unreleased\n\nMore.\n\n## 1.2.0 - 2027-01-31\n\n### Added\n\n- A door.\n\n## 1.1.0 - 2026-01-01\n\nOld.\n"


def test_links_of_the_readme_lead_to_the_repository() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)\s]+)\)", readme)
    published = re.findall(r"\]\(([^)\s]+)\)", absolute_links(readme, REPOSITORY, "v1.2.3"))
    assert len(published) == len(links) > 20
    for link, absolute in zip(links, published, strict=True):
        assert re.match(r"https://|#", absolute)
        if not link.startswith(("https://", "#")):
            assert (ROOT / link.partition("#")[0]).exists()
            assert absolute in (f"{REPOSITORY}/blob/v1.2.3/{link}", f"{REPOSITORY}/raw/v1.2.3/{link}")
    assert f"{REPOSITORY}/raw/v1.2.3/docs/report.png" in published


def test_the_project_has_addresses() -> None:
    before = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    after = tomllib.loads(with_urls(before, REPOSITORY, "v1.2.3"))
    urls = after["project"].pop("urls")
    assert after == tomllib.loads(before)
    assert urls["Repository"] == REPOSITORY
    assert urls["Changelog"] == f"{REPOSITORY}/blob/v1.2.3/CHANGELOG.md"


def test_notes_are_those_of_the_version() -> None:
    assert release_notes(CHANGELOG, "1.2.0") == "### Added\n\n- A door.\n"
    for version in ("1.3.0", "1.2", "1x2.0"):
        with pytest.raises(SystemExit, match="add one with the date of the release"):
            release_notes(CHANGELOG, version)


def test_the_version_has_a_part_of_the_changelog() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    first = re.search(r"^## (\S+) - (unreleased|\d{4}-\d\d-\d\d)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert first is not None
    assert first[1] == version
