"""Locust's profiles, run as the page says against a service: what makes them fail, and that nothing else does."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.support.pages import blocks
from tests.support.paths import ROOT
from tests.support.services import Process, process

KEY = "a key"
# Short, with an end that a client reaches, and a bound that no machine misses.
SHORT = ["--run-time", "3s", "--users", "2", "--stop-timeout", "60s", "--max-p95-ms", "60000"]


@pytest.fixture(scope="module")
def service() -> Iterator[Process]:
    keys = {"TEXT_IMAGE_SIMILARITY_API_KEYS": KEY}
    with process("--model", "mini", "--drain-delay", "0", environment=keys) as running:
        yield running


def command(profile: str) -> list[str]:
    """Return the words of the page's command for a profile, without its host."""
    (block,) = blocks("performance-service.md", "### Load by hand and in CI", "sh")
    (line,) = (line for line in block.splitlines() if f"/{profile}.conf" in line)
    words = shlex.split(line, comments=True)
    assert words[0] == "locust"
    return words[1 : words.index("--host")]


def locust(profile: str, service: Process, *options: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "locust", *command(profile), "--host", service.url, *options]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("profile", ["ci", pytest.param("light", marks=pytest.mark.extended)])
def test_a_profile_passes_when_all_is_well(service: Process, profile: str) -> None:
    done = locust(profile, service, *SHORT, "--api-key", KEY)
    assert done.returncode == 0, done.stdout + done.stderr
    counts = re.findall(r"^ +Aggregated +(\d+) +(\d+)\(", done.stderr, re.MULTILINE)
    requests, failed = map(int, counts[-1])
    assert requests >= 1
    assert failed == 0


def test_ci_fails_when_requests_do(service: Process) -> None:
    done = locust("ci", service, *SHORT)
    assert done.returncode == 1
    assert re.search(r"FAILED: (\d+) of \1 requests failed", done.stdout)
    assert "401 unauthorized" in done.stderr


def test_ci_fails_when_requests_take_too_long(service: Process) -> None:
    done = locust("ci", service, *SHORT, "--max-p95-ms", "0.001", "--api-key", KEY)
    assert done.returncode == 1
    assert re.fullmatch(r"FAILED: p95 is \d+ ms, over 0.001 ms\n", done.stdout)


def test_the_web_page_is_for_this_machine_alone() -> None:
    (file,) = (word for word in command("web-ui") if word.endswith(".conf"))
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    assert "web-host = 127.0.0.1" in lines
    assert not any(line.startswith("headless") for line in lines)
