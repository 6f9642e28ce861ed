"""The service and its neighbours as processes of their own, on ports of the loopback."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import httpx
import pytest

ROOT = Path(__file__).resolve().parent.parent
_TOOLS = ROOT / "build" / "tools" / "usr"


def tool(name: str) -> str:
    """Return the path of a program that Debian has; the test is skipped where it is not."""
    places = [*os.environ["PATH"].split(os.pathsep), "/usr/sbin", str(_TOOLS / "bin"), str(_TOOLS / "sbin")]
    if (found := shutil.which(name, path=os.pathsep.join(places))) is None:
        pytest.skip(f"{name} is neither on the PATH nor in build/tools, where `make tools` puts it")
    return found


def free_port() -> int:
    """Return a port of the loopback that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@dataclass
class Running:
    """A process that answers HTTP.

    Attributes:
        port: Where it listens, on 127.0.0.1.
        log: What it writes to stdout and stderr.
        environment: What its environment has that ours has not.
    """

    process: subprocess.Popen[bytes]
    port: int
    log: Path
    environment: Mapping[str, str]

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def wait_for(self, ready: Callable[[], object], seconds: float = 60) -> object:
        """Return what comes about while the process runs."""
        until = time.monotonic() + seconds
        while not (found := ready()):
            assert self.process.poll() is None, self.log.read_text(encoding="utf-8")[-4000:]
            assert time.monotonic() < until, self.log.read_text(encoding="utf-8")[-4000:]
            with pytest.raises(subprocess.TimeoutExpired):
                self.process.wait(0.02)
        return found

    def answers(self, path: str) -> bool:
        """Say whether a path is answered with 200."""
        try:
            return httpx.get(self.url(path), timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    def stop(self) -> int:
        """End the process as an orchestrator does, and return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


@contextmanager
def running(command: list[str], port: int, log: Path, *, probe: str) -> Iterator[Running]:
    """Run a command until the block ends, which begins when the path `probe` is answered with 200."""
    with started(command, port, log) as found:
        found.wait_for(lambda: found.answers(probe))
        yield found


@contextmanager
def started(
    command: list[str], port: int, log: Path, *, environment: Mapping[str, str] = MappingProxyType({})
) -> Iterator[Running]:
    """Run a command until the block ends, which begins at once."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, cwd=log.parent, env={**os.environ, **environment}
        )
    try:
        yield Running(process, port, log, environment)
    finally:
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise


@contextmanager
def started_again(ended: Running) -> Iterator[Running]:
    """Run a process that has ended once more, at the same port, until the block ends."""
    log = ended.log.with_name(f"again-{ended.log.name}")
    with started(list(ended.process.args), ended.port, log, environment=ended.environment) as found:
        yield found


@contextmanager
def running_services(count: int, folder: Path, *options: str) -> Iterator[list[Running]]:
    """Run services with mini on torch, which needs no export, and a thread each."""
    command = [sys.executable, "-m", "text_image_similarity", "serve", "--model", "mini", "--model-engine", "torch"]
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with ExitStack() as stack:
        found = []
        for number in range(count):
            port, log = free_port(), folder / f"service-{number}.log"
            every = [*command, "--port", str(port), *options]
            found.append(stack.enter_context(started(every, port, log, environment=environment)))
        for service in found:
            service.wait_for(lambda service=service: service.answers("/readyz"))
        yield found
