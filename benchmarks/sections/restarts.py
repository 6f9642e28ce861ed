"""Measure rolling restarts under load: two replicas are restarted in turn while clients send requests."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import cycle, takewhile
from pathlib import Path
from typing import Any

from ..balancer import Balancer
from ..job import Job
from ..load import SCORED, Address, ask, closed, get, kinds, percentiles
from ..replica import Replica, free_port, model_arguments, replicas
from ..results import Options, Rounds, Section, markdown
from ..scoring import MINI
from ..serving import requests_of

CLIENTS = 8
DRAIN_S = 1.0  # several times as long as the balancer takes to notice
_WAYS = {"balancer": "a readiness-based balancer, as in Kubernetes", "nginx": "nginx"}

NGINX = """
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log info;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    client_max_body_size 40m; client_body_buffer_size 1m;
    upstream service {{ {servers} keepalive 16; }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://service; proxy_http_version 1.1; proxy_set_header Connection "";
            proxy_next_upstream error timeout;
        }}
    }}
}}
"""


async def roll(
    there: Sequence[Replica], address: Address, requests: Sequence[bytes], times: int, ready: Callable[[Replica], bool]
) -> dict[str, Any]:
    """Restart replicas in turn while clients post requests.

    Args:
        there: The running replicas.
        address: The address of the load balancer in front of the replicas.
        requests: The requests that clients post repeatedly.
        times: The number of restarts.
        ready: Function that tells whether a replica receives requests again; the next one is not stopped until then.

    Returns:
        The number of requests by kind of outcome; the exit codes; and percentiles of the request times, in seconds.
    """
    going, codes = True, []
    endless = takewhile(lambda _: going, cycle(requests))
    load = asyncio.create_task(closed(address, endless, CLIENTS))
    try:
        for number in range(times):
            replica = there[number % len(there)]
            codes.append(await asyncio.to_thread(replica.end))
            replica.start()
            await asyncio.to_thread(replica.wait_until_ready)
            while not ready(replica):
                await asyncio.sleep(0.05)
    finally:
        going = False
    outcomes = await load
    return {
        "kinds": kinds(outcomes),
        "exit_codes": codes,
        "latency_s": percentiles(outcome.seconds for outcome in outcomes),
    }


def restart(through: str, times: int) -> dict[str, Any]:
    """Restart two replicas of mini behind one of the two load balancers."""
    requests = requests_of(200, side=224)
    with replicas(2, *model_arguments(MINI), "--drain-delay", str(DRAIN_S)) as there:
        return asyncio.run({"balancer": behind_balancer, "nginx": _behind_nginx}[through](there, requests, times))


async def behind_balancer(there: Sequence[Replica], requests: Sequence[bytes], times: int) -> dict[str, Any]:
    """Restart replicas behind a balancer that probes /readyz."""
    async with Balancer([replica.address for replica in there]) as balancer:
        return await roll(there, balancer.address, requests, times, lambda replica: balancer.sends_to(replica.address))


async def _behind_nginx(there: Sequence[Replica], requests: Sequence[bytes], times: int) -> dict[str, Any]:
    """Restart replicas behind nginx, which notices a stopped replica only by a refused connection."""
    async with _nginx([replica.address for replica in there]) as address:
        return await roll(there, address, requests, times, lambda replica: True)


@asynccontextmanager
async def _nginx(upstreams: Sequence[Address]) -> AsyncIterator[Address]:
    found = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
    if found is None:
        raise RuntimeError("nginx is not installed")
    address = Address("127.0.0.1", free_port())
    servers = " ".join(f"server {one.host}:{one.port} max_fails=0;" for one in upstreams)
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "nginx.conf"
        config.write_text(NGINX.format(folder=folder, servers=servers, port=address.port), encoding="utf-8")
        process = await asyncio.create_subprocess_exec(found, "-c", str(config), "-p", folder)
        try:
            while (await ask(address, get("/readyz")))[0] != 200:
                if process.returncode is not None:
                    raise RuntimeError((Path(folder) / "error.log").read_text(encoding="utf-8")[-500:])
                await asyncio.sleep(0.02)
            yield address
        finally:
            process.terminate()
            await process.wait()


def jobs(options: Options) -> list[Job]:
    return [
        Job(f"restarts, {through}", f"{__name__}:restart", {"through": through, "times": options.restarts})
        for through in _WAYS
    ]


def table(rounds: Rounds) -> str:
    lines = []
    for through, label in _WAYS.items():
        for found in rounds.get(f"restarts, {through}", [])[-1:]:
            ended = dict(found["kinds"])
            rest = ", ".join(f"{count} x {kind}" for kind, count in ended.items() if kind != SCORED)
            lines.append(
                [
                    label,
                    str(len(found["exit_codes"])),
                    " ".join(sorted({str(code) for code in found["exit_codes"]})),
                    f"{ended.get(SCORED, 0):,}",
                    rest or "none",
                    *(f"{1000 * found['latency_s'][part]:,.0f}" for part in ("p50", "p99", "max")),
                ]
            )
    header = [
        "two replicas behind",
        "restarts",
        "exit codes",
        "requests scored",
        "other outcomes",
        "p50, ms",
        "p99, ms",
        "max, ms",
    ]
    return markdown(header, lines)


SECTION = Section("restarts", jobs, table, rounds=1)
