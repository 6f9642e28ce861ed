"""Time mini on local files that are decoded in this process, and in worker processes."""

from __future__ import annotations

from ..job import Job
from ..results import Options, Rounds, Section, at, cpu_per_1000, markdown, mid, rate, ratios, spread

_OFF, _ON = "in the process", "isolated"


def jobs(options: Options) -> list[Job]:
    return [
        Job(
            name,
            "benchmarks.scoring:score",
            {"model": "mini", "pairs": options.mini_pairs, "options": {"isolate_decoder": name == _ON}},
        )
        for name in (_OFF, _ON)
    ]


def table(rounds: Rounds) -> str:
    lines = (
        [
            f"mini, decoded {'in isolation' if name == _ON else name}",
            f"{mid(found, rate):.1f}",
            spread(ratios(found, rounds[_OFF])) if name != _OFF and _OFF in rounds else "",
            f"{mid(found, cpu_per_1000):.1f}",
            f"{mid(found, at('peak_mib')):,.0f}",
        ]
        for name, found in rounds.items()
    )
    return markdown(["", "pairs/s", "relative to decoding in the process", "CPU s per 1,000 pairs", "peak MiB"], lines)


SECTION = Section("isolation", jobs, table)
