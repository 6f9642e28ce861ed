"""Read from connections in small pieces, so that data that arrives early takes little memory.

Uvloop would read up to 256 kB at a time for a protocol that receives data as bytes.
"""

from __future__ import annotations

import asyncio

READ_BYTES = 1 << 16


def new_buffer() -> memoryview:
    """Return the buffer that all connections of a server share; each immediately copies what it has read."""
    return memoryview(bytearray(READ_BYTES))


class SmallReads(asyncio.BufferedProtocol):
    """Reads at most 64 KiB at a time for another protocol.

    Args:
        protocol: The other protocol.
        buffer: Buffer to read into, from `new_buffer`.
    """

    def __init__(self, protocol: asyncio.Protocol, buffer: memoryview) -> None:
        self._protocol, self._buffer = protocol, buffer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Pass the connection on."""
        self._protocol.connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Pass the end of the connection on."""
        self._protocol.connection_lost(exc)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return the buffer to read into."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Pass received data on."""
        self._protocol.data_received(bytes(self._buffer[:nbytes]))

    def eof_received(self) -> bool | None:
        """Pass the end of received data on."""
        return self._protocol.eof_received()

    def pause_writing(self) -> None:
        """Pass on that nothing more can be sent for now."""
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        """Pass on that more can be sent."""
        self._protocol.resume_writing()
