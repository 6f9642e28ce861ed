"""Measure eight normal clients next to a malicious one: how many of their requests are still answered, and how fast."""

from __future__ import annotations

import asyncio
import io
import json
import os
import time
from collections.abc import Iterator
from itertools import count
from typing import Any

from PIL import Image

from ..attacks import ATTACKS, Target, hostile_host, strike
from ..job import Beside, Job
from ..load import SCORED, Address, address_of, connect, percentiles, post_pair, probe
from ..meter import cpu_seconds
from ..replica import model_arguments, replicas
from ..results import Options, Rounds, Section, markdown
from ..scoring import MINI

HONEST = 8
SIDE = 224
_SECONDS = 8.0
_WARM_S = 2.0
_START_S = 3.0  # until the attacker's process has started, and its first attempt has arrived
_CONNECTIONS = 8  # number of connections of the attacker


def _requests() -> list[bytes]:
    """Return distinct requests for the score of one pair each."""
    found = []
    for number in range(400):
        out = io.BytesIO()
        Image.effect_noise((SIDE, SIDE), 40 + number / 10).convert("RGB").save(out, "JPEG", quality=85)
        found.append(post_pair(out.getvalue(), f"a photo {number}"))
    return found


def measure(attack: str, isolated: bool = False) -> dict[str, Any]:
    """Have eight clients send requests, first alone and then next to an attacker."""
    os.nice(5)  # the service has priority, as if it had the machine to itself
    more = ["--isolate-decoder"] if isolated else []
    arguments = [*model_arguments(MINI), "--drain-delay", "0", "--limit", "allow_private_addresses=true", *more]
    with replicas(1, *arguments) as (replica,):
        return asyncio.run(_measure(replica.address, attack))


async def _measure(address: Address, attack: str) -> dict[str, Any]:
    requests = _requests()
    await _honest(address, requests, _WARM_S)
    alone = await _honest(address, requests, _SECONDS)
    with Beside("benchmarks.sections.hostile:strike_on", url=str(address), attack=attack) as attacker:
        await asyncio.sleep(_START_S)
        used = cpu_seconds(attacker.process.pid)
        beside = await _honest(address, requests, _SECONDS)
        used = cpu_seconds(attacker.process.pid) - used
    return {"alone": alone, "beside": beside, "attacker_cores": used / _SECONDS, "seconds": 2 * _SECONDS}


def left_by(found: dict[str, Any]) -> float:
    """Return the honest clients' rate relative to what it would be if the attacker used as much CPU but sent nothing.

    On a network, an attacker has its own cores; here it takes them from the service and the honest clients.
    """
    cores = len(os.sched_getaffinity(0))
    rate: float = found["beside"]["rate"] / found["alone"]["rate"]
    left: float = max(0.1, cores - found["attacker_cores"])
    return rate * cores / left


def strike_on(url: str, attack: str) -> dict[str, Any]:
    """Attack over several connections until the process, which must not be the one that measures, is killed."""
    os.nice(10)
    return asyncio.run(_strike_on(address_of(url), attack))


async def _strike_on(address: Address, attack: str) -> dict[str, Any]:
    async with hostile_host() as host:
        numbers, target = count(), Target(address, host)
        await asyncio.gather(*(_attack(attack, target, numbers) for _ in range(_CONNECTIONS)))
    return {}


async def _honest(address: Address, requests: list[bytes], seconds: float) -> dict[str, Any]:
    found: list[tuple[float, str]] = []
    end = time.perf_counter() + seconds
    clients = [_client(address, requests, n, end, found) for n in range(HONEST)]
    probing = asyncio.create_task(probe(address, end))
    await asyncio.gather(*clients)
    probes = await probing
    scored = [took for took, kind in found if kind == SCORED]
    return {
        "rate": len(scored) / seconds,
        "latency_s": percentiles(scored),
        "livez_s": percentiles(probes),
        "kinds": {kind: sum(each == kind for _, each in found) for kind in {each for _, each in found}},
    }


async def _client(
    address: Address, requests: list[bytes], number: int, end: float, found: list[tuple[float, str]]
) -> None:
    connection = await connect(address, f"127.0.0.{10 + number}")
    for turn in count(number * 50):
        began = time.perf_counter()
        if began > end:
            break
        if not connection.usable:
            connection = await connect(address, f"127.0.0.{10 + number}")
        status, body = await connection.answer(requests[turn % len(requests)])
        kind = SCORED if status == 200 and b'"error":null' in body else str(status)
        found.append((time.perf_counter() - began, kind))
        if kind != SCORED:
            await asyncio.sleep(0.05)
    connection.close()


async def _attack(name: str, target: Target, numbers: Iterator[int]) -> None:
    """Run one attempt after another."""
    for number in numbers:
        status = await strike(ATTACKS[name], target, number)
        await asyncio.sleep(0.05 if status != 200 else 0)


def jobs(options: Options) -> list[Job]:
    return [Job(f"hostile: {name}", f"{__name__}:measure", {"attack": name}) for name in ATTACKS]


def table(rounds: Rounds) -> str:
    lines = []
    for name in ATTACKS:
        if found := rounds.get(f"hostile: {name}"):
            alone, beside = found[-1]["alone"], found[-1]["beside"]
            lines.append(
                [
                    name,
                    f"{alone['rate']:,.0f}",
                    f"{beside['rate']:,.0f}",
                    f"{beside['rate'] / alone['rate']:.2f}",
                    f"{found[-1]['attacker_cores']:.2f}",
                    f"{left_by(found[-1]):.2f}",
                    f"{1000 * alone['latency_s']['p99']:,.0f}",
                    f"{1000 * beside['latency_s']['p99']:,.0f}",
                    f"{1000 * beside['livez_s']['p99']:,.0f}",
                ]
            )
    return markdown(
        [
            "attack",
            "pairs/s alone",
            "pairs/s beside the attacker",
            "ratio",
            "cores used by the attacker",
            "ratio without those cores",
            "p99 alone, ms",
            "p99 beside the attacker, ms",
            "p99 of /livez, ms",
        ],
        lines,
    )


SECTION = Section("hostile", jobs, table)

if __name__ == "__main__":
    import sys

    names = [name for name in ATTACKS if not sys.argv[1:] or sys.argv[1] in name]
    for name in names:
        seen = measure(name, "--isolated" in sys.argv)
        print(name, json.dumps({**seen, "left": left_by(seen)}), flush=True)
