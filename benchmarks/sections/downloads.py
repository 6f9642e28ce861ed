"""Compare our Fetcher with aiohttp and libcurl on the same files from the loopback server, at two latencies."""

from __future__ import annotations

import asyncio
import math
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from io import BytesIO
from itertools import cycle, islice
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from ..inputs import PHOTOS, read_rows
from ..job import Job
from ..meter import Meter
from ..results import Options, Rounds, Section, markdown, mid, rate, ratios, spread
from ..server import PROCESSOR_TIME

CONNECTIONS = (16, 32, 64)
DELAYS_MS = (0, 50)
FILES = 10_000  # without a delay; fewer would take too little time to measure
WAITS = 40  # number of delays in a row, if there is a delay
_CLIENTS = {
    "ours": "text_image_similarity",
    "ours in two": "text_image_similarity, two processes",
    "aiohttp": "aiohttp",
    "pycurl": "pycurl",
}

Fetch = Callable[[list[str]], list[int]]


def download(client: str, connections: int, files: int, server: str) -> dict[str, Any]:
    """Time the download of `files` files, which are the photos in turn, after a few that open the connections."""
    rows = list(islice(cycle(read_rows("pairs.csv", PHOTOS)), files))
    urls = [server + row.url for row in rows]
    fetch = _fetch_by(client, connections)
    fetch(urls[: 4 * connections])
    before = _processor_time(server)
    with Meter() as meter:
        sizes = fetch(urls)
    if sorted(sizes) != sorted(Path(row.path).stat().st_size for row in rows):
        raise RuntimeError("the downloaded files differ from those on the server")
    return {
        "pairs": len(urls),
        "seconds": meter.seconds,
        "cpu_seconds": meter.cpu_seconds,
        "server_cpu_seconds": _processor_time(server) - before,
    }


def _processor_time(server: str) -> float:
    with urllib.request.urlopen(server.rstrip("/") + PROCESSOR_TIME.decode()) as answer:
        return float(answer.read())


def _fetch_by(client: str, connections: int) -> Fetch:
    """Return a function that fetches URLs and returns the sizes of the files, in any order."""
    makers = {"ours": _ours, "ours in two": _ours_in_two, "aiohttp": _aiohttp, "pycurl": _pycurl}
    return makers[client](connections)


def _ours(connections: int) -> Fetch:
    from text_image_similarity import Config, Limits
    from text_image_similarity.fetch import Fetcher

    limits = Limits(allow_private_addresses=True, per_host=connections)
    fetcher = Fetcher(Config(io_workers=connections, limits=limits))
    pool = ThreadPoolExecutor(connections)

    def fetch(urls: list[str]) -> list[int]:
        waiting = iter(urls)
        threads = [pool.submit(lambda: [len(fetcher.fetch(url)) for url in waiting]) for _ in range(connections)]
        return [size for thread in threads for size in thread.result()]

    return fetch


def _ours_in_two(connections: int) -> Fetch:
    """Fetch in two processes, as feeders do, each with half of the connections."""
    context = get_context("spawn")
    pipes = []
    for _ in range(2):
        ours, theirs = context.Pipe()
        context.Process(target=_fetch_for, args=(theirs, connections // 2), daemon=True).start()
        pipes.append(ours)

    def fetch(urls: list[str]) -> list[int]:
        for number, pipe in enumerate(pipes):
            pipe.send(urls[number :: len(pipes)])
        return [size for pipe in pipes for size in pipe.recv()]

    return fetch


def _fetch_for(pipe: Connection, connections: int) -> None:
    fetch = _ours(connections)
    while True:
        pipe.send(fetch(pipe.recv()))


def _aiohttp(connections: int) -> Fetch:
    import aiohttp

    loop = asyncio.new_event_loop()

    async def open_session() -> aiohttp.ClientSession:
        return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=connections))

    session = loop.run_until_complete(open_session())

    async def one(url: str) -> int:
        async with session.get(url) as response:
            response.raise_for_status()
            return len(await response.read())

    async def every(urls: list[str]) -> list[int]:
        return await asyncio.gather(*map(one, urls))

    return lambda urls: loop.run_until_complete(every(urls))


def _pycurl(connections: int) -> Fetch:
    import pycurl

    multi, idle = pycurl.CurlMulti(), [pycurl.Curl() for _ in range(connections)]

    def start(url: str) -> None:
        handle = idle.pop()
        handle.body = BytesIO()
        handle.setopt(pycurl.URL, url)
        handle.setopt(pycurl.WRITEDATA, handle.body)
        handle.setopt(pycurl.FAILONERROR, True)
        multi.add_handle(handle)

    def fetch(urls: list[str]) -> list[int]:
        waiting = urls[::-1]
        sizes: list[int] = []
        while len(sizes) < len(urls):
            while waiting and idle:
                start(waiting.pop())
            multi.perform()
            _, done, failed = multi.info_read()
            for handle in done:
                sizes.append(handle.body.tell())
                multi.remove_handle(handle)
                idle.append(handle)
            if failed:
                raise RuntimeError(failed[0][2])
            if not done:
                multi.select(1.0)
        return sizes

    return fetch


def jobs(options: Options) -> list[Job]:
    return [
        Job(
            _name(client, connections, delay),
            "benchmarks.sections.downloads:download",
            {"client": client, "connections": connections, "files": WAITS * connections if delay else FILES},
            delay_ms=delay,
        )
        for delay in DELAYS_MS
        for connections in CONNECTIONS
        for client in _CLIENTS
    ]


def table(rounds: Rounds) -> str:
    lines = []
    for client, label in _CLIENTS.items():
        for connections in CONNECTIONS:
            found = [rounds.get(_name(client, connections, delay), []) for delay in DELAYS_MS]
            ours = [rounds.get(_name("ours", connections, delay), []) for delay in DELAYS_MS]
            if any(found):
                cells = (_cells(*pair, client == "ours") for pair in zip(found, ours, strict=True))
                lines.append([label, str(connections), *(cell for part in cells for cell in part)])
    columns = [
        f"{what}, {delay} ms"
        for delay in DELAYS_MS
        for what in ("files/s", "our speed-up", "CPU µs per file", "server CPU µs per file")
    ]
    return markdown(["client", "connections", *columns], lines)


def _cells(found: list[dict[str, Any]], ours: list[dict[str, Any]], is_ours: bool) -> list[str]:
    if not found:
        return ["n/a"] * 4
    return [
        f"{mid(found, rate):,.0f}",
        "" if is_ours else spread(ratios(ours, found)),
        f"{mid(found, partial(_microseconds, 'cpu_seconds')):.0f}",
        f"{mid(found, partial(_microseconds, 'server_cpu_seconds')):.0f}",
    ]


def _microseconds(what: str, found: dict[str, Any]) -> float:
    return float(1e6 * found.get(what, math.nan) / found["pairs"])  # earlier results lack the server's time


def _name(client: str, connections: int, delay: int) -> str:
    return f"{client} {connections} at {delay} ms"


SECTION = Section("downloads", jobs, table)
