"""Compare the service with `score_pairs` on the same images, sent over HTTP by many clients, one pair per request."""

from __future__ import annotations

import asyncio
import os
from base64 import b64encode
from typing import Any

from text_image_similarity import Record, load_encoder, score_pairs

from ..job import Job
from ..load import SCORED, closed, kinds, percentiles
from ..meter import Meter, cpu_seconds
from ..replica import model_arguments, replicas
from ..results import Options, Rounds, Section, at, markdown, mid, rate, ratios, spread
from ..scoring import config_of
from ..serving import BATCH, MAX_WAIT_S, NAMES, encoded, full_batch, read_pairs, requests_of

CLIENTS = 32


def alone(model: str, pairs: int) -> dict[str, Any]:
    """Time `score_pairs` in this process, and then only its encoder, on full batches."""
    config = config_of(model)
    encoder = load_encoder(config)
    there = read_pairs(pairs)
    records = [Record("data:image/jpeg;base64," + b64encode(photo).decode(), text) for photo, text in there]
    list(score_pairs(records[-BATCH:], config, encoder=encoder))  # warms up
    with Meter() as meter:
        errors = [result.error for result in score_pairs(records, config, encoder=encoder)]
    if any(errors):
        raise RuntimeError(f"rows failed: {set(errors)}")
    found = {"pairs": pairs, "seconds": meter.seconds, "cpu_seconds": meter.cpu_seconds}
    return found | {"batch_s": full_batch(encoder, there)}


def served(model: str, pairs: int) -> dict[str, Any]:
    """Time clients in this process that use a service in a separate process."""
    requests = requests_of(pairs)
    with replicas(1, *model_arguments(model), "--drain-delay", "0") as (replica,):
        asyncio.run(closed(replica.address, requests[-2 * BATCH :], CLIENTS))  # warms up
        processes, before = (replica.pid, os.getpid()), encoded(replica.address)
        cpu = [cpu_seconds(pid) for pid in processes]
        with Meter() as meter:
            outcomes = asyncio.run(closed(replica.address, requests, CLIENTS))
        cpu = [cpu_seconds(pid) - earlier for pid, earlier in zip(processes, cpu, strict=True)]
        work = encoded(replica.address).since(before)
    if kinds(outcomes) != {SCORED: pairs}:
        raise RuntimeError(f"requests failed: {kinds(outcomes)}")
    return {
        "pairs": pairs,
        "seconds": meter.seconds,
        "cpu_seconds": cpu[0],
        "clients_cpu_seconds": cpu[1],
        "latency_s": percentiles(outcome.seconds for outcome in outcomes),
        "batch_s": work.full_batch_s,
        "batches": work.batches,
    }


def jobs(options: Options) -> list[Job]:
    return [
        Job(f"{model} {way}", f"{__name__}:{function}", {"model": model, "pairs": options.engine_pairs})
        for model in NAMES
        for way, function in (("score_pairs", "alone"), ("service", "served"))
    ]


def table(rounds: Rounds) -> str:
    rates, times = [], []
    for model, name in NAMES.items():
        by_itself, service = (rounds.get(f"{model} {way}", []) for way in ("score_pairs", "service"))
        if by_itself and service:
            rates.append(
                [
                    name,
                    f"{mid(by_itself, rate):,.1f}",
                    f"{mid(service, rate):,.1f}",
                    spread(ratios(service, by_itself)),
                    f"{mid(service, lambda one: one['pairs'] / one['batches']):.1f}",
                    f"{mid(service, at('clients_cpu_seconds')) / mid(service, at('seconds')):.2f}",
                ]
            )
            times.append(_latency_line(name, by_itself, service))
    header = [
        f"{CLIENTS} clients",
        "pairs/s, `score_pairs`",
        "pairs/s, service",
        "ratio",
        "pairs per batch",
        "cores used by the clients",
    ]
    more = ["", "p50, ms", "p99, ms"]
    for where in ("in the service", "alone"):
        more += [f"a full batch {where}, ms", "p99 / (batch + wait)"]
    return markdown(header, rates) + "\n\n" + markdown(more, times)


def _latency_line(name: str, by_itself: list[dict[str, Any]], service: list[dict[str, Any]]) -> list[str]:
    cells = [name, *(f"{1000 * mid(service, at('latency_s', part)):,.0f}" for part in ("p50", "p99"))]
    for batches in (service, by_itself):
        both = zip(service, batches, strict=False)
        shares = [one["latency_s"]["p99"] / (batch["batch_s"] + MAX_WAIT_S) for one, batch in both]
        cells += [f"{1000 * mid(batches, at('batch_s')):,.0f}", spread(shares)]
    return cells


SECTION = Section("service", jobs, table)
