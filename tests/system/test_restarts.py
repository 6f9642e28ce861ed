"""Replicas that are ended and started again while clients go on: nothing that a service accepted is lost.

Small here; `make endurance` restarts twenty times.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Callable

import pytest
import uvicorn

from benchmarks.load import post_pair
from benchmarks.replica import replicas
from benchmarks.sections.restarts import behind_balancer
from tests.support.images import make_png
from tests.support.services import app_of, mini_settings
from text_image_similarity.encoders.testing import ColourEncoder
from text_image_similarity.service.http import server as server_module

RESTARTS = int(os.environ.get("RESTARTS", "2"))


@pytest.mark.extended
def test_rolling_restarts_lose_no_request() -> None:
    requests = [post_pair(make_png("red", (side, 8)), f"red, {side} wide") for side in range(8, 72)]
    with replicas(2, "--model", "mini", "--device", "cpu", "--drain-delay", "0.6", "--quiet") as there:
        found = asyncio.run(behind_balancer(there, requests, RESTARTS))
    sys.stdout.write(f"{RESTARTS} restarts: {found}\n")
    assert found["exit_codes"] == [0] * RESTARTS
    assert set(found["kinds"]) == {"scored"}
    assert found["kinds"]["scored"] > 8 * RESTARTS


Going = Callable[[tuple[str, int]], None]


@pytest.fixture
def serve_while(monkeypatch: pytest.MonkeyPatch) -> Callable[[Going], None]:
    """Run the service's server only for as long as something takes, which keeps its event loop from running."""
    monkeypatch.setattr(server_module, "_GRACE_S", 60.0)

    def serve(going: Going) -> None:
        app = app_of(mini_settings(), ColourEncoder())
        server = server_module._Server(uvicorn.Config(app, log_config=None), app, 0.0)

        async def main_loop() -> None:
            going(listener.getsockname())

        monkeypatch.setattr(server, "main_loop", main_loop)
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            asyncio.run(server.serve([listener]))

    return serve


def test_a_connection_that_nobody_took_yet_is_answered(serve_while: Callable[[Going], None]) -> None:
    with socket.socket() as client:
        client.settimeout(60)

        def ask(address: tuple[str, int]) -> None:
            client.connect(address)
            client.sendall(post_pair(make_png("red"), "red"))

        serve_while(ask)
        assert client.recv(15) == b"HTTP/1.1 200 OK"


def test_a_connection_that_asked_nothing_yet_is_heard_out(serve_while: Callable[[Going], None]) -> None:
    with socket.socket() as client:
        client.settimeout(60)

        def ask_later(address: tuple[str, int]) -> None:
            client.connect(address)
            asyncio.get_running_loop().call_later(0.3, client.sendall, post_pair(make_png("red"), "red"))

        serve_while(ask_later)
        assert client.recv(15) == b"HTTP/1.1 200 OK"
