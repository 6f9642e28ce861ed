"""What is asked of the database of vulnerabilities, and bounds that keep known holes out."""

from __future__ import annotations

import json
import tomllib

import httpx
import pytest
from packaging.requirements import Requirement

from scripts import audit
from tests.support.paths import ROOT

# The last versions with a published hole that this package would be open to.
HOLES = [
    "filelock==3.20.2",
    "httpcore==1.0.8",  # by its h11
    "mlflow==3.9.0",
    "onnx==1.20.1",
    "protobuf==5.29.5",
    "pyspark==4.0.0",
    "python-multipart==0.0.26",
    "sentencepiece==0.2.0",
    "starlette==1.0.0",
    "torch==2.9.1",
    "tqdm==4.66.2",
    "transformers==5.4.0",
]


def test_no_bound_admits_a_version_with_a_known_hole() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"].values()
    ours = [Requirement(line) for line in [*project["dependencies"], *(line for extra in extras for line in extra)]]
    named = {each.name: each.specifier for each in ours}
    assert [hole for hole in HOLES if named[hole.split("==")[0]].contains(hole.split("==")[1])] == []
    assert all(audit.lowest(each) for each in ours)  # one without a bound admits every hole


def test_every_locked_version_and_every_lowest_one_is_asked_about() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        queries = json.loads(request.content)["queries"]
        asked.extend((each["package"]["name"], each["version"]) for each in queries)
        bad = [{"vulns": [{"id": "PYSEC-1"}]} if each["package"]["name"] == "tqdm" else {} for each in queries]
        return httpx.Response(200, json={"results": bad})

    asked: list[audit.Package] = []
    given = audit.packages(ROOT)
    with httpx.Client(base_url="https://osv.test", transport=httpx.MockTransport(answer)) as client:
        found = audit.vulnerabilities(client, given)
    lock = tomllib.loads((ROOT / "poetry.lock").read_text(encoding="utf-8"))["package"]
    assert {(package["name"], package["version"]) for package in lock} < set(asked)
    assert {("transformers", "5.5"), ("tqdm", "4.66.3"), ("pytest", "9.0.3")} <= set(asked)
    assert {name for name, _ in found} == {"tqdm"}
    assert len(found) == 2
    assert set(map(tuple, found.values())) == {("PYSEC-1",)}


@pytest.mark.parametrize("place", ["http://127.0.0.1:1", "not a place"])
def test_a_database_out_of_reach_is_said(
    place: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OSV_URL", place)
    assert audit.main() == 2
    said = capsys.readouterr()
    assert f"{place} cannot be reached" in said.err
    assert "OSV_URL" in said.err
    assert not said.out
