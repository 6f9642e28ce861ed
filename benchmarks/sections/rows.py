"""Measure the cost of the package itself per row, with an encoder that takes no time: rows per second and CPU time."""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from text_image_similarity import Config, LocalEngine, Record, Scorer, score_csv

from ..fake_device import FreeEncoder
from ..inputs import BUILD
from ..job import Job
from ..meter import Meter
from ..results import Options, Rounds, Section, at, cpu_per_1000, markdown, mid, rate

_ROWS = 200_000
_FILES = 7
_NAMES = {
    "images": "`score_images`, a new caption and an image of the model's size in memory",
    "pairs": "`score_pairs`, a new caption and one of seven files",
    "csv": "`score_csv`, CSV, a new caption and one of seven files",
    "parquet": "`score_csv`, Parquet, a new caption and one of seven files",
    "long csv": "`score_csv`, CSV, a new caption and one of seven files",
}


def images(rows: int) -> dict[str, Any]:
    """Time `score_images` on arrays."""
    rng = np.random.default_rng(0)
    few = [rng.integers(0, 256, (224, 224, 3), np.uint8) for _ in range(_FILES)]
    with Scorer(Config(model="mini"), encoder=FreeEncoder()) as scorer, Meter() as meter:
        found = sum(1 for _ in scorer.score_images(islice(cycle(few), rows), _captions(rows)))
    return _seen(found, rows, meter)


def pairs(rows: int) -> dict[str, Any]:
    """Time `score_pairs` on files."""
    with tempfile.TemporaryDirectory(dir=BUILD) as folder:
        names = _write_images(Path(folder))
        config = Config(model="mini", base_dir=Path(folder))
        with Scorer(config, encoder=FreeEncoder()) as scorer, Meter() as meter:
            records = (Record(name, text) for name, text in zip(cycle(names), _captions(rows), strict=False))
            found = sum(1 for result in scorer.score_pairs(records) if result.error is None)
    return _seen(found, rows, meter)


def table_of(rows: int, suffix: str) -> dict[str, Any]:
    """Time `score_csv` on a table."""
    with tempfile.TemporaryDirectory(dir=BUILD) as folder:
        source, target = Path(folder, f"rows{suffix}"), Path(folder, f"scored{suffix}")
        _write_table(source, rows, _write_images(Path(folder)))
        with Meter() as meter:
            summary = score_csv(source, target, Config(model="mini"), engine=LocalEngine(encoder=FreeEncoder()))
    return _seen(summary.scored, rows, meter)


def _seen(found: int, rows: int, meter: Meter) -> dict[str, Any]:
    if found != rows:
        raise RuntimeError(f"{found:,} of {rows:,} rows have a score")
    return {"pairs": rows, "seconds": meter.seconds, "cpu_seconds": meter.cpu_seconds}


def _captions(rows: int) -> Iterator[str]:
    return (f"a red dot, number {number}" for number in range(rows))


def _write_images(folder: Path) -> list[str]:
    names = [f"{number}.png" for number in range(_FILES)]
    for number, name in enumerate(names):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / name)
    return names


def _write_table(path: Path, rows: int, names: list[str]) -> None:
    pairs = zip(cycle(names), _captions(rows), strict=False)
    if path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        urls, captions = zip(*pairs, strict=True)
        pq.write_table(pa.table({"url": urls, "caption": captions}), path)
        return
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("url", "caption"))
        writer.writerows(pairs)


def jobs(options: Options) -> list[Job]:
    here, rows = __name__, min(_ROWS, options.rows)
    return [
        Job("images", f"{here}:images", {"rows": rows}),
        Job("pairs", f"{here}:pairs", {"rows": rows}),
        Job("csv", f"{here}:table_of", {"rows": rows, "suffix": ".csv"}),
        Job("parquet", f"{here}:table_of", {"rows": rows, "suffix": ".parquet"}),
        Job("long csv", f"{here}:table_of", {"rows": options.rows, "suffix": ".csv"}),
    ]


def table(rounds: Rounds) -> str:
    lines = (
        [
            name,
            f"{found[-1]['pairs']:,}",
            f"{mid(found, rate):,.0f}",
            f"{1000 * mid(found, cpu_per_1000):.0f}",
            f"{mid(found, at('peak_mib')):,.0f}",
        ]
        for job, name in _NAMES.items()
        if (found := rounds.get(job))
    )
    return markdown(["an encoder that takes no time", "rows", "rows/s", "CPU µs per row", "peak MiB"], lines)


SECTION = Section("rows", jobs, table, rounds=2)
