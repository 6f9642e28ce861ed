"""Measure the time from a command to the first score of mini, which needs no export, and the cost of imports."""

from __future__ import annotations

import csv
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..inputs import BUILD, INPUTS, ROOT, read_rows
from ..job import Job
from ..results import Options, Rounds, Section, at, markdown, mid

# The clock is the machine's, so a process can tell how long after its start it reached a step.
_STEPS = """
import sys, time
began = float(sys.argv[1])
def at(): print(time.monotonic() - began)
at()
import text_image_similarity as t; at()
config = t.Config(model="mini", device="cpu"); encoder = t.load_encoder(config); at()
record = t.Record(sys.argv[2], "a dog"); next(t.score_pairs([record], config, encoder=encoder)); at()
"""
_LABELS = {
    "python": "Python has started",
    "import": "`import text_image_similarity` is done",
    "load": "mini is loaded, with the libraries that run it",
    "score": "the first score is available",
}
_LIBRARIES = ("text_image_similarity", "numpy", "onnxruntime", "torch", "transformers")


def command() -> dict[str, Any]:
    """Time the command on a table with one row, from start to exit."""
    with tempfile.TemporaryDirectory(dir=BUILD) as folder:
        source, target = Path(folder) / "one.csv", Path(folder) / "scored.csv"
        row = read_rows("pairs.csv", 1)[0]
        with source.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows((("url", "caption"), (row.path, row.caption)))
        words = ["score", str(source), str(target), "--model", "mini", "--quiet", "--files-under", str(INPUTS)]
        run = [sys.executable, "-m", "text_image_similarity", *words]
        subprocess.run(run, cwd=ROOT, check=True)
        began = time.perf_counter()
        subprocess.run(run, cwd=ROOT, check=True)
        seconds = time.perf_counter() - began
        if not target.exists():
            raise RuntimeError("there is no output")
    return {"seconds": seconds}


def steps() -> dict[str, Any]:
    """Time the steps of a script up to its first score, in seconds since its start."""
    photo = str(INPUTS / "photos" / "0000.jpg")
    for _ in range(2):
        words = [sys.executable, "-c", _STEPS, str(time.monotonic()), photo]
        done = subprocess.run(words, cwd=ROOT, check=True, capture_output=True, text=True)
    return {"at": dict(zip(_LABELS, map(float, done.stdout.split()), strict=True))}


def imports() -> dict[str, Any]:
    """Time the import of each installed library in a separate process, without the start of that process."""
    found = {}
    for name in filter(find_spec, _LIBRARIES):
        code = f"import time; began = time.perf_counter(); import {name}; print(time.perf_counter() - began)"
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
        found[name] = float(done.stdout)
    return {"imports": found}


def jobs(options: Options) -> list[Job]:
    return [Job(name, f"benchmarks.sections.startup:{name}") for name in ("command", "steps", "imports")]


def table(rounds: Rounds) -> str:
    lines = []
    if found := rounds.get("steps"):
        for step, label in _LABELS.items():
            lines.append([label, f"{mid(found, at('at', step)):.2f}"])
    if found := rounds.get("command"):
        lines.append(["`score` of a table with one row: start to exit", f"{mid(found, at('seconds')):.2f}"])
    parts = [markdown(["", "s since the start of the process"], lines)]
    if found := rounds.get("imports"):
        each = ([f"`import {name}`", f"{mid(found, at('imports', name)):.2f}"] for name in found[-1]["imports"])
        parts.append(markdown(["alone, in a new process", "s"], each))
    return "\n\n".join(parts)


SECTION = Section("startup", jobs, table)
