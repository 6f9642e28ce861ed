"""Measure `/match-text`: its latency, its throughput with many clients, the cost of the log, and a change of model."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from itertools import cycle, takewhile
from pathlib import Path
from typing import Any

from text_image_similarity import load_encoder

from ..catalogs import drawn_catalog, entries_of, pictured_catalog
from ..inputs import BUILD
from ..job import Job
from ..load import SCORED, Address, ask, closed, kinds, opened, percentiles, post
from ..meter import cpu_seconds
from ..replica import Replica, model_arguments, replicas
from ..results import Options, Rounds, Section, at, markdown, mid
from ..scoring import MINI, config_of
from .overload import watch_memory

CLIENTS, TIMES, RATE = 32, 10, 10.0
_QUERIES, _MANY, _SAME = 200, 1500, 3000
_SECONDS, _OVERLOAD_S = 30.0, 30.0
_PICTURED = 3000
_NICE = 5


def queries(count: int, start: int = 0) -> list[bytes]:
    """Return complete, distinct requests."""
    return [post({"text": f"a red shoe, number {start + number}"}, "/match-text") for number in range(count)]


def answers(rows: int) -> dict[str, Any]:
    """Time a service's responses to one client, to many clients, to a repeated query, and on a schedule."""
    encoder = load_encoder(config_of(MINI))
    times = []
    for number in range(50):
        began = time.perf_counter()
        encoder.encode_text([f"a red shoe, number {number}"])
        times.append(time.perf_counter() - began)
    with _service(drawn_catalog(rows)) as (replica,):
        asyncio.run(closed(replica.address, queries(64, 10**6), CLIENTS))  # warms up
        return {
            "rows": rows,
            "encode_s": percentiles(times),
            "one": _closed(replica, queries(_QUERIES, 10_000), 1),
            "many": _closed(replica, queries(_MANY, 20_000), CLIENTS),
            "same": _closed(replica, queries(1) * _SAME, CLIENTS),
            "scheduled": percentiles(
                one.seconds
                for one in asyncio.run(opened(replica.address, queries(400, 30_000), RATE, _SECONDS))
                if one.kind == SCORED
            ),
        }


def log(rows: int) -> dict[str, Any]:
    """Compare the response times of two services, one with a log and one without, queried in turn."""
    place, found = drawn_catalog(rows), dict[str, list[float]]()
    with _service(place) as (logging,), _service(place, "--match-log", "off") as (silent,):
        for turn in range(21):
            for name, replica in (("queued", logging), ("off", silent)):
                outcomes = asyncio.run(closed(replica.address, queries(1) * 100, 1))
                if turn:
                    found.setdefault(name, []).extend(one.seconds for one in outcomes)
    return {name: percentiles(times) for name, times in found.items()}


def overload(rows: int) -> dict[str, Any]:
    """Send ten times the load that a service can handle; its log must contain an entry for each response."""
    place, memory = drawn_catalog(rows), list[float]()
    with _service(place) as (replica,):
        os.nice(_NICE)  # the service has priority, as if it had the machine to itself
        asyncio.run(closed(replica.address, queries(64, 10**6), CLIENTS))
        end = time.perf_counter() + 10
        some = takewhile(lambda _: time.perf_counter() < end, cycle(queries(5000, 40_000)))
        rate = len(asyncio.run(closed(replica.address, some, CLIENTS))) / 10
        before = _settled(place)
        outcomes = asyncio.run(_flood(replica, TIMES * rate, memory))
        replica.end()
    return {
        "rate": rate,
        "asked": len(outcomes),
        "kinds": kinds(outcomes),
        "served_s": percentiles(one.seconds for one in outcomes if one.kind == SCORED),
        "memory_mib": memory,
        "entries": entries_of(place) - before,
    }


def new_model(rows: int) -> dict[str, Any]:
    """Build an index for a model of a different width while queries arrive on a schedule, and switch to it and back."""
    from tests.support.models import save_clip

    folder = Path(tempfile.mkdtemp(dir=BUILD))
    try:
        place, keys = pictured_catalog(folder / "shop.catalog", rows), folder / "keys"
        keys.write_text('reader\n{"key": "boss", "role": "admin"}\n', encoding="utf-8")
        with _service(place, "--api-key-file", str(keys)) as (replica,):
            return asyncio.run(_change(replica.address, str(save_clip(folder / "other"))))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def _change(address: Address, model: str) -> dict[str, Any]:
    asked = [_with_key("reader", request) for request in queries(5000, 50_000)]
    await closed(address, asked[:64], 4)
    before = await opened(address, asked, RATE, _SECONDS)
    url = "/v1/catalogs/shop"
    await _as_admin(address, f"{url}:reindex", {"model": model})
    began, during = time.perf_counter(), list[Any]()
    while (await _as_admin(address, url))["reindex"]["state"] == "running":
        during += await opened(address, asked[len(during) + 1000 :], RATE, 2.0)
    built = time.perf_counter() - began
    steps = {}
    for step in (":switch", ":rollback"):
        querying = asyncio.create_task(opened(address, asked[2000:], RATE, 4.0))
        await asyncio.sleep(2.0)
        began = time.perf_counter()
        await _as_admin(address, url + step, {})
        steps[step] = time.perf_counter() - began
        during += await querying
    return {
        "before_s": percentiles(one.seconds for one in before),
        "during_s": percentiles(one.seconds for one in during),
        "kinds": kinds([*before, *during]),
        "built_s": built,
        "steps_s": steps,
    }


async def _as_admin(address: Address, path: str, body: Any = None) -> Any:
    request = post(body, path) if body is not None else f"GET {path} HTTP/1.1\r\nHost: service\r\n\r\n".encode()
    status, content = await ask(address, _with_key("boss", request))
    if status not in (200, 202):
        raise RuntimeError(f"{path}: {status} {content[:300]!r}")
    return json.loads(content)


def _with_key(key: str, request: bytes) -> bytes:
    return request.replace(b"\r\n", f"\r\nX-API-Key: {key}\r\n".encode(), 1)


async def _flood(replica: Replica, rate: float, memory: list[float]) -> Sequence[Any]:
    watching = asyncio.create_task(watch_memory(replica.pid, memory))
    outcomes = await opened(replica.address, queries(20_000, 60_000), rate, _OVERLOAD_S)
    watching.cancel()
    return outcomes


def _settled(place: Path) -> int:
    """Return the number of entries in a log once it has stopped growing."""
    last = -1
    while (now := entries_of(place)) != last:
        last = now
        time.sleep(1)
    return now


def _closed(replica: Replica, requests: list[bytes], clients: int) -> dict[str, Any]:
    cpu, began = cpu_seconds(replica.pid), time.perf_counter()
    outcomes = asyncio.run(closed(replica.address, requests, clients))
    seconds, cpu = time.perf_counter() - began, cpu_seconds(replica.pid) - cpu
    if kinds(outcomes) != {SCORED: len(requests)}:
        raise RuntimeError(f"requests failed: {kinds(outcomes)}")
    found = percentiles(one.seconds for one in outcomes)
    return {**found, "rate": len(requests) / seconds, "cpu_ms": 1000 * cpu / len(requests)}


def _service(place: Path, *arguments: str) -> Any:
    given = [*model_arguments(MINI), "--drain-delay", "0", "--quiet", "--catalog", f"shop={place}", *arguments]
    return replicas(1, *given)


def jobs(options: Options) -> list[Job]:
    given = {"rows": options.vectors}
    return [
        *(Job(name, f"{__name__}:{name}", given) for name in ("answers", "log", "overload")),
        Job("new model", f"{__name__}:new_model", {"rows": _PICTURED}),
    ]


def table(rounds: Rounds) -> str:
    lines = []
    if found := rounds.get("answers"):
        one, many = mid(found, at("one", "rate")), mid(found, at("many", "rate"))
        lines += [
            ["encoding a text alone, p50, ms", f"{1000 * mid(found, at('encode_s', 'p50')):.1f}"],
            ["one client: p50, p99, ms", _both(found, "one")],
            [f"{RATE:.0f} queries/s: p50, p99, ms", _both(found, "scheduled")],
            ["one client, queries/s", f"{one:,.1f}"],
            [f"{CLIENTS} clients, queries/s", f"{many:,.1f} ({many / one:.1f} times as many as one client)"],
            ["the same query, queries/s", f"{mid(found, at('same', 'rate')):,.0f}"],
        ]
    if found := rounds.get("log"):
        added = mid(found, lambda one: one["queued"]["p50"] - one["off"]["p50"])
        lines.append(["what the match log adds to the median, ms", f"{1000 * added:.2f}"])
    if found := rounds.get("overload"):
        lines += _overload_lines(found[-1])
    if found := rounds.get("new model"):
        last = found[-1]
        before, during = last["before_s"]["p99"], last["during_s"]["p99"]
        lines += [
            [
                "p99 before and while the index for a new model is built, ms",
                f"{1000 * before:.0f}, {1000 * during:.0f} ({during / before:.1f} times)",
            ],
            [
                "failed before and while the index for a new model is built",
                str(sum(n for kind, n in last["kinds"].items() if kind != SCORED)),
            ],
            ["switch, rollback, s", ", ".join(f"{last['steps_s'][step]:.2f}" for step in (":switch", ":rollback"))],
        ]
    return markdown(["", "`/match-text`, mini"], lines)


def _overload_lines(found: dict[str, Any]) -> list[list[str]]:
    memory = found["memory_mib"][len(found["memory_mib"]) // 10 :]
    quarter = max(1, len(memory) // 4)
    early, late = (sum(part) / len(part) for part in (memory[:quarter], memory[-quarter:]))
    return [
        [
            f"{TIMES} times the load: responses by kind",
            ", ".join(f"{n:,} x {kind}" for kind, n in found["kinds"].items()),
        ],
        [f"{TIMES} times the load: log entries, responses", f"{found['entries']:,}, {found['asked']:,}"],
        ["memory, MiB: first quarter, last quarter", f"{early:,.0f}, {late:,.0f}"],
    ]


def _both(found: list[dict[str, Any]], name: str) -> str:
    return ", ".join(f"{1000 * mid(found, at(name, part)):.1f}" for part in ("p50", "p99"))


SECTION = Section("matching", jobs, table)
