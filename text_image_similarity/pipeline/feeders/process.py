"""A feeder's process, as the parent sees it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from threading import Lock
from typing import IO, Any

from ...decode.isolation import WORKER_ENVIRONMENT, module_path
from .messages import Delivery, Order, receive, send

_PROGRAM = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from text_image_similarity.pipeline.feeders.program import serve
serve(*sys.argv[2:])
"""


def feeder_command() -> list[str]:
    """Return the command that starts a feeder, without the arguments for what it shares with its parent.

    A feeder is a separate program and not a fork: a fork copies locks that other threads hold, and `multiprocessing`
    would run the caller's main module again.
    """
    return [sys.executable, "-I", "-S", "-c", _PROGRAM, json.dumps(module_path())]


class FeederProcess:
    """A feeder's process, from start to end.

    Args:
        command: Command that starts the feeder.
        inherited: File descriptors to pass on to the feeder.
        settings: Settings that are sent to the feeder first.

    Raises:
        OSError: The process cannot be started.
    """

    def __init__(self, command: list[str], inherited: tuple[int, ...], settings: Any) -> None:
        self.ready = False  # True after its first message
        self.killed = False  # True once a signal has ended it
        self.began = time.monotonic()
        self._sending = Lock()
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **WORKER_ENVIRONMENT},
            pass_fds=inherited,
        )
        with suppress(OSError):  # the process has already ended, which `receive` will notice
            send(self._pipe(self._process.stdin), settings)

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, orders: list[Order]) -> None:
        """Send orders, unless the process has ended, which `receive` will notice."""
        with self._sending, suppress(OSError, ValueError):
            send(self._pipe(self._process.stdin), orders)

    def receive(self) -> list[Delivery] | None:
        """Wait for messages; return None once the process has ended or has sent an invalid message."""
        try:
            found: list[Delivery] | None = receive(self._pipe(self._process.stdout))
        except Exception:  # an invalid message may raise any exception
            return None
        self.ready = self.ready or found is not None
        return found

    def kill(self) -> None:
        """Kill the process; writing to it then fails, and reading from it ends."""
        self._process.kill()

    def finish(self) -> str:
        """Wait for a process that should have ended, close its pipes, and return how it ended."""
        try:
            code = self._process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            said = "the feeder process sent an invalid message"
        else:
            said = f"the feeder process ended with exit code {code}"
            self.killed = code < 0
            if self.killed:
                said = f"the feeder process was killed by signal {-code} ({signal.strsignal(-code)})"
        with self._sending:
            for pipe in (self._process.stdin, self._process.stdout):
                with suppress(OSError):  # an error from buffered data that was not yet written
                    self._pipe(pipe).close()
        return said

    @staticmethod
    def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
        assert pipe is not None
        return pipe
