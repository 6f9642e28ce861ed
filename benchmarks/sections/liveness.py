"""Measure how soon `/livez` responds during an attack, as seen from a separate idle process."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

from ..job import Beside, Job
from ..load import Address, percentiles, probe
from ..replica import model_arguments, replicas
from ..results import Options, Rounds, Section, markdown
from ..scoring import MINI

_SECONDS = 20.0
_PAUSE_S = 0.05  # between two attempts, so that the client harms the service instead of using up the machine itself
_LOADS = ("nothing", "endless heads", "a megabyte in each field", "responses that are not read")


def measure(load: str) -> dict[str, Any]:
    """Watch a service, alone or while one client repeats an attack."""
    with replicas(1, *model_arguments(MINI), "--drain-delay", "0") as (replica,):
        if load == "nothing":
            return _look(replica.address)
        given: dict[str, Any] = {"seconds": 2 * _SECONDS, "pause_s": _PAUSE_S, "names": [load]}
        with Beside("benchmarks.attacks:attack", url=str(replica.address), **given):
            return _look(replica.address)


def _look(address: Address) -> dict[str, Any]:
    probes = asyncio.run(probe(address, time.perf_counter() + _SECONDS, 0.02))
    return {"livez_s": percentiles(probes), "probes": len(probes), "seconds": _SECONDS}


def jobs(options: Options) -> list[Job]:
    return [Job(f"liveness: {load}", f"{__name__}:measure", {"load": load}) for load in _LOADS]


def table(rounds: Rounds) -> str:
    lines = []
    for load in _LOADS:
        if found := rounds.get(f"liveness: {load}"):
            last = found[-1]["livez_s"]
            lines.append([load, *(f"{1000 * last[name]:,.0f}" for name in ("p50", "p99", "max"))])
    return markdown(["during", "/livez p50, ms", "/livez p99, ms", "/livez longest, ms"], lines)


SECTION = Section("liveness", jobs, table)

if __name__ == "__main__":
    import sys

    for load in _LOADS:
        if not sys.argv[1:] or sys.argv[1] in load:
            print(load, json.dumps(measure(load)), flush=True)
