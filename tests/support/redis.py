"""A Redis of its own for a test, on a free port of the loopback."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import redis

from tests.support.clock import HANG_S
from tests.support.processes import free_port, tool


class RedisServer:
    """Debian's redis-server, with a password.

    Args:
        folder: Where it may write its log.
        certificate: A PEM file with its key and certificate; it also listens on `tls_port` then.
    """

    password = "s3cr:t/1"

    def __init__(self, folder: Path, certificate: Path | None = None) -> None:
        self._program, self._log, self._folder = tool("redis-server"), folder / "redis.log", folder
        self.port, self.tls_port, self._tls = free_port(), free_port(), dict[str, object]()
        if certificate is not None:
            self._tls = {"tls-cert-file": certificate, "tls-key-file": certificate, "tls-auth-clients": "no"}
            self._tls["tls-port"] = self.tls_port
        self._popen: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://:s3cr%3At%2F1@127.0.0.1:{self.port}/3"

    @property
    def client(self) -> Any:
        return redis.Redis("127.0.0.1", self.port, db=3, password=self.password, socket_timeout=HANG_S)

    def start(self) -> None:
        options = {
            "port": self.port,
            "bind": "127.0.0.1",
            "requirepass": self.password,
            "save": "",
            "appendonly": "no",
            **self._tls,
        }
        command = [self._program, *(text for name, value in options.items() for text in (f"--{name}", str(value)))]
        with self._log.open("ab") as log:
            self._popen = subprocess.Popen(command, stdout=log, stderr=log, cwd=self._folder)
        for _ in range(3000):
            try:
                self.client.ping()
                return
            except redis.ConnectionError:
                assert self._popen.poll() is None, self._log.read_text(encoding="utf-8")
                with suppress(subprocess.TimeoutExpired):
                    self._popen.wait(0.02)
        raise AssertionError(self._log.read_text(encoding="utf-8"))

    def send(self, number: int) -> None:
        assert self._popen is not None
        self._popen.send_signal(number)

    def kill(self) -> None:
        if self._popen is not None:
            self._popen.kill()
            self._popen.wait(HANG_S)


@contextmanager
def redis_server(folder: Path, certificate: Path | None = None) -> Iterator[RedisServer]:
    """Run a Redis until the block ends; see `RedisServer`."""
    server = RedisServer(folder, certificate)
    server.start()
    try:
        yield server
    finally:
        server.send(signal.SIGCONT)
        server.kill()
