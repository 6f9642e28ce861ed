"""Our Fetcher against aiohttp and libcurl: the same files from the loopback server, at two latencies."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

from ..inputs import PHOTOS, read_rows
from ..job import Job
from ..meter import Meter
from ..results import Options, Rounds, Section, cpu_per_1000, markdown, mid, rate, ratios, spread

CONNECTIONS = (16, 32, 64)
DELAYS_MS = (0, 50)
_CLIENTS = {"ours": "text_image_similarity", "aiohttp": "aiohttp", "pycurl": "pycurl"}


def download(client: str, connections: int, server: str) -> dict[str, Any]:
    """Time the download of all photos; a few that come first open the connections."""
    rows = read_rows("pairs.csv", PHOTOS)
    urls = [server + row.url for row in rows]
    fetch: Callable[[list[str]], list[int]] = {"ours": _ours, "aiohttp": _aiohttp, "pycurl": _pycurl}[client](
        connections
    )
    fetch(urls[:connections])
    with Meter() as meter:
        sizes = fetch(urls)
    if sorted(sizes) != sorted(Path(row.path).stat().st_size for row in rows):
        raise RuntimeError("what came back is not what lies there")
    return {"pairs": len(urls), "seconds": meter.seconds, "cpu_seconds": meter.cpu_seconds}


def _ours(connections: int) -> Callable[[list[str]], list[int]]:
    from text_image_similarity import Config, Limits
    from text_image_similarity.fetch import Fetcher

    limits = Limits(allow_private_addresses=True, per_host=connections)
    fetcher = Fetcher(Config(io_workers=connections, limits=limits))
    pool = ThreadPoolExecutor(connections)
    return lambda urls: list(pool.map(lambda url: len(fetcher.fetch(url)), urls))


def _aiohttp(connections: int) -> Callable[[list[str]], list[int]]:
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


def _pycurl(connections: int) -> Callable[[list[str]], list[int]]:
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
            {"client": client, "connections": connections},
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
        f"{what}, {delay} ms" for delay in DELAYS_MS for what in ("files/s", "ours is faster by", "CPU s per 1,000")
    ]
    return markdown(["client", "at once", *columns], lines)


def _cells(found: list[dict[str, Any]], ours: list[dict[str, Any]], is_ours: bool) -> list[str]:
    if not found:
        return ["n/a"] * 3
    return [
        f"{mid(found, rate):,.0f}",
        "" if is_ours else spread(ratios(ours, found)),
        f"{mid(found, cpu_per_1000):.2f}",
    ]


def _name(client: str, connections: int, delay: int) -> str:
    return f"{client} {connections} at {delay} ms"


SECTION = Section("downloads", jobs, table)
