"""Measure the reuse of results: five captions per image, and a second run with a filled embedding cache."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from ..inputs import BUILD, CAPTIONS
from ..job import Job
from ..results import Options, Rounds, Section, markdown, mid, rate, ratios, spread
from ..scoring import VIT, score


def twice(pairs: int) -> dict[str, Any]:
    """Time a run that fills an embedding cache, and a second one that finds everything in it."""
    with tempfile.TemporaryDirectory(dir=BUILD) as folder:
        options = {"embedding_cache": str(Path(folder) / "embeddings.db")}
        first, second = (score(model=VIT, pairs=pairs, options=options) for _ in range(2))
    return {"pairs": pairs, "seconds": first["seconds"], "again": second}


def jobs(options: Options) -> list[Job]:
    run, rows = "benchmarks.scoring:score", options.pairs - options.pairs % CAPTIONS or CAPTIONS
    return [
        Job("distinct", run, {"model": VIT, "pairs": rows}),
        Job("five captions", run, {"model": VIT, "pairs": rows, "table": "pairs5.csv"}),
        Job("cache", "benchmarks.sections.reuse:twice", {"pairs": rows}),
    ]


def table(rounds: Rounds) -> str:
    distinct, five, cache = (rounds.get(name, []) for name in ("distinct", "five captions", "cache"))
    again = [one["again"] for one in cache]
    labels = {
        "one image and one caption per row": distinct,
        f"{CAPTIONS} captions per image": five,
        "first run, filling an embedding cache": cache,
        "second run, everything in the cache": again,
    }
    lines = [
        [label, f"{mid(found, rate):,.1f}", "" if found is distinct else spread(ratios(found, distinct))]
        for label, found in labels.items()
        if found
    ]
    note = f"\n\nThe cache takes {again[-1]['cache_mib']:.1f} MiB for {again[-1]['pairs']} pairs." if again else ""
    return markdown(["ViT-B/32", "pairs/s", "relative to the first row"], lines) + note


SECTION = Section("reuse", jobs, table)
