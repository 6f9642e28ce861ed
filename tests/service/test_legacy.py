"""The routes of the earlier service, asked with curl as its clients ask them."""

from __future__ import annotations

import json
import subprocess
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.support.images import make_png, saved
from tests.support.processes import tool
from tests.support.server import Server, response
from tests.support.services import MINI, app_of, mini_settings, serving
from text_image_similarity import Record, score_pairs
from text_image_similarity.service.http import legacy
from text_image_similarity.service.problems import ProblemError

FIELDS = {
    "image_input": str,
    "text_prompt": str,
    "clip_score": (float, type(None)),
    "processing_time_ms": float,
    "model_used": str,
    "error": (str, type(None)),
}
TOTALS = {
    "results": list,
    "total_processed": int,
    "total_successful": int,
    "total_failed": int,
    "total_processing_time_ms": float,
}
SINGLE, BATCH = "/evaluator/v1/evaluation/single", "/evaluator/v1/evaluation/batch"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A service with the two names that clients of the earlier one know, and small requests inside."""
    models = {"fast": MINI, "accurate": replace(MINI, precision="fp32")}
    with serving(app_of(mini_settings(models=models, max_pairs=20))) as client:
        yield str(client.base_url)


@pytest.fixture(scope="module")
def encoded() -> list[bytes]:
    rng = np.random.default_rng(1)
    return [saved(Image.fromarray(rng.integers(0, 256, (20, 20, 3), np.uint8)), "PNG") for _ in range(10)]


def curl(*arguments: str, data: Any = None) -> tuple[int, str, str]:
    """Run curl; return the status, the content type and the body."""
    command = [
        tool("curl"),
        "-sS",
        "--noproxy",
        "*",
        "--max-time",
        "60",
        "-w",
        "\n%{http_code} %{content_type}",
        *arguments,
    ]
    body = None
    if data is not None:
        command += ["-H", "Content-Type: application/json", "-d", "@-"]
        body = json.dumps(data)
    done = subprocess.run(command, input=body, capture_output=True, text=True, check=True)
    text, _, last = done.stdout.rpartition("\n")
    status, _, kind = last.partition(" ")
    return int(status), kind, text


def asked(url: str, data: Any) -> dict[str, Any]:
    status, kind, text = curl("-X", "POST", url, data=data)
    assert (status, kind) == (200, "application/json"), text
    found: dict[str, Any] = json.loads(text)
    return found


def check(found: dict[str, Any], fields: dict[str, Any]) -> None:
    assert list(found) == list(fields)
    for name, kind in fields.items():
        assert isinstance(found[name], kind), (name, found[name])
        assert not isinstance(found[name], bool)


def expected(references: list[str], captions: list[str]) -> list[float]:
    """Return what the library says: 100 * max(cos, 0)."""
    records = [Record(reference, caption) for reference, caption in zip(references, captions, strict=True)]
    config = replace(MINI, score="clip_score")
    found = [result.similarity for result in score_pairs(records, config)]
    cosines = [result.similarity for result in score_pairs(records, MINI)]
    assert found == pytest.approx([100 * max(cosine, 0.0) for cosine in cosines], rel=1e-6)
    return found


def inline(image: bytes) -> str:
    return "data:image/png;base64," + b64encode(image).decode()


def test_one_pair_in_every_way_an_image_may_come(url: str, server: Server) -> None:
    encoded = make_png("red")
    server.routes["/red.png"] = response(encoded)
    (score,) = expected([inline(encoded)], ["a red square"])
    for image in (server.url("/red.png"), inline(encoded), b64encode(encoded).decode()):
        for model in ({"model_config_name": "fast"}, {}, {"model_config_name": None}):
            found = asked(url + SINGLE, {"image_input": image, "text_prompt": "a red square", **model})
            check(found, FIELDS)
            assert (found["image_input"], found["text_prompt"]) == (image, "a red square")
            assert (found["clip_score"], found["model_used"], found["error"]) == (score, "fast", None)
            assert 0 < found["processing_time_ms"] < 60_000
    found = asked(url + SINGLE, {"image_input": inline(encoded), "text_prompt": "a", "model_config_name": "accurate"})
    assert found["model_used"] == "accurate"


def test_the_documented_call_as_a_shell_has_it(url: str) -> None:
    start, end = '{"image_input": "', '", "text_prompt": "a cat", "model_config_name": "fast"}'
    text = start + inline(make_png()) + end
    status, _, body = curl(
        url + SINGLE, "-H", "Content-Type: application/json", "-H", "accept: application/json", "-d", text
    )
    assert status == 200
    check(json.loads(body), FIELDS)


@pytest.mark.parametrize(
    ("image", "code"),
    [
        ("/etc/passwd", "unsupported_scheme"),
        ("photos/dog.jpg", "unsupported_scheme"),
        (str(Path(__file__).resolve()), "unsupported_scheme"),
        ("file:///etc/passwd", "unsupported_scheme"),
        ("C:\\photos\\dog.jpg", "unsupported_scheme"),
        ("ftp://example.org/dog.jpg", "unsupported_scheme"),
        ("aGVsbG8=", "not_an_image"),
        ("", "empty_body"),
        ("data:image/png;base64,", "empty_body"),
        ("http://127.0.0.1:1111/dog.jpg", "connect_error"),
    ],
)
def test_an_image_that_cannot_be_had_is_the_pairs_error(url: str, image: str, code: str) -> None:
    found = asked(url + SINGLE, {"image_input": image, "text_prompt": "a dog"})
    check(found, FIELDS)
    assert found["clip_score"] is None
    assert found["error"].startswith(code + ": ")
    if code == "unsupported_scheme" and "ftp" not in image and "\\" not in image:
        assert found["error"] == "unsupported_scheme: local files are not allowed here"


def test_a_batch_of_more_than_a_request_may_have_otherwise(url: str, encoded: list[bytes], server: Server) -> None:
    server.routes["/image"] = response(encoded[0])
    images = [inline(image) for image in encoded]
    evaluations = [{"image_input": images[n % 10], "text_prompt": f"image {n % 7}"} for n in range(150)]
    scores = expected(
        [evaluation["image_input"] for evaluation in evaluations],
        [evaluation["text_prompt"] for evaluation in evaluations],
    )
    for n, evaluation in enumerate(evaluations):
        evaluation["model_config_name"] = ["fast", "accurate"][n % 3 == 0]
    evaluations[7] |= {"image_input": "/etc/passwd"}
    evaluations[8] |= {"text_prompt": " "}
    evaluations[9] |= {"model_config_name": "huge"}
    evaluations[10] |= {"image_input": server.url("/image"), "text_prompt": "image 3"}
    evaluations[20] |= {"image_input": images[0].partition(",")[2]}
    (scores[10],) = expected([images[0]], ["image 3"])
    scores[20] = expected([images[0]], ["image 6"])[0]
    found = asked(url + BATCH, {"evaluations": evaluations, "batch_size": 16, "show_progress": True})
    check(found, TOTALS)
    assert (found["total_processed"], found["total_successful"], found["total_failed"]) == (150, 147, 3)
    results = found["results"]
    for n, (evaluation, result) in enumerate(zip(evaluations, results, strict=True)):
        check(result, FIELDS)
        assert (result["image_input"], result["text_prompt"]) == (evaluation["image_input"], evaluation["text_prompt"])
        assert result["model_used"] == evaluation["model_config_name"]
        if n not in (7, 8, 9):
            assert (result["clip_score"], result["error"]) == (scores[n], None)
    assert results[7]["error"] == "unsupported_scheme: local files are not allowed here"
    assert results[8]["error"] == "empty_caption: the caption is empty or missing"
    assert results[9]["error"] == "unknown_model: 'huge' is not served here; served models: fast, accurate"
    assert found["total_processing_time_ms"] >= max(result["processing_time_ms"] for result in results)


def test_a_batch_has_an_end(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(legacy, "_TIMEOUTS", 0)
    pairs = [
        {"image_input": inline(make_png()), "text_prompt": "a", "model_config_name": name} for name in ("fast", None)
    ]
    found = asked(url + BATCH, {"evaluations": pairs})
    assert [result["error"].partition(":")[0] for result in found["results"]] == ["timeout"] * 2
    assert (found["total_failed"], [result["model_used"] for result in found["results"]]) == (2, ["fast", ""])


def test_what_the_earlier_service_let_pass_passes(url: str) -> None:
    pair = {"image_input": inline(make_png()), "text_prompt": "a", "comment": "is left alone"}
    for more in ({}, {"batch_size": None}, {"batch_size": "32", "show_progress": "no"}, {"batch_size": 0, "other": 1}):
        assert asked(url + BATCH, {"evaluations": [pair], **more})["total_successful"] == 1


def test_wrong_requests_are_refused(url: str) -> None:
    pair = {"image_input": inline(make_png()), "text_prompt": "a"}
    for path, data, code in [
        (SINGLE, {"text_prompt": "a"}, 422),
        (SINGLE, {"image_input": 3, "text_prompt": "a"}, 422),
        (SINGLE, pair | {"model_config_name": "huge"}, 404),
        (SINGLE, [], 422),
        (BATCH, {}, 422),
        (BATCH, {"evaluations": []}, 422),
        (BATCH, {"evaluations": [pair, {}]}, 422),
        (BATCH, {"evaluations": [pair] * 10_001}, 422),
    ]:
        status, kind, text = curl("-X", "POST", url + path, data=data)
        assert (status, kind) == (code, "application/problem+json"), text
        assert json.loads(text)["status"] == code
    assert curl(url + SINGLE)[0] == 405


def test_what_there_is_to_look_at(url: str) -> None:
    asked(url + BATCH, {"evaluations": [{"image_input": inline(make_png()), "text_prompt": "a"}]})
    for path in ("/evaluator/health", "/system/health"):
        status, kind, text = curl(url + path)
        assert (status, kind) == (200, "application/json")
        found = json.loads(text)
        assert (found["status"], found["models"], found["error"]) == ("healthy", ["fast", "accurate"], None)
    status, kind, text = curl(url + "/evaluator/metrics")
    assert status == 200
    assert kind.startswith("text/plain; version=0.0.4")
    assert 'tis_requests_total{method="POST",route="/evaluator/v1/evaluation/batch",status="200"}' in text
    assert curl(url + "/evaluator/docs")[0] == 307
    status, kind, text = curl("-L", url + "/evaluator/docs")
    assert (status, kind) == (200, "text/html; charset=utf-8")
    assert "swagger" in text


def test_a_service_that_is_about_to_end_is_unhealthy() -> None:
    app = app_of(mini_settings())
    with serving(app) as client:
        app.state.draining = True
        answer = httpx.get(f"{client.base_url}/evaluator/health", trust_env=False)
        assert (answer.status_code, answer.json()["status"]) == (503, "unhealthy")
        assert answer.json()["error"] == "the service is shutting down"


@pytest.mark.parametrize("code", ["queue_full", "model_unavailable"])
def test_a_batch_in_progress_loses_nothing_that_is_scored(code: str, tmp_path: Path) -> None:
    settings = mini_settings(models={"fast": MINI, "accurate": MINI}, max_pairs=2, request_timeout_s=1)
    app = app_of(replace(settings, audit_log=str(tmp_path / "audit.jsonl")))
    pool, full = app.state.pool, ["accurate"]
    score = pool.score

    async def score_or_refuse(model: str | None, *given: Any) -> Any:
        if model in full:
            raise ProblemError(code, "64 pairs wait", retry_after_s=3, reason="queue_full")
        return await score(model, *given)

    pool.score = score_or_refuse
    names = ["fast", "accurate", "fast", "fast", "accurate"]
    pairs = [{"image_input": inline(make_png()), "text_prompt": "a", "model_config_name": name} for name in names]
    with serving(app) as client:
        found = client.post(BATCH, json={"evaluations": pairs})
        assert found.status_code == 200
        results = found.json()["results"]
        assert [result["error"] for result in results] == [
            f"{code}: 64 pairs wait" if name == "accurate" else None for name in names
        ]
        assert all((result["clip_score"] is None) == (result["error"] is not None) for result in results)
        full.append("fast")  # and now it cannot begin
        refused = client.post(BATCH, json={"evaluations": pairs}, headers={"X-Request-Id": "none"})
        assert refused.status_code == {"queue_full": 429, "model_unavailable": 503}[code]
        assert refused.headers["retry-after"] == "3"
    lines = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()[1:-1]]
    assert [line["status"] for line in lines] == ([200, 429] if code == "queue_full" else [])
