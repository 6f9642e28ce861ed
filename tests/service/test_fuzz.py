"""The service against its own OpenAPI document: what schemathesis makes of it is answered as the document says.

SCHEMATHESIS_CASES=5000 asks for more requests than `make test` has time for.
"""

from __future__ import annotations

import os
from base64 import b64encode
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zlib import crc32

import httpx
import pytest
import schemathesis
from schemathesis.engine import events, from_schema

from tests.support.images import make_png
from tests.support.services import mini_settings, serving
from text_image_similarity.search import Field, Product, open_catalog
from text_image_similarity.service import create_app
from text_image_similarity.service.inference.local import LocalModelPool
from text_image_similarity.service.keys import ApiKey
from text_image_similarity.service.search.upkeep import Upkeep
from text_image_similarity.service.telemetry.metrics import Metrics

CASES = int(os.environ.get("SCHEMATHESIS_CASES", "150"))
WORK = 17  # operations with many requests; each of the others has one that can be made of its description
KEY = "the-operators"
AUTH = {"auth": {"openapi": {"bearer": {"bearer": KEY}}}}
PRODUCTS = ["red/1", "bare", "gone"]
# There is no new model to switch to, and no match of an invented id.
NEVER = {
    "POST /v1/catalogs/{catalog}:switch",
    "POST /v1/catalogs/{catalog}:rollback",
    "POST /v1/matches/{match_id}/events",
}
IMAGES = ["data:image/png;base64," + b64encode(make_png(colour)).decode() for colour in ("red", "blue")]


@dataclass
class Found:
    """What a run found.

    Args:
        statuses: How many requests to an operation were answered with a status.
        failures: What was not as documented, each with the request that shows it.
    """

    statuses: Counter[tuple[str, int]] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The places of catalogues with two products, which no process reindexes."""

    async def start(self: Upkeep, model: str) -> None:
        self._state = {"model": model, "state": "running", "detail": None}

    monkeypatch.setattr(Upkeep, "start_reindex", start)
    with open_catalog(tmp_path / "shop", fields=[Field("category"), Field("price", "number")], model="mini") as catalog:
        catalog.add([Product(id, id, IMAGES[:1], fields={"category": "Shoes", "price": 1}) for id in PRODUCTS])
    return {"shop": str(tmp_path / "shop")}


@contextmanager
def isolated(**changes: Any) -> Iterator[tuple[httpx.Client, Counter[str]]]:
    """Serve `mini` to a client; what it would fetch is made up here, and counted by host."""
    asked: Counter[str] = Counter()

    def fetched(request: httpx.Request) -> httpx.Response:
        asked[request.url.host] += 1
        return httpx.Response(200, content=make_png("red")) if len(str(request.url)) % 2 else httpx.Response(404)

    settings, metrics = mini_settings(**changes), Metrics()
    pool = LocalModelPool(settings, metrics, transport=httpx.MockTransport(fetched))
    with serving(create_app(settings, pool=pool, metrics=metrics)) as client:
        yield client, asked


def run(client: httpx.Client, examples: int, **config: Any) -> Found:
    """Send what the document gives rise to, and that many requests made at random to each operation."""
    negative, positive = {"expected-statuses": ["4xx"]}, {"expected-statuses": ["2xx", "404"]}  # there is no such model
    settings = {
        "seed": 7,
        "continue-on-failure": True,
        "generation": {"max-examples": examples, "database": "none"},
        "phases": {"stateful": {"enabled": False}},
        "checks": {"negative_data_rejection": negative, "positive_data_acceptance": positive},
        "operations": [
            {  # any text may be an image as far as a schema can tell, and what is none cannot be embedded
                "include-path": "/v1/embeddings",
                "checks": {"positive_data_acceptance": {"expected-statuses": ["2xx", "404", "422"]}},
            },
            {  # a value of a wrong type is text like any other when a form holds it; see below
                "include-path": "/v1/similarity/upload",
                "checks": {"negative_data_rejection": {"enabled": False}},
            },
            {  # a schema knows neither the fields of a catalogue, nor what is in it, nor what is done with it
                "include-path-regex": "^/(match-|v1/catalogs|v1/matches)",
                "checks": {"positive_data_acceptance": {"expected-statuses": ["2xx", "404", "409", "422"]}},
            },
            {  # an id that was wrong is one that is there, see `map_path_parameters`
                "include-path-regex": "^/v1/catalogs/.*{id}",
                "checks": {
                    "negative_data_rejection": {"enabled": False},
                    "positive_data_acceptance": {"expected-statuses": ["2xx", "404", "409", "422"]},
                },
            },
            {
                "include-path": "/match-image",
                "checks": {
                    "negative_data_rejection": {"enabled": False},
                    "positive_data_acceptance": {"expected-statuses": ["2xx", "422"]},
                },
            },
        ],
        **config,
    }
    url = f"{client.base_url}/openapi.json"
    schema = schemathesis.openapi.from_url(url, config=schemathesis.Config.from_dict(settings))
    schema.validate()
    for hook in (map_body, map_headers, map_path_parameters, map_query):
        schema.hook(hook)
    found = Found()
    for event in from_schema(schema).execute():
        assert not isinstance(event, (events.NonFatalError, events.FatalError)), event
        if isinstance(event, events.ScenarioFinished):
            note(found, event)
    return found


def map_body(context: Any, body: Any) -> Any:
    """Let a share of the texts and nulls that stand for images be images, so that more than refusals is seen."""
    pairs = (
        [pair for value in body.values() if isinstance(value, list) for pair in value] if isinstance(body, dict) else []
    )
    for pair in [body, *pairs]:
        for name in ("image_url", "image_base64", "image_input"):
            if isinstance(pair, dict) and isinstance(text := pair.get(name, 0), str | None):
                number = crc32(repr(pair).encode("utf-8", "replace"))
                image = IMAGES[number % 2]
                url = f"http://pictures.test/{number % 9}.png"
                pair[name] = [text, image, image if name == "image_base64" else url][number % 3]
    return body


def map_headers(context: Any, headers: Any) -> Any:
    """Leave out headers that frame a request: one that is wrong ends the connection before there is a request to answer."""
    framing = {"connection", "content-length", "expect", "transfer-encoding", "upgrade"}
    return {name: value for name, value in headers.items() if name.lower() not in framing} if headers else headers


def map_path_parameters(context: Any, parameters: Any) -> Any:
    """Let a share of the names in paths be those of what is there."""
    there = PRODUCTS[2:] if context.operation.method == "delete" else PRODUCTS[:2]
    number = crc32(repr(parameters).encode("utf-8", "replace"))
    for name, values in (("catalog", ["shop"]), ("id", there)):
        if (parameters or {}).get(name) and number % 8:
            parameters[name] = values[number % len(values)]
    return parameters


def map_query(context: Any, query: Any) -> Any:
    """Let a share of filters and fields be some that can be used."""
    number = crc32(repr(query).encode("utf-8", "replace"))
    if isinstance(query, dict) and number % 2:
        query |= {name: value for name, value in (("where", "price <= 9"), ("field", ["category"])) if name in query}
        query.pop("page", None)
    return query


def note(found: Found, event: events.ScenarioFinished) -> None:
    for interaction in event.recorder.interactions.values():
        assert interaction.response is not None, "no answer came"
        found.statuses[event.label or "", interaction.response.status_code] += 1
    for checks in event.recorder.checks.values():
        for check in checks:
            if (info := check.failure_info) is not None:
                found.failures.append(
                    f"{event.label}: {info.failure.title}: {info.failure.message}\n{info.code_sample}"
                )


@pytest.mark.slow
def test_every_answer_is_as_the_document_says(shop: dict[str, str]) -> None:
    with isolated(catalogs=shop, api_keys=(ApiKey(KEY, role="admin"),)) as (client, asked):
        found = run(client, examples=max(10, (CASES - 500) // WORK), **AUTH)
        assert client.get("/readyz").status_code == 200
    assert not found.failures, "\n\n".join(found.failures[:10])
    total = found.statuses.total()
    by_status = sorted(Counter(status for _, status in found.statuses.elements()).items())
    print(f"{total} requests, by status: {by_status}")  # noqa: T201 - the figures of a long run
    assert total >= CASES
    assert not [key for key in found.statuses if key[1] >= 500]
    assert {status for _, status in found.statuses} >= {200, 401}
    for operation in {operation for operation, _ in found.statuses} - NEVER:
        assert any(found.statuses[operation, status] for status in (200, 202, 204)), operation
    refused = {operation.partition(" ")[2] for operation, status in found.statuses if status == 405}
    assert refused == {operation.partition(" ")[2] for operation, _ in found.statuses}
    assert asked["pictures.test"], "no request had an image to fetch"


def test_keys_are_as_the_document_says(shop: dict[str, str]) -> None:
    with isolated(catalogs=shop, api_keys=(ApiKey(KEY, role="admin"),)) as (client, _):
        document = client.get("/openapi.json").json()
        keyed = {
            path for path, methods in document["paths"].items() for found in methods.values() if "security" in found
        }
        for path, methods in document["paths"].items():
            for method in methods:
                assert (client.request(method, path).status_code == 401) == (path in keyed), path


def test_the_document_tells_of_this_services_limits() -> None:
    schemas = create_app(mini_settings(max_pairs=3)).openapi()["components"]["schemas"]
    assert schemas["SimilarityRequest"]["properties"]["pairs"]["maxItems"] == 3
    assert schemas["EmbeddingsRequest"]["properties"]["input"]["anyOf"][1]["maxItems"] == 3


@pytest.mark.parametrize("path", ["/v1/similarity", "/v1/embeddings"])
def test_as_many_items_are_taken_as_the_document_says(path: str) -> None:
    with isolated(max_pairs=3) as (client, _):
        pair = {"image_url": IMAGES[0], "caption": "a"}
        for count, status in ((0, 422), (1, 200), (3, 200), (4, 422)):
            body = {"input": ["a"] * count} if path.endswith("embeddings") else {"pairs": [pair] * count}
            assert client.post(path, json=body).status_code == status


def test_wrong_forms_are_refused() -> None:
    image, caption = ("image", ("a.png", make_png("red"))), ("caption", (None, "a red square"))
    forms: list[tuple[int, list[tuple[str, Any]]]] = [
        (200, [image, caption]),
        (200, [image, caption, ("score", (None, "unit")), ("model", (None, "mini")), ("other", (None, "x"))]),
        (
            200,
            [image, caption, ("score", (None, "")), ("model", (None, ""))],
        ),  # as a page's form sends what is not given
        (422, [image]),
        (422, [caption, ("other", ("a.png", b"x"))]),
        (422, [image, ("caption", (None, ""))]),
        (422, [image, ("caption", ("a.txt", b"a red square"))]),
        (422, [("image", (None, "text")), caption]),
        (422, [image, image, caption]),
        (422, [image, caption, ("score", (None, "dot"))]),
        (404, [image, caption, ("model", (None, "other"))]),
    ]
    with isolated() as (client, _):
        for status, fields in forms:
            answer = client.post("/v1/similarity/upload", files=fields)
            assert answer.status_code == status, (fields, answer.text)
