"""Long responses are counted while they are written, whatever their route, and short ones cost nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.service.test_http import problem
from tests.service.test_search import FIELDS
from tests.support.images import inline
from tests.support.services import app_of, mini_settings, serving
from text_image_similarity.encoders.testing import ColourEncoder
from text_image_similarity.errors import DatabaseError
from text_image_similarity.search import Product, open_catalog
from text_image_similarity.search.searcher import Searcher
from text_image_similarity.service.http.exchange import OutgoingAnswer
from text_image_similarity.service.http.json_bodies import JsonAnswer
from text_image_similarity.service.problems import ProblemError

PIECE = 1 << 16
EVALUATION = {"image_input": "nothing", "text_prompt": "p" * 2000}
LONG: dict[str, tuple[str, str, Any]] = {
    "similarity": ("POST", "/v1/similarity", {"pairs": [{"id": "i" * 1000, "image_url": "x", "caption": "c"}] * 64}),
    "embeddings": ("POST", "/v1/embeddings", {"input": [f"red {n}" for n in range(64)]}),
    "single": ("POST", "/evaluator/v1/evaluation/single", {"image_input": "x", "text_prompt": "p" * 3 * PIECE}),
    "batch": ("POST", "/evaluator/v1/evaluation/batch", {"evaluations": [EVALUATION] * 100}),
    "facets": ("GET", "/v1/catalogs/shop/facets?field=shop&most=1000", None),
    "product": ("GET", "/v1/catalogs/shop/products/0", None),
    "image": ("GET", "/v1/catalogs/shop/products/image/image", None),
}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    place = tmp_path_factory.mktemp("counted") / "shop"
    with open_catalog(place, fields=FIELDS, model="mini") as catalog:
        catalog.add(
            Product(str(n), description="d" * 99_000 * (n == 0), fields={"shop": f"{n} " + "n" * 5000})
            for n in range(40)
        )
        catalog.add(Product("image", images=inline("red")))
    with serving(app_of(mini_settings(catalogs={"shop": str(place)}))) as client:
        yield client


def ask(service: httpx.Client, route: str) -> httpx.Response:
    method, path, body = LONG[route]
    return service.request(method, path, json=body)


@pytest.mark.parametrize("route", LONG)
def test_long_answers_of_every_route_are_counted_and_refused_where_there_is_no_room(
    service: httpx.Client, monkeypatch: pytest.MonkeyPatch, route: str
) -> None:
    counted: list[int] = []

    def count(self: OutgoingAnswer, size: int) -> None:
        counted.append(size)
        if full:
            raise ProblemError("queue_full", "no room", retry_after_s=1)

    monkeypatch.setattr(OutgoingAnswer, "count", count)
    full = False
    answer = ask(service, route)
    assert answer.status_code == 200, answer.text[:300]
    assert sum(counted) == len(answer.content)
    counted.clear()
    full = True
    problem(ask(service, route), 429, "queue_full")
    assert len(counted) == 1
    if route != "image":  # whose memory is shared
        assert PIECE < counted[0] < len(answer.content) or route in ("single", "product")


def test_an_answer_that_is_made_twice_is_counted_once(service: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[int] = []
    failures = [DatabaseError("a generation was dropped")]

    def has_followed(self: Searcher, *given: Any) -> bool:
        if failures:
            raise failures.pop()
        return False

    monkeypatch.setattr(OutgoingAnswer, "count", lambda self, size: counted.append(size))
    monkeypatch.setattr(Searcher, "has_followed", has_followed)
    totals = []
    for _ in ("twice", "once"):
        counted.clear()
        answer = service.post("/v1/catalogs/shop/match", json={"queries": [{"top_k": 30}, {"top_k": 5}]})
        assert answer.status_code == 200, answer.text[:300]
        totals.append(sum(counted))
    assert totals[0] == totals[1] > PIECE


def test_short_answers_are_not_counted(service: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OutgoingAnswer, "count", None)
    body: Any = {"pairs": [{"image_url": inline("red"), "caption": "red"}]}
    assert service.post("/v1/similarity", json=body).status_code == 200
    for path in ("/v1/catalogs", "/v1/catalogs/shop", "/v1/catalogs/shop/products/image", "/v1/models", "/v1/info"):
        assert service.get(path).status_code == 200


def test_facets_are_no_longer_than_an_answer_may_be(tmp_path: Path) -> None:
    with open_catalog(tmp_path / "shop", fields=FIELDS, encoder=ColourEncoder()) as catalog:
        catalog.add(Product(str(n), fields={"shop": f"{n} " + "n" * 9000}) for n in range(300))
    with serving(
        app_of(mini_settings(catalogs={"shop": str(tmp_path / "shop")}, max_body_bytes=1 << 20), ColourEncoder())
    ) as client:
        problem(client.get("/v1/catalogs/shop/facets?field=shop&most=1000"), 413, "too_many_bytes")
        assert len(client.get("/v1/catalogs/shop/facets?field=shop&most=3").json()["facets"]["shop"]["values"]) == 3


@pytest.mark.parametrize("levels", range(5))
def test_json_is_the_same_in_parts(levels: int) -> None:
    content = {"a": [], "b": {}, "c": [1, [2.5, None], {"d": {"e": "\u00e9\n"}}], "f": float("nan"), "g": "x" * PIECE}
    sizes: list[int] = []
    answer = JsonAnswer(content, count=sizes.append, levels=levels)
    assert answer.body == JsonAnswer(content).body
    assert json.loads(bytes(answer.body))["c"] == content["c"]
    assert sum(sizes) == len(answer.body)


def test_nothing_more_is_written_without_room() -> None:
    def items() -> Iterator[str]:
        for number in range(1000):
            made.append(number)
            yield "x" * 1000

    def count(size: int) -> None:
        if made[-1] > 100:
            raise ProblemError("queue_full", "no room")

    made: list[int] = []
    with pytest.raises(ProblemError):
        JsonAnswer({"data": items()}, count=count)
    assert len(made) < 200
