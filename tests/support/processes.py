"""Programs of Debian's that work beside the service, as processes on ports of the loopback."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.clock import HANG_S
from tests.support.paths import ROOT

_TOOLS = ROOT / "build" / "tools" / "bin"


def tool(name: str) -> str:
    """Return the path of a program that Debian has; the test is skipped where it is not."""
    places = [str(_TOOLS), str(ROOT / "build" / "triton" / "bin"), os.environ["PATH"], "/usr/sbin"]
    if (found := shutil.which(name, path=os.pathsep.join(places))) is None:
        pytest.skip(f"{name} is neither on the PATH nor in build/tools, where `make tools` puts it")
    return found


def free_port() -> int:
    """Return a port of the loopback that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


@dataclass
class Running:
    """A process that answers HTTP.

    Args:
        popen: The process.
        port: Where it listens, on 127.0.0.1.
        log: What it writes to stdout and stderr.
    """

    popen: subprocess.Popen[bytes]
    port: int
    log: Path

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def wait_for(self, ready: Callable[[], Any], seconds: float = HANG_S) -> Any:
        """Return what comes about while the process runs."""
        until = time.monotonic() + seconds
        while not (found := ready()):
            assert self.popen.poll() is None, self.log.read_text(encoding="utf-8")[-4000:]
            assert time.monotonic() < until, self.log.read_text(encoding="utf-8")[-4000:]
            with pytest.raises(subprocess.TimeoutExpired):
                self.popen.wait(0.02)
        return found

    def answers(self, path: str) -> bool:
        """Say whether a path is answered with 200."""
        try:
            return httpx.get(self.url(path), timeout=5).status_code == 200
        except httpx.TransportError:
            return False


@contextmanager
def running(command: list[str], port: int, log: Path, *, probe: str) -> Iterator[Running]:
    """Run a command until the block ends, which begins when the path `probe` is answered with 200."""
    with log.open("wb") as output:
        popen = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, cwd=log.parent)
    found = Running(popen, port, log)
    try:
        found.wait_for(lambda: found.answers(probe))
        yield found
    finally:
        popen.terminate()
        try:
            popen.wait(60)
        finally:
            popen.kill()
