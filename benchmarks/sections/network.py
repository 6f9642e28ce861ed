"""Compare images from a server that responds after 50 ms with the same images from local files."""

from __future__ import annotations

from ..job import Job
from ..results import Options, Rounds, Section, markdown, mid, rate, ratios, spread
from ..scoring import MINI, VIT

DELAY_MS = 50
_NAMES = {VIT: "ViT-B/32", MINI: "mini"}


def jobs(options: Options) -> list[Job]:
    return [
        Job(
            f"{model} from {source}",
            "benchmarks.scoring:score",
            {"model": model, "pairs": options.pairs if model == VIT else options.mini_pairs},
            delay_ms=DELAY_MS if source == "network" else None,
        )
        for model in (VIT, MINI)
        for source in ("files", "network")
    ]


def table(rounds: Rounds) -> str:
    lines = []
    for model, name in _NAMES.items():
        files, network = (rounds.get(f"{model} from {source}") for source in ("files", "network"))
        if files and network:
            lines.append([name, f"{mid(files, rate):.1f}", f"{mid(network, rate):.1f}", spread(ratios(network, files))])
    return markdown(["model", "pairs/s, local files", f"pairs/s, {DELAY_MS} ms per request", "ratio"], lines)


SECTION = Section("network", jobs, table)
