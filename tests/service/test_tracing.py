"""What the service tells of its requests: traces over OTLP, a JSON line each, and counts; never a URL, a caption or a key."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.sdk.trace.export import SpanExportResult
from prometheus_client.parser import text_string_to_metric_families

from tests.support.clock import HANG_S
from tests.support.images import make_png
from tests.support.paths import ROOT
from tests.support.server import Server, response
from tests.support.services import app_of, base64_pair, mini_settings, process, serving
from text_image_similarity.encoders.testing import ColourEncoder

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SECRETS = ("secret-path", "secret-caption", "secret-key", "secret-query")


class Collector(ThreadingHTTPServer):
    """Takes spans as a collector does.

    Attributes:
        spans: Those that came.
        asked: Paths that were posted to.
    """

    daemon_threads = True

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.resources: list[dict[str, str]] = []
        self.asked: Counter[str] = Counter()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(handler) -> None:  # noqa: N805 - `self` is the collector
                body = handler.rfile.read(int(handler.headers["content-length"]))
                self.asked[handler.path] += 1
                for group in ExportTraceServiceRequest.FromString(body).resource_spans:
                    self.resources.append({fact.key: fact.value.string_value for fact in group.resource.attributes})
                    for scope in group.scope_spans:
                        self.spans.extend(scope.spans)
                handler.send_response(200)
                handler.send_header("content-length", "0")
                handler.end_headers()

            def log_message(handler, *_: object) -> None:  # noqa: N805
                pass

        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def __enter__(self) -> Collector:
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self._thread.join(HANG_S)
        self.server_close()


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as running:
        yield running


def ask(client: httpx.Client, server: Server, headers: dict[str, str] | None = None) -> httpx.Response:
    """Ask about an image of a server, one that is in the request, and one that there is not."""
    server.routes["/secret-path.png"] = response(make_png("red"))
    pairs = [
        {"image_url": server.url("/secret-path.png?secret-query"), "caption": "red secret-caption"},
        base64_pair(make_png("blue"), "blue secret-caption"),
        {"image_url": server.url("/secret-path-404"), "caption": "red secret-caption"},
    ]
    answer = client.post("/v1/similarity", json={"pairs": pairs}, headers=headers or {})
    assert answer.status_code == 200
    return answer


def facts(span: Span) -> dict[str, Any]:
    return {fact.key: fact.value.string_value or fact.value.int_value for fact in span.attributes}


# ---- traces


def test_a_request_is_a_span_in_its_callers_trace_with_its_stages_below(collector: Collector, server: Server) -> None:
    with serving(app_of(mini_settings(otlp_endpoint=collector.url + "/"), ColourEncoder())) as client:
        headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "a=b", "x-request-id": "r-1"}
        ask(client, server, headers)
        client.get("/readyz", headers=headers)
    assert set(collector.asked) == {"/v1/traces"}
    assert collector.resources[0]["service.name"] == "text-image-similarity"
    assert {span.trace_id.hex() for span in collector.spans} == {TRACE}
    (top,) = [span for span in collector.spans if span.kind == Span.SPAN_KIND_SERVER]
    assert (top.name, top.parent_span_id.hex(), top.trace_state) == ("POST /v1/similarity", PARENT, "a=b")
    assert facts(top) == {
        "http.response.status_code": 200,
        "http.request.method": "POST",
        "http.route": "/v1/similarity",
        "tis.request_id": "r-1",
        "tis.pairs": 3,
        "tis.failed": 1,
    }
    stages = [span for span in collector.spans if span is not top]
    assert {span.parent_span_id for span in stages} == {top.span_id}
    names: dict[Any, list[str]] = {}
    for span in sorted(stages, key=lambda span: span.start_time_unix_nano):
        assert top.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano
        assert span.end_time_unix_nano <= top.end_time_unix_nano
        assert facts(span)["tis.model"] == "mini"
        names.setdefault(facts(span)["tis.pair"], []).append(span.name)
    assert names[0] == ["fetch", "decode", "queue", "encode"]
    assert names[1] == ["decode", "queue", "encode"]
    assert names[2][0] == "fetch"
    assert "encode" not in names[2]
    assert not any(secret in str(collector.spans) for secret in (*SECRETS, server.url("")))
    assert not any("traceparent" in head.lower() for head in server.heads), "who is fetched from is told nothing"


def test_requests_without_a_trace_get_one_each_and_unsampled_ones_none(collector: Collector, server: Server) -> None:
    with serving(app_of(mini_settings(otlp_endpoint=collector.url), ColourEncoder())) as client:
        ask(client, server)
        ask(client, server, {"traceparent": "00-nonsense-01"})
        ask(client, server, {"traceparent": f"00-{TRACE}-{PARENT}-00"})
        assert client.post("/v1/similarity", json={}).status_code == 422
    tops = [span for span in collector.spans if span.kind == Span.SPAN_KIND_SERVER]
    assert len({span.trace_id for span in tops}) == len(tops) == 3
    assert TRACE not in {span.trace_id.hex() for span in tops}
    assert sorted(facts(span)["http.response.status_code"] for span in tops) == [200, 200, 422]


def test_without_an_endpoint_nothing_is_sent_and_nothing_loaded(collector: Collector) -> None:
    code = (
        "import sys\nfrom fastapi.testclient import TestClient\nfrom tests.support.services import app_of, mini_settings\n"
        "from text_image_similarity.encoders.testing import ColourEncoder\n"
        "with TestClient(app_of(mini_settings(), ColourEncoder())) as client:\n"
        "    pairs = [{'image_url': 'data:,', 'caption': 'red'}]\n"
        "    print(client.post('/v1/similarity', json={'pairs': pairs}).status_code)\n"
        "print(sorted(name for name in sys.modules if name.startswith(('opentelemetry.sdk', 'opentelemetry.exporter'))))\n"
    )
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=environment, check=True
    )
    assert done.stdout == "200\n[]\n"
    assert not collector.asked


@pytest.mark.slow
def test_a_collector_that_is_gone_costs_nothing(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with serving(app_of(mini_settings(otlp_endpoint=endpoint), ColourEncoder())) as client:
        for _ in range(20):
            ask(client, server)
    assert not any(secret in caplog.text for secret in SECRETS)


@pytest.mark.slow
def test_a_collector_that_hangs_keeps_neither_requests_nor_the_end_waiting(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    over = threading.Event()

    def hang(*_: object) -> SpanExportResult:
        over.wait(2 * HANG_S)
        return SpanExportResult.FAILURE

    monkeypatch.setattr(OTLPSpanExporter, "export", hang)
    try:
        with serving(app_of(mini_settings(otlp_endpoint="http://127.0.0.1:9"), ColourEncoder())) as client:
            for _ in range(20):
                ask(client, server)
        assert "the last spans were not sent: no answer within 2 s" in caplog.text
    finally:
        over.set()


# ---- logs


def test_a_request_is_one_line_of_json(server: Server) -> None:
    keys = {"TEXT_IMAGE_SIMILARITY_API_KEYS": "secret-key", "OTEL_EXPORTER_OTLP_ENDPOINT": ""}
    options = ["--model", "mini", "--limit", "allow_private_addresses=true", "--retries", "0", "--drain-delay", "0"]
    with (
        process(*options, "--log-format", "json", environment=keys) as running,
        httpx.Client(base_url=running.url, trust_env=False, timeout=30) as client,
    ):
        key = {"x-api-key": "secret-key"}
        ask(client, server, {**key, "x-request-id": "r-1", "traceparent": f"00-{TRACE}-{PARENT}-01"})
        ask(client, server, {"authorization": "Bearer secret-key"})
        client.post("/v1/embeddings", json={"input": ["secret-caption", ""]}, headers={**key, "x-request-id": "r-3"})
        client.post("/v1/similarity", json={"pairs": "secret-caption"}, headers={**key, "x-request-id": "r-4"})
        client.post("/v1/similarity?secret-query", content=b"{secret-caption", headers={**key, "x-request-id": "r-5"})
        client.post("/v1/similarity", json={}, headers={"x-api-key": "secret-key2", "x-request-id": "r-6"})
        client.get("/secret-path", headers={**key, "x-request-id": "r-7"})
        files = {"image": ("secret-path.png", make_png("red"))}
        client.post(
            "/v1/similarity/upload",
            files=files,
            data={"caption": "secret-caption"},
            headers={**key, "x-request-id": "r-8"},
        )
        client.post(
            "/v1/similarity",
            json={"pairs": [base64_pair(b"x", "")], "model": "secret-path"},
            headers={**key, "x-request-id": "r-9"},
        )
        pair = {"image_input": "/secret-path.png", "text_prompt": "secret-caption"}
        client.post("/evaluator/v1/evaluation/single", json=pair, headers={**key, "x-request-id": "r-10"})
        assert running.end() == 0
    text = "".join(running.lines)
    assert not [secret for secret in (*SECRETS, server.url("")) if secret in text]
    lines = [json.loads(line) for line in running.lines]
    assert all({"time", "level", "logger", "message"} <= set(line) for line in lines)
    told = {line["request_id"]: line for line in lines if "request_id" in line}
    assert len(told) == len([line for line in lines if "request_id" in line]), "one line each"
    first = told["r-1"]
    assert first["trace_id"] == TRACE
    assert (first["method"], first["route"], first["status"]) == ("POST", "/v1/similarity", 200)
    assert (first["pairs"], first["failed"]) == (3, 1)
    assert 0 < first["duration_ms"] < 30_000
    (unnamed,) = [line for name, line in told.items() if re.fullmatch("[0-9a-f]{32}", name)]
    assert (unnamed["status"], unnamed["trace_id"]) == (200, None)
    statuses = {name: line["status"] for name, line in told.items() if name.startswith("r-")}
    assert statuses == {"r-1": 200, "r-3": 422, "r-4": 422, "r-5": 415, "r-6": 401, "r-8": 200, "r-9": 404, "r-10": 200}


def test_a_request_id_is_echoed_or_replaced() -> None:
    with serving(app_of(mini_settings(), ColourEncoder())) as client:
        for good in ("r-1", "a" * 128, "~!{}"):
            assert client.get("/livez", headers={"x-request-id": good}).headers["x-request-id"] == good
        address = (client.base_url.host, client.base_url.port)
        for odd in (b"", b"a" * 129, b"a b", b"a\xff", b"a\tb", b"{\x80}", b"a" * 30_000):
            with socket.create_connection(address, timeout=10) as connection:
                connection.sendall(
                    b"GET /livez HTTP/1.1\r\nHost: x\r\nX-Request-Id: " + odd + b"\r\nConnection: close\r\n\r\n"
                )
                answer = b""
                while piece := connection.recv(65536):
                    answer += piece
            assert re.search(rb"\r\nx-request-id: [0-9a-f]{32}\r\n", answer), odd[:20]
        for hostile in (
            b"a\r\nX-Injected: b",
            b"a\nX-Injected: b",
            b"a\r\n\r\nGET /metrics HTTP/1.1",
            b"a" * 1_000_000,
        ):
            with socket.create_connection(address, timeout=10) as connection:
                try:
                    connection.sendall(
                        b"GET /livez HTTP/1.1\r\nHost: x\r\nX-Request-Id: " + hostile + b"\r\nConnection: close\r\n\r\n"
                    )
                    answer = connection.recv(65536)
                except ConnectionError:
                    continue
            assert b"njected" not in answer
            first = answer.split(b"HTTP/1.1 ")[1]  # what follows an empty line is a request of its own
            assert len(first) < 2000


# ---- metrics


def samples(client: httpx.Client) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    families = text_string_to_metric_families(client.get("/metrics").text)
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def test_counters_move_with_what_happens(server: Server) -> None:
    with serving(app_of(mini_settings(max_body_bytes=100_000), ColourEncoder())) as client:
        before = samples(client)

        def moved(name: str, **labels: str) -> float:
            key = (name, tuple(sorted(labels.items())))
            return after.get(key, 0.0) - before.get(key, 0.0)

        ask(client, server)
        ask(client, server)
        client.post("/v1/similarity", json={"pairs": [base64_pair(b"x", "red")] * 2})
        client.post("/v1/embeddings", json={"input": "red"})
        client.post("/v1/similarity", content=b"x" * 200_000)
        client.post("/v1/similarity", content=b"x")
        client.post("/evaluator/v1/evaluation/single", json={"image_input": "/x", "text_prompt": "red"})
        after = samples(client)
        similarity = {"route": "/v1/similarity", "method": "POST"}
        assert moved("tis_requests_total", status="200", **similarity) == 3
        assert moved("tis_requests_total", status="413", **similarity) == 1
        assert moved("tis_requests_total", status="415", **similarity) == 1
        assert moved("tis_requests_total", status="200", route="/v1/embeddings", method="POST") == 1
        assert moved("tis_request_duration_seconds_count", route="/v1/similarity") == 5
        assert moved("tis_pairs_total", model="mini", result="scored", error_code="") == 4
        assert moved("tis_pairs_total", model="mini", result="failed", error_code="http_4xx") == 2
        assert moved("tis_pairs_total", model="mini", result="failed", error_code="not_an_image") == 2
        assert moved("tis_pairs_total", model="mini", result="failed", error_code="unsupported_scheme") == 1
        assert moved("tis_score_count", model="mini") == 4
        assert moved("tis_stage_duration_seconds_count", stage="fetch", model="mini") == 5
        assert moved("tis_cache_hits_total", kind="image", model="mini") == 2, "the second request's"
        assert moved("tis_cache_lookups_total", kind="image", model="mini") == 5
        assert moved("tis_cache_hits_total", kind="text", model="mini") >= 2
        assert 2 <= moved("tis_batch_size_sum", model="mini") <= 4
        assert after["tis_queue_capacity", (("model", "mini"),)] == mini_settings().max_queue
        assert after["tis_queue_depth", (("model", "mini"),)] == 0
        assert after["tis_inflight_pairs", ()] == 0
        assert after["tis_ready", ()] == 1


def test_what_is_refused_is_counted_by_its_reason() -> None:
    class Held(ColourEncoder):
        __setattr__ = object.__setattr__
        go = threading.Event()

        def encode_pixels(self, pixels: Any) -> Any:
            assert self.go.wait(HANG_S)
            return super().encode_pixels(pixels)

    encoder = Held()
    encoder.go.set()
    with serving(app_of(mini_settings(max_queue=1, max_wait_s=0.0), encoder)) as client:
        assert samples(client)["tis_queue_rejected_total", (("reason", "queue_full"),)] == 0
        encoder.go.clear()
        pairs = [base64_pair(make_png("red", (16, 16 + n)), f"red {n}") for n in range(4)]
        asking = []
        for pair in pairs[:2]:
            asking.append(
                threading.Thread(target=client.post, args=("/v1/similarity",), kwargs={"json": {"pairs": [pair]}})
            )
            asking[-1].start()
            end = time.monotonic() + HANG_S
            while samples(client)["tis_inflight_pairs", ()] < len(asking):
                assert time.monotonic() < end
        end = time.monotonic() + HANG_S
        while samples(client)["tis_queue_depth", (("model", "mini"),)] < 1:
            assert time.monotonic() < end
        refused = client.post("/v1/similarity", json={"pairs": pairs[2:3]})
        assert (refused.status_code, refused.json()["code"]) == (429, "queue_full")
        assert not encoder.go.is_set(), "it was refused while the others waited"
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert client.get("/readyz").status_code == 503
        encoder.go.set()
        for thread in asking:
            thread.join(HANG_S)
        end = time.monotonic() + HANG_S
        while samples(client)["tis_queue_rejected_total", (("reason", "queue_full"),)] < 1:
            assert time.monotonic() < end  # after so many requests, /metrics is rendered once in a while
        assert client.get("/readyz").status_code == 200


def test_clients_choose_no_labels() -> None:
    with serving(app_of(mini_settings(), ColourEncoder())) as client:
        for number in range(5):
            client.get(f"/chosen-{number}")
            client.post(f"/v1/similarity/chosen-{number}")
            client.get(f"/page/chosen-{number}")
            client.request(f"CHOSEN{number}", "/v1/similarity")
            client.request("PROPFIND", f"/chosen-{number}")
            client.post("/v1/similarity", json={"pairs": [base64_pair(b"x", "a")], "model": f"chosen-{number}"})
            client.post("/v1/embeddings", json={"input": "a", "model": f"chosen-{number}"})
        text = client.get("/metrics").text
    assert "chosen" not in text.lower()
    assert 'tis_requests_total{method="other",route="none",status="404"}' in text
    assert set(re.findall(r'method="(\w+)"', text)) <= {"GET", "POST", "other"}
    assert set(re.findall(r'model="(\w+)"', text)) == {"mini"}
