"""What goes to stderr: text for people, JSON for machines, a heartbeat where nobody watches."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
import warnings
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.support.images import make_png, noise, saved
from text_image_similarity import cli
from text_image_similarity.cli import logs
from text_image_similarity.cli.terminal import Heartbeat, ProgressBar

logger = logging.getLogger("text_image_similarity")


@pytest.fixture
def table(tmp_path: Path) -> Path:
    (tmp_path / "red.png").write_bytes(make_png())
    path = tmp_path / "in.csv"
    path.write_text("url,caption\nred.png,a red square\nnone.png,a red square\nred.png,red\n")
    return path


def command(*arguments: object) -> int:
    with pytest.raises(SystemExit) as caught:
        cli.main([str(argument) for argument in arguments])
    return int(caught.value.code or 0)


class Clock:
    """A clock that stands still until it is set, and counts how often it is read."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.reads = 0

    def __call__(self) -> float:
        self.reads += 1
        return self.now


def test_text_has_the_time_where_stderr_is_no_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    logs.set_up("text")
    logger.warning("careful")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z WARNING: careful\n", capsys.readouterr().err)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    logs.set_up("text")
    logger.info("as you were")
    assert capsys.readouterr().err == "INFO: as you were\n"  # once, though it was set up twice


def test_quiet_leaves_warnings(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up("json", quiet=True)
    logger.info("nothing")
    logger.warning("something")
    (line,) = capsys.readouterr().err.splitlines()
    assert json.loads(line)["message"] == "something"


def test_a_json_line_holds_all_that_was_logged(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up("json")
    before = datetime.now(UTC)
    try:
        raise ValueError("not\nthis")
    except ValueError:
        logger.exception(
            "two\nlines, %s and \ud800",
            "\u202eback",
            extra={"rows": 3, "rate": float("nan"), "in": {"a": float("inf")}},
        )
    (line,) = capsys.readouterr().err.splitlines()
    found = json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert list(found)[:4] == ["time", "level", "logger", "message"]
    told = datetime.fromisoformat(found["time"])
    assert before.replace(microsecond=before.microsecond // 1000 * 1000) <= told <= datetime.now(UTC)
    assert found["time"].endswith("Z")
    assert (found["level"], found["logger"]) == ("ERROR", "text_image_similarity")
    assert found["message"] == "two\nlines, \u202eback and \ud800"
    assert (found["rows"], found["rate"], found["in"]) == (3, None, {"a": None})
    assert found["exception"].startswith("Traceback")
    assert found["exception"].endswith("ValueError: not\nthis")
    assert set(found) == {"time", "level", "logger", "message", "rows", "rate", "in", "exception"}


def test_extra_fields_cannot_pose_as_the_line_s_own(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up("json")
    logger.warning("true", extra={"level": "DEBUG", "time": "never", "logger": "mine"})
    found = json.loads(capsys.readouterr().err)
    assert (found["level"], found["logger"]) == ("WARNING", "text_image_similarity")
    assert found["time"] != "never"


@pytest.mark.parametrize(
    ("arguments", "exit_code", "message"),
    [
        (["--url-col", "link"], 2, "it has the columns: url, caption"),
        (["--model", "/no/such/folder"], 2, "model folder /no/such/folder does not exist"),
    ],
)
def test_the_command_s_errors_are_json_lines_too(
    table: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], exit_code: int, message: str
) -> None:
    assert command("score", table, table.with_name("out.csv"), "--log-format", "json", *arguments) == exit_code
    found = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert found[-1]["level"] == "ERROR"
    assert found[-1]["kind"] == "error"
    assert message in found[-1]["message"]


@pytest.mark.parametrize(
    ("raised", "exit_code", "level"), [(KeyboardInterrupt(), 130, "WARNING"), (ValueError("a bug"), 1, "ERROR")]
)
def test_an_interrupt_and_a_bug_are_json_lines_too(
    table: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    raised: BaseException,
    exit_code: int,
    level: str,
) -> None:
    def fail(*_: object) -> int:
        raise raised

    monkeypatch.setattr(cli.score, "run", fail)
    assert command("score", table, table.with_name("out.csv"), "--log-format", "json") == exit_code
    (line,) = capsys.readouterr().err.splitlines()
    assert json.loads(line)["level"] == level
    assert ("a bug" in json.loads(line).get("exception", "")) == isinstance(raised, ValueError)


def test_a_bug_keeps_its_traceback_in_text_that_cannot_control_the_terminal(
    table: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> int:
        raise ValueError("a bug\x1b]0;owned\x07 with\nlines")

    monkeypatch.setattr(cli.score, "run", fail)
    assert command("score", table, table.with_name("out.csv")) == 1
    said = capsys.readouterr().err
    assert said.startswith("Traceback")
    assert said.endswith("ValueError: a bug\\x1b]0;owned\\x07 with\nlines\n")


def test_a_warning_of_a_library_is_a_json_line(capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():  # which also undoes what captureWarnings puts in their way
        warnings.simplefilter("always")
        logs.set_up("json")
        warnings.warn("old ways", stacklevel=1)
        logs.set_up("text")
    (line,) = capsys.readouterr().err.splitlines()
    assert json.loads(line)["logger"] == "py.warnings"
    assert "old ways" in json.loads(line)["message"]


def test_what_libraries_print_is_json_lines_too(table: Path) -> None:
    broken = bytearray(saved(noise(1)[0], "TIFF", compression="tiff_lzw"))
    broken[200:3000] = b"\xff" * 2800  # of which libtiff prints that a code is not in its table
    table.with_name("broken.tif").write_bytes(broken)
    table.write_text("url,caption\nred.png,red\nbroken.tif,noise\n")
    code = (
        "import os, sys\nfrom text_image_similarity import cli\nscore = cli.score.run\n"
        "def run(options):\n"
        "    os.write(2, b'\\x1b[31mnative\\x1b[0m\\n\\nbar 1%\\rbar 100%\\r\\n')\n"
        "    print('python', file=sys.stderr)\n"
        "    return score(options)\n"
        "cli.score.run = run\ncli.main(sys.argv[1:])"
    )
    out = table.with_name("out.csv")
    arguments = ["score", str(table), str(out), "--model", "mini", "--log-format", "json", "--heartbeat", "0.000001"]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    found = [json.loads(line) for line in done.stderr.splitlines()]
    printed = [line["message"] for line in found if line["logger"] == "stderr"]
    assert printed[:3] == ["native", "bar 100%", "python"]
    assert "not yet in table" in printed[3]
    assert any(line["logger"] == "text_image_similarity" for line in found)


def test_a_whole_run_in_json(table: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)  # where a bar would be drawn
    arguments = ("--model", "mini", "--log-format", "json", "--heartbeat", "0.000001")
    assert command("score", table, table.with_name("out.csv"), *arguments) == 0
    said = capsys.readouterr()
    beats = [found for line in said.err.splitlines() if "seconds_left" in (found := json.loads(line))]
    assert [beat["done"] for beat in beats] == [1, 2, 3]
    assert beats[-1] == beats[-1] | {"unit": "pairs", "failed": 1, "total": 3, "seconds_left": 0}
    assert "rows                    3" in said.out


@pytest.mark.parametrize("seconds", ["-1", "nan", "x", "1e9"])
def test_a_heartbeat_takes_seconds(table: Path, capsys: pytest.CaptureFixture[str], seconds: str) -> None:
    assert command("score", table, table.with_name("out.csv"), f"--heartbeat={seconds}") == 2
    assert "--heartbeat" in capsys.readouterr().err


def test_a_heartbeat_says_how_far_a_run_is(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    clock = Clock()
    heart = Heartbeat("pairs", 60, clock)
    heart.beat(10_000, 300, 50_000)  # rows of an earlier run
    for done, now in ((10_500, 1050.0), (11_000, 1060.0), (11_100, 1119.9), (12_000, 1200.0)):
        clock.now = now
        heart.beat(done, 312, 50_000)
    assert caplog.messages == [
        "11,000 of 50,000 pairs, 312 failed, 16.7 pairs/s, 39 min left",
        "12,000 of 50,000 pairs, 312 failed, 10.0 pairs/s, 63 min left",
    ]
    fields = {name: getattr(caplog.records[1], name) for name in ("done", "failed", "total", "per_second")}
    assert fields == {"done": 12_000, "failed": 312, "total": 50_000, "per_second": 10.0}
    assert vars(caplog.records[1])["seconds_left"] == 3800
    assert clock.reads == 5  # once a call


@pytest.mark.parametrize(
    ("done", "now", "left"),
    [(0, 61, "time left unknown"), (900, 90, "10 s left"), (10, 100, "2 h 45 min left"), (1000, 100, "0 s left")],
)
def test_a_heartbeat_says_the_time_left(caplog: pytest.LogCaptureFixture, done: int, now: float, left: str) -> None:
    caplog.set_level(logging.INFO)
    clock = Clock()
    heart = Heartbeat("pairs", 60, clock)
    heart.beat(0, 0, 1000)
    clock.now += now
    heart.beat(done, 0, 1000)
    assert caplog.messages[0].endswith(left)


def test_zero_stops_the_heart(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    clock = Clock()
    heart = Heartbeat("pairs", 0, clock)
    for _ in range(3):
        clock.now += 1e6
        heart.beat(1, 0, 2)
    assert caplog.messages == []


def test_a_bar_is_drawn_or_a_line_logged_not_both(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO)
    clock = Clock()
    for bar in (True, False):
        shown = ProgressBar("pairs", bar=bar, heartbeat_s=1, clock=clock)
        shown.show(40, 0, 50)
        clock.now += 2
        shown.show(45, 3, 50)
        shown.close()
        drawn = capsys.readouterr().err
        assert ("45/50" in drawn and "failed=3" in drawn) == bar
        assert len(caplog.messages) == (not bar)
        assert " 0/50" not in drawn  # it starts where an earlier run ended, and its rate too
