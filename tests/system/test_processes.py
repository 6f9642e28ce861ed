"""The service as a process: the command's options, its start, its end."""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.images import make_png
from tests.support.paths import ROOT
from tests.support.server import Server, response
from tests.support.services import base64_pair, process
from text_image_similarity import ConfigError, UsageError
from text_image_similarity.cli.serve import add_service_options, settings_of
from text_image_similarity.service.keys import ApiKey

URL = re.compile(r"http://[\d.:]+")
QUICK = ("--model", "mini", "--drain-delay", "0")


def settings(*arguments: str, **environment: str) -> Any:
    parser = argparse.ArgumentParser()
    add_service_options(parser)
    return settings_of(parser.parse_args(arguments), environment)


def test_without_options_two_models_are_served_and_one_is_loaded() -> None:
    found = settings()
    assert {name: (config.model, config.revision) for name, config in found.models.items()} == {
        "fast": ("fast", None),
        "accurate": ("accurate", None),
    }
    assert (found.default, found.lazy, found.keys) == ("fast", {"accurate"}, ())


def test_models_have_names_and_revisions() -> None:
    found = settings("--model", "mini", "--model", "big=org/clip@abc", "--model", "own=/models/a@b", "--lazy")
    assert {name: (config.model, config.revision) for name, config in found.models.items()} == {
        "mini": ("mini", None),
        "big": ("org/clip", "abc"),
        "own": ("/models/a@b", None),
    }
    assert found.lazy == {"big", "own"}


def test_options_reach_the_settings() -> None:
    given = "--model a=mini --model b=mini --split fast=a:95,b:5 --max-wait-ms 2 --max-queue 10 --max-body-mb 1 --batch-size 8"
    found = settings(
        *given.split(), "--limit", "allow_private_addresses=true", "--timeout", "3", "--otlp-endpoint", "http://c:4318"
    )
    assert found.splits == {"fast": {"a": 95.0, "b": 5.0}}
    assert (found.max_wait_s, found.max_queue, found.max_body_bytes) == (0.002, 10, 1 << 20)
    for config in found.models.values():
        assert (config.batch_size, config.timeout_s, config.limits.allow_private_addresses) == (8, 3.0, True)
    assert found.otlp_endpoint == "http://c:4318"
    assert found.model_memory is None
    assert settings(OTEL_EXPORTER_OTLP_ENDPOINT="http://d:4318").otlp_endpoint == "http://d:4318"


def test_an_embedding_cache_with_a_password_comes_from_the_environment() -> None:
    place = "redis://:secret@cache:6379/0"
    found = settings("--model", "mini", TEXT_IMAGE_SIMILARITY_EMBEDDING_CACHE=place)
    assert found.models["mini"].embedding_cache == place
    given = settings("--embedding-cache", "own.sqlite", TEXT_IMAGE_SIMILARITY_EMBEDDING_CACHE=place)
    assert given.models["fast"].embedding_cache == "own.sqlite"


@pytest.mark.parametrize(
    ("text", "size"),
    [("6GiB", 6 << 30), ("1.5 GiB", 3 << 29), ("800MiB", 800 << 20), ("500MB", 500_000_000), ("2GB", 2 * 10**9)],
)
def test_the_memory_for_models_has_a_unit(text: str, size: int) -> None:
    assert settings("--model-memory", text).model_memory == size


@pytest.mark.parametrize("text", ["6", "GB", "-1GB", "6KB", "6gib", "٦GB"])
def test_a_wrong_memory_for_models_is_told(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        settings(f"--model-memory={text}")
    assert f"{text!r} is not a size such as 6GiB or 800MB" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="model_memory=0 must be"):
        settings("--model-memory=0GB")


def test_keys_come_from_a_file_or_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("first\n\n second \n")
    assert settings("--api-key-file", str(file)).keys == (ApiKey("first"), ApiKey("second"))
    assert settings(TEXT_IMAGE_SIMILARITY_API_KEYS="a, b,").keys == (ApiKey("a"), ApiKey("b"))
    file.write_text("\n")
    for name in ("keys", "nothing"):
        with pytest.raises(UsageError, match="--api-key-file"):
            settings("--api-key-file", str(tmp_path / name))


@pytest.mark.parametrize("split", ["fast", "fast=a", "fast=a:much"])
def test_a_wrong_split_is_told(split: str) -> None:
    with pytest.raises(UsageError):
        settings("--model", "a=mini", "--split", split)


def failed(*arguments: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "text_image_similarity", "serve", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr


def test_what_keeps_a_service_from_starting_is_told_in_a_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, said = failed("--model", "mini", "--port", str(taken.getsockname()[1]))
    assert (code, "cannot listen on 127.0.0.1" in said) == (2, True)
    code, said = failed("--model", "gone=/models/gone", "--port", "0")
    assert (code, "/models/gone does not exist" in said) == (2, True)


def test_sigterm_finishes_what_is_accepted_and_exits_with_0() -> None:
    entered, released = threading.Event(), threading.Event()

    def slow(connection: socket.socket, head: str) -> None:
        entered.set()
        assert released.wait(20)
        connection.sendall(response(make_png("red"), content_type="image/png"))

    answers: list[httpx.Response] = []
    with Server() as pictures, process(*QUICK, "--limit", "allow_private_addresses=true") as service:
        pictures.routes["/a.png"] = slow
        pairs = {"pairs": [{"image_url": pictures.url("/a.png"), "caption": "red"}]}
        client = threading.Thread(
            target=lambda: answers.append(httpx.post(f"{service.url}/v1/similarity", json=pairs, timeout=30))
        )
        client.start()
        assert entered.wait(20)
        service.popen.send_signal(signal.SIGTERM)
        while not any("draining" in line for line in service.lines):
            threading.Event().wait(0.01)
        released.set()
        client.join(20)
        assert service.popen.wait(20) == 0
    assert answers[0].json()["results"][0]["error"] is None
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{service.url}/livez")


HANGING = """
import sys, threading
from text_image_similarity.cli import main
from text_image_similarity.service.keys import ApiKey
from text_image_similarity.service.inference import local

def hang(config):
    try:
        sys.stderr.write("loading\\n")
        sys.stderr.flush()
        threading.Event().wait()
    except Exception:
        pass  # as libraries do

local.LocalModelPool.__init__.__kwdefaults__["load"] = hang
main(["serve", "--model", "mini", "--port", "0"])
"""


def test_sigterm_ends_a_service_that_is_still_loading() -> None:
    popen = subprocess.Popen([sys.executable, "-c", HANGING], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert popen.stderr is not None
    with popen:
        assert popen.stderr.readline() == "loading\n"
        popen.send_signal(signal.SIGTERM)
        assert popen.wait(20) == 143


def test_a_decoder_that_hangs_does_not_keep_the_service_from_ending() -> None:
    program = HANGING.replace("local.LocalModelPool.__init__.__kwdefaults__", "unused").replace(
        'unused["load"] = hang', "model.Stages.load = lambda self, read: hang(None)"
    )
    program = program.replace("inference import local", "inference import local, model").replace(
        '"--port", "0"', '"--port", "0", "--drain-delay", "0", "--request-timeout", "1"'
    )
    popen = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert popen.stderr is not None
    with popen:
        address = URL.findall(popen.stderr.readline())[0]
        pairs = {"pairs": [base64_pair(make_png("red"), "red")]}
        result = httpx.post(f"{address}/v1/similarity", json=pairs, timeout=30).json()["results"][0]
        assert result["error"]["code"] == "timeout"
        popen.send_signal(signal.SIGTERM)
        assert popen.wait(30) == 0


def test_the_drain_delay_is_for_load_balancers_and_a_second_signal_ends_it() -> None:
    with process("--model", "mini", "--drain-delay", "600") as service:
        service.popen.send_signal(signal.SIGTERM)
        with httpx.Client(base_url=service.url) as client:
            while client.get("/readyz").status_code == 200:
                pass
            assert client.get("/livez").headers["connection"] == "close"
            pairs = {"pairs": [base64_pair(make_png("red"), "red")]}
            assert client.post("/v1/similarity", json=pairs).json()["results"][0]["error"] is None
        assert service.end() == 0


def test_log_lines_are_json_if_asked_and_hold_no_secrets() -> None:
    arguments = (*QUICK, "--log-format", "json")
    with process(*arguments, environment={"TEXT_IMAGE_SIMILARITY_API_KEYS": "sesame"}) as service:
        pairs = {
            "pairs": [
                base64_pair(make_png("red"), "a secret"),
                {"image_url": "https://a.invalid/x?token=t", "caption": ""},
            ]
        }
        headers = {
            "x-api-key": "sesame",
            "x-request-id": "row-7",
            "traceparent": f"00-{'ab' * 16}-{'cd' * 8}-01",
        }
        assert httpx.post(f"{service.url}/v1/similarity", json=pairs, headers=headers).status_code == 200
        assert service.end() == 0
    lines = [json.loads(line) for line in service.lines]
    (line,) = [line for line in lines if line.get("request_id") == "row-7"]
    assert {name: line[name] for name in ("route", "method", "status", "pairs", "failed", "trace_id")} == {
        "route": "/v1/similarity",
        "method": "POST",
        "status": 200,
        "pairs": 2,
        "failed": 1,
        "trace_id": "ab" * 16,
    }
    assert line["duration_ms"] > 0
    for secret in ("sesame", "secret", "token", "invalid"):
        assert secret not in "".join(service.lines)


def test_a_client_of_this_machine_cannot_choose_its_address() -> None:
    environment = {"TEXT_IMAGE_SIMILARITY_API_KEYS": "sesame"}
    with process(*QUICK, "--audit-log", "-", environment=environment) as service:
        headers = {"x-api-key": "guessed", "x-forwarded-for": "203.0.113.7"}
        assert httpx.post(f"{service.url}/v1/similarity", json={}, headers=headers).status_code == 401
        assert service.end() == 0
    (line,) = [line for line in service.lines if "key_refused" in line]
    assert json.loads(line)["address"] == "127.0.0.1"


def test_a_missing_extra_names_the_pip_command() -> None:
    program = (
        "import sys; sys.modules['prometheus_client'] = None\n"
        "from text_image_similarity.cli import main\n"
        "main(['serve', '--model', 'mini', '--port', '0'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, env=dict(os.environ), timeout=60
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert 'pip install ".[serve]"' in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--catalog", "nowhere.catalog"), "there is no catalogue at nowhere.catalog"),
        (("--catalog", "sample_catalog/products.csv", "--log-to", "a.txt"), "there is no catalogue at a.txt"),
    ],
)
def test_what_cannot_be_searched_is_told_in_a_line(arguments: tuple[str, ...], message: str) -> None:
    command = [sys.executable, "-m", "text_image_similarity", "serve", "--port", "0", *QUICK, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, message in done.stderr, "Traceback" in done.stderr) == (2, True, False), done.stderr
