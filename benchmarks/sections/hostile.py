"""One client that means harm beside eight that do not: what the others still get, and how fast."""

from __future__ import annotations

import asyncio
import io
import json
import os
import socket
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from typing import Any

from PIL import Image

from ..job import Job
from ..load import SCORED, Address, Connection, get, percentiles, post, post_pair
from ..replica import model_arguments, replicas
from ..results import Options, Rounds, Section, markdown
from ..scoring import MINI

HONEST = 8
SIDE = 224
_SECONDS = 8.0
_WARM_S = 2.0
_CONNECTIONS = 8  # of the attacker
_ATTACKER = "127.0.0.99"

Attack = Callable[[Address, str], Iterator[bytes]]


def _webp(side: int) -> bytes:
    """Return a WebP of a few bytes, of one colour: a small one, with another size in its head (RFC 9649, 3.4)."""
    out = io.BytesIO()
    Image.new("RGB", (8, 8)).save(out, "WEBP", lossless=True)
    made = bytearray(out.getvalue())
    assert made[12:16] == b"VP8L"
    sides = (side - 1) | (side - 1) << 14
    made[21:25] = (int.from_bytes(made[21:25], "little") & ~0xFFFFFFF | sides).to_bytes(4, "little")
    return bytes(made)


def _requests() -> list[bytes]:
    """Return requests for the score of one pair each, no two alike."""
    found = []
    for number in range(400):
        out = io.BytesIO()
        Image.effect_noise((SIDE, SIDE), 40 + number / 10).convert("RGB").save(out, "JPEG", quality=85)
        found.append(post_pair(out.getvalue(), f"a photo {number}"))
    return found


def _large_pictures(address: Address, silent: str) -> Iterator[bytes]:
    picture = b64encode(_webp(4990)).decode()
    for number in count():
        yield post({"pairs": [{"image_base64": picture, "caption": f"a {number} {n}"} for n in range(64)]})


def _distinct_large_pictures(address: Address, silent: str) -> Iterator[bytes]:
    texts = [b64encode(_webp(4990 - n)).decode() for n in range(64)]
    for number in count():
        yield post({"pairs": [{"image_base64": text, "caption": f"a {number}"} for text in texts]})


def _old_batch(address: Address, silent: str) -> Iterator[bytes]:
    pictures = [b64encode(_webp(4990 - n)).decode() for n in range(64)]
    for number in count():
        pairs = [{"image_input": pictures[n % 64], "text_prompt": f"a {number} {n}"} for n in range(1500)]
        yield post({"evaluations": pairs}, "/evaluator/v1/evaluation/batch")


def _silent_hosts(address: Address, silent: str) -> Iterator[bytes]:
    for number in count():
        pairs = [{"image_url": f"{silent}{number}/{n}", "caption": "a"} for n in range(64)]
        yield post({"pairs": pairs})


def _long_heads(address: Address, silent: str) -> Iterator[bytes]:
    while True:
        yield b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX-A: " + b"a" * (1 << 20)


ATTACKS: dict[str, Attack] = {
    "64 WebPs of 25 megapixels": _distinct_large_pictures,
    "one of them, 64 captions": _large_pictures,
    "a batch of the earlier routes": _old_batch,
    "hosts that never answer": _silent_hosts,
    "heads without end": _long_heads,
}


@contextmanager
def _silent_host() -> Iterator[str]:
    """Listen, accept, and say nothing; yield the address."""
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
        accepted: list[socket.socket] = []

        def accept() -> None:
            with suppress(OSError):
                while True:
                    accepted.append(listener.accept()[0])

        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        listener.shutdown(socket.SHUT_RDWR)
        for each in accepted:
            each.close()


def measure(attack: str, isolated: bool = False) -> dict[str, Any]:
    """Let eight clients ask, alone and then beside an attacker."""
    os.nice(5)  # the service goes first, as it would on a machine of its own
    more = ["--isolate-decoder"] if isolated else []
    arguments = [*model_arguments(MINI), "--drain-delay", "0", "--limit", "allow_private_addresses=true", *more]
    with replicas(1, *arguments) as (replica,), _silent_host() as silent:
        return asyncio.run(_measure(replica.address, attack, silent))


async def _measure(address: Address, attack: str, silent: str) -> dict[str, Any]:
    requests = _requests()
    await _honest(address, requests, _WARM_S)
    alone = await _honest(address, requests, _SECONDS)
    source = ATTACKS[attack](address, silent)
    attackers = [asyncio.create_task(_attack(address, source)) for _ in range(_CONNECTIONS)]
    await asyncio.sleep(1)
    beside = await _honest(address, requests, _SECONDS)
    for each in attackers:
        each.cancel()
    await asyncio.gather(*attackers, return_exceptions=True)
    return {"alone": alone, "beside": beside, "seconds": 2 * _SECONDS}


async def _honest(address: Address, requests: list[bytes], seconds: float) -> dict[str, Any]:
    found: list[tuple[float, str]] = []
    probes: list[float] = []
    end = time.perf_counter() + seconds
    clients = [_client(address, requests, n, end, found) for n in range(HONEST)]
    await asyncio.gather(*clients, _probe(address, end, probes))
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
    connection = await _connect(address, f"127.0.0.{10 + number}")
    for turn in count(number * 50):
        began = time.perf_counter()
        if began > end:
            break
        if not connection.usable:
            connection = await _connect(address, f"127.0.0.{10 + number}")
        status, body = await connection.answer(requests[turn % len(requests)])
        kind = SCORED if status == 200 and b'"error":null' in body else str(status)
        found.append((time.perf_counter() - began, kind))
        if kind != SCORED:
            await asyncio.sleep(0.05)
    connection.close()


async def _probe(address: Address, end: float, found: list[float]) -> None:
    while (began := time.perf_counter()) < end:
        connection = await _connect(address, "127.0.0.9")
        await connection.answer(get("/livez"))
        found.append(time.perf_counter() - began)
        connection.close()
        await asyncio.sleep(0.05)


async def _attack(address: Address, requests: Iterator[bytes]) -> None:
    """Send one after another, for as long as it is allowed to."""
    while True:
        with suppress(OSError):
            connection = await _connect(address, _ATTACKER)
            while connection.usable:
                status, _ = await connection.answer(next(requests))
                await asyncio.sleep(0.05 if status != 200 else 0)
        await asyncio.sleep(0.05)


async def _connect(address: Address, source: str) -> Connection:
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(
        Connection, address.host, address.port, family=socket.AF_INET, local_addr=(source, 0)
    )
    return connection


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
                    f"{1000 * alone['latency_s']['p99']:,.0f}",
                    f"{1000 * beside['latency_s']['p99']:,.0f}",
                    f"{1000 * beside['livez_s']['p99']:,.0f}",
                ]
            )
    return markdown(
        ["attack", "pairs/s alone", "beside it", "ratio", "p99 alone, ms", "beside it", "p99 of /livez"], lines
    )


SECTION = Section("hostile", jobs, table)

if __name__ == "__main__":
    import sys

    names = [name for name in ATTACKS if not sys.argv[1:] or sys.argv[1] in name]
    for name in names:
        print(name, json.dumps(measure(name, "--isolated" in sys.argv)), flush=True)
