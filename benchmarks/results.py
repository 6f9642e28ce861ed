"""The results of every round of every job, by section, kept in build/benchmarks/results.json."""

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

Rounds = dict[str, list[dict[str, Any]]]  # job -> the result of each round


@dataclass(frozen=True, slots=True)
class Options:
    """The options of the command line.

    Args:
        pairs: The number of rows that the full-size model scores.
        mini_pairs: The number of rows that mini scores.
        engine_pairs: The number of rows that each engine and the service score with each model.
        gpu_pairs: The number of rows to score on a GPU.
        rows: The maximum number of rows of the growing table.
        vectors: The number of vectors in the stores that are searched.
        overload_s: How long to overload a service, in seconds.
        restarts: The number of times that replicas are restarted.
        pythons: The interpreters for peers that need a separate environment, by the environment's name.
        data: The folder with flickr8k/.
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
    """A section of the page, with one table.

    Args:
        name: The name of the section, for `--only` and in the markers of the page.
        jobs: Function that returns the jobs, which run one after the other in each round.
        table: Function that renders the results as Markdown.
        rounds: The maximum number of rounds, for jobs that take a long time and need no ratio.
        lacks: Function that returns what this machine lacks for the measurement; an empty text if nothing.
    """

    name: str
    jobs: Callable[[Options], list[Job]]
    table: Callable[[Rounds], str]
    rounds: int = 99
    lacks: Callable[[], str] = str


@dataclass(slots=True)
class Results:
    """All rounds and all failures, with a description of the machine."""

    machine: dict[str, Any] = field(default_factory=dict)
    rounds: dict[str, Rounds] = field(default_factory=dict)
    failed: dict[str, dict[str, str]] = field(default_factory=dict)

    def forget(self, section: str, jobs: Iterable[str]) -> None:
        """Drop the earlier results of jobs that will run again."""
        for job in jobs:
            self.rounds.get(section, {}).pop(job, None)
            self.failed.get(section, {}).pop(job, None)

    def add(self, section: str, job: str, found: dict[str, Any]) -> None:
        """Add the result of one round of a job, or the reason why it failed."""
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
    """Load the results of any earlier runs."""
    return Results(**json.loads(RESULTS.read_text(encoding="utf-8"))) if RESULTS.exists() else Results()


def machine() -> dict[str, Any]:
    """Return a description of this machine."""
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
    """Return CPU seconds per 1,000 pairs."""
    return float(1000 * found["cpu_seconds"] / found["pairs"])


def ratios(
    over: list[dict[str, Any]], under: list[dict[str, Any]], value: Callable[[dict[str, Any]], float] = rate
) -> list[float]:
    """Return the ratio of two jobs for each round in which both ran."""
    return [value(a) / value(b) for a, b in zip(over, under, strict=False)]


def spread(values: list[float]) -> str:
    """Format the median with minimum and maximum, as in `1.31 (1.28..1.35)`."""
    return f"{median(values):.2f} ({min(values):.2f}..{max(values):.2f})" if values else "n/a"


def markdown(header: list[str], rows: Iterable[list[str]], words: int = 1) -> str:
    """Format a table whose first `words` columns are left-aligned and the others right-aligned."""
    lines = [header, ["---"] * words + ["---:"] * (len(header) - words), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
