"""The challenge set through the real service, by the client: the bytes of a run here, whatever is stopped on the way."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from tests.support.paths import ROOT
from tests.support.services import app_of, mini_settings, serving
from text_image_similarity import Config, Encoder, LocalEngine, load_encoder, score_csv
from text_image_similarity.client import ServiceEngine

SOURCE = ROOT / "challenge_set.csv"
CONFIG = Config(chunk_size=20)


class Watched:
    """The service, which can be watched.

    Attributes:
        client: The process that gets SIGTERM with a request for scores, if there is one.
        at: The number of that request.
    """

    def __init__(self, app: Any) -> None:
        self._app = app
        self.client: subprocess.Popen[str] | None = None
        self.at = 0
        self.known = Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope.get("path") == "/v1/similarity":
            self.at -= 1
            if self.at == 0:
                assert self.known.wait(20)
                assert self.client is not None
                self.client.send_signal(signal.SIGTERM)
        await self._app(scope, receive, send)


@pytest.fixture(scope="module")
def mini() -> Encoder:
    return load_encoder(Config(model="mini"))


@pytest.fixture(scope="module")
def watched(mini: Encoder) -> Watched:
    return Watched(app_of(mini_settings(max_pairs=7), mini))


@pytest.fixture(scope="module")
def url(watched: Watched) -> Iterator[str]:
    with serving(watched) as client:
        yield str(client.base_url)


@pytest.fixture(scope="module")
def here(mini: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("here")
    for name in ("out.csv", "out.parquet"):
        score_csv(SOURCE, folder / name, CONFIG, engine=LocalEngine(encoder=mini))
    return folder


@pytest.mark.parametrize("name", ["out.csv", "out.parquet"])
def test_the_challenge_set_has_the_bytes_of_a_run_here(url: str, here: Path, tmp_path: Path, name: str) -> None:
    with ServiceEngine(url) as engine:
        summary = score_csv(SOURCE, tmp_path / name, CONFIG, engine=engine)
    assert (summary.rows, summary.scored, summary.info.model) == (51, 49, "mini")
    assert (tmp_path / name).read_bytes() == (here / name).read_bytes()


def test_a_command_that_gets_sigterm_goes_on(url: str, watched: Watched, here: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "text_image_similarity", "score", str(SOURCE), str(tmp_path / "out.csv")]
    command += ["--service-url", url, "--service-connections", "1", "--chunk-size", "20", "--quiet"]
    watched.at = 4  # the first of the second part
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    ) as run:
        watched.client = run
        watched.known.set()
        _, said = run.communicate(timeout=30)
    assert run.returncode == 143, said
    kept = re.search(r"with (\d+) of 51 rows kept; the same command resumes", said)
    assert kept, said
    assert int(kept[1]) in (20, 40)
    subprocess.run(command, check=True, timeout=30, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert (tmp_path / "out.csv").read_bytes() == (here / "out.csv").read_bytes()
