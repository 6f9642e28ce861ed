"""Time the command `score` with mini on the same photos and captions in each input format."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..inputs import BUILD, INPUTS, ROOT, Row, read_rows
from ..job import Job
from ..meter import Meter
from ..results import Options, Rounds, Section, at, cpu_per_1000, markdown, mid, rate, ratios, spread

_LABELS = {
    "files": "files, named in Parquet",
    "bytes": "a column of bytes in Parquet",
    "dropped": "a column of bytes in Parquet, without the images in the output (`--drop-col`)",
    "struct": "Hugging Face's structs in Parquet",
    "tar": "tar shards",
    "folder": "a folder with captions next to the photos",
    "http": "URLs of a server on this machine, in Parquet",
}
_SHARD_ROWS = 500


def score(form: str, pairs: int, server: str = "") -> dict[str, Any]:
    """Time `score` on a table in one format, from the start of the command to its end."""
    rows = read_rows("pairs.csv", pairs)
    with tempfile.TemporaryDirectory(dir=BUILD) as folder:
        words = _make(form, rows, Path(folder), server)
        command = [sys.executable, "-m", "text_image_similarity", "score", words[0], f"{folder}/scored.parquet"]
        with Meter() as meter:
            subprocess.run(
                [*command, "--model", "mini", "--quiet", "--files-under", "/", *words[1:]], cwd=ROOT, check=True
            )
        scores = pq.read_table(f"{folder}/scored.parquet", columns=["similarity"])["similarity"]
    if scores.null_count or len(scores) != pairs:
        raise RuntimeError("some pairs were not scored")
    return {"pairs": pairs, "seconds": meter.seconds, "cpu_seconds": meter.cpu_seconds, "sum": sum(scores.to_pylist())}


def _make(form: str, rows: list[Row], folder: Path, server: str) -> list[str]:
    """Write the pairs in one format, and return its place and the options that it needs."""
    captions = [row.caption for row in rows]
    if form in ("files", "http"):
        urls = [server + row.url if server else row.path for row in rows]
        pq.write_table(pa.table({"url": urls, "caption": captions}), folder / "in.parquet")
        return [str(folder / "in.parquet"), *(["--limit", "allow_private_addresses=true"] if server else [])]
    images = [(INPUTS / row.url).read_bytes() for row in rows]
    if form in ("bytes", "dropped", "struct"):
        cells = [{"bytes": image, "path": None} for image in images] if form == "struct" else images
        pq.write_table(pa.table({"image": cells, "caption": captions}), folder / "in.parquet")
        return [str(folder / "in.parquet"), "--url-col", "image", *(["--drop-col", "image"] * (form == "dropped"))]
    (folder / "in").mkdir()
    samples = [(f"{number:06}", *pair) for number, pair in enumerate(zip(images, captions, strict=True))]
    if form == "folder":
        for name, image, caption in samples:
            (folder / "in" / f"{name}.jpg").write_bytes(image)
            (folder / "in" / f"{name}.txt").write_text(caption, encoding="utf-8")
        return [str(folder / "in")]
    for start in range(0, len(samples), _SHARD_ROWS):
        with tarfile.open(folder / "in" / f"{start // _SHARD_ROWS:05}.tar", "w") as shard:
            for name, image, caption in samples[start : start + _SHARD_ROWS]:
                for ending, content in (("jpg", image), ("txt", caption.encode())):
                    member = tarfile.TarInfo(f"{name}.{ending}")
                    member.size = len(content)
                    shard.addfile(member, io.BytesIO(content))
    return [str(folder / "in" / "*.tar")]


def jobs(options: Options) -> list[Job]:
    return [
        Job(
            form,
            "benchmarks.sections.forms:score",
            {"form": form, "pairs": options.mini_pairs},
            delay_ms=0 if form == "http" else None,
        )
        for form in _LABELS
    ]


def table(rounds: Rounds) -> str:
    if len({round(found["sum"], 9) for each in rounds.values() for found in each}) > 1:
        raise RuntimeError("the scores differ between formats")
    lines = (
        [
            _LABELS[form],
            f"{mid(found, rate):.1f}",
            spread(ratios(found, rounds["files"])) if form != "files" and "files" in rounds else "",
            f"{mid(found, cpu_per_1000):.1f}",
            f"{mid(found, at('seconds')):.1f}",
        ]
        for form, found in rounds.items()
    )
    return markdown(["", "pairs/s", "relative to files", "CPU s per 1,000 pairs", "s in total"], lines)


SECTION = Section("forms", jobs, table)
