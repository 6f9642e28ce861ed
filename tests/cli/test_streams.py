"""What a command prints where the console cannot show it, is closed, full, or gone."""

from __future__ import annotations

import errno
import io
import logging
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tqdm

from tests.support.images import make_png
from text_image_similarity.cli import main, run_script
from text_image_similarity.cli.streams import lenient_streams
from text_image_similarity.training.loop import TrainResult

MINI = ("--model", "mini")
CAT = "\N{CJK UNIFIED IDEOGRAPH-732B}"


@pytest.fixture
def table(tmp_path: Path) -> Path:
    (tmp_path / "red.png").write_bytes(make_png("red"))
    (tmp_path / "blue.png").write_bytes(make_png("blue"))
    path = tmp_path / f"{CAT}.csv"
    path.write_text("url,caption\nred.png,red\nblue.png,blue\n")
    return path


def code_of(run: Callable[[], None]) -> int:
    with pytest.raises(SystemExit) as caught:
        run()
    return int(caught.value.code or 0)


def command(*arguments: object) -> int:
    return code_of(lambda: main([str(argument) for argument in arguments]))


class Console:
    """Stdout and stderr with an encoding, as text that was written to them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, encoding: str, errors: str = "strict") -> None:
        self._encoding = encoding
        self._bytes = {name: io.BytesIO() for name in ("stdout", "stderr")}
        for name, file in self._bytes.items():
            monkeypatch.setattr(sys, name, io.TextIOWrapper(file, encoding, errors, write_through=True))

    def text(self, name: str) -> str:
        return self._bytes[name].getvalue().decode(self._encoding, "surrogateescape")


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_a_name_that_the_console_cannot_show_is_escaped(
    encoding: str, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = table.with_name(f"{CAT}-out.csv")
    console = Console(monkeypatch, encoding)
    assert command("score", table, out, *MINI) == 0
    assert "\\u732b-out.csv" in console.text("stdout")
    assert command("evaluate", table, *MINI, "--log-format", "json") == 0
    assert f" {table.parent}/\\u732b.csv\n" in console.text("stdout")
    assert code_of(lambda: run_script(table, out, ["--restart", "--heartbeat", "0", *MINI])) == 0
    assert command("score", f"{CAT}.parquet", out) == 2
    assert "error: \\u732b.parquet does not exist" in console.text("stderr")
    assert command("evaluate", table, f"--{CAT}") == 2
    assert "unrecognized arguments: --\\u732b" in console.text("stderr")


def test_the_closing_table_of_a_training_is_escaped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = TrainResult(tmp_path / CAT, 1, [{"text_to_image_recall@10": 0.5}], {}, stopped_early=False)
    monkeypatch.setattr("text_image_similarity.training.loop.train", lambda *_, **__: result)
    console = Console(monkeypatch, "cp1252")
    (tmp_path / "pairs.csv").write_text("url,caption\n")
    assert command("train", tmp_path / "pairs.csv", tmp_path / "out") == 0
    assert "\\u732b" in console.text("stdout")


def test_a_name_that_is_no_text_is_shown_where_it_can_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for errors in ("strict", "surrogateescape"):  # two such characters can be one that does something to a terminal
        console = Console(monkeypatch, "utf-8", errors)
        assert command("score", "\udcff.csv", tmp_path / "out.csv") == 2
        assert r"error: \udcff.csv does not exist" in console.text("stderr")


class Lost(io.StringIO):
    """A stream whose every write fails."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self._number = number

    def write(self, text: str) -> int:
        raise OSError(self._number, os.strerror(self._number))

    def flush(self) -> None:
        self.write("")


@pytest.mark.parametrize(("number", "code"), [(errno.EPIPE, 0), (errno.ENOSPC, 1), (errno.EIO, 1)])
def test_a_job_is_done_where_its_output_cannot_be_shown(
    number: int, code: int, table: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = sys.stdout
    monkeypatch.setattr(sys, "stdout", Lost(number))
    out = table.with_name("out.csv")
    assert command("score", table, out, *MINI) == code
    assert len(out.read_text().splitlines()) == 3
    told = f"error: the result could not be written to stdout: {os.strerror(number)}" in capsys.readouterr().err
    assert told == bool(code)
    assert command("--version") == 0
    monkeypatch.setattr(sys, "stdout", given)
    for log_format in ("text", "json"):
        monkeypatch.setattr(sys, "stderr", Lost(number))
        assert command("score", "none.csv", out, "--log-format", log_format) == 2
        assert command("score", "none.csv") == 2


def test_streams_that_are_closed(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = table.with_name("out.csv")
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    assert command("score", table, out, *MINI) == 0
    assert out.is_file()
    assert command("score", "none.csv", out) == 2
    assert command("score") == 2
    assert (sys.stdout, sys.stderr) == (None, None)


def test_a_process_whose_console_is_a_closed_pipe(table: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    environment: dict[str, Any] = {**os.environ, "PYTHONIOENCODING": "cp1252"}
    given = [sys.executable, "-m", "text_image_similarity", "evaluate", str(table), *MINI]
    done = subprocess.run(given, stdout=writer, stderr=subprocess.PIPE, env=environment, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("plain \N{CJK UNIFIED IDEOGRAPH-732B}\n", "plain \N{CJK UNIFIED IDEOGRAPH-732B}\n"),
        ("\x1b]0;pwned\x07\x1b[31mextra\tUNEXPECTED\n", "\\x1b]0;pwned\\x07extra    UNEXPECTED\n"),
        ("WARNING: x\rERROR: y\n", "WARNING: x\\rERROR: y\n"),
        ("\x1b[2A\n", "\\x1b[2A\n"),
        ("\x1b[1mbold\x1b[0m", "bold"),
        ("\x9b2J\N{RIGHT-TO-LEFT OVERRIDE}", "\\x9b2J\\u202e"),
        ("\r 50%|█████     | 1/2", "\r 50%|█████     | 1/2"),
        ("\r         \r", "\r         \r"),
        ("\r", "\r"),
        ("\x1b[A\x1b[A", "\x1b[A\x1b[A"),
    ],
)
def test_what_libraries_write_to_stderr_cannot_control_the_terminal(
    written: str, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", told := io.StringIO())
    with lenient_streams():
        assert sys.stderr.write(written) == len(written)
        sys.stderr.writelines([written])
    assert told.getvalue() == 2 * shown


def test_the_time_for_what_libraries_write_grows_with_its_length(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many carriage returns inside a text once took a time that grew with the square of their number."""
    monkeypatch.setattr(sys, "stderr", told := io.StringIO())
    began = time.process_time()
    with lenient_streams():
        sys.stderr.write("\r\ra" + "\r" * 50_000 + "b\r")
    assert time.process_time() - began < 2
    assert told.getvalue().startswith("\r\ra\\r\\r")
    assert told.getvalue().endswith("\\rb\r")


def test_log_lines_and_warnings_of_libraries_are_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", told := io.StringIO())
    with lenient_streams():
        library = logging.Logger("library")
        library.addHandler(logging.StreamHandler())  # as the one of transformers, which bypasses the root logger
        library.warning("unexpected %s", "\x1b]0;pwned\x07")
        sys.stderr.write(warnings.formatwarning("\x1b[2J", UserWarning, "file.py", 1, "line"))
        for _ in tqdm.tqdm(range(2), desc="\x1b[2Jmodel.safetensors"):
            pass
    assert "unexpected \\x1b]0;pwned\\x07" in told.getvalue()
    assert "\r\\x1b[2Jmodel.safetensors: 100%" in told.getvalue()
    assert "\x1b" not in told.getvalue()
