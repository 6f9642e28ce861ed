"""The service on Ray Serve under test: Ray on loopback alone, clients that keep it busy, and replicas that are killed."""

from __future__ import annotations

import gc
import logging
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml

from tests.support.clock import HANG_S, wait_for
from tests.support.images import make_png
from tests.support.paths import ROOT
from tests.support.services import MINI, base64_pair
from text_image_similarity import Record, score_pairs

APP = "similarity"


def start_ray(num_cpus: int, **settings: Any) -> None:
    """Start Ray, again where a busy machine takes longer than the 30 s that Ray gives its own processes."""
    import ray

    for last in (False, False, True):
        try:
            ray.init(
                num_cpus=num_cpus, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR, **settings
            )
            return
        except Exception as exc:  # Ray's own is of no other class
            if last or "timed out during startup" not in str(exc):
                raise
            ray.shutdown()
        with warnings.catch_warnings(action="ignore", category=ResourceWarning):
            gc.collect()  # what is left of the failed start, instead of in a test


@contextmanager
def ray_serve(num_cpus: int) -> Iterator[str]:
    """Run Ray and Ray Serve, open to this machine alone; yield the address of Serve's proxy."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        patch.setenv("PYTHONPATH", str(ROOT))
        # On a busy machine a proxy takes longer to come up than Serve gives it, 5 s, before it kills it for another.
        patch.setenv("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", str(HANG_S))
        patch.setenv("RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S", "60")
        import ray
        from ray import serve
        from ray.serve._private import api

        patch.setattr(api, "HTTP_PROXY_TIMEOUT", HANG_S)

        earlier, others = signal.getsignal(signal.SIGTERM), set(family())  # such as another test's Spark
        start_ray(num_cpus, runtime_env={"worker_process_setup_hook": _loopback_hook()})
        try:
            with socket.create_server(("127.0.0.1", 0)) as listener:
                port = listener.getsockname()[1]
            serve.start(http_options={"host": "127.0.0.1", "port": port})
            yield f"http://127.0.0.1:{port}"
        finally:
            rays, ours = set(family()) - others, replicas()
            serve.shutdown()
            ray.shutdown()
            signal.signal(signal.SIGTERM, earlier)
            _, left = psutil.wait_procs(rays, 60)
            for process in left:  # Ray's own may hang, and nothing of ours may
                process.kill()
            psutil.wait_procs(left)
            assert not set(left) & set(ours)


def _loopback_hook() -> Callable[[], None]:
    def hook() -> None:  # sent by value: workers cannot import the tests
        from ray._common import tls_utils

        add: Any = tls_utils.add_port_to_grpc_server
        # Each Serve replica opens a port for gRPC, on all addresses: ray.serve._private.replica.
        tls_utils.add_port_to_grpc_server = lambda server, address: add(server, address.replace("[::]", "127.0.0.1"))

    return hook


def deploy(args: dict[str, Any], folder: Path) -> None:
    """Deploy deploy/ray/serve.yaml with other arguments, by `serve run` as on its first line."""
    import ray

    config = yaml.safe_load((ROOT / "deploy" / "ray" / "serve.yaml").read_text(encoding="utf-8"))
    config["applications"][0]["args"] = args
    file = folder / "serve.yaml"
    file.write_text(yaml.safe_dump(config), encoding="utf-8")
    address = ray.get_runtime_context().gcs_address
    command = [Path(sys.executable).with_name("serve"), "run", "--non-blocking", "--address", address, file]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=HANG_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def family() -> list[psutil.Process]:
    """Return the processes that descend from this one."""
    found: list[psutil.Process] = psutil.Process().children(recursive=True)
    return found


def replicas(deployment: str = "") -> list[psutil.Process]:
    """Return the processes of a deployment's replicas, or of all deployments'."""
    start = f"ray::ServeReplica:{APP}:{deployment}"
    return [process for process in family() if _title(process).startswith(start)]


def _title(process: psutil.Process) -> str:
    try:
        return "".join(process.cmdline()[:1])
    except psutil.NoSuchProcess:
        return ""


def kill_one(deployment: str, load: Load | None = None) -> None:
    """Kill a replica, and wait until another process is there in its place; it needs the processor that a load would take."""
    before = replicas(deployment)
    before[0].kill()
    if load is not None:
        wait_for(load.answered(2 * load.clients))  # whatever was on its way has ended
        load.pause_s = 0.3
    wait_for(lambda: len(set(replicas(deployment)) - set(before)) == 1)
    if load is not None:
        load.pause_s = 0.0


def pairs_of_colours(count: int) -> list[tuple[dict[str, Any], float]]:
    """Return requests of a pair each, with the scores that the library gives them."""
    chance = random.Random(3)
    pictures = [make_png(f"#{chance.randrange(1 << 24):06x}") for _ in range(count)]
    pairs = [base64_pair(picture, f"a picture of colour {number}") for number, picture in enumerate(pictures)]
    records = [Record(f"data:;base64,{pair['image_base64']}", pair["caption"]) for pair in pairs]
    scores = [result.similarity for result in score_pairs(records, MINI)]
    return [({"pairs": [pair]}, score) for pair, score in zip(pairs, scores, strict=True)]


@dataclass
class Load:
    """Clients that send one request after the other until they are told to stop.

    Args:
        url: The service's address.
        requests: What they send, over and over: a body, and the similarity that must come back.
        clients: How many there are.
        pause_s: How long each waits between an answer and its next request.
    """

    url: str
    requests: list[tuple[dict[str, Any], float]]
    clients: int = 16
    sent: int = 0
    lost: Counter[str] = field(default_factory=Counter)  # by what came instead of the similarity
    slowest: float = 0.0
    pause_s: float = 0.0

    def __enter__(self) -> Load:
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._send, daemon=True) for _ in range(self.clients)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)

    def answered(self, more: int) -> Callable[[], bool]:
        """Return a condition: that so many more requests have been answered."""
        target = self.sent + more
        return lambda: self.sent >= target

    def _send(self) -> None:
        with httpx.Client(base_url=self.url, timeout=HANG_S, trust_env=False) as client:
            while not self._stop.wait(self.pause_s):
                body, expected = self.requests[self.sent % len(self.requests)]
                began = time.monotonic()
                try:
                    answer = client.post("/v1/similarity", json=body)
                    lost = self._fault(answer, expected)
                except httpx.HTTPError as exc:
                    lost = type(exc).__name__
                with self._lock:
                    self.sent += 1
                    self.slowest = max(self.slowest, time.monotonic() - began)
                    if lost is not None:
                        self.lost[lost] += 1

    @staticmethod
    def _fault(answer: httpx.Response, expected: float) -> str | None:
        if answer.status_code != 200:
            return f"{answer.status_code} {answer.text[:200]}"
        (result,) = answer.json()["results"]
        return None if result["similarity"] == expected else str(result)
