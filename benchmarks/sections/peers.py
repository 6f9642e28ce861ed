"""Compare this package and its peers with ViT-B/32 on local files: pairs/s, CPU time, memory and score differences."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from ..contestants import REFERENCE, Contestant
from ..contestants.field import FIELD, OURS
from ..job import Job
from ..results import Options, Rounds, Section, at, cpu_per_1000, markdown, mid, rate, ratios, spread

# torchmetrics returns 0 for a negative cosine.
_CLAMPED = "torchmetrics_clip"


def jobs(options: Options) -> list[Job]:
    return [_job(contestant, options) for contestant in FIELD]


def _job(contestant: Contestant, options: Options) -> Job:
    arguments = {
        "module": contestant.module,
        "options": contestant.options,
        "distributions": contestant.distributions,
        "pairs": options.pairs,
    }
    python = options.pythons.get(contestant.environment) or sys.executable
    return Job(contestant.name, "benchmarks.contestants:measure", arguments, python=python)


def table(rounds: Rounds) -> str:
    header = [
        "contestant",
        "setting",
        "pairs/s",
        "our speed-up",
        "CPU s per 1,000 pairs",
        "peak MiB",
        "largest score difference",
    ]
    there = [contestant for contestant in FIELD if contestant.name in rounds]
    return "\n\n".join([markdown(header, (_line(contestant, rounds) for contestant in there), words=2), _notes(rounds)])


def _line(contestant: Contestant, rounds: Rounds) -> list[str]:
    found, ours = rounds[contestant.name], rounds.get(OURS, [])
    name = f"**{contestant.label}**" if contestant.ours else contestant.label
    return [
        name,
        contestant.setting,
        f"{mid(found, rate):.1f}",
        "" if contestant.name == OURS else spread(ratios(ours, found)),
        f"{mid(found, cpu_per_1000):.0f}",
        f"{mid(found, at('peak_mib')):,.0f}",
        _difference(contestant, found[-1], rounds.get(REFERENCE, [])),
    ]


def _difference(contestant: Contestant, found: dict[str, Any], reference: list[dict[str, Any]]) -> str:
    if contestant.name == REFERENCE:
        return "reference"
    if not reference or reference[-1]["pairs"] != found["pairs"]:
        return "n/a"
    expected, scores = np.array(reference[-1]["scores"]), np.array(found["scores"])
    if len(scores) == 1:
        return f"{abs(scores[0] - expected.mean()):.0e} (mean)"
    return f"{np.abs(scores - (expected.clip(0) if contestant.module == _CLAMPED else expected)).max():.0e}"


def _notes(rounds: Rounds) -> str:
    versions = {name: text for found in rounds.values() for name, text in found[-1]["versions"].items()}
    own = [f"{c.label}: {_spelt(rounds[c.name][-1]['versions'])}" for c in FIELD if c.environment and c.name in rounds]
    common = {
        name: text
        for c in FIELD
        if not c.environment and c.name in rounds
        for name, text in rounds[c.name][-1]["versions"].items()
    }
    parts = [f"Versions: {_spelt(common or versions)}", *(f"for {text}" for text in dict.fromkeys(own))]
    lines = ["; ".join(parts) + "."]
    if reference := rounds.get(REFERENCE):
        scores = np.array(reference[-1]["scores"])
        lines.append(
            f"With random weights, the reference's scores of {len(scores)} pairs have a mean of {scores.mean():.3f} "
            f"and a standard deviation of {scores.std():.3f}."
        )
    return "\n".join(lines)


def _spelt(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {text}" for name, text in versions.items())


SECTION = Section("peers", jobs, table)
