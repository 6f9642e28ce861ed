"""What was found, kept in build/benchmarks/results.json: every round of every job, by section."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from .inputs import BUILD
from .job import Job

RESULTS = BUILD / "results.json"

Rounds = dict[str, list[dict[str, Any]]]  # job -> what each round found


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line asks for.

    Args:
        pairs: Rows scored by the full-size model.
        mini_pairs: Rows scored by mini.
        engine_pairs: Rows scored by each engine and by the service, with either model.
        gpu_pairs: Rows scored on a GPU.
        rows: Most rows of the growing table.
        vectors: Vectors in the stores that are searched.
        overload_s: How long a service is asked for too much, in seconds.
        restarts: How often replicas are restarted.
        pythons: Interpreters of peers with an environment of their own, by its name.
        data: Folder with flickr8k/.
    """

    pairs: int
    mini_pairs: int
    engine_pairs: int
    gpu_pairs: int
    rows: int
    vectors: int
    overload_s: float
    restarts: int
    pythons: dict[str, str]
    data: Path


@dataclass(frozen=True, slots=True)
class Section:
    """One table.

    Args:
        name: What `--only` and the markers in the page call it.
        jobs: What to measure; the jobs of a round run one after the other.
        table: What was found -> Markdown.
        rounds: Most rounds, for what takes long and needs no ratio.
        lacks: Says what this machine lacks to measure it; empty if nothing.
    """

    name: str
    jobs: Callable[[Options], list[Job]]
    table: Callable[[Rounds], str]
    rounds: int = 99
    lacks: Callable[[], str] = str


@dataclass(slots=True)
class Results:
    """All rounds and all failures, and the machine they are from."""

    machine: dict[str, Any] = field(default_factory=dict)
    rounds: dict[str, Rounds] = field(default_factory=dict)
    failed: dict[str, dict[str, str]] = field(default_factory=dict)

    def forget(self, section: str, jobs: Iterable[str]) -> None:
        """Drop earlier results of jobs that will run again."""
        for job in jobs:
            self.rounds.get(section, {}).pop(job, None)
            self.failed.get(section, {}).pop(job, None)

    def add(self, section: str, job: str, found: dict[str, Any]) -> None:
        """Keep the result of a round of a job, or the reason why it failed."""
        if "failed" in found:
            self.failed.setdefault(section, {})[job] = found["failed"]
        else:
            self.rounds.setdefault(section, {}).setdefault(job, []).append(found)

    def save(self) -> None:
        content = {"machine": self.machine, "rounds": self.rounds, "failed": self.failed}
        partial = RESULTS.with_suffix(".partial")
        partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        partial.replace(RESULTS)


def load_results() -> Results:
    """Read the results of earlier runs, if there are any."""
    return Results(**json.loads(RESULTS.read_text(encoding="utf-8"))) if RESULTS.exists() else Results()


def machine() -> dict[str, Any]:
    """Describe this machine."""
    cpu, memory = Path("/proc/cpuinfo").read_text(encoding="utf-8"), Path("/proc/meminfo").read_text(encoding="utf-8")
    return {
        "cpu": next(
            (line.partition(":")[2].strip() for line in cpu.splitlines() if line.startswith("model name")), "?"
        ),
        "cores": os.cpu_count(),
        "memory_gib": round(int(memory.split()[1]) / 2**20),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
    }


def mid(rounds: list[dict[str, Any]], value: Callable[[dict[str, Any]], float]) -> float:
    """Return the median of a value over the rounds."""
    return median(value(found) for found in rounds)


def at(*keys: str) -> Callable[[dict[str, Any]], float]:
    """Return the function that reads a value by its keys; a missing value is 0."""

    def read(found: dict[str, Any]) -> float:
        for key in keys[:-1]:
            found = found[key]
        return float(found.get(keys[-1], 0.0))

    return read


def rate(found: dict[str, Any]) -> float:
    """Return pairs per second."""
    return float(found["pairs"] / found["seconds"])


def cpu_per_1000(found: dict[str, Any]) -> float:
    """Return CPU seconds for 1,000 pairs."""
    return float(1000 * found["cpu_seconds"] / found["pairs"])


def ratios(
    over: list[dict[str, Any]], under: list[dict[str, Any]], value: Callable[[dict[str, Any]], float] = rate
) -> list[float]:
    """Return the ratio of two jobs for each round in which both have run."""
    return [value(a) / value(b) for a, b in zip(over, under, strict=False)]


def spread(values: list[float]) -> str:
    """Format the median with minimum and maximum, as in `1.31 (1.28..1.35)`."""
    return f"{median(values):.2f} ({min(values):.2f}..{max(values):.2f})" if values else "n/a"


def markdown(header: list[str], rows: Iterable[list[str]], words: int = 1) -> str:
    """Lay out a table: the first columns, with words, are aligned left, the others right."""
    lines = [header, ["---"] * words + ["---:"] * (len(header) - words), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
