"""A service with the colours' encoder, as the client sees it: scores by `score_pairs`, faults on demand."""

from __future__ import annotations

import base64
import json
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any

import httpx

from tests.support.clock import HANG_S
from text_image_similarity import Config, Limits, Record, ScoreResult, score_pairs
from text_image_similarity.encoders.testing import ColourEncoder

ENCODER = ColourEncoder()
CONFIG = Config(retries=0, limits=Limits(allow_local_files=False))
Fault = Callable[[httpx.Request], httpx.Response]


def problem(status: int, code: str, detail: str, **headers: str) -> httpx.Response:
    body = {"type": "about:blank", "title": code, "status": status, "detail": detail, "code": code, "request_id": "r"}
    return httpx.Response(status, json=body, headers=headers | {"content-type": "application/problem+json"})


class FakeService:
    """The service; `httpx.MockTransport(service)` leads to it, and `running(service)` to it over loopback.

    Attributes:
        faults: What is answered, one each, to the next requests for scores in the place of scores.
        asked: The pairs of every request for scores that was answered with scores.
        heads: The headers of all requests.
        loaded: Whether the model is; asking for an embedding loads it.
    """

    def __init__(self, pictures: httpx.BaseTransport | None = None) -> None:
        self.facts: dict[str, Any] = {**asdict(ENCODER.info), "embed_dim": 3}
        self.limits = {"max_pairs": 64, "max_queue": 160, "max_body_bytes": 1 << 20, "request_timeout_s": 30.0}
        self.faults: deque[Fault] = deque()
        self.asked: list[list[dict[str, Any]]] = []
        self.heads: list[httpx.Headers] = []
        self.loaded = True
        self.key: str | None = None
        self._pictures = pictures
        self._lock = Lock()

    def __call__(self, request: httpx.Request) -> httpx.Response:
        with self._lock:
            self.heads.append(request.headers)
        if self.key is not None and request.headers.get("authorization") != f"Bearer {self.key}":
            return problem(401, "unauthorized", "no key that is known was shown")
        match request.method, request.url.path:
            case "GET", "/v1/info":
                models = {"colour": self.facts} if self.loaded else {}
                return httpx.Response(200, json={"version": "of a fake", "models": models, "limits": self.limits})
            case "GET", "/v1/models":
                return httpx.Response(200, json={"object": "list", "data": [{"id": "colour", "default": True}]})
            case "POST", "/v1/embeddings":
                self.loaded = True
                return httpx.Response(200, json={"object": "list", "data": [], "model": "colour"})
            case "POST", "/v1/similarity":
                with self._lock:
                    fault = self.faults.popleft() if self.faults else self._scores
                return fault(request)
        return problem(404, "not_found", "there is nothing here")

    def _scores(self, request: httpx.Request) -> httpx.Response:
        content = request.read()
        if len(content) > self.limits["max_body_bytes"]:
            return problem(413, "too_many_bytes", "that is too much")
        asked = json.loads(content)
        try:
            json.dumps(asked, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            return problem(422, "invalid_request", "there is half a character in it")
        if len(asked["pairs"]) > self.limits["max_pairs"]:
            return problem(422, "invalid_request", "these are too many pairs")
        with self._lock:
            self.asked.append(asked["pairs"])
        config = replace(CONFIG, score=asked["score"])
        records = [Record(_reference(pair), pair["caption"]) for pair in asked["pairs"]]
        scored = score_pairs(records, config, encoder=ENCODER, transport=self._pictures)
        results = [{"id": pair["id"], **_said(result)} for pair, result in zip(asked["pairs"], scored, strict=True)]
        return httpx.Response(200, json={"model": "colour", "score": asked["score"], "results": results})


def _reference(pair: dict[str, str]) -> str:
    if "image_base64" in pair:
        base64.b64decode(pair["image_base64"], validate=True)
        return f"data:;base64,{pair['image_base64']}"
    assert pair["image_url"].lower().startswith(("http:", "https:"))
    return pair["image_url"]


def _said(result: ScoreResult) -> dict[str, Any]:
    if result.error is None:
        return {"similarity": result.similarity, "error": None}
    code, _, detail = result.error.partition(": ")
    return {"similarity": None, "error": {"code": code, "detail": detail}}


@contextmanager
def running(service: Fault) -> Iterator[str]:
    """Serve over loopback, and yield the URL."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # a head and its content in one packet

        def do_GET(self) -> None:
            self._answer(b"")

        def do_POST(self) -> None:
            self._answer(self.rfile.read(int(self.headers["Content-Length"])))

        def _answer(self, content: bytes) -> None:
            url = f"http://{self.headers['Host']}{self.path}"
            answer = service(httpx.Request(self.command, url, headers=dict(self.headers), content=content))
            self.send_response(answer.status_code)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer.content)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join(HANG_S)
