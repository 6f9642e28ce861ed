"""The service on Ray Serve: the plain service's answers, whoever dies."""

from __future__ import annotations

import asyncio
import csv
from base64 import b64decode
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.clock import HANG_S, wait_for
from tests.support.images import make_png
from tests.support.paths import ROOT
from tests.support.ray_services import Load, deploy, family, kill_one, pairs_of_colours, ray_serve
from tests.support.server import Server
from tests.support.services import MINI, base64_pair
from text_image_similarity import Record, load_encoder, score_pairs

# Ray's own, when its schemas are made
pytestmark = [
    pytest.mark.ray,
    pytest.mark.extended,
    pytest.mark.filterwarnings(
        "ignore:Using extra keyword arguments on `Field`:DeprecationWarning:ray.serve._private.config"
    ),
]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Serve a model by two replicas and another one by one."""
    with ray_serve(num_cpus=4) as url:
        deploy(
            {
                "models": {
                    "mini": {"num_cpus": 0.5, "min_replicas": 2},
                    "org/other": {
                        "model": "mini",
                        "num_cpus": 0.5,
                        "max_ongoing_requests": 2,
                        "max_queued_requests": 1,
                    },
                },
                "splits": {"canary": {"mini": 1, "org/other": 1}},
                "gateway": {"num_cpus": 0.5},
                "limits": {"allow_private_addresses": True},
                "timeout_s": 60,
                "retries": 0,
                "cache_entries": 1,
                "request_timeout_s": 60,
            },
            tmp_path_factory.mktemp("serve"),
        )
        yield url


@pytest.fixture(scope="module")
def service(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=HANG_S, trust_env=False) as client:  # the first answer waits for replicas
        wait_for(lambda: client.get("/readyz").status_code == 200)
        yield client


@pytest.fixture(scope="module")
def requests() -> list[tuple[dict[str, Any], float]]:
    return pairs_of_colours(50)


def scraped(service: httpx.Client) -> Counter[tuple[str, ...]]:
    """Return the scored pairs and refusals by what they are of and by replica."""
    found: Counter[tuple[str, ...]] = Counter()
    for metric in text_string_to_metric_families(service.get("/metrics").text):
        for sample in metric.samples:
            assert sample.labels["replica"].partition("#")[0] in ("gateway", "model-mini", "model-org-other")
            if sample.name == "tis_pairs_total" and sample.labels["result"] == "scored":
                found[sample.labels["model"], sample.labels["replica"]] += int(sample.value)
            if sample.name == "tis_queue_rejected_total":
                found[sample.labels["reason"], sample.labels["replica"]] += int(sample.value)
    return found


def total(found: Counter[tuple[str, ...]], what: str) -> int:
    return sum(number for (name, _), number in found.items() if name == what)


def test_the_challenge_set_gets_its_scores(service: httpx.Client) -> None:
    with (ROOT / "challenge_set.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if (ROOT / row["url"]).exists()]
    before = total(scraped(service), "mini")
    pairs = [base64_pair((ROOT / row["url"]).read_bytes(), row["caption"], id=row["url"]) for row in rows]
    answer = service.post("/v1/similarity", json={"pairs": pairs}, headers={"X-Request-Id": "challenge"})
    assert answer.status_code == 200, answer.text
    assert answer.headers.get_list("x-request-id") == ["challenge"]
    found = answer.json()
    assert (found["model"], found["score"]) == ("mini", "cosine")
    expected = list(score_pairs([Record(str(ROOT / row["url"]), row["caption"]) for row in rows], MINI))
    for result, score in zip(found["results"], expected, strict=True):
        error = result["error"] and f"{result['error']['code']}: {result['error']['detail']}"
        assert (result["similarity"], error) == (None if score.error else score.similarity, score.error)
    scored = sum(score.error is None for score in expected)

    wait_for(lambda: total(scraped(service), "mini") >= before + scored > before + 40)
    counted = [name.partition("#")[0] for what, name in scraped(service) if what in ("mini", "org/other")]
    assert sorted(counted) == [
        "model-mini",
        "model-mini",
        "model-org-other",
    ]


def test_embeddings_are_those_of_the_library(service: httpx.Client) -> None:
    body = {"input": ["a red square"], "encoding_format": "base64", "model": "org/other"}
    answer = service.post("/v1/embeddings", json=body)
    assert answer.status_code == 200, answer.text
    vector = np.frombuffer(b64decode(answer.json()["data"][0]["embedding"]), "<f4")
    assert vector.tolist() == load_encoder(MINI).encode_text(["a red square"])[0].tolist()


def test_a_split_shares_its_requests(service: httpx.Client, requests: list[tuple[dict[str, Any], float]]) -> None:
    answers = [service.post("/v1/similarity", json=body | {"model": "canary"}).json() for body, _ in requests[:30]]
    assert {answer["model"] for answer in answers} == {"mini", "org/other"}
    assert [answer["results"][0]["similarity"] for answer in answers] == [score for _, score in requests[:30]]


def test_refusals_and_pages_are_the_plain_services(service: httpx.Client) -> None:
    pair = base64_pair(make_png(), "red")
    unknown = service.post("/v1/similarity", json={"pairs": [pair], "model": "nonsense"})
    assert (unknown.status_code, unknown.json()["code"]) == (404, "unknown_model")
    assert len(unknown.headers.get_list("x-request-id")) == 1
    many = service.post("/v1/similarity", json={"pairs": [pair] * 65})
    assert (many.status_code, many.json()["code"]) == (422, "invalid_request")
    failed = service.post("/v1/similarity", json={"pairs": [pair, {"image_url": "file:///x", "caption": "a"}]}).json()
    assert [result["error"] and result["error"]["code"] for result in failed["results"]] == [None, "unsupported_scheme"]
    models = service.get("/v1/models").json()["data"]
    assert [(model["id"], model["loaded"]) for model in models] == [
        ("mini", True),
        ("org/other", True),
        ("canary", True),
    ]
    assert service.get("/v1/info").json()["models"]["org/other"]["embed_dim"] == 256
    assert service.get("/livez").json() == {"status": "ok"}
    assert "/v1/similarity" in service.get("/openapi.json").json()["paths"]


def test_no_room_is_told_at_once_and_who_leaves_makes_room(
    service: httpx.Client, url: str, server: Server, requests: list[tuple[dict[str, Any], float]]
) -> None:
    server.routes["/hang"] = server.hang
    hanging: dict[str, Any] = {"pairs": [{"image_url": server.url("/hang"), "caption": "a"}], "model": "org/other"}

    async def crowd() -> None:
        async with httpx.AsyncClient(base_url=url, timeout=60, trust_env=False) as client:

            def ask(body: dict[str, Any]) -> asyncio.Task[httpx.Response]:
                return asyncio.create_task(client.post("/v1/similarity", json=body))

            inside = []
            for count in (1, 2):  # as many as the replica takes
                inside.append(ask({**hanging, "pairs": [{**hanging["pairs"][0], "id": count}]}))
                await asyncio.to_thread(server.wait_for, "/hang", count)
            waiting = [ask(hanging), ask(hanging)]  # and there is room for one of them
            done, queued = await asyncio.wait(waiting, timeout=30, return_when=asyncio.FIRST_COMPLETED)
            refused = done.pop().result()
            assert (refused.status_code, refused.json()["code"]) == (429, "queue_full"), refused.text
            assert refused.headers["Retry-After"] == "1"
            assert len(queued) == 1
            for task in (*inside, *queued):
                task.cancel()
            body, score = requests[0]
            async with asyncio.timeout(20):  # without room it takes the minute that a download may
                found = (await client.post("/v1/similarity", json=body | {"model": "org/other"})).json()
            assert found["results"][0]["similarity"] == score

    asyncio.run(crowd())
    assert total(scraped(service), "queue_full") == 1


def test_a_killed_replica_loses_no_request(
    service: httpx.Client, url: str, requests: list[tuple[dict[str, Any], float]]
) -> None:
    with Load(url, requests) as load:
        wait_for(load.answered(50))
        kill_one("model-mini", load)
        wait_for(load.answered(100))
    assert load.lost == {}


def test_a_model_without_replicas_makes_it_unready(
    service: httpx.Client, requests: list[tuple[dict[str, Any], float]]
) -> None:
    kill_one("model-org-other")
    problem = wait_for(lambda: None if (answer := service.get("/readyz")).status_code == 200 else answer.json())
    assert (problem["status"], problem["code"]) == (503, "model_unavailable")
    assert problem["detail"] == "no replica of org/other responds"
    for model in ("mini", "org/other"):  # the second waits for a new replica
        body, score = requests[0]
        answer = service.post("/v1/similarity", json=body | {"model": model})
        assert answer.json()["results"][0]["similarity"] == score
    wait_for(lambda: service.get("/readyz").status_code == 200)


def test_a_killed_gateway_loses_what_it_had(
    service: httpx.Client, url: str, requests: list[tuple[dict[str, Any], float]]
) -> None:
    with Load(url, requests) as load:
        wait_for(load.answered(50))
        kill_one("gateway", load)
        wait_for(load.answered(100))
    assert sum(load.lost.values()) <= load.clients
    assert set(load.lost) <= {"500 Internal Server Error"}
    wait_for(lambda: service.get("/readyz").status_code == 200)


def test_all_ports_are_this_machines_alone(service: httpx.Client) -> None:
    listening = {c.laddr.ip for p in family() for c in p.net_connections("inet") if c.status == "LISTEN"}
    assert {ip.removeprefix("::ffff:") for ip in listening} == {"127.0.0.1"}
