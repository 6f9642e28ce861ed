"""SECURITY.md says the limits that the code has, and all of them."""

from __future__ import annotations

import argparse
import ast
import re
from dataclasses import fields
from typing import Any

import pytest

from tests.support.paths import ROOT
from text_image_similarity import Config, Limits
from text_image_similarity.cli.serve import add_service_options, settings_of
from text_image_similarity.service.settings import MOST_BODIES, Settings

PAGE = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
PACKAGE = ROOT / "text_image_similarity"
WORDS = {"off": False, "on": True, "none": None}
UNITS = {"": 1, "s": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
NO_LIMITS = {"max_wait_s", "drain_delay_s"}  # numbers of the service that bound nothing that a client does


def table(heading: str) -> list[list[str]]:
    """Return the rows of the table below a heading, without the marks of code."""
    _, _, behind = PAGE.partition(f"\n### {heading}\n")
    lines = [line for line in behind.partition("\n### ")[0].splitlines() if line.startswith("| `")]
    return [[cell.strip().replace("`", "") for cell in line.strip("|").split("|")] for line in lines]


def value(cell: str) -> Any:
    """Read a default as it is written for people."""
    if cell in WORDS:
        return WORDS[cell]
    number, _, unit = cell.replace(",", "").partition(" ")
    return float(number) * UNITS[unit]


def comparable(default: Any) -> Any:
    return None if default == () else default if default is None or isinstance(default, bool) else float(default)


@pytest.fixture(scope="module")
def served() -> Settings:
    """The settings of `serve` without options."""
    parser = argparse.ArgumentParser()
    add_service_options(parser)
    return settings_of(parser.parse_args([]), {})


def test_the_limits_of_an_image_are_those_of_the_code(served: Settings) -> None:
    rows = table("Of an image")
    ours = {name: (value(default), value(in_serve)) for name, default, in_serve, *_ in rows}
    there = served.models[served.default].limits
    names = [field.name for field in fields(Limits)]
    expected = {name: (comparable(getattr(Limits(), name)), comparable(getattr(there, name))) for name in names}
    assert ours == expected
    assert [name for name, *_ in rows] == names
    assert f"`--timeout` ({Config().timeout_s:g} s per attempt) and `--retries` ({Config().retries})" in PAGE
    assert served.models[served.default].timeout_s == Config().timeout_s


def test_the_limits_of_the_service_are_those_of_the_code(served: Settings) -> None:
    rows = table("Of the service")
    kinds = ("int", "float", "int | None")
    names = {field.name for field in fields(Settings) if field.type in kinds} - NO_LIMITS
    assert {name: value(default) for name, default, *_ in rows} == {
        name: comparable(getattr(served, name)) for name in names
    }
    assert {name: comparable(getattr(Settings(models={"a": Config()}), name)) for name in names} == {
        name: comparable(getattr(served, name)) for name in names
    }, "the command's defaults are the library's"
    parser = argparse.ArgumentParser()
    add_service_options(parser)
    for _, _, option, *_ in rows:
        assert option in parser.format_help()
    assert MOST_BODIES == 8, "eight times, says the row of max_body_bytes"


def test_the_fixed_limits_are_those_of_the_code() -> None:
    rows = table("Fixed")
    assert len(rows) == 38
    for name, said, folder, *_ in rows:
        assert value(said) in values_of(name, folder), f"{name} in {folder} is not {said}"
    rooms = [PACKAGE / "service" / "http" / f"{name}.py" for name in ("connections", "peers")]
    source = "".join(room.read_text(encoding="utf-8") for room in rooms)
    named = set(re.findall(r"^(\w+) = [\d.]", source, re.MULTILINE)) - {
        "_FILES",
        "_MOST_AHEAD",  # pauses reading
        "_MOST_KNOWN",
        *(in_another_row := {"RESTS_A_SECOND": 64 << 20, "LEAST_READ": 4096}),
    }  # which limit no client
    assert all(values_of(name, "service/http") == [size] for name, size in in_another_row.items())
    assert named <= {name for name, _, folder, *_ in rows if folder == "service/http"}


def values_of(name: str, folder: str) -> list[float]:
    """Return what a name is given in the files of a folder, or in a module: as a constant, or as an argument."""
    found = []
    for path in sorted((PACKAGE / folder).rglob("*.py")) or [PACKAGE / f"{folder}.py"]:
        for match in re.finditer(
            rf"^(?: *){name}(?:, \w+)?(?:: \w+)? ?= ?(?P<value>[\d_.]+(?: (?:\*|<<) [\d_]+)*)",
            path.read_text("utf-8"),
            re.M,
        ):
            found.append(float(product(ast.parse(match["value"], mode="eval").body)))
    return found


def product(node: ast.expr) -> Any:
    if isinstance(node, ast.BinOp):
        left, right = product(node.left), product(node.right)
        return left * right if isinstance(node.op, ast.Mult) else left << right
    assert isinstance(node, ast.Constant)
    return node.value


def test_the_page_stays_short() -> None:
    assert len(PAGE.splitlines()) <= 220
