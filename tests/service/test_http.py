"""The service's API: answers, refusals, and the same numbers as everywhere else."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import time
from base64 import b64decode, b64encode, encodebytes
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from hashlib import sha256
from typing import Any, cast

import httpx
import numpy as np
import pytest
from fastapi import Request, Response

from tests.support.clock import HANG_S
from tests.support.images import make_png
from tests.support.services import MINI, app_of, base64_pair, mini_settings, serving
from text_image_similarity import Config, Record, __version__, load_encoder, score_pairs
from text_image_similarity.encoders import Encoder
from text_image_similarity.encoders.testing import ColourEncoder
from text_image_similarity.pipeline import embed_images, embed_texts
from text_image_similarity.service import create_app
from text_image_similarity.service.http import routes
from text_image_similarity.service.jobs import Pair
from text_image_similarity.service.pool import inflight_problem
from text_image_similarity.service.problems import ProblemError
from text_image_similarity.service.telemetry import metrics as service_metrics

SMALL = replace(MINI, limits=replace(MINI.limits, max_bytes=1000))  # what an image may have
HEAD = b"POST /v1/similarity HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"


@pytest.fixture(scope="module")
def service() -> Iterator[httpx.Client]:
    with serving(app_of(mini_settings())) as client:
        yield client


def test_pairs_get_their_scores_and_their_errors(service: httpx.Client) -> None:
    red, blue = make_png("red"), make_png("blue")
    pairs = [
        base64_pair(red, "a red square", id="r"),
        {"image_url": "/etc/passwd", "caption": "a file", "id": 7},
        base64_pair(blue, " "),
        base64_pair(b"GIF89a", "half an image"),
    ]
    answer = service.post("/v1/similarity", json={"pairs": pairs})
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert (found["model"], found["score"]) == ("mini", "cosine")
    assert [result["id"] for result in found["results"]] == ["r", 7, None, None]
    (expected,) = score_pairs([Record(f"data:;base64,{pairs[0]['image_base64']}", "a red square")], MINI)
    assert found["results"][0]["similarity"] == expected.similarity
    assert [result["error"] and result["error"]["code"] for result in found["results"]] == [
        None,
        "unsupported_scheme",
        "empty_caption",
        "truncated",
    ]


def problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """Check a refusal and return it."""
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), answer.text
    found: dict[str, Any] = answer.json()
    assert (found["status"], found["code"], found["type"]) == (status, code, "about:blank")
    assert found["request_id"] == answer.headers["x-request-id"]
    return found


@pytest.mark.parametrize("kind", ["cosine", "unit", "clip_score", "clipscore"])
def test_every_score_kind_is_that_of_the_library(service: httpx.Client, kind: Any) -> None:
    pair = base64_pair(make_png("green"), "a green field")
    (expected,) = score_pairs(
        [Record(f"data:;base64,{pair['image_base64']}", pair["caption"])], replace(MINI, score=kind)
    )
    found = service.post("/v1/similarity", json={"pairs": [pair], "score": kind}).json()
    assert (found["score"], found["results"][0]["similarity"]) == (kind, expected.similarity)


def test_cookies_are_not_parsed(service: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("starlette.requests.cookie_parser", lambda text: pytest.fail("quadratic in some versions"))
    assert service.get("/livez", headers={"cookie": "a=b"}).status_code == 200


def test_an_upload_gets_the_same_score(service: httpx.Client) -> None:
    image = make_png("green")
    expected = service.post("/v1/similarity", json={"pairs": [base64_pair(image, "a green field")]}).json()
    form = {"caption": "a green field", "score": "cosine"}
    found = service.post("/v1/similarity/upload", data=form, files={"image": ("a.png", image)}).json()
    assert found["similarity"] == expected["results"][0]["similarity"]
    empty = service.post("/v1/similarity/upload", data=form, files={"image": ("a.png", b"")}).json()
    assert (empty["similarity"], empty["error"]["code"]) == (None, "empty_body")
    problem(service.post("/v1/similarity/upload", files={"image": ("a.png", image)}), 422, "invalid_request")


@pytest.fixture(scope="module")
def small() -> Iterator[httpx.Client]:
    with serving(app_of(mini_settings(models={"mini": SMALL}))) as client:
        yield client


@pytest.mark.slow
@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "?",
        "AA",
        "AAAA,AAAA",
        "%41%41%41%41",
        "%4",
        "é",
        b64encode(b"GIF89a").decode(),
        b64encode(b"not an image").decode().rstrip("="),
        "A" * 2000,
        b64encode(make_png("green")).decode(),
        encodebytes(make_png("green")).decode(),
        f" {b64encode(make_png('green')).decode()}\r\n",
        b64encode(make_png("green")).decode().replace("+", "%2b"),
        f"DATA:image/png;base64,{b64encode(make_png('green')).decode()}",
        "data:,hello",
        "data:hello",
    ],
    ids=lambda text: text[:12],
)
def test_base64_gets_what_the_library_says_to_the_same_data_url(small: httpx.Client, text: str) -> None:
    url = text if text[:5].lower() == "data:" else f"data:;base64,{text}"
    (expected,) = score_pairs([Record(url, "a green field")], SMALL)
    pairs = [{"image_base64": text, "caption": "a green field"}, {"image_url": url, "caption": "a green field"}]
    for found in small.post("/v1/similarity", json={"pairs": pairs}).json()["results"]:
        error = found["error"] and f"{found['error']['code']}: {found['error']['detail']}"
        assert (found["similarity"], error) == (expected.similarity if expected.error is None else None, expected.error)


class Recording:
    """A pool that records what it is asked and knows no model; full if it is told so."""

    def __init__(self) -> None:
        self.images: list[str | bytes] = []
        self.full = False

    async def start(self) -> None:
        pass

    async def close(self) -> None:
        pass

    async def score(self, model: str | None, pairs: Sequence[Pair], kind: str) -> Any:
        self.images += [pair.image for pair in pairs]
        raise ProblemError("unknown_model", "there is none")

    async def embed_images(self, model: str | None, images: Sequence[str | bytes]) -> Any:
        self.images += images
        raise ProblemError("unknown_model", "there is none")

    async def embed_texts(self, model: str | None, captions: Sequence[str]) -> Any:
        raise ProblemError("unknown_model", "there is none")

    async def serve_model(self, config: Config) -> str:
        raise ProblemError("model_unavailable", "there is none")

    def models(self) -> dict[str, None]:
        return {}

    def encoder(self, model: str) -> Encoder | None:
        return None

    def refusal(self) -> ProblemError | None:
        return inflight_problem(1) if self.full else None

    def unready(self) -> None:
        return None

    dead = unready


def test_files_travel_as_bytes_from_the_door_on() -> None:
    image, url = b"an encoded file", "http://pictures.example/a.png"
    text, pool = b64encode(image).decode(), Recording()
    with serving(create_app(mini_settings(), pool=pool)) as client:
        pairs = [{"image_base64": text, "caption": "a"}, {"image_url": url, "caption": "a"}]
        client.post("/v1/similarity", json={"pairs": pairs})
        client.post("/v1/similarity/upload", data={"caption": "a"}, files={"image": ("a.png", image)})
        client.post("/v1/embeddings", json={"input": [text, url], "modality": "image"})
        client.post("/evaluator/v1/evaluation/single", json={"image_input": text, "text_prompt": "a"})
        client.post("/v1/similarity", json={"pairs": [{"image_base64": "?", "caption": "a"}]})
    assert pool.images == [image, url, image, image, url, image, "data:;base64,?"]


def test_base64_is_taken_without_padding_and_named_where_a_url_should_be(small: httpx.Client) -> None:
    text = b64encode(make_png("green") + b"\0").decode()
    assert text.endswith("=")
    bare, hidden = text.rstrip("="), "\ufeff" + text + "\u200b"
    pairs = [{"image_base64": found, "caption": "a green field"} for found in (text, bare, hidden)]
    pairs += [{"image_url": bare, "caption": "a"}, {"image_base64": "https://a.example/b.png", "caption": "a"}]
    *scored, raw, url = small.post("/v1/similarity", json={"pairs": pairs}).json()["results"]
    assert scored == [{"id": None, "similarity": scored[0]["similarity"], "error": None}] * 3
    assert raw["error"]["code"] == url["error"]["code"] == "invalid_url"
    assert raw["error"]["detail"].startswith("the reference is base64, not a URL")
    assert "it has a URL in place of base64" in url["error"]["detail"]
    asked = {"image_input": bare, "text_prompt": "a green field"}
    assert small.post("/evaluator/v1/evaluation/single", json=asked).json()["error"] is None


def test_what_the_routers_say_of_a_route_is_all_that_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def new(request: Request) -> Response:
        return Response(request.url.path)

    for router in (routes.work, routes.about, routes.probes):
        monkeypatch.setattr(router, "routes", list(router.routes))
    routes.work.add_api_route("/v1/new/{name}", new, methods=["POST"])
    routes.about.add_api_route("/v1/keyed", new)
    routes.probes.add_api_route("/v1/open", new)
    pool, key = Recording(), {"x-api-key": "key"}
    with serving(create_app(mini_settings(api_keys=("key",)), pool=pool)) as client:
        assert client.post("/v1/new/a", json={}, headers=key).text == "/v1/new/a"
        assert client.get("/v1/keyed", headers=key).status_code == client.get("/v1/open").status_code == 200
        problem(client.post("/v1/new/a", json={}), 401, "unauthorized")
        problem(client.post("/v1/new/a", content=b"x", headers=key), 415, "unsupported_media_type")
        problem(client.get("/v1/keyed"), 401, "unauthorized")
        pool.full = True
        full = problem(client.post("/v1/new/a", json={}, headers=key), 429, "queue_full")
        assert full["detail"] == "1 pair is in progress"
        assert inflight_problem(2).detail == "2 pairs are in progress"
        assert client.get("/v1/keyed", headers=key).status_code == client.get("/v1/open").status_code == 200
        paths = client.get("/openapi.json").json()["paths"]
        assert "security" in paths["/v1/new/{name}"]["post"]
        assert "security" in paths["/v1/keyed"]["get"]
        assert "security" not in paths["/v1/open"]["get"]
        metrics = client.get("/metrics").text
        assert 'tis_requests_total{method="POST",route="/v1/new/{name}",status="429"} 1.0' in metrics


def test_embeddings_are_the_encoders_in_both_formats(service: httpx.Client) -> None:
    encoded = make_png("green")
    (image,) = embed_images([encoded], MINI)
    (text,) = embed_texts(["a green field"], MINI)
    for modality, given, vector in (
        ("image", b64encode(encoded).decode(), image),
        ("image", f"data:image/png;base64,{b64encode(encoded).decode()}", image),
        ("text", "a green field", text),
    ):
        asked = {"input": [given, given], "modality": modality, "user": "somebody"}
        found = service.post("/v1/embeddings", json=asked).json()
        assert (found["object"], found["model"]) == ("list", "mini")
        assert [entry["index"] for entry in found["data"]] == [0, 1]
        assert np.array(found["data"][1]["embedding"], np.float32).tolist() == np.asarray(vector).tolist()
        coded = service.post("/v1/embeddings", json=asked | {"encoding_format": "base64"}).json()
        assert np.frombuffer(b64decode(coded["data"][0]["embedding"]), "<f4").tolist() == np.asarray(vector).tolist()


def test_what_everybody_may_ask_for_is_not_made_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    app = app_of(mini_settings(), ColourEncoder())
    with serving(app) as client:
        document = client.get("/openapi.json")
        assert document.json() == app.openapi()
        assert document.headers["content-type"] == "application/json"
        with monkeypatch.context() as patch:
            patch.setattr(app, "openapi", lambda: pytest.fail("made again"))
            assert client.get("/openapi.json").content == document.content
        count = 'tis_requests_total{method="GET",route="/livez",status="200"} '
        for number in (1, 2):
            client.get("/livez")
            assert f"{count}{number}.0" in client.get("/metrics").text
        monkeypatch.setattr(service_metrics, "_BURST_S", 0.0)
        monkeypatch.setattr(service_metrics, "_SHARE", 1e-9)
        known = client.get("/metrics").text
        client.get("/livez")
        assert client.get("/metrics").text == known


def test_the_document_says_where_a_service_stands() -> None:
    async def ask(scope: dict[str, Any]) -> bytes:
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request"}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        found = next(route for route in app.routes if getattr(route, "path", "") == "/openapi.json")
        await cast("Any", found).handle({"type": "http", "method": "GET", "headers": [], **scope}, receive, send)
        return cast("bytes", sent[1]["body"])

    app = app_of(mini_settings(), ColourEncoder())
    roots = ("", "/a", "/b", "")
    found = [json.loads(asyncio.run(ask({"path": "/openapi.json", "root_path": root}))) for root in roots]
    assert [each.get("servers") for each in found] == [None, [{"url": "/a"}], [{"url": "/b"}], None]


def test_a_bad_embedding_input_is_named(service: httpx.Client) -> None:
    found = problem(service.post("/v1/embeddings", json={"input": ["a dog", " "]}), 422, "invalid_request")
    assert found["errors"] == [{"index": 1, "code": "empty_caption", "detail": "the caption is empty or missing"}]
    wrong = {"input": "a dog", "dimensions": 3}
    assert "always have 256" in problem(service.post("/v1/embeddings", json=wrong), 422, "invalid_request")["detail"]
    problem(service.post("/v1/embeddings", json={"input": []}), 422, "invalid_request")


def test_what_runs_here_is_told(service: httpx.Client) -> None:
    models = service.get("/v1/models").json()["data"]
    assert [(model["id"], model["loaded"], model["default"]) for model in models] == [("mini", True, True)]
    info = service.get("/v1/info").json()
    assert info["version"] == service.get("/openapi.json").json()["info"]["version"] == __version__
    assert info["models"]["mini"] == asdict(load_encoder(MINI).info) | {"embed_dim": 256}
    assert info["limits"]["max_pairs"] == 64
    assert service.get("/readyz").json() == service.get("/livez").json() == {"status": "ok"}


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        ({}, "invalid_request", "/pairs"),
        ({"pairs": []}, "invalid_request", "/pairs"),
        ({"pairs": [{"caption": "a"}]}, "invalid_request", "/pairs/0/image_url"),
        ({"pairs": [{"image_base64": "aa", "caption": 3}]}, "invalid_request", "/pairs/0/caption"),
        (
            {"pairs": [{"image_base64": "aa", "image_url": "b", "caption": "a"}]},
            "invalid_request",
            "/pairs/0/image_url",
        ),
        ({"pairs": [{"image_url": "a", "caption": "a"}], "score": "dot"}, "invalid_request", "/score"),
        ({"pairs": [{"image_url": "a", "caption": "a"}], "modle": "x"}, "invalid_request", "/modle"),
        ({"pairs": [{"image_url": "a", "caption": "a"}] * 65}, "invalid_request", "64"),
        ({"pairs": [{"image_url": "a", "caption": "a"}], "model": "fast"}, "unknown_model", "served models: mini"),
    ],
)
def test_a_wrong_request_is_refused_with_what_is_wrong(
    service: httpx.Client, body: dict[str, Any], code: str, said: str
) -> None:
    found = problem(service.post("/v1/similarity", json=body), 404 if code == "unknown_model" else 422, code)
    assert said in found["detail"]


def test_what_is_no_json_or_no_route_is_refused(service: httpx.Client) -> None:
    json_type = {"content-type": "application/json"}
    problem(service.post("/v1/similarity", content=b"{", headers=json_type), 400, "invalid_json")
    problem(service.post("/v1/similarity", content=b"[" * 100_000, headers=json_type), 400, "invalid_json")
    problem(service.post("/v1/similarity", content=b"{}"), 415, "unsupported_media_type")
    problem(service.get("/v1/similarity"), 405, "method_not_allowed")
    assert service.get("/v1/similarity").headers["allow"] == "POST"
    problem(service.get("/v1/nothing"), 404, "not_found")


def test_a_request_keeps_its_id_unless_it_is_odd(service: httpx.Client) -> None:
    assert service.get("/livez", headers={"x-request-id": "row-7"}).headers["x-request-id"] == "row-7"
    for odd in ("", "a" * 129, "a b"):
        assert len(service.get("/livez", headers={"x-request-id": odd}).headers["x-request-id"]) == 32


def test_the_documentation_needs_nothing_from_elsewhere(service: httpx.Client) -> None:
    page = service.get("/docs", headers={"host": "evil.example"})
    assert page.status_code == 200
    assert "evil" not in page.text
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    (script,) = re.findall("<script>(.*?)</script>", page.text, re.DOTALL)
    assert f"'sha256-{b64encode(sha256(script.encode()).digest()).decode()}'" in policy
    assert page.headers["x-content-type-options"] == "nosniff"
    links = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert links
    for link in links:
        assert link.startswith(str(service.base_url)) or link.startswith("/"), link
        assert service.get(link).status_code == 200


def test_only_its_own_hosts_and_pages_are_answered() -> None:
    with serving(app_of(mini_settings(allowed_hosts=("localhost", "*.example.com")), ColourEncoder())) as client:

        def asked(method: str = "GET", **headers: str) -> int:
            names = {name.replace("_", "-"): value for name, value in headers.items()}
            return client.request(
                method, "/livez" if method == "GET" else "/v1/similarity/upload", headers=names
            ).status_code

        good = (
            "localhost",
            "LOCALHOST:1",
            "127.0.0.1:8000",
            "[::1]:80",
            "10.0.0.7",
            "a.example.com.",
            "a.b.example.com",
        )
        assert {asked(host=host) for host in good} == {200}
        bad = (
            "evil.example",
            "localhost.evil.example",
            "example.com",
            "xexample.com",
            "127.0.0.1.evil.example",
            "[evil]",
        )
        assert {asked(host=host) for host in bad} == {421}
        assert client.get("/livez", headers={"host": "evil.example"}).json()["code"] == "unknown_host"
        form = {"content_type": "multipart/form-data; boundary=x", "host": "localhost"}
        for allowed in ({}, {"origin": "http://localhost"}, {"sec_fetch_site": "same-origin", "origin": "https://x"}):
            assert asked("POST", **form, **allowed) != 403
        for foreign in ({"origin": "http://evil.example"}, {"origin": "null"}, {"sec_fetch_site": "cross-site"}):
            assert asked("POST", **form, **foreign) == 403


def test_a_long_id_is_refused(service: httpx.Client) -> None:
    for length, status in ((1000, 200), (1001, 422)):
        pair = base64_pair(make_png(), "red", id="i" * length)
        assert service.post("/v1/similarity", json={"pairs": [pair]}).status_code == status


def test_bodies_are_limited_one_by_one_and_together() -> None:
    pair = base64_pair(b"x" * 6000, "a")
    with serving(app_of(mini_settings(max_body_bytes=10_000), ColourEncoder())) as client, ExitStack() as stack:
        assert client.post("/v1/similarity", json={"pairs": [pair]}).status_code == 200
        problem(client.post("/v1/similarity", json={"pairs": [pair, pair]}), 413, "too_many_bytes")

        def chunks() -> Iterator[bytes]:
            yield b'{"pairs": ['
            yield b" " * 20_000

        headers = {"content-type": "application/json"}
        problem(client.post("/v1/similarity", content=chunks(), headers=headers), 413, "too_many_bytes")
        address = (client.base_url.host, client.base_url.port)
        slow = [stack.enter_context(socket.create_connection(address)) for _ in range(9)]
        for connection in slow:
            connection.sendall(HEAD + b"expect: 100-continue\r\ncontent-length: 9000\r\n\r\n")
            assert connection.recv(100).startswith(b"HTTP/1.1 100 "), "there is room for it"
        assert client.post("/v1/similarity", json={"pairs": [pair]}).status_code == 200, "none is reserved for them"
        for connection in slow:
            connection.sendall(b" " * 8500)
        end = time.monotonic() + HANG_S
        while (refused := client.post("/v1/similarity", json={"pairs": [pair]})).status_code == 200:
            assert time.monotonic() < end
        found = problem(refused, 429, "queue_full")
        assert "leave no memory" in found["detail"]
        assert refused.headers["retry-after"] == "1"
        rejected = [line for line in client.get("/metrics").text.splitlines() if "rejected_total{" in line]
        assert 'tis_queue_rejected_total{reason="body_memory"} 0.0' not in rejected


def test_a_body_that_does_not_arrive_is_given_up() -> None:
    with (
        serving(app_of(mini_settings(request_timeout_s=0.2), ColourEncoder())) as client,
        socket.create_connection((client.base_url.host, client.base_url.port), timeout=HANG_S) as slow,
    ):
        slow.sendall(HEAD + b"content-length: 9000\r\n\r\n{")
        assert slow.recv(100).startswith(b"HTTP/1.1 408 ")


def test_a_service_with_keys_wants_one_of_them() -> None:
    keys = ("first", "second")
    pair = {"pairs": [base64_pair(make_png("red"), "red")]}
    with serving(app_of(mini_settings(api_keys=keys), ColourEncoder())) as client:
        for path in ("/livez", "/readyz", "/metrics", "/docs", "/openapi.json", "/evaluator/health", "/system/health"):
            assert client.get(path).status_code == 200, path
        for path in ("/", "/search", "/page/app.js", "/page/style.css", "/swagger/swagger-ui.css"):
            assert client.get(path).status_code == 200, path
        problem(client.get("/page/none.js"), 404, "not_found")
        problem(client.get("/page/app.js/none"), 401, "unauthorized")
        for headers in ({}, {"x-api-key": ""}, {"x-api-key": "third"}, {"authorization": "Basic first"}):
            refused = client.post("/v1/similarity", json=pair, headers=headers)
            problem(refused, 401, "unauthorized")
            assert refused.headers["www-authenticate"] == "Bearer"
            assert ("this API key is unknown" in refused.text) == (headers == {"x-api-key": "third"})
            problem(client.get("/v1/models", headers=headers), 401, "unauthorized")
            problem(client.get("/nothing", headers=headers), 401, "unauthorized")
        for headers in ({"x-api-key": "first"}, {"authorization": "Bearer second"}, {"authorization": "bearer  first"}):
            assert client.post("/v1/similarity", json=pair, headers=headers).status_code == 200


def test_readiness_ends_before_the_service_does() -> None:
    app = app_of(mini_settings(), ColourEncoder())
    with serving(app) as client:
        app.state.draining = True
        found = problem(client.get("/readyz"), 503, "draining")
        assert found["detail"] == "the service is shutting down"
        answer = client.post("/v1/similarity", json={"pairs": [base64_pair(make_png("red"), "red")]})
        assert (answer.status_code, answer.headers["connection"]) == (200, "close")
        assert client.get("/livez").status_code == 200
        assert "tis_ready 0.0" in client.get("/metrics").text


def test_an_error_of_ours_is_told_without_its_secrets(monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    app = app_of(mini_settings(), ColourEncoder())
    monkeypatch.setattr(app.state.pool, "models", lambda: 1 / 0)
    with serving(app) as client:
        found = problem(client.get("/v1/models"), 500, "internal_error")
    assert "division" not in str(found)
    assert "ZeroDivisionError" in caplog.text
