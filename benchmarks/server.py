"""A loopback server that serves the photos with a fixed delay: `python -m benchmarks.server [--delay-ms 50]`.

The server prints its port, keeps connections alive and holds every response in memory. All delays are timers of one
thread, so that the server takes little time from the process that is measured on the same machine. Only GET is
supported.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from .inputs import INPUTS, ROOT

PROCESSOR_TIME = b"/processor-time"  # the response is the CPU seconds that this process has used
_MISSING = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"


class Connection(asyncio.Protocol):
    """A connection of a client: each response is sent `delay` seconds after the request head has arrived.

    Args:
        answers: The complete response for each path (without its query).
        delay: The delay in seconds.
    """

    def __init__(self, answers: dict[bytes, bytes], delay: float) -> None:
        self._answers, self._delay = answers, delay
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        *heads, self._received = (self._received + data).split(b"\r\n\r\n")
        for head in heads:
            path = head.split(b" ", 2)[1].partition(b"?")[0]
            answer = self._answers.get(path, _MISSING)
            if path == PROCESSOR_TIME:
                answer = response(str(time.process_time()).encode())
            if self._delay:
                asyncio.get_running_loop().call_later(self._delay, self._answer, answer)
            else:
                self._answer(answer)

    def _answer(self, answer: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(answer)  # type: ignore[attr-defined]


@asynccontextmanager
async def answering(answers: dict[bytes, bytes], delay: float = 0.0) -> AsyncIterator[str]:
    """Serve responses on this event loop and yield the address; an empty response is never sent."""
    server = await asyncio.get_running_loop().create_server(
        lambda: Connection(answers, delay), "127.0.0.1", 0, backlog=1024
    )
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


def response(body: bytes, status: str = "200 OK", **headers: str) -> bytes:
    """Return a complete response."""
    named = {"Content_Length": str(len(body)), **headers}
    lines = (f"{name.replace('_', '-')}: {value}" for name, value in named.items())
    return "\r\n".join([f"HTTP/1.1 {status}", *lines, "", ""]).encode() + body


def serving(delay_ms: float | None, folder: Path = INPUTS) -> AbstractContextManager[str]:
    """Run the server in a separate process and yield its address; with None, run no server and yield ""."""
    return nullcontext("") if delay_ms is None else _served(delay_ms, folder)


@contextmanager
def _served(delay_ms: float, folder: Path) -> Iterator[str]:
    command = [sys.executable, "-m", "benchmarks.server", "--delay-ms", str(delay_ms), "--folder", str(folder)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield f"http://127.0.0.1:{process.stdout.readline().strip()}/"
        finally:
            process.terminate()


async def serve(delay: float, folder: Path) -> None:
    async with answering(dict(_answers(folder)), delay) as address:
        print(address.rpartition(":")[2], flush=True)
        await asyncio.Event().wait()


def _answers(folder: Path) -> Iterator[tuple[bytes, bytes]]:
    for photo in sorted((folder / "photos").glob("*.jpg")):
        body = photo.read_bytes()
        yield f"/photos/{photo.name}".encode(), response(body, Content_Type="image/jpeg")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument(
        "--delay-ms", type=float, default=50.0, help="delay of each response, in milliseconds (default: %(default)s)"
    )
    parser.add_argument(
        "--folder", type=Path, default=INPUTS, help="folder that contains photos/ (default: %(default)s)"
    )
    given = parser.parse_args()
    _run(serve(given.delay_ms / 1000, given.folder))


def _run(serving: Coroutine[Any, Any, None]) -> None:
    """Run the server on uvloop, which takes half as much time as asyncio, if it is installed."""
    try:
        from uvloop import run
    except ImportError:
        asyncio.run(serving)
    else:
        run(serving)


if __name__ == "__main__":
    main()
