"""Runs that are killed, told to end, and left alone for long.

Small here; `make endurance` runs the same with 100 kills, 20 SIGTERMs and 200,000 rows.
"""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.images import make_png
from tests.support.paths import ROOT
from tests.support.server import Server, response

KILLS = int(os.environ.get("KILLS", "6"))
TERMS = int(os.environ.get("TERMS", "3"))
SOAK_ROWS = int(os.environ.get("SOAK_ROWS", "6000"))


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with 200 rows of the challenge set's pictures, some of them at fault, and their scores."""
    folder = tmp_path_factory.mktemp("endurance")
    with (ROOT / "challenge_set.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    with (folder / "in.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["url", "caption", "n"])
        writer.writerows(
            [ROOT / row["url"], f"{row['caption']} {i}", i] for i, row in enumerate(islice_cycle(rows, 200))
        )
    finish(folder, "whole.csv")
    return folder


def islice_cycle(rows: list[dict[str, str]], count: int) -> Iterator[dict[str, str]]:
    return (rows[i % len(rows)] for i in range(count))


def start(folder: Path, name: str) -> subprocess.Popen[bytes]:
    """Start the command, as a user would."""
    command = [sys.executable, "-m", "text_image_similarity", "score", "in.csv", name]
    options = ["--model", "mini", "--chunk-size", "10", "--quiet", "--files-under", str(ROOT)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([*command, *options], cwd=folder, env=environment, stderr=subprocess.PIPE)


def finish(folder: Path, name: str) -> None:
    with start(folder, name) as run:
        _, said = run.communicate(timeout=300)
    assert run.returncode == 0, said


def wait_for_work(run: subprocess.Popen[bytes], folder: Path) -> None:
    """Wait until a run is at its rows, or over."""
    while not (folder / "out.csv.parts" / "holder.json").exists():
        try:
            run.wait(0.01)
            return
        except subprocess.TimeoutExpired:
            pass


def parts(folder: Path) -> int:
    try:
        return (folder / "out.csv.parts" / "manifest.jsonl").read_bytes().count(b"\n") - 1
    except FileNotFoundError:
        return 0


@pytest.mark.extended
@pytest.mark.parametrize(("number", "count"), [(signal.SIGKILL, KILLS), (signal.SIGTERM, TERMS)], ids=["kill", "term"])
def test_a_run_that_is_ended_again_and_again_gives_the_same_bytes(table: Path, number: int, count: int) -> None:
    chance = random.Random(5)
    whole = (table / "whole.csv").read_bytes()
    ended = finished = 0
    while ended < count or not finished:
        (table / "out.csv").unlink(missing_ok=True)
        before = parts(table)
        with start(table, "out.csv") as run:
            wait_for_work(run, table)
            try:
                run.wait(chance.uniform(0, 2))
            except subprocess.TimeoutExpired:
                run.send_signal(number)
            _, said = run.communicate(timeout=60)
        if run.returncode == 0:
            assert (table / "out.csv").read_bytes() == whole
            finished += 1
        else:
            ended += 1
            over = (table / "out.csv").exists()  # ended between its last file and its exit
            assert run.returncode == (143 if number == signal.SIGTERM and not over else -number), said
            assert parts(table) >= before or over, "a finished part was lost"
            assert not over or (table / "out.csv").read_bytes() == whole
            if ended >= count:  # the last one is left alone
                finish(table, "out.csv")
                assert (table / "out.csv").read_bytes() == whole
                finished += 1
    rest = {path.name for path in table.iterdir()}
    assert rest == {"in.csv", "whole.csv", "whole.csv.summary.json", "out.csv", "out.csv.summary.json"}


def test_a_second_sigterm_ends_at_once(server: Server, tmp_path: Path) -> None:
    server.routes["/x"] = server.hang
    (tmp_path / "in.csv").write_text(f"url,caption\n{server.url('/x')},red\n")
    command = [sys.executable, "-m", "text_image_similarity", "score", "in.csv", "out.csv", "--model", "mini"]
    options = ["--limit", "allow_private_addresses=true", "--limit", "total_s=600", "--timeout", "600"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([*command, *options], cwd=tmp_path, env=environment, stderr=subprocess.PIPE) as run:
        server.wait_for("/x", 1, 120)
        run.send_signal(signal.SIGTERM)
        assert run.stderr is not None
        assert any(b"SIGTERM: ending after the current part" in line for line in run.stderr)
        assert run.poll() is None
        run.send_signal(signal.SIGTERM)
        assert run.wait(5) == 143


SOAK = """
import json, os, sys, threading
from pathlib import Path
import psutil
from tests.support.paths import ROOT
from text_image_similarity import LocalEngine, Config, Limits, TableError, score_csv
from text_image_similarity.encoders.testing import ColourEncoder

me, seen, every = psutil.Process(), [], int(sys.argv[1])
def look(done, failed, total):
    if done == total and sys.argv[2] == "blocked":
        Path("out.csv").mkdir()  # so that the output cannot be put in its place
    if done % every == 0:
        files = sum(len(names) for _, _, names in os.walk("out.csv.parts"))
        seen.append([done, me.memory_info().rss, me.num_fds(), threading.active_count(), files])

config = Config(batch_size=64, io_workers=32, retries=1, chunk_size=500, limits=Limits(allow_private_addresses=True, per_host=32))
try:
    score_csv("in.csv", "out.csv", config, engine=LocalEngine(encoder=ColourEncoder()), progress=look)
except TableError as error:
    print(error)
finally:
    Path(sys.argv[2]).write_text(json.dumps(seen))
"""

FAULTS = {
    "http_4xx": response(status="404 Not Found"),
    "http_5xx": response(status="500 Broken"),
    "not_an_image": response(b"<html>login</html>"),
    "empty_body": response(b""),
    "truncated": response(make_png(size=(64, 64))[:80]),
    "bad_response": b"HTTP/1.1 banana\r\n\r\n",
    "redirect_error": response(b"", "302 Found", location="/redirect_error"),
    "too_many_bytes": response(b"x", content_length="99999999"),
}


@pytest.mark.extended
def test_a_long_run_grows_in_nothing(server: Server, tmp_path: Path) -> None:
    """Memory, open files, threads and files on disk stay flat, and every row is accounted for everywhere."""
    names = sorted(FAULTS)
    server.routes |= {f"/{code}": answer for code, answer in FAULTS.items()}
    server.routes["/red.png"] = response(make_png())
    expected = Counter(names[(i // 20) % len(names)] if i % 20 == 0 else "" for i in range(SOAK_ROWS))
    with (tmp_path / "in.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["url", "caption"])
        for i in range(SOAK_ROWS):
            path = names[(i // 20) % len(names)] if i % 20 == 0 else "red.png"
            writer.writerow([server.url(f"/{path}?{i}"), f"red {i}"])
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", SOAK, str(max(100, SOAK_ROWS // 40))]
    run: dict[str, Any] = {"cwd": tmp_path, "env": environment, "check": True, "timeout": 3600, "capture_output": True}
    blocked = subprocess.run([*command, "blocked"], **run)
    assert b"all its parts are kept" in blocked.stdout
    _, *lines = map(json.loads, (tmp_path / "out.csv.parts" / "manifest.jsonl").read_text().splitlines())
    (tmp_path / "out.csv").rmdir()
    hits = server.hits.total()
    subprocess.run([*command, "free"], **run)
    assert server.hits.total() == hits, "a row was scored twice"
    summary = json.loads((tmp_path / "out.csv.summary.json").read_text())
    with (tmp_path / "out.csv").open(newline="") as file:
        codes = Counter(row["error"].partition(":")[0] for row in csv.DictReader(file))
    assert codes == expected
    assert codes.total() == summary["rows"] == SOAK_ROWS
    assert summary["failures"] == {code: count for code, count in expected.items() if code}
    assert summary["scored"] == expected[""]
    assert sum((Counter(line["failures"]) for line in lines), Counter()) == Counter(summary["failures"])
    assert sum(line["rows"] for line in lines) == SOAK_ROWS
    seen = json.loads((tmp_path / "blocked").read_text())
    early, late = seen[len(seen) // 4 : len(seen) // 2], seen[-len(seen) // 4 :]
    memory, files, threads = ([max(row[i] for row in part) for part in (early, late)] for i in (1, 2, 3))
    sys.stdout.write(f"{SOAK_ROWS:,} rows: MiB {[m // 2**20 for m in memory]}, open files {files}, threads {threads}\n")
    assert memory[1] < memory[0] * 1.1
    assert files[1] <= files[0] + 8
    assert threads[1] <= threads[0] + 4
    assert all(row[4] <= row[0] // 500 + 5 for row in seen), "files beside the parts"
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "blocked",
        "free",
        "in.csv",
        "out.csv",
        "out.csv.summary.json",
    ]
