"""Time mini on local files, with exact and with fast preprocessing."""

from __future__ import annotations

from ..job import Job
from ..results import Options, Rounds, Section, at, cpu_per_1000, markdown, mid, rate, ratios, spread

_MODES = ("exact", "fast")


def jobs(options: Options) -> list[Job]:
    return [
        Job(
            mode,
            "benchmarks.scoring:score",
            {"model": "mini", "pairs": options.mini_pairs, "options": {"preprocess": mode}},
        )
        for mode in _MODES
    ]


def table(rounds: Rounds) -> str:
    lines = (
        [
            f"mini, preprocess={mode}",
            f"{mid(found, rate):.1f}",
            spread(ratios(found, rounds["exact"])) if mode != "exact" and "exact" in rounds else "",
            f"{mid(found, cpu_per_1000):.1f}",
            f"{mid(found, at('peak_mib')):,.0f}",
        ]
        for mode, found in rounds.items()
    )
    return markdown(["", "pairs/s", "speed-up over exact", "CPU s per 1,000 pairs", "peak MiB"], lines)


SECTION = Section("mini", jobs, table)
