"""`catalog log` as its users meet it."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.support.images import inline
from text_image_similarity import Product, cli, open_catalog
from text_image_similarity.encoders.testing import ColourEncoder
from text_image_similarity.search.match_log import LogEntry, LogEvent, new_match_id, open_match_log

DAY = 86_400.0
Run = Callable[..., str]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], shop: Path) -> Run:
    """Runs `catalog log` on the shop, and returns what it wrote."""

    def found(*arguments: object, code: int = 0) -> str:
        with pytest.raises(SystemExit) as caught:
            cli.main([*map(str, ("catalog", "log", shop, *arguments))])
        assert int(caught.value.code or 0) == code
        written = capsys.readouterr()
        return written.err if code else written.out

    return found


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A catalogue of two products whose log has a search of ten days ago, one of 28 November 2026, and a refused one a second later."""
    place = tmp_path / "shop.catalog"
    with open_catalog(place, fields=[], encoder=ColourEncoder()) as catalog:
        catalog.add([Product("red", "Red", inline("red")), Product("blue", "Blue", inline("blue"))])
    noon = 1_795_867_200.0
    texts: list[tuple[str, float, dict[str, Any]]] = [
        ("a red\x1b[31m hat", time.time() - 10 * DAY, {"results": ({"id": "red"}, {"id": "blue"}), "total": 2}),
        ("a blue hat", noon, {"results": ({"id": "red"}, {"id": "blue"}), "total": 2}),
        ("", noon + 1, {"status": 422, "error": "invalid_query: what?"}),
    ]
    with open_match_log(place) as log:
        entries = [
            LogEntry(new_match_id(at), at, query={"terms": [{"text": text}]}, milliseconds={"total": 2.0}, **values)
            for text, at, values in texts
        ]
        log.append(entries, [LogEvent(entries[1].id, noon + 9, "click", "blue")])
    return place


def test_the_latest_entries_are_shown(run: Run) -> None:
    lines = run("--since", "2026-11-28").splitlines()
    assert lines[0].split() == ["status", "ms", "found", "time", "(UTC)", "first", "product", "query"]
    assert "   200  2.0      2  2026-11-28 12:00:00  red            a blue hat" in lines
    assert "   422  2.0         2026-11-28 12:00:01                 invalid_query: what?" in lines
    found = json.loads(run("--json"))["entries"]
    assert [each["id"] for each in found] == sorted((each["id"] for each in found), reverse=True)
    assert len(found) == 3
    assert "\x1b" not in run()
    assert run("--since", "2100-01-01") == "entries  0\n"


def test_the_figures_are_shown(run: Run) -> None:
    lines = [line.split("  ", 1) for line in run("--summary").splitlines() if line]
    assert {
        ("requests", "3"),
        ("searches", "2"),
        ("without a result", "0"),
        ("refused: invalid_query", "1"),
        ("median", "2.0 ms"),
        ("click-through at 1", "0.0 %"),
        ("click-through at 3", "50.0 %"),
        ("events: click", "1"),
        ("times", "most frequent queries"),
        ("searches", "most clicked products"),
    } <= {(name.strip(), value.strip()) for name, value in lines}
    assert run("--summary", "--since", "2026-11-28T13:00+01:00") == run("--summary", "--since", "2026-11-28T12:00")
    found = json.loads(run("--summary", "--json"))
    assert (found["click_through"], found["clicked"]) == ({"1": 0.0, "3": 0.5, "10": 0.5}, [["blue", 1]])


def test_a_log_is_exported_and_taught(run: Run, tmp_path: Path) -> None:
    assert run("--export", tmp_path / "log.jsonl").split() == ["entries", "3", "output", str(tmp_path / "log.jsonl")]
    assert "already exists" in run("--export", tmp_path / "log.jsonl", code=2)
    assert run("--export", tmp_path / "log.jsonl", "--force", "--quiet") == ""
    assert json.loads(run("--train", tmp_path / "clicks.csv", "--json")) == {
        "pairs": 1,
        "products": 1,
        "clicks": 1,
        "wrong": 0,
        "missing": 0,
        "output": str(tmp_path / "clicks.csv"),
    }
    assert (tmp_path / "clicks.csv").read_text("utf-8").splitlines()[1].endswith(",a blue hat,blue,1")
    assert "left out: removed or no image" in run("--train", tmp_path / "more.csv")


def test_old_entries_are_removed(run: Run) -> None:
    assert json.loads(run("--prune", "9.5", "--json"))["removed"] >= 1
    assert run("--prune", 0).split()[:2] == ["entries", "removed"]
    assert json.loads(run("--json")) == {"entries": []}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--prune", "-1"), "-1 must be a number of days from 0 to 36,500"),
        (("--prune", "nan"), "nan must be a number of days"),
        (("--since", "yesterday"), "yesterday must be a day such as 2026-11-28"),
        (("--summary", "--prune", "1"), "not allowed with argument --summary"),
        (("--prune", "1", "--since", "2026-11-28"), "leave out --since"),
        (("--export", "log.csv"), "export the log to a .jsonl or .parquet file"),
        (("--log", "missing.sqlite"), "there is no match log at missing.sqlite"),
    ],
)
def test_what_cannot_be_asked(run: Run, arguments: tuple[str, ...], message: str) -> None:
    assert message in " ".join(run(*arguments, code=2).split())


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("id", "x"),
        ("time", "now"),
        ("time", 1e300),
        ("status", None),
        ("total", "many"),
        ("query", []),
        ("results", [1]),
        ("results", [{"id": ["a"]}]),
        ("milliseconds", {"total": "2"}),
        ("error", {"\x1b[2J": 1}),
    ],
)
@pytest.mark.parametrize("option", [(), ("--summary",)])
def test_a_record_of_another_program_is_named(
    run: Run, shop: Path, option: tuple[str, ...], member: str, value: object
) -> None:
    with closing(sqlite3.connect(shop / "log.sqlite")) as database, database:
        ((id, body),) = database.execute("SELECT id, body FROM entry ORDER BY id LIMIT 1").fetchall()
        changed = json.dumps(json.loads(body) | {member: value, "\x1b[2J": 1})
        database.execute("UPDATE entry SET body = ? WHERE id = ?", (changed, id))
    said = run(*option, code=1)
    assert "contains a record that this package did not write" in said
    assert said.replace("\n", "").isprintable()
