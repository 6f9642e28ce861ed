"""A load balancer that works like a Kubernetes Service: it forwards connections to the replicas that report ready.

The balancer forwards bytes without parsing requests: nothing is sent twice, and a connection stays with its replica
until one end closes it. A replica that refuses a connection has received no bytes, so the connection goes to another
one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress

from .load import Address, ask, get

PROBE_EVERY_S = 0.2
_CHUNK = 1 << 16


class Balancer:
    """Forwards connections made to `balancer.address` within `async with Balancer(addresses) as balancer: ...`.

    Args:
        replicas: The addresses of the replicas.
    """

    address: Address

    def __init__(self, replicas: Sequence[Address]) -> None:
        self._replicas = list(replicas)
        self._ready = list(replicas)
        self._turn = 0
        self._forwarding: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Balancer:
        self._server = await asyncio.start_server(self._take, "127.0.0.1", 0)
        self.address = Address("127.0.0.1", self._server.sockets[0].getsockname()[1])
        self._probing = asyncio.create_task(self._probe_for_ever())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._probing.cancel()
        with suppress(asyncio.CancelledError):
            await self._probing
        self._server.close()
        if self._forwarding:
            await asyncio.wait(self._forwarding, timeout=5)  # until clients and replicas have closed their connections

    def sends_to(self, address: Address) -> bool:
        """Tell whether new connections may go to a replica."""
        return address in self._ready

    async def _probe_for_ever(self) -> None:
        while True:
            answers = await asyncio.gather(*(ask(address, get("/readyz")) for address in self._replicas))
            self._ready = [address for address, answer in zip(self._replicas, answers, strict=True) if answer[0] == 200]
            await asyncio.sleep(PROBE_EVERY_S)

    def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._forward(reader, writer))
        self._forwarding.add(task)
        task.add_done_callback(self._forwarding.discard)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._turn += 1
        there = sorted(
            self._ready, key=lambda address: (self._replicas.index(address) + self._turn) % len(self._replicas)
        )
        for address in there:
            try:
                from_replica, to_replica = await asyncio.open_connection(address.host, address.port)
            except OSError:
                continue
            await asyncio.gather(_pump(reader, to_replica), _pump(from_replica, writer))
            return
        writer.close()


async def _pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    """Forward bytes until one end closes the connection."""
    with suppress(OSError):
        while data := await source.read(_CHUNK):
            target.write(data)
            await target.drain()
    target.close()
