"""Send a service ten times the load that it can handle, and measure how fast it responds and refuses."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from itertools import cycle, takewhile
from statistics import mean
from typing import Any

import psutil

from text_image_similarity import load_encoder

from ..job import Job
from ..load import SCORED, Address, ask, closed, get, kinds, opened, percentiles
from ..meter import cpu_seconds
from ..replica import Replica, model_arguments, replicas
from ..results import Options, Rounds, Section, at, markdown, mid
from ..scoring import config_of
from ..serving import MAX_WAIT_S, NAMES, encoded, full_batch, read_pairs, requests_of

TIMES = 10
CLIENTS = 32  # enough to reach the maximum rate of the service
SIDE = 224  # side of the images, small enough that the clients leave cores to the service
_PAIRS = 1000
_CAPACITY_S = 20.0
_SINGLES = 20
_NICE = 5
_REFUSED = ("429", "503")
_RECOVERY_S = 60.0


def batch(model: str) -> dict[str, Any]:
    """Time only the encoder, on full batches."""
    return {"batch_s": full_batch(load_encoder(config_of(model)), read_pairs(64, side=SIDE))}


def overload(model: str, seconds: float) -> dict[str, Any]:
    """Measure a service's maximum rate, then send requests at ten times that rate, then only a few."""
    requests = requests_of(_PAIRS, side=SIDE)
    with replicas(1, *model_arguments(model), "--drain-delay", "0") as (replica,):
        os.nice(_NICE)  # the service has priority, as if it had the machine to itself
        return asyncio.run(_overload(replica, requests, seconds))


async def _overload(replica: Replica, requests: Sequence[bytes], seconds: float) -> dict[str, Any]:
    address, memory = replica.address, list[float]()
    await closed(address, requests[-2 * CLIENTS :], CLIENTS)  # warms up
    capacity = await _capacity(address, requests, min(_CAPACITY_S, seconds))
    normal = max(outcome.seconds for outcome in await closed(address, requests[:_SINGLES], 1))

    watching = asyncio.create_task(watch_memory(replica.pid, memory))
    cpu, before = cpu_seconds(replica.pid), await asyncio.to_thread(encoded, address)
    flood = asyncio.create_task(opened(address, requests, TIMES * capacity, seconds))
    await asyncio.sleep(seconds)
    cpu = cpu_seconds(replica.pid) - cpu
    looking = asyncio.create_task(asyncio.to_thread(encoded, address))
    recovered = await _recovery(address, requests[0], normal)
    outcomes = await flood
    watching.cancel()
    work = (await looking).since(before)
    refused = [outcome for outcome in outcomes if outcome.kind in _REFUSED]
    return {
        "seconds": seconds,
        "capacity": capacity,
        "normal_s": normal,
        "kinds": kinds(outcomes),
        "served_s": percentiles(outcome.seconds for outcome in outcomes if outcome.kind == SCORED),
        "refused_s": percentiles(outcome.seconds for outcome in refused),
        "refused_since_sent_s": percentiles(outcome.ended - outcome.sent for outcome in refused),
        "late_s": percentiles(outcome.sent - outcome.due for outcome in outcomes),
        "memory_mib": memory,
        "recovered_s": recovered,
        "service_cores": cpu / seconds,
        "batch_s": work.full_batch_s,
        "batches": work.batches,
        "pairs": work.pairs,
    }


async def _capacity(address: Address, requests: Sequence[bytes], seconds: float) -> float:
    """Return how many pairs per second a service scores when clients do not overload it."""
    began = time.perf_counter()
    endless = takewhile(lambda _: time.perf_counter() < began + seconds, cycle(requests))
    outcomes = await closed(address, endless, CLIENTS)
    if set(kinds(outcomes)) != {SCORED}:
        raise RuntimeError(f"requests failed: {kinds(outcomes)}")
    return len(outcomes) / (time.perf_counter() - began)


async def watch_memory(pid: int, found: list[float]) -> None:
    """Record a process's resident memory every second, in MiB."""
    process = psutil.Process(pid)
    while True:
        found.append(process.memory_info().rss / 2**20)
        await asyncio.sleep(1)


async def _recovery(address: Address, request: bytes, normal: float) -> float | None:
    """Return the seconds until a request takes no longer than before and /readyz reports ready; None if never."""
    end = time.perf_counter()
    while time.perf_counter() < end + _RECOVERY_S:
        (outcome,) = await closed(address, [request], 1)
        status, _ = await ask(address, get("/readyz"))
        if outcome.kind == SCORED and outcome.seconds <= normal and status == 200:
            return time.perf_counter() - end
        await asyncio.sleep(0.05)
    return None


def jobs(options: Options) -> list[Job]:
    return [
        Job(f"{model} {what}", f"{__name__}:{function}", {"model": model, **more})
        for model in NAMES
        for what, function, more in (
            ("full batch", "batch", {}),
            ("overload", "overload", {"seconds": options.overload_s}),
        )
    ]


def table(rounds: Rounds) -> str:
    columns = {
        name: _facts(rounds[f"{model} overload"][-1], mid(rounds[f"{model} full batch"], at("batch_s")))
        for model, name in NAMES.items()
        if f"{model} overload" in rounds and f"{model} full batch" in rounds
    }
    labels = list(next(iter(columns.values()), {}))
    lines = [[label, *(facts[label] for facts in columns.values())] for label in labels]
    return markdown(["", *columns], lines)


def _facts(found: dict[str, Any], batch_s: float) -> dict[str, str]:
    """Return a model's column of the table, by row."""
    ended = dict(found["kinds"])
    asked, served = sum(ended.values()), ended.get(SCORED, 0)
    refused = sum(ended.pop(kind, 0) for kind in _REFUSED)
    others = ", ".join(f"{count} x {kind}" for kind, count in ended.items() if kind != SCORED)
    batches = (found["batch_s"], batch_s)
    early, late = _quarters(found["memory_mib"])
    seconds = found["seconds"]
    recovered = found["recovered_s"]
    return {
        f"capacity, pairs/s with {CLIENTS} clients": f"{found['capacity']:,.1f}",
        f"sent, requests/s over {seconds:,.0f} s": f"{asked / seconds:,.0f}",
        "scored, pairs/s": f"{served / seconds:,.1f}",
        "refused with 429 or 503": f"{100 * refused / asked:.2f} %",
        "other outcomes": others or "none",
        "scored: p50, p99, max, ms": _milliseconds(found["served_s"]),
        "a full batch, in the overload and alone, ms": ", ".join(f"{1000 * one:,.0f}" for one in batches),
        "p99 / (batch + wait), with the batch in the overload and alone": ", ".join(
            f"{found['served_s']['p99'] / (one + MAX_WAIT_S):.2f}" for one in batches
        ),
        "pairs per batch": f"{found['pairs'] / max(found['batches'], 1):.1f}",
        "refused: p50, p99, max, ms since they were due": _milliseconds(found["refused_s"]),
        "refused: p50, p99, max, ms since they were sent": _milliseconds(found["refused_since_sent_s"]),
        "delay in sending: p50, p99, max, ms": _milliseconds(found["late_s"]),
        "memory, MiB: first quarter, last quarter": f"{early:,.0f}, {late:,.0f}",
        "cores used by the service": f"{found['service_cores']:.2f}",
        "seconds until the service is back to normal": "never" if recovered is None else f"{recovered:.2f}",
    }


def _quarters(memory: list[float]) -> tuple[float, float]:
    """Return the means of the first and the last quarter, without the first tenth, during which queues fill."""
    warm = memory[len(memory) // 10 :]
    count = max(len(warm) // 4, 1)
    return mean(warm[:count]), mean(warm[-count:])


def _milliseconds(found: dict[str, float]) -> str:
    return ", ".join(f"{1000 * found[part]:,.0f}" for part in ("p50", "p99", "max"))


SECTION = Section("overload", jobs, table, rounds=1)
