"""Well-behaved clients, which send a few requests per second with known outcomes, and wait when they are asked to."""

from __future__ import annotations

import asyncio
import json
import time
from base64 import b64encode
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from .attacks import picture
from .load import PATH, Address, Connection, address_of, connect, percentiles, post
from .server import answering, response

PICTURES = 48
_PATIENCE_S = 120.0
_LEAST_PAUSE_S = 0.1


def ask(*, url: str, seconds: float, pause_s: float, keys: Sequence[str], known: Sequence[float]) -> dict[str, Any]:
    """Run one client for each key, and report the outcomes of their requests.

    Args:
        url: The URL of the service.
        seconds: How long to send requests.
        pause_s: Seconds between two requests of a client.
        keys: The clients' API keys.
        known: The scores of the images; see `learn`.

    Returns:
        `kinds`, the number of requests that were `scored`, `wrong` (with a score that differs from the known one),
        `failed` (with the status or the pair's error) or `lost` without a response, and of responses that said `later`;
        and `latency_s`, the seconds from a request's first attempt to its response.
    """
    return asyncio.run(_ask(address_of(url), seconds, pause_s, keys, known))


def learn(address: Address, key: str = "") -> list[float]:
    """Return the scores of all images, requested while the service is otherwise idle."""
    return asyncio.run(_learn(address, key))


async def _learn(address: Address, key: str) -> list[float]:
    connection, found = await connect(address), []
    for number in range(PICTURES):
        status, body = await connection.answer(post({"pairs": [_sent(number)]}, PATH, key))
        assert status == 200, body
        found.append(float(json.loads(body)["results"][0]["similarity"]))
    connection.close()
    return found


async def _ask(
    address: Address, seconds: float, pause_s: float, keys: Sequence[str], known: Sequence[float]
) -> dict[str, Any]:
    end = time.perf_counter() + seconds
    pictures = {f"/{n}".encode(): response(picture(n), Content_Type="image/jpeg") for n in range(PICTURES)}
    async with answering(pictures) as host:
        clients = [_Client(address, f"127.0.0.{10 + n}", key, host, known) for n, key in enumerate(keys)]
        await asyncio.gather(*(client.go_on(5 * n, end, pause_s) for n, client in enumerate(clients)))
    kinds = sum((client.kinds for client in clients), Counter[str]())
    return {"kinds": dict(kinds), "latency_s": percentiles(each for client in clients for each in client.seconds)}


@dataclass(slots=True)
class _Client:
    """A client that sends one request at a time, and the outcomes of its requests.

    Args:
        address: The address of the service.
        source: The address that the client connects from.
        key: The client's API key.
        host: The server from which the service fetches images.
        known: The scores of the images.
    """

    address: Address
    source: str
    key: str
    host: str
    known: Sequence[float]
    kinds: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    _connection: Connection = field(default_factory=Connection)

    async def go_on(self, number: int, end: float, pause_s: float) -> None:
        """Request the scores of one image that is sent and one that is fetched, over and over."""
        while (began := time.perf_counter()) < end:
            sent, fetched = number % PICTURES, (number + 1) % PICTURES
            pairs = [_sent(sent), {"image_url": f"{self.host}/{fetched}?{number}", "caption": _caption(fetched)}]
            kind = await self._ask(post({"pairs": pairs}, PATH, self.key), [self.known[sent], self.known[fetched]])
            self.kinds[kind] += 1
            self.seconds.append(time.perf_counter() - began)
            number += 1
            await asyncio.sleep(pause_s)
        if self._connection.usable:
            self._connection.close()

    async def _ask(self, request: bytes, known: list[float]) -> str:
        """Send a request, and repeat it as the service asks until it is accepted or too much time has passed."""
        late = time.perf_counter() + _PATIENCE_S
        while True:
            if not self._connection.usable:
                self._connection = await connect(self.address, self.source)
            status, body = await self._connection.answer(request)
            if status not in (429, 503) or time.perf_counter() > late:
                return kind_of(status, body, known)
            self.kinds["later"] += 1
            await asyncio.sleep(max(_LEAST_PAUSE_S, self._connection.retry_after_s))


def kind_of(status: int, body: bytes, known: list[float]) -> str:
    """Classify the outcome of a request; see `ask`."""
    if not status:
        return "lost"
    if status != 200:
        return f"failed: {status}"
    results = json.loads(body)["results"]
    if failed := next((result["error"]["code"] for result in results if result["error"]), None):
        return f"failed: {failed}"
    return "scored" if [result["similarity"] for result in results] == known else "wrong"


def _sent(number: int) -> dict[str, str]:
    return {"image_base64": b64encode(picture(number)).decode(), "caption": _caption(number)}


def _caption(number: int) -> str:
    return f"a photo of {number} dogs"
