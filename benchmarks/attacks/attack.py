"""All attacks, and the loop that repeats them."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from itertools import count, zip_longest
from typing import Any

from ..load import Address, address_of
from .connections import idle_connections, left_requests, long_heads, slow_bodies, tiny_chunks, unread_answers
from .requests import (
    emoji,
    gzip_bombs,
    hostile_host,
    large_pictures,
    long_numbers,
    lying_avifs,
    megabytes,
    old_batch,
    one_large_picture,
    silent_hosts,
    slow_host_names,
    tiny_pieces,
    wrong_keys,
)
from .target import Target

Attack = Callable[
    [Target, int], Coroutine[Any, Any, int]
]  # takes a target and the attempt's number; returns the last status, or 0

_LONGEST_S = 90.0  # for one attempt


ATTACKS: dict[str, Attack] = {
    "64 WebPs of 25 megapixels": large_pictures,
    "one WebP of 25 megapixels with 64 captions": one_large_picture,
    "a batch of the earlier routes": old_batch,
    "hosts that never answer": silent_hosts,
    "endless heads": long_heads,
    "host names that take long to normalise": slow_host_names,
    "a megabyte in each field": megabytes,
    "AVIFs that claim to be small": lying_avifs,
    "bodies of emoji": emoji,
    "gzip bombs": gzip_bombs,
    "long numbers": long_numbers,
    "bodies in tiny pieces": tiny_pieces,
    "tiny chunks on many connections": tiny_chunks,
    "wrong keys": wrong_keys,
    "bodies that arrive very slowly": slow_bodies,
    "responses that are not read": unread_answers,
    "idle connections": idle_connections,
    "abandoned requests": left_requests,
}


def attack(
    *,
    url: str,
    seconds: float,
    pause_s: float,
    names: list[str] | None = None,
    keys: Sequence[str] = (),
    size: int = 64,
) -> dict[str, Any]:
    """Attack a service in many ways at the same time, with one client for each, and return the statuses of each attack.

    Args:
        url: The URL of the service.
        seconds: How long to attack.
        pause_s: Seconds between two attempts of the same attack.
        names: The attacks to run; by default all.
        keys: One API key for each attack.
        size: See `Target`.
    """
    os.nice(5)  # the service has priority, as if it had the machine to itself
    return asyncio.run(_attack_all(address_of(url), seconds, pause_s, names or list(ATTACKS), keys, size))


async def _attack_all(
    address: Address, seconds: float, pause_s: float, names: list[str], keys: Sequence[str], size: int
) -> dict[str, Any]:
    end, found = time.monotonic() + seconds, {name: Counter[int]() for name in names}
    async with hostile_host() as host:

        async def keep(turn: int, name: str, key: str) -> None:
            target = Target(address, host, f"127.0.0.{100 + turn}", key, size)
            await asyncio.sleep(pause_s * turn / len(names))
            for number in count():
                found[name][await strike(ATTACKS[name], target, number)] += 1
                await asyncio.sleep(pause_s)

        tasks = [
            asyncio.create_task(keep(turn, name, key))
            for turn, (name, key) in enumerate(zip_longest(names, keys, fillvalue=""))
        ]
        done, _ = await asyncio.wait(tasks, timeout=end - time.monotonic(), return_when=asyncio.FIRST_EXCEPTION)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()  # raises the error that stopped the task
    return {name: {str(status): times for status, times in each.items()} for name, each in found.items()}


async def strike(attack: Attack, target: Target, number: int) -> int:
    """Run one attempt, and return its last status; 0 if the connection ended without one."""
    try:
        async with asyncio.timeout(_LONGEST_S):
            return await attack(target, number)
    except (OSError, TimeoutError, asyncio.IncompleteReadError):
        return 0
