"""Answers of an inference server that are wrong, late or missing: no wrong number, no hang, an error that says which."""

from __future__ import annotations

import gzip
import json
import struct
from typing import Any

import httpx
import numpy as np
import pytest

from tests.support.server import Streamed
from text_image_similarity.encoders import kserve
from text_image_similarity.encoders.kserve import connect
from text_image_similarity.errors import DeviceLostError, ModelError

VALUES = struct.pack("<4f", 1, 2, 3, 4)


def answered(*outputs: dict[str, Any], behind: bytes = b"", status: int = 200) -> httpx.Response:
    head = json.dumps({"outputs": outputs}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))}
    return httpx.Response(status, content=head + behind, headers=headers)


def binary(name: str, **changes: Any) -> dict[str, Any]:
    return {"name": name, "datatype": "FP32", "shape": [2, 2], "parameters": {"binary_data_size": 16}, **changes}


def asked(monkeypatch: pytest.MonkeyPatch, *answers: httpx.Response | Exception) -> Any:
    """Return what a server gives that answers so, the last answer again and again."""
    left = list(answers)

    def answer(_: httpx.Request) -> httpx.Response:
        found = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(found, Exception):
            raise found
        return found

    server: Any = connect("http://127.0.0.1:9")
    client = httpx.Client(transport=httpx.MockTransport(answer))
    monkeypatch.setattr(server, "_client_here", lambda: client)
    monkeypatch.setattr(kserve, "backoff_s", lambda tries: 0.0)
    return server.infer("image", "pixels", np.zeros((2, 2), np.uint8), "image_embeds")


@pytest.mark.parametrize(
    "answer",
    [
        answered(binary("image_embeds"), behind=VALUES),
        answered({"name": "image_embeds", "datatype": "FP32", "shape": [2, 2], "data": [1, 2, 3, 4]}),
        answered(binary("other"), binary("image_embeds"), behind=bytes(16) + VALUES),
    ],
    ids=["binary", "json", "second of two"],
)
def test_the_wanted_output_is_read(monkeypatch: pytest.MonkeyPatch, answer: httpx.Response) -> None:
    assert asked(monkeypatch, answer).tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (answered(binary("other"), behind=VALUES), "not among the outputs"),
        (answered(binary("image_embeds", datatype="FP16"), behind=VALUES), "FP16, not FP32"),
        (answered(binary("image_embeds"), behind=VALUES[:12]), "cannot reshape"),
        (httpx.Response(200, json={}), "for model 'image': 'outputs' is missing$"),
        (httpx.Response(200, content=b"<html>"), "returned no usable 'image_embeds'"),
        (httpx.Response(200, content=b"[" * 100_000), "returned no usable 'image_embeds'"),
        (httpx.Response(200, content=b"[" + b"0," * 1_000_000 + b"0]"), "more than 1,000,000"),
        (httpx.Response(400, json={"error": "x" * 10_000}), r"refused a request to model 'image': x{500}$"),
        (httpx.Response(404), "refused a request to model 'image': status 404"),
    ],
)
def test_a_wrong_answer_is_an_error_at_once(monkeypatch: pytest.MonkeyPatch, answer: httpx.Response, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        asked(monkeypatch, answer)


@pytest.mark.parametrize("coding", ["identity", "gzip", "gzip, gzip"])
def test_an_answer_has_so_many_bytes(monkeypatch: pytest.MonkeyPatch, coding: str) -> None:
    monkeypatch.setattr(kserve, "_MOST_ANSWER", 1_000_000)
    body = bytes(8_000_000)
    for _ in range(coding.count("gzip")):
        body = gzip.compress(body)
    expected = "more than 1,000,000 bytes" if coding != "gzip, gzip" else "compressed as gzip, gzip"
    with pytest.raises(ModelError, match=expected):
        asked(monkeypatch, httpx.Response(200, stream=Streamed(body), headers={"content-encoding": coding}))


def test_a_server_that_comes_back_in_time_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    right = answered(binary("image_embeds"), behind=VALUES)
    found = asked(monkeypatch, httpx.ConnectError("refused"), httpx.Response(503), right)
    assert found.tolist() == [[1, 2], [3, 4]]


def test_a_server_that_stays_away_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kserve, "_PATIENCE_S", -1.0)
    with pytest.raises(DeviceLostError, match=r"http://127\.0\.0\.1:9 has not responded .*ConnectError: refused"):
        asked(monkeypatch, httpx.ConnectError("refused"))
