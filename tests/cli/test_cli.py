"""The command line as its users meet it: exit codes, messages, files."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from dataclasses import fields
from itertools import chain, repeat
from pathlib import Path

import pytest

from tests.support.images import make_png
from tests.support.paths import ROOT
from text_image_similarity import Config, Limits, TrainConfig, cli
from text_image_similarity.cli import options
from text_image_similarity.cli.parser import field_texts
from text_image_similarity.cli.stopping import Stopping
from text_image_similarity.workspace import Workspace


@pytest.fixture
def table(tmp_path: Path) -> Path:
    (tmp_path / "red.png").write_bytes(make_png())
    path = tmp_path / "in.csv"
    path.write_text("url,caption\nred.png,a red square\nnone.png,a red square\n")
    return path


def command(*arguments: object) -> int:
    """Run the command in this process and return its exit code."""
    with pytest.raises(SystemExit) as caught:
        cli.main([str(argument) for argument in arguments])
    return int(caught.value.code or 0)


def script(*arguments: object, **defaults: Path) -> int:
    with pytest.raises(SystemExit) as caught:
        cli.run_script(defaults["in_path"], defaults["out_path"], [str(argument) for argument in arguments])
    return int(caught.value.code or 0)


def test_a_run_ends_with_a_table(
    table: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert command("score", table, table.with_name("out.csv"), "--model", "mini") == 0
    said = capsys.readouterr()
    for line in ("rows                    2", "scored                  1", "failed: file_not_found  1"):
        assert line in said.out
    assert "mini" in said.out
    assert "failed=1" in said.err  # the progress bar


def test_quiet_is_quiet(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("score", table, table.with_name("out.csv"), "--model", "mini", "--quiet") == 0
    assert capsys.readouterr() == ("", "")


def test_strict_tells_of_failed_rows(table: Path) -> None:
    out = table.with_name("out.csv")
    assert command("score", table, out, "--model", "mini", "--strict", "--quiet") == 4
    assert out.exists()
    table.write_text("url,caption\nred.png,red\n")
    assert command("score", table, out, "--model", "mini", "--strict", "--quiet") == 0


@pytest.mark.parametrize(
    ("arguments", "exit_code", "message"),
    [
        (["--url-col", "link"], 2, "it has the columns: url, caption"),
        (["--batch-size", "0"], 2, "--batch-size 0 must be a whole number of at least 1"),
        (["--device", "tpu"], 2, "--device tpu is not one of auto, cpu, mps, cuda"),
        (["--score", "dot"], 2, "invalid choice: 'dot'"),
        (["--nonsense"], 2, "unrecognized arguments: --nonsense"),
        (["--\x1b]0;owned\x07"], 2, "unrecognized arguments: --\\x1b]0;owned\\x07"),
        (["--model", "/no/such/folder"], 2, "model folder /no/such/folder does not exist"),
        ([], 1, "--model mini"),
    ],
)
def test_mistakes_are_named(
    table: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], exit_code: int, message: str
) -> None:
    out = table.with_name("out.csv")
    assert command("score", table, out, *arguments) == exit_code
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said
    assert not out.exists()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("total_s=60", 60.0),
        ("per_host=2", 2),
        ("max_pixels=1_000_000", 1_000_000),
        ("max_bytes=50MiB", 50 << 20),
        ("decode_memory=2GiB", 2 << 30),
        ("allow_local_files=false", False),
        ("respect_opt_out=true", True),
    ],
)
def test_a_limit_is_read_as_its_field_is_typed(text: str, value: object) -> None:
    name, read = options.limit(text)
    assert (name, read, type(read)) == (text.partition("=")[0], value, type(value))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("total=5", "'total' is not one of the limits connect_s, total_s, max_bytes"),
        ("total_s", "total_s must be a number of seconds, not ''"),
        ("total_s=soon", "total_s must be a number of seconds, not 'soon'"),
        ("total_s=nan", "total_s=nan must be a number of seconds from 0.001 to 86400"),
        ("max_bytes=5.5MiB", "max_bytes must be a whole number, such as 500, 50_000 or 20MiB, not '5.5MiB'"),
        ("per_host=0", "per_host=0 must be a whole number of at least 1"),
        ("allow_private_addresses=yes", "allow_private_addresses must be true or false, not 'yes'"),
    ],
)
@pytest.mark.parametrize(
    "words", [["score", "in.csv", "out.csv"], ["evaluate", "in.csv"], ["train", "in.csv", "out"], ["serve"]]
)
def test_a_wrong_limit_is_named(words: list[str], text: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(*words, "--limit", text) == 2
    assert message in capsys.readouterr().err


def test_limits_hold_and_the_last_of_a_name_counts(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    limits = ["--limit", "max_bytes=1MiB", "--limit", "max_side=1", "--limit", "max_bytes=10"]
    assert command("score", table, table.with_name("out.csv"), "--model", "mini", *limits) == 4
    assert "failed: too_many_bytes  1" in capsys.readouterr().out
    assert command("evaluate", table, "--model", "mini", "--limit", "max_side=1") == 1
    assert "1 too_many_pixels" in capsys.readouterr().err


def test_a_service_is_not_told_to_read_local_files(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("serve", "--limit", "allow_local_files=true") == 2
    assert "which never reads local files" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("host", "key", "warned"), [("0.0.0.0", "", True), ("127.0.0.1", "", False), ("0.0.0.0", "k", False)]
)
def test_a_service_for_everybody_says_so(
    host: str,
    key: str,
    warned: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    served: list[str] = []
    monkeypatch.setattr("text_image_similarity.service.serve", lambda settings, host, port: served.append(host))
    (tmp_path / "keys.txt").write_text(key)
    keys = ("--api-key-file", tmp_path / "keys.txt") if key else ()
    assert command("serve", "--model", "mini", "--host", host, *keys) == 0
    assert served == [host]
    assert ("no API key is set" in capsys.readouterr().err) is warned


def test_paths_may_start_from_another_folder(table: Path) -> None:
    (table.parent / "deep").mkdir()
    moved = table.rename(table.parent / "deep" / "in.csv")
    out = table.with_name("out.csv")
    for folder, scored in ((moved.parent, False), (table.parent, True)):
        assert command("score", moved, out, "--model", "mini", "--quiet", "--base-dir", folder, "--restart") == (
            0 if scored else 4
        )
        with out.open(newline="") as file:
            assert bool(next(csv.DictReader(file))["similarity"]) is scored


def test_a_job_of_which_nothing_was_scored_is_no_success(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table.write_text("url,caption\nnone.png,a red square\n")
    assert command("score", table, table.with_name("out.csv"), "--model", "mini") == 4
    said = capsys.readouterr().err
    assert "0 of 1 rows have a score: 1 with file_not_found; relative paths start from" in said
    table.write_text("url,caption\n")
    assert command("score", table, table.with_name("out.csv"), "--model", "mini") == 0


def test_too_many_failures_end_a_run(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ("score", table, table.with_name("out.csv"), "--model", "mini", "--chunk-size", "1")
    assert command(*given, "--max-failures", "10%") == 4
    assert "1 of 2 rows failed, more than --max-failures 10% allows, 1 with file_not_found" in capsys.readouterr().err
    assert command(*given, "--max-failures", "ten") == 2
    assert command(*given, "--max-failures", "1") == 0


def test_files_of_others_are_kept(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    precious, out = table.with_name("precious.html"), table.with_name("out.csv")
    precious.write_text("<p>precious</p>")
    score = ("score", table, out, "--model", "mini", "--quiet", "--report", precious)
    evaluate = ("evaluate", table, "--model", "mini", "--quiet", "--out", precious)
    for given in (score, evaluate):
        assert command(*given) == 2
        assert "precious.html was not written by this command; name another file, or replace it with --force" in (
            capsys.readouterr().err
        )
        assert precious.read_text() == "<p>precious</p>"
    assert not out.exists()
    precious.write_text('{"source": "precious", "model": 1}')
    assert command(*evaluate) == 2
    assert command("score", table, out, "--model", "mini", "--report", f"{out}.parts") == 2
    assert command(*evaluate, "--force") == 0
    assert command(*evaluate) == 0
    assert command(*score, "--force") == 0
    assert command(*score) == 0  # now it is the command's own
    assert precious.read_text().startswith("<!doctype html>")


@pytest.mark.parametrize("name", ["score", "evaluate", "train"])
@pytest.mark.parametrize("folder", ["nowhere", "in.csv", "", "~nobody"])
def test_a_base_folder_must_exist(name: str, folder: str, table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = [table.with_name("out.csv")] * (name != "evaluate")
    assert command(name, table, *out, "--base-dir", table.parent / folder if folder == "in.csv" else folder) == 2
    assert "argument --base-dir: " in (error := capsys.readouterr().err)
    assert "is not a folder on this machine" in error


def test_every_setting_has_a_text_and_options_do_without() -> None:
    for kind in (Config, Limits, TrainConfig):
        assert [field.name for field in fields(kind)] == [name for name, text in field_texts(kind).items() if text]
    done = subprocess.run([sys.executable, "-OO", "-m", "text_image_similarity", "score", "-h"], capture_output=True)
    assert (done.returncode, b"--batch-size N" in done.stdout) == (0, True)


def test_files_that_are_not_there(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("score", table.with_name("none.csv"), table.with_name("out.csv"), "--model", "mini") == 2
    assert command("score", table, table.parent / "none" / "out.csv", "--model", "mini") == 2
    table.write_text("")
    assert command("score", table, table.with_name("out.csv"), "--model", "mini") == 1
    said = capsys.readouterr().err
    assert "none.csv does not exist" in said
    assert "cannot be written" in said
    assert "is empty" in said


def test_an_interrupt_writes_nothing(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli.score, "run", interrupt)
    assert command("score", table, table.with_name("out.csv")) == 130


def test_the_script_swaps_no_chosen_model(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for model, code in (("fast", 1), ("/no/such/folder", 2)):
        assert script("--model", model, in_path=table, out_path=table.with_name("out.csv")) == code
    assert not table.with_name("out.csv").exists()


@pytest.mark.slow
def test_the_script_falls_back_to_mini_says_so_and_runs_from_anywhere(tmp_path: Path) -> None:
    out = tmp_path / "scored.csv"
    path = ROOT / "execute_text_image_similarity_csv.py"
    done = subprocess.run(
        [sys.executable, path, ROOT / "challenge_set.csv", out],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads(out.with_name("scored.csv.summary.json").read_text())
    assert summary["model"] == "mini"
    assert len(summary["warnings"]) == 1
    for text in (done.stdout, done.stderr, summary["warnings"][0]):  # the closing table, the log, the summary
        assert "is unavailable; scored with mini instead" in text
    with out.open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 51


def test_the_module_runs_as_a_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "text_image_similarity", "score", "--help"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert "--limit NAME=VALUE" in done.stdout


@pytest.mark.slow
def test_a_stopped_run_goes_on_and_says_what_changed(
    table: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    table.write_text("url,caption\n" + "red.png,a red square\n" * 9)
    out = table.with_name("out.csv")
    arguments = ["score", table, out, "--model", "mini", "--chunk-size", "4", "--quiet"]
    before_parts = chain([False], repeat(True))
    monkeypatch.setattr(Stopping, "asked", lambda self: next(before_parts))
    assert command(*arguments) == 143
    assert "stopped on request with 4 of 9 rows kept; the same command resumes" in capsys.readouterr().err
    monkeypatch.undo()
    assert command(*arguments, "--score", "unit") == 2
    assert 'score was "cosine" and is now "unit"' in capsys.readouterr().err
    assert command(*arguments, "--work-dir", table.parent) == 0
    assert command(*arguments, "--score", "unit", "--restart") == 0
    assert len(out.read_text().splitlines()) == 10
    assert not out.with_name("out.csv.parts").exists()
    assert command(*arguments, "--score", "unit", "--retry-failed") == 0
    assert command("score", out, table.with_name("again.csv"), "--model", "mini", "--quiet") == 2
    assert "--overwrite-column" in capsys.readouterr().err
    assert command("score", out, table.with_name("again.csv"), "--model", "mini", "--quiet", "--overwrite-column") == 0


def test_a_second_run_exits_with_3(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parts = table.with_name("out.csv.parts")
    with Workspace(parts, "out.csv", "csv"):
        assert command("score", table, table.with_name("out.csv"), "--model", "mini", "--quiet") == 3
    assert f"is being written by process {os.getpid()} on" in capsys.readouterr().err
    assert not parts.exists()


def test_a_url_stays_a_url(table: Path) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe("/cli/in.csv", f"url,caption\n{table.parent}/red.png,a red square\n".encode())
    out = table.with_name("out.jsonl")
    score = ("score", "memory://cli/in.csv", out, "--model", "mini", "--quiet")
    assert command(*score) == 2  # it lies in no folder here
    assert command(*score, "--files-under", table.parent) == 0
    assert json.loads(out.read_text())["error"] is None


@pytest.mark.parametrize("ending", ["csv", "parquet", "jsonl"])
def test_a_report_comes_beside_the_table(table: Path, ending: str, capsys: pytest.CaptureFixture[str]) -> None:
    report = table.with_name("report.html")
    out = table.with_name(f"out.{ending}")
    assert command("score", table, out, "--model", "mini", "--report", report) == 0
    assert f"report                  {report}" in capsys.readouterr().out
    page = report.read_text(encoding="utf-8")
    assert "a red square" in page
    assert "file_not_found" in page
    assert page.count("data:image/jpeg;base64,") == 1  # of the row with a score


def test_a_report_that_cannot_be_written_is_told_at_once(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = table.parent, table.with_name("out.csv")
    (folder / "link.html").symlink_to(table)
    (folder / "out.html").symlink_to("../.bash_aliases")
    (folder / "deep").mkdir()
    for report, said in [
        (folder, "is a folder"),
        (folder / "none" / "r.html", "does not exist; create it first"),
        (out, "is used by this run"),
        (folder / "deep" / ".." / "out.csv.summary.json", "is used by this run"),
        (folder / "cache.sqlite", "is used by this run"),
        (folder / "deep" / ".." / "in.csv", "is also the input"),
        (folder / "link.html", "is also the input"),
        (folder / "out.html", "out.html is a link to"),
    ]:
        cache = ["--embedding-cache", folder / "cache.sqlite"]
        assert command("score", table, out, "--model", "/no/such/model", "--report", report, *cache) == 2
        assert said in capsys.readouterr().err
    assert table.read_text().startswith("url,caption")


def test_sigterm_before_the_first_row_ends_at_once(
    table: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(
        "text_image_similarity.encoders.onnx_load._open", lambda *_: os.kill(os.getpid(), signal.SIGTERM)
    )
    assert command("score", table, table.with_name("out.csv"), "--model", "mini") == 143
    assert "ending before the first row" in caplog.text
    assert sorted(path.name for path in table.parent.iterdir()) == ["in.csv", "red.png"]


def test_sigterm_asks_once_the_run_is_at_work() -> None:
    with Stopping() as stopping:
        assert not stopping.asked()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stopping.asked()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
