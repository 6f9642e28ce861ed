"""The target of an attack, and functions that send requests to it."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

from ..load import PATH, Address, connect, post


@dataclass(frozen=True, slots=True)
class Target:
    """The service to attack, and what the attacker has at its disposal.

    Args:
        address: The address of the service.
        host: The address of the attacker's web server; see `hostile_host`.
        source: The address that the attacker connects from.
        key: An API key; without one, requests that need a key are refused early.
        size: The number of pairs in a request; everything else grows with it.
    """

    address: Address
    host: str
    source: str = "127.0.0.99"
    key: str = ""
    size: int = 64


async def score(target: Target, images: Iterable[bytes | str], caption: str = "a") -> int:
    pairs = [
        (
            {"image_url": image, "caption": caption}
            if isinstance(image, str)
            else {"image_base64": b64encode(image).decode(), "caption": caption}
        )
        for image in images
    ]
    return await send(target, post({"pairs": pairs}, PATH, target.key))


async def send(target: Target, request: bytes) -> int:
    connection = await connect(target.address, target.source)
    try:
        return (await connection.answer(request))[0]
    finally:
        connection.close()


async def push(target: Target, start: bytes, piece: bytes, times: int, pause_s: float) -> int:
    """Send a start and then pieces, until the service closes the connection; return the response's status, or 0."""
    reader, writer = await open_raw(target)
    reading = asyncio.create_task(reader.read(100))
    with suppress(OSError):
        writer.write(start)
        for _ in range(times):
            if reading.done():
                break
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause_s)
    writer.close()
    reading.cancel()
    (answer,) = await asyncio.gather(reading, return_exceptions=True)
    return int(answer[9:12] or 0) if isinstance(answer, bytes) else 0


async def open_raw(target: Target, limit: int = 65536) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection(
        target.address.host, target.address.port, local_addr=(target.source, 0), limit=limit
    )
