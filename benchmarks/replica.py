"""A service in a separate process, which can be stopped and restarted at the same address."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from .inputs import MODEL, ROOT
from .load import Address, ask, get
from .scoring import VIT

_START_S = 180.0  # the first start exports the model
_END_S = 60.0


class Replica:
    """One process of `text-image-similarity serve`.

    Args:
        arguments: The arguments of the command, except for the host and port.
        log: The file to which the process's stderr is appended.
    """

    def __init__(self, arguments: Sequence[str], log: Path) -> None:
        self.address = Address("127.0.0.1", free_port())
        self._log = log
        place = ["--host", self.address.host, "--port", str(self.address.port)]
        self._command = [sys.executable, "-m", "text_image_similarity", "serve", *place, *arguments]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process id."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start the process, without waiting until it is ready."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, cwd=ROOT, stdout=log, stderr=log)

    def wait_until_ready(self) -> None:
        """Wait until /readyz reports ready.

        Raises:
            RuntimeError: The process did not become ready; the message contains the end of its log.
        """
        assert self._process is not None
        late = time.monotonic() + _START_S
        while answer_of(self.address, "/readyz")[0] != 200:
            if self._process.poll() is not None or time.monotonic() > late:
                self.kill()
                raise RuntimeError(f"the service did not start: {self._log.read_text(encoding='utf-8')[-1000:]}")
            time.sleep(0.02)

    def end(self) -> int:
        """Send SIGTERM, wait for the process to exit, and return its exit code."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(_END_S)

    def kill(self) -> None:
        """Kill the process if it is still running."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()


@contextmanager
def replicas(count: int, *arguments: str) -> Iterator[list[Replica]]:
    """Start replicas of a service, yield them once all are ready, and stop them afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        there = [Replica(arguments, Path(folder) / f"{number}.log") for number in range(count)]
        try:
            for replica in there:
                replica.start()
            for replica in there:
                replica.wait_until_ready()
            yield there
        finally:
            for replica in there:
                replica.kill()


def model_arguments(model: str) -> list[str]:
    """Return the arguments to serve a benchmark's model on the CPU without a cache."""
    path = f"{VIT}={MODEL}" if model == VIT else model
    return ["--model", path, "--device", "cpu", "--cache-entries", "1"]


def answer_of(address: Address, path: str) -> tuple[int, bytes]:
    """Request a path; return the status and body, or (0, b"") if nothing comes back."""
    return asyncio.run(ask(address, get(path)))


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        port: int = asked.getsockname()[1]
    return port
