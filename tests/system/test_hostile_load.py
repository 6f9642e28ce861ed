"""Honest clients beside hostile ones, on a service with its decoders in processes: nothing is lost, nothing grows, and it answers.

Two minutes here; `make endurance` goes on for an hour. The attacks are those of the benchmarks (`benchmarks/attacks.py`).
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest

from benchmarks import honest
from benchmarks.attacks import ATTACKS
from benchmarks.job import Beside
from benchmarks.load import percentiles, probe
from benchmarks.meter import Family, family
from benchmarks.replica import Replica, model_arguments

SECONDS = float(os.environ.get("HOSTILE_S", "120"))
IS_LONG = SECONDS > 600
# So many pairs a request, and so many seconds between two blows of one kind. In two minutes each kind must come and
# cost little: other tests share the cores.
SIZE, PAUSE_S = (16, 20.0) if IS_LONG else (4, 15.0)
# What a look at /livez may take. With a machine to itself a service keeps the first; in CI it waits for the cores as well,
# which four processes of tests share, and what it must not do is to stop for as long as an attack takes where one works.
P99_S = 0.2 if IS_LONG else 3.0
# Nor may a pair be given up there because its turn at a core came late: the service waits longer than by default.
PATIENCE = () if IS_LONG else ("--request-timeout", "60", "--timeout", "60", "--limit", "total_s=60")
CLIENTS, CLIENT_PAUSE_S = 4, 1.0
LEARNING = 0.25  # of the time, in which threads, pools and caches come to their sizes
# By how much the least in each window may grow afterwards: in two minutes not all of the 128 threads that download have had
# their first picture, and the connection to its host that each keeps.
GROWTH = {"mib": 0.1, "files": 0.25, "threads": 0.1} if IS_LONG else {"mib": 0.35, "files": 2.0, "threads": 0.25}
WINDOWS = 6 if IS_LONG else 2
# How some of the blows of these end.
REFUSED = {"endless heads": "431", "wrong keys": "401", "bodies that arrive very slowly": "408"}


@dataclass(frozen=True)
class Watched:
    """What was seen of a service: the seconds that /livez took, and what its processes had at which second."""

    probes: list[float]
    looks: list[tuple[float, Family]]

    def growth(self, of: Callable[[Family], float]) -> tuple[list[float], float]:
        """Return the least that was there in each window of time, and by how much that grew on the whole."""
        start, end = LEARNING * SECONDS, SECONDS
        lows = []
        for number in range(WINDOWS):
            first, last = (start + (end - start) * (number + each) / WINDOWS for each in (0, 1))
            lows.append(min(of(look) for at, look in self.looks if first <= at < last))
        slope = statistics.linear_regression(range(WINDOWS), lows).slope
        return lows, slope * (WINDOWS - 1)


async def watch(replica: Replica) -> Watched:
    """Look at a service from a process that has nothing else to do."""
    began, looks = time.perf_counter(), []
    probing = asyncio.create_task(probe(replica.address, began + SECONDS, 0.1))
    while not probing.done():
        looks.append((time.perf_counter() - began, family(replica.pid)))
        await asyncio.wait([probing], timeout=1.0)
    return Watched(await probing, looks)


def test_a_score_that_moved_is_wrong() -> None:
    answer = json.dumps({"results": [{"similarity": 0.25, "error": None}, {"similarity": 0.5, "error": None}]}).encode()
    assert honest.kind_of(200, answer, [0.25, 0.5]) == "scored"
    assert honest.kind_of(200, answer, [0.25, 0.5000001]) == "wrong"
    failed = json.dumps({"results": [{"similarity": None, "error": {"code": "timeout"}}]}).encode()
    assert honest.kind_of(200, failed, [0.25]) == "failed: timeout"
    assert honest.kind_of(500, b"", [0.25]) == "failed: 500"
    assert honest.kind_of(0, b"", [0.25]) == "lost"


@pytest.mark.slow
def test_honest_clients_lose_nothing_beside_hostile_ones(tmp_path: Path) -> None:
    names = [f"client-{number}" for number in range(CLIENTS)]
    keys = tmp_path / "keys"
    others = [f"attacker-{number}" for number in range(len(ATTACKS))]
    keys.write_text("\n".join([*names, *others]))
    log = tmp_path / "log"
    options = [*model_arguments("mini"), "--isolate-decoder", "--api-key-file", str(keys), "--drain-delay", "0"]
    replica = Replica([*options, *PATIENCE, "--limit", "allow_private_addresses=true"], log)
    replica.start()
    try:
        replica.wait_until_ready()
        known = honest.learn(replica.address, names[0])
        assert len(set(known)) > honest.PICTURES // 2
        place: dict[str, Any] = {"url": str(replica.address), "seconds": SECONDS}
        with (
            Beside("benchmarks.attacks:attack", **place, pause_s=PAUSE_S, keys=others, size=SIZE) as attackers,
            Beside("benchmarks.honest:ask", **place, pause_s=CLIENT_PAUSE_S, keys=names, known=known) as clients,
        ):
            seen = asyncio.run(watch(replica))
            used = [family(each).cpu_s for each in (attackers.process.pid, clients.process.pid, replica.pid)]
            harm, found = attackers.found(120), clients.found(240)
        livez, kinds = percentiles(seen.probes), found["kinds"]
        growth = {name: seen.growth(attrgetter(name)) for name in GROWTH}
        sys.stdout.write(
            f"{SECONDS:.0f} s: /livez {livez}, honest {found}, (least in each window, growth) {growth}, most MiB "
            f"{max(look.mib for _, look in seen.looks):.0f}, CPU seconds of attackers, clients, service {used}\n{harm}\n"
        )
        assert replica.end() == 0
    finally:
        replica.kill()
    assert [name for name in ATTACKS if not harm[name]] == [], "each came"
    assert set(kinds) <= {"scored", "later"}
    assert kinds["scored"] > CLIENTS * SECONDS / 30
    assert livez["p99"] <= P99_S
    for name, bound in GROWTH.items():
        lows, more = growth[name]
        assert more <= bound * lows[0], f"{name} grew by {more:.0f}: {lows}"
    for name, status in REFUSED.items():
        assert status in harm[name]
    assert "Traceback" not in log.read_text(encoding="utf-8")
