"""The service under test, on a thread of this process or as a process of its own, on a free port of 127.0.0.1."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp

from tests.support.clock import HANG_S
from tests.support.paths import ROOT
from text_image_similarity import Config, Encoder, Limits
from text_image_similarity.service import Settings, create_app
from text_image_similarity.service.inference.local import LocalModelPool
from text_image_similarity.service.telemetry.metrics import Metrics

MINI = Config(model="mini", retries=0, limits=Limits(allow_private_addresses=True))


def mini_settings(**changes: Any) -> Settings:
    """Return settings of a service that serves `mini` and may fetch from 127.0.0.1."""
    return Settings(**{"models": {"mini": MINI}, "drain_delay_s": 0.0, **changes})


def app_of(settings: Settings, encoder: Encoder | None = None) -> FastAPI:
    """Return the application, with an encoder in the place of every model if one is given."""
    if encoder is None:
        return create_app(settings)
    metrics = Metrics()
    return create_app(settings, pool=LocalModelPool(settings, metrics, load=lambda config: encoder), metrics=metrics)


@contextmanager
def serving(app: ASGIApp) -> Iterator[httpx.Client]:
    """Serve an application on a thread; yield a client whose `base_url` is its address."""
    config = uvicorn.Config(app, host="127.0.0.1", port=0, ws="none", log_config=None, access_log=False)
    server = uvicorn.Server(config)
    started = threading.Event()
    startup = server.startup

    async def told(sockets: Any = None) -> None:
        try:
            await startup(sockets)
        finally:
            started.set()

    server.startup = told  # type: ignore[method-assign]
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        assert started.wait(HANG_S), "the service did not start"
        port = server.servers[0].sockets[0].getsockname()[1]
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=HANG_S, trust_env=False) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join(HANG_S)
        assert not thread.is_alive(), "the service did not end"


@dataclass
class Process:
    """A service's process.

    Args:
        url: Its address.
        popen: The process; its stderr is collected in `lines`.
    """

    url: str
    popen: subprocess.Popen[str]
    lines: list[str]

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and return the exit code."""
        self.popen.send_signal(number)
        return self.popen.wait(HANG_S)


@contextmanager
def process(*arguments: str, environment: dict[str, str] | None = None) -> Iterator[Process]:
    """Run `text-image-similarity serve` with some arguments; yield when it listens."""
    command = [sys.executable, "-m", "text_image_similarity", "serve", "--port", "0", *arguments]
    popen = subprocess.Popen(
        command, cwd=ROOT, stderr=subprocess.PIPE, text=True, env={**os.environ, **(environment or {})}
    )
    lines: list[str] = []
    started = threading.Event()

    def collect() -> None:
        assert popen.stderr is not None
        for line in popen.stderr:
            lines.append(line)
            if "serving on" in line:
                started.set()
        started.set()

    reader = threading.Thread(target=collect, daemon=True)
    reader.start()
    try:
        assert started.wait(HANG_S)
        address = re.search(r"http://[\d.]+:\d+", "".join(lines))
        assert address, "".join(lines)
        yield Process(address[0], popen, lines)
    finally:
        if popen.poll() is None:
            popen.kill()
            popen.wait()
        reader.join(HANG_S)
        assert popen.stderr is not None
        popen.stderr.close()


def base64_pair(image: bytes, caption: str, **more: Any) -> dict[str, Any]:
    """Return a pair as a request holds it."""
    return {"image_base64": b64encode(image).decode(), "caption": caption, **more}
