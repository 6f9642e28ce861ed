"""Replicas that are ended and started again while clients go on: nothing that a service accepted is lost.

Small here; `make endurance` restarts twenty times.
"""

from __future__ import annotations

import asyncio
import os
import sys

from benchmarks.load import post_pair
from benchmarks.replica import replicas
from benchmarks.sections.restarts import behind_balancer
from tests.pictures import make_png

RESTARTS = int(os.environ.get("RESTARTS", "2"))


def test_rolling_restarts_lose_no_request() -> None:
    requests = [post_pair(make_png("red", (side, 8)), f"red, {side} wide") for side in range(8, 72)]
    with replicas(2, "--model", "mini", "--device", "cpu", "--drain-delay", "0.6", "--quiet") as there:
        found = asyncio.run(behind_balancer(there, requests, RESTARTS))
    sys.stdout.write(f"{RESTARTS} restarts: {found}\n")
    assert found["exit_codes"] == [0] * RESTARTS
    assert set(found["kinds"]) == {"scored"}
    assert found["kinds"]["scored"] > 8 * RESTARTS
