"""Measure how time and memory grow with the table: `score_csv`, a fake encoder, tiny images, up to a million rows."""

from __future__ import annotations

import base64
import csv
import tempfile
from pathlib import Path
from typing import Any

from text_image_similarity import Config, LocalEngine, score_csv
from text_image_similarity.encoders.testing import ColourEncoder

from ..inputs import BUILD
from ..job import Job
from ..meter import Meter
from ..results import Options, Rounds, Section, at, cpu_per_1000, markdown, mid, rate

SIZES = (1_000, 10_000, 100_000, 1_000_000)


def grow(rows: int) -> dict[str, Any]:
    """Time `score_csv` on a table of `rows` rows with distinct images."""
    with tempfile.TemporaryDirectory(dir=BUILD) as folder:
        source, target = Path(folder) / "rows.csv", Path(folder) / "scored.csv"
        _write(source, rows)
        with Meter() as meter:
            summary = score_csv(source, target, Config(model="mini"), engine=LocalEngine(encoder=ColourEncoder()))
        if summary.scored != rows:
            raise RuntimeError(f"rows failed: {summary.failures}")
    return {"pairs": rows, "seconds": meter.seconds, "cpu_seconds": meter.cpu_seconds}


def _write(path: Path, rows: int) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("url", "caption"))
        for number in range(rows):
            dot = base64.b64encode(_gif(number)).decode()
            writer.writerow((f"data:image/gif;base64,{dot}", f"a red dot, number {number}"))


def _gif(number: int) -> bytes:
    """Return a GIF of one pixel in the colour with this number."""
    screen = b"GIF89a" + b"\1\0\1\0" + b"\x80\0\0"
    return screen + number.to_bytes(3, "big") + b"\xff\xff\xff" + b",\0\0\0\0\1\0\1\0\0" + b"\2\2\x44\1\0;"


def jobs(options: Options) -> list[Job]:
    sizes = [size for size in SIZES if size <= options.rows] or [options.rows]
    return [Job(f"{size}", "benchmarks.sections.growth:grow", {"rows": size}) for size in sizes]


def table(rounds: Rounds) -> str:
    lines = (
        [
            f"{int(size):,}",
            f"{mid(found, rate):,.0f}",
            f"{mid(found, cpu_per_1000):.2f}",
            f"{mid(found, at('peak_mib')):,.0f}",
        ]
        for size, found in sorted(rounds.items(), key=lambda item: int(item[0]))
    )
    return markdown(["rows", "rows/s", "CPU s per 1,000 rows", "peak MiB"], lines)


SECTION = Section("growth", jobs, table, rounds=1)
