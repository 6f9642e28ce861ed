"""Measure how fast images reach an encoder that takes 25,000 a second, with and without feeders, and decoding alone."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

from text_image_similarity import Config, Limits, Record, Scorer
from text_image_similarity.decode import decode

from ..fake_device import ClipPreparer, FakeDevice
from ..inputs import INPUTS, PHOTOS, Row, read_rows, warm
from ..job import Job
from ..meter import Meter
from ..results import Options, Rounds, Section, cpu_per_1000, markdown, mid, rate, ratios, spread

COUNTS = (0, 1, 2)
RATE = 25_000
BATCH = 64
_WARM_UP = 600  # images per process: compiled code resizes only after the first 500


def feed(source: str, feeders: int, pairs: int, server: str = "") -> dict[str, Any]:
    """Time a run from a source, after other runs that start the feeders and let them load the code that resizes.

    The run uses one core for each feeder, as `alone` does for each process, unless a server needs cores of its own.
    """
    if feeders and not server:
        _use_cores(feeders)
    limits = Limits(allow_private_addresses=True, per_host=64)
    options: dict[str, Any] = {"feeders": feeders, "io_workers": 32 if server else 16, "chunk_size": 10_000}
    config = Config(model="mini", base_dir=INPUTS, batch_size=BATCH, limits=limits, **options)
    rows = read_rows("pairs.csv", pairs)
    warm(rows)
    sources: dict[str, Callable[[list[Row]], Iterator[Record]]]
    sources = {"files": _of_files, "Parquet": _of_bytes, "HTTP": partial(_at, server)}
    records = sources[source]
    with Scorer(config, encoder=FakeDevice(RATE)) as scorer:
        for _ in range(max(1, feeders)):
            list(scorer.score_pairs(records(read_rows("pairs.csv", _WARM_UP, skip=PHOTOS - _WARM_UP))))
        with Meter() as meter:
            failed = [result.error for result in scorer.score_pairs(records(rows)) if result.error]
    if failed:
        raise RuntimeError(f"rows failed: {failed[0]}")
    return {"pairs": pairs, "seconds": meter.seconds, "cpu_seconds": meter.cpu_seconds}


def alone(processes: int, pairs: int) -> dict[str, Any]:
    """Time the decoding and resizing of files in memory, in `processes` processes with one thread and one core each."""
    _use_cores(processes)
    contents = [Path(row.path).read_bytes() for row in read_rows("pairs.csv", pairs)]
    chunks = [contents[start : start + 20] for start in range(0, pairs, 20)]
    context = multiprocessing.get_context("spawn")
    ready = context.Barrier(processes)
    with ProcessPoolExecutor(processes, context, _warm_up, (contents[:_WARM_UP], ready)) as pool:
        list(pool.map(_prepare, chunks[:1] * processes))
        with Meter() as meter:
            list(pool.map(_prepare, chunks))
    return {"pairs": pairs, "seconds": meter.seconds, "cpu_seconds": meter.cpu_seconds}


def _use_cores(count: int) -> None:
    """Restrict this process, and those that it starts, to the first `count` cores."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])


def _warm_up(contents: list[bytes], ready: Barrier) -> None:
    """Begin a process, and wait until all of them are ready."""
    _prepare(contents)
    ready.wait()


def _prepare(contents: list[bytes]) -> None:
    preparer, limits = ClipPreparer(), Limits()
    for content in contents:
        preparer.prepare(decode(content, limits))


def _of_files(rows: list[Row]) -> Iterator[Record]:
    return (Record(row.url, row.caption) for row in rows)


def _of_bytes(rows: list[Row]) -> Iterator[Record]:
    """Yield rows whose images are bytes, as in a binary Parquet column."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    column = pa.array([Path(row.path).read_bytes() for row in rows], pa.binary())
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"image": column, "caption": [row.caption for row in rows]}), sink, compression="none")
    file = pq.ParquetFile(pa.BufferReader(sink.getvalue()))
    for batch in file.iter_batches(BATCH):
        for image, caption in zip(batch.column(0), batch.column(1), strict=True):
            yield Record(image.as_py(), caption.as_py())


def _at(server: str, rows: list[Row]) -> Iterator[Record]:
    return (Record(server + row.url, row.caption) for row in rows)


def jobs(options: Options) -> list[Job]:
    here, pairs = __name__, options.mini_pairs
    found = [Job(f"alone {count}", f"{here}:alone", {"processes": count, "pairs": pairs}) for count in COUNTS[1:]]
    for source in ("files", "Parquet", "HTTP"):
        for count in COUNTS:
            arguments = {"source": source, "feeders": count, "pairs": pairs}
            found.append(Job(f"{source} {count}", f"{here}:feed", arguments, delay_ms=0 if source == "HTTP" else None))
    return found


def table(rounds: Rounds) -> str:
    def share(name: str, of: str) -> str:
        return spread(ratios(rounds[name], rounds[of])) if of in rounds and of != name else ""

    lines: list[list[str]] = []
    for name, found in rounds.items():
        source, _, count = name.rpartition(" ")
        what = f"decoding alone, {count} process{'es' * (count != '1')}" if source == "alone" else source
        of_alone = "" if source == "alone" else share(name, f"alone {count if count != '0' else max(COUNTS)}")
        figures = [f"{mid(found, rate):,.0f}", share(name, f"{source} 1") if count == "2" else "", of_alone]
        lines.append([what, "" if source == "alone" else count, *figures, f"{mid(found, cpu_per_1000):.2f}"])
    heads = [
        "512x512 JPEG from",
        "feeders",
        "pairs/s",
        "relative to one feeder",
        "relative to decoding alone",
        "CPU s per 1,000 pairs",
    ]
    return markdown(heads, lines)


SECTION = Section("feeders", jobs, table)
