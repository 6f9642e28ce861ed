"""Attacks that misuse connections."""

from __future__ import annotations

import asyncio
from base64 import b64encode

from ..load import PATH, head, post
from .pictures import picture
from .requests import OLD_BATCH
from .target import Target, open_raw, push

_MIB = 1 << 20
_DRIP_S = 1.0
_UNREAD_S = 40.0  # longer than a service waits for a client that reads nothing


async def long_heads(target: Target, number: int) -> int:
    """Send megabytes of headers until the service closes the connection."""
    return await push(target, b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX-A: ", b"a" * 65536, 75 * target.size, 0.025)


async def slow_bodies(target: Target, number: int) -> int:
    """Send bodies at a byte per second."""
    start = head("POST", PATH, target.key, Content_Type="application/json", Content_Length=_MIB)
    found = await asyncio.gather(*(push(target, start, b" ", 600, _DRIP_S) for _ in range(target.size)))
    return found[-1]


async def tiny_chunks(target: Target, number: int) -> int:
    """Send complete requests in chunks of a byte over many connections at the same time."""
    start = head("POST", PATH, target.key, Content_Type="application/json", Transfer_Encoding="chunked")
    request = start + b"1\r\n \r\n" * 8000 + b"0\r\n\r\n"
    return max(await asyncio.gather(*(push(target, request, b"", 2, _DRIP_S) for _ in range(target.size))))


async def unread_answers(target: Target, number: int) -> int:
    """Request long responses without reading them."""
    asked = [{"image_input": "?" * (4 * _MIB), "text_prompt": f"a {number}", "model_config_name": "none"}]
    request = post({"evaluations": asked}, OLD_BATCH, target.key)
    return max(await asyncio.gather(*(_ignore(target, request) for _ in range(max(2, target.size // 8)))))


async def _ignore(target: Target, request: bytes) -> int:
    """Send a request, and return the status of the response, or 0 if the connection has ended."""
    reader, writer = await open_raw(target, limit=1024)
    try:
        writer.write(request)
        status = int((await reader.readexactly(12))[9:])
        await asyncio.sleep(_UNREAD_S)
        async with asyncio.timeout(_DRIP_S):
            await reader.read()
        return 0
    except TimeoutError:
        return status
    finally:
        writer.close()


async def idle_connections(target: Target, number: int) -> int:
    """Open hundreds of connections, and send nothing or half of the request headers."""
    opened = []
    try:
        for n in range(8 * target.size):
            _, writer = await open_raw(target)
            opened.append(writer)
            if n % 2:
                writer.write(b"GET /livez HTTP/1.1\r\nX: ")
        await asyncio.sleep(10 * _DRIP_S)
    finally:
        for writer in opened:
            writer.close()
    return 0


async def left_requests(target: Target, number: int) -> int:
    """Send requests, and close the connection without waiting for the responses."""
    for n in range(target.size):
        pairs = [{"image_base64": b64encode(picture(n)).decode(), "caption": f"left {number} {n}"}]
        _, writer = await open_raw(target)
        writer.write(post({"pairs": pairs}, PATH, target.key))
        await writer.drain()
        writer.transport.abort()
    return 0
