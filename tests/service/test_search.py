"""Catalogues over HTTP: the library's answers to the digit, what keys may see, and the match log."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.service.test_http import problem
from tests.support.clock import wait_for
from tests.support.images import make_png
from tests.support.paths import ROOT
from tests.support.services import app_of, base64_pair, mini_settings, serving
from text_image_similarity.encoders.testing import ColourEncoder
from text_image_similarity.errors import DatabaseError, ErrorCode, RowError
from text_image_similarity.search import Catalog, Field, Product, Query, Term, open_catalog
from text_image_similarity.search.match_log import LogQueries, LogWriter, masked_query, open_match_log, privacy
from text_image_similarity.service.inference.local import LocalModelPool
from text_image_similarity.service.keys import ApiKey, read_keys
from text_image_similarity.service.pool import inflight_problem
from text_image_similarity.service.problems import ProblemError
from text_image_similarity.service.search import journal as journal_of
from text_image_similarity.service.search.errors import refused
from text_image_similarity.service.search.upkeep import Upkeep

FIELDS = [Field("shop"), Field("price", "number"), Field("added", "date")]
COLOURS = ["red", "green", "blue", "white", "black", "yellow"]
KEYS = (
    ApiKey("reader"),
    ApiKey("writer", name="import", role="write"),
    ApiKey("boss", name="boss", role="admin"),
    ApiKey("acme", name="acme", role="write", where='shop = "acme"'),
    ApiKey("other", name="other", catalogs=("second",)),
)


def products(folder: Path) -> list[Product]:
    found = []
    for number, colour in enumerate(COLOURS):
        image = folder / f"{colour}.png"
        image.write_bytes(make_png(colour))
        fields = {"shop": "acme" if number % 2 else "best", "price": 10.0 * number, "added": f"2026-01-0{number + 1}"}
        found.append(Product(f"{colour}/1", f"A {colour} thing", str(image), fields=fields))
    return [*found, Product("bare", "Nothing to see", fields={"shop": "acme"})]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shop")
    with open_catalog(folder / "shop.catalog", fields=FIELDS, model="mini") as catalog:
        catalog.add(products(folder))
    return folder / "shop.catalog"


@pytest.fixture(scope="module")
def catalog(place: Path) -> Iterator[Catalog]:
    with open_catalog(place) as found:
        yield found


@pytest.fixture(scope="module")
def service(place: Path) -> Iterator[httpx.Client]:
    settings = mini_settings(catalogs={"shop": str(place)}, api_keys=KEYS[:4])
    with serving(app_of(settings)) as client:
        client.headers["X-API-Key"] = "reader"
        yield client


def as_library(answer: dict[str, Any]) -> list[tuple[Any, ...]]:
    return [(m["product"]["id"], m["similarity"], m["probability"], m["score"], m["rank"]) for m in answer["matches"]]


def of_library(catalog: Catalog, query: Query) -> list[tuple[Any, ...]]:
    return [(m.product.id, m.similarity, m.probability, m.score, m.rank) for m in catalog.match(query)]


def test_the_short_routes_answer_as_the_library_does(service: httpx.Client, catalog: Catalog) -> None:
    asked = {"text": "a red thing", "top_k": 3, "where": "price <= 40", "facets": ["shop"], "without": "green"}
    found = service.post("/match-text", json=asked).json()
    query = Query([Term("a red thing"), Term("green", weight=-0.75)], where="price <= 40", top_k=3, facets=["shop"])
    expected = catalog.match(query)
    assert as_library(found) == of_library(catalog, query)
    assert (found["total"], found["facets"]) == (expected.total, expected.as_dict()["facets"])
    assert [reason["contribution"] for reason in found["matches"][0]["why"]] == [
        r.contribution for r in expected[0].why
    ]
    more = service.post("/match-text", json={**asked, "page": found["next"]}).json()
    assert [match["rank"] for match in more["matches"]] == [4, 5]

    image = make_png("blue")
    query = Query([Term(image=image), Term("blue")], top_k=2)
    form = {"text": "blue", "top_k": "2"}
    by_form = service.post("/match-image", files={"image": ("a.png", image)}, data=form).json()
    encoded = base64_pair(image, "")["image_base64"]
    by_json = service.post("/match-image", json={"image_base64": encoded, "text": "blue", "top_k": 2}).json()
    assert as_library(by_form) == as_library(by_json) == of_library(catalog, query)


def test_several_queries_are_answered_in_order_and_each_for_itself(service: httpx.Client, catalog: Catalog) -> None:
    queries = [
        {"terms": ["red"], "top_k": 2},
        {"terms": [{"image_base64": "AAAA"}]},
        {
            "terms": [{"product": "red/1"}, {"text": "blue", "weight": 0.5}],
            "group": True,
            "sort": "-price",
            "min_similarity": -1,
        },
        {"sort": "price", "where": {"shop": "acme"}},
    ]
    found = service.post("/v1/catalogs/shop/match", json={"queries": queries}).json()["results"]
    assert found[1]["error"]["code"] == "not_an_image"
    wanted = [
        Query("red", top_k=2),
        None,
        Query([Term(product="red/1"), Term("blue", weight=0.5)], group=True, sort="-price", min_similarity=-1),
        Query(sort="price", where={"shop": "acme"}),
    ]
    for each, query in zip(found, wanted, strict=True):
        if query is not None:
            assert as_library(each) == of_library(catalog, query)
    assert len({each["match_id"] for each in found}) == 4


def test_what_cannot_be_asked_is_refused_in_words(service: httpx.Client) -> None:
    for body, word in [
        ({"text": ""}, "/text"),
        ({"text": "x", "top_k": 1001}, "/top_k"),
        ({"text": "x", "where": "prize < 3"}, "'prize'"),
        ({"text": "x", "page": "AAAA"}, "cursor"),
        ({"text": "x", "facets": ["nope"]}, "'nope'"),
        ({"text": "x", "min_similarity": 2}, "/min_similarity"),
        ({"text": "x", "colour": 1}, "/colour"),
    ]:
        assert word in problem(service.post("/match-text", json=body), 422, "invalid_request")["detail"]
    queries = {"queries": [{"terms": ["x"]}, {"terms": [{"product": "gone"}]}]}
    assert "'gone'" in problem(service.post("/v1/catalogs/shop/match", json=queries), 422, "invalid_request")["detail"]
    queries = {"queries": [{"terms": ["x"]}, {"terms": [{"text": "a", "product": "b"}]}]}
    assert (
        "/queries/1" in problem(service.post("/v1/catalogs/shop/match", json=queries), 422, "invalid_request")["detail"]
    )
    for given in (
        {},
        {"image_url": "/etc/passwd"},
        {"image_url": "file:///etc/passwd"},
        {"image_url": "http://x", "image_base64": ""},
    ):
        problem(service.post("/match-image", json=given), 422, "invalid_request")
    problem(service.post("/match-image", data={"text": "x"}, files={"picture": b""}), 422, "invalid_request")
    problem(
        service.post("/match-image", content=b"x", headers={"content-type": "text/plain"}),
        415,
        "unsupported_media_type",
    )
    assert (
        "shop"
        in problem(service.post("/v1/catalogs/x/match", json={"queries": [{}]}), 404, "unknown_catalog")["detail"]
    )


def test_products_and_their_images_are_shown_without_where_they_are(service: httpx.Client, place: Path) -> None:
    found = service.get("/v1/catalogs/shop/products/red%2F1").json()
    assert (found["name"], found["fields"]["price"]) == ("A red thing", 0)
    everything = [service.post("/match-text", json={"text": "red"}).text, json.dumps(found)]
    assert not any(str(place.parent) in text for text in everything)
    path = service.post("/match-text", json={"text": "red"}).json()["matches"][0]["thumbnail"]
    image = service.get(path)
    assert (image.headers["content-type"], image.content[:2]) == ("image/jpeg", b"\xff\xd8")
    again = service.get(path, headers={"if-none-match": image.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    problem(service.get("/v1/catalogs/shop/products/bare/image"), 404, "not_found")
    problem(service.get("/v1/catalogs/shop/products/gone/image"), 404, "unknown_product")
    similar = service.get("/v1/catalogs/shop/products/red%2F1/similar", params={"top_k": 2}).json()
    assert "red/1" not in [match["product"]["id"] for match in similar["matches"]] != []
    facets = service.get("/v1/catalogs/shop/facets", params={"field": ["shop", "price", "added"]}).json()
    assert facets["total"] == 7
    assert facets["facets"]["shop"]["values"] == [{"value": "acme", "count": 4}, {"value": "best", "count": 3}]
    few = service.get("/v1/catalogs/shop/facets", params={"field": "shop", "most": 1}).json()
    assert few["facets"]["shop"]["values"] == [{"value": "acme", "count": 4}]
    assert (facets["facets"]["price"]["min"], facets["facets"]["price"]["max"]) == (0, 50)
    assert facets["facets"]["added"]["min"] == "2026-01-01"


def test_health_and_the_list_say_what_is_served(service: httpx.Client) -> None:
    health = httpx.get(f"{service.base_url}/health", trust_env=False).json()  # without a key
    assert (health["status"], health["catalog"], health["products"], health["generation"]) == ("healthy", "shop", 7, 1)
    (listed,) = service.get("/v1/catalogs").json()["data"]
    assert (listed["name"], listed["default"], listed["model"]) == ("shop", True, "mini")
    assert listed["fields"][1] == {"name": "price", "kind": "number"}


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[httpx.Client]:
    """A service that may be written to, with a second catalogue and a tiny encoder."""
    names = {"shop": tmp_path / "shop.catalog", "second": tmp_path / "second.catalog"}
    for folder in names.values():
        with open_catalog(folder, fields=FIELDS, encoder=ColourEncoder()) as catalog:
            catalog.add(products(tmp_path))
    settings = mini_settings(catalogs={name: str(folder) for name, folder in names.items()}, api_keys=KEYS)
    with serving(app_of(settings, ColourEncoder())) as client:
        yield client


def by(key: str) -> dict[str, str]:
    return {"X-API-Key": key}


def ids(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    return sorted(match["product"]["id"] for match in answer.json()["matches"])


def test_a_write_that_goes_on_when_its_request_has_ended_is_still_checked(
    shop: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks: list[Any] = []

    async def write(upkeep: Upkeep, products: list[Product], deleted: list[str], check: Any) -> dict[str, Any]:
        checks.append(check)
        return {"refused": [], "failures": {}, "blocked": []}

    monkeypatch.setattr(Upkeep, "write", write)
    body = {"fields": {"shop": "acme"}}
    assert shop.put("/v1/catalogs/shop/products/new", json=body, headers=by("acme")).status_code == 200
    with pytest.raises(ProblemError, match="the filter of this key does not allow"):
        asyncio.run(checks[0]([Product("theirs", fields={"shop": "best"})], []))


def test_a_tenant_gets_around_its_filter_by_no_way(shop: httpx.Client) -> None:
    own, theirs = ["bare", "green/1", "white/1", "yellow/1"], "red/1"
    acme, url = by("acme"), "/v1/catalogs/shop"
    for where in (
        None,
        'shop = "best"',
        'shop = "best" or shop = "acme"',
        'not shop = "acme"',
        {"or": [{"shop": "best"}]},
        'shop = "x" or _id exists',
    ):
        query: dict[str, Any] = {"where": where, "top_k": 100}
        found = ids(shop.post("/match-text", json={**query, "text": "red"}, headers=acme))
        assert set(found) <= set(own)
        for fusion in ("sum", "rrf"):
            queries = {"queries": [{**query, "terms": ["red"], "fusion": fusion}, query]}
            for each in shop.post(f"{url}/match", json=queries, headers=acme).json()["results"]:
                assert {match["product"]["id"] for match in each["matches"]} <= set(own)
    everybody = shop.post(
        "/match-text", json={"text": "red", "top_k": 1, "where": "shop exists"}, headers=by("reader")
    ).json()
    problem(
        shop.post("/match-text", json={"text": "red", "top_k": 1, "page": everybody["next"]}, headers=acme),
        422,
        "invalid_request",
    )
    queries = {"queries": [{"terms": [{"product": theirs}]}]}
    problem(shop.post(f"{url}/match", json=queries, headers=acme), 404, "unknown_product")
    for method, path in [("GET", ""), ("GET", "/similar"), ("GET", "/image"), ("DELETE", "")]:
        problem(shop.request(method, f"{url}/products/red%2F1{path}", headers=acme), 404, "unknown_product")
    problem(
        shop.put(f"{url}/products/red%2F1", json={"fields": {"shop": "acme"}}, headers=acme), 404, "unknown_product"
    )
    problem(shop.put(f"{url}/products/new", json={"fields": {"shop": "best"}}, headers=acme), 403, "forbidden")
    problem(shop.post(f"{url}/products:batch", json={"delete": ["bare", theirs]}, headers=acme), 404, "unknown_product")
    facets = shop.get(f"{url}/facets", params={"field": "shop"}, headers=acme).json()
    assert (facets["total"], [each["value"] for each in facets["facets"]["shop"]["values"]]) == (4, ["acme"])
    assert shop.get("/v1/catalogs", headers=acme).json()["data"][0]["products"] == 4
    match_id = shop.post("/match-text", json={"text": "red"}, headers=by("reader")).json()["match_id"]
    event = {"kind": "click", "product": theirs}
    problem(shop.post(f"/v1/matches/{match_id}/events", json=event, headers=acme), 404, "unknown_match")
    assert (
        shop.put(f"{url}/products/new", json={"name": "n", "fields": {"shop": "acme"}}, headers=acme).json()["added"]
        == 1
    )
    assert (
        len(
            ids(
                shop.post(
                    "/match-text", json={"text": "red", "top_k": 100, "where": "_id exists"}, headers=by("reader")
                )
            )
        )
        >= 6
    )


def test_a_key_sees_its_catalogues_and_does_what_its_role_allows(shop: httpx.Client) -> None:
    assert [each["name"] for each in shop.get("/v1/catalogs", headers=by("other")).json()["data"]] == ["second"]
    problem(shop.post("/v1/catalogs/shop/match", json={"queries": [{}]}, headers=by("other")), 404, "unknown_catalog")
    assert shop.post("/match-text", json={"text": "red"}, headers=by("other")).json()["catalog"] == "second"
    for method, path, body in [
        ("PUT", "/products/x", {}),
        ("POST", "/products:batch", {}),
        ("POST", ":reindex", {"model": "mini"}),
    ]:
        problem(shop.request(method, f"/v1/catalogs/shop{path}", json=body, headers=by("reader")), 403, "forbidden")
    for path in (":switch", ":rollback"):
        problem(shop.post(f"/v1/catalogs/shop{path}", headers=by("writer")), 403, "forbidden")
        problem(shop.post(f"/v1/catalogs/shop{path}", headers=by("boss")), 409, "conflict")
    problem(shop.delete("/v1/catalogs/shop/products/bare", headers=by("reader")), 403, "forbidden")
    problem(shop.post("/match-text", json={"text": "red"}, headers=by("nobody")), 401, "unauthorized")
    assert "references" not in shop.get("/v1/catalogs/shop", headers=by("writer")).json()
    assert shop.get("/v1/catalogs/shop", headers=by("boss")).json()["generations"][0]["state"] == "live"


def test_requests_that_need_no_model_are_accepted_while_the_pool_is_full(
    shop: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.headers["X-API-Key"] = "boss"
    found = shop.post("/match-text", json={"text": "green", "top_k": 1}).json()
    monkeypatch.setattr(LocalModelPool, "refusal", lambda self: inflight_problem(1))
    problem(shop.post("/match-text", json={"text": "green"}), 429, "queue_full")
    problem(shop.post("/v1/catalogs/shop/products:batch", json={}), 429, "queue_full")
    event = {"kind": "click", "product": found["matches"][0]["product"]["id"]}
    assert shop.post(f"/v1/matches/{found['match_id']}/events", json=event).status_code == 204
    started: list[str] = []

    async def start(self: Upkeep, model: str) -> None:
        started.append(model)

    monkeypatch.setattr(Upkeep, "start_reindex", start)
    assert shop.post("/v1/catalogs/shop:reindex", json={"model": "mini"}).status_code == 202
    assert started == ["mini"]


def test_what_is_written_is_found_at_once_and_what_is_deleted_never(shop: httpx.Client) -> None:
    url, writer = "/v1/catalogs/shop", by("writer")
    asked = {"text": "red", "top_k": 1}
    first = shop.post("/match-text", json=asked, headers=writer).json()
    assert first["matches"][0]["product"]["id"] == "red/1"
    image = f"data:image/png;base64,{base64_pair(make_png('red'), '')['image_base64']}"
    body = {"name": "Red", "images": [image], "fields": {"shop": "best", "price": 3}}
    assert shop.put(f"{url}/products/a-red-one", json=body, headers=writer).json()["added"] == 1
    assert shop.put(f"{url}/products/a-red-one", json=body, headers=writer).json()["unchanged"] == 1
    assert shop.post("/match-text", json=asked, headers=writer).json()["matches"][0]["product"]["id"] == "a-red-one"
    for image in ("/etc/passwd", "file:///etc/passwd", "../x.png", f"data:,{'x' * 500_000}"):
        problem(shop.put(f"{url}/products/x", json={"images": [image]}, headers=writer), 422, "invalid_request")
    assert (
        "prize"
        in problem(
            shop.put(f"{url}/products/x", json={"fields": {"prize": 1}}, headers=writer), 422, "invalid_request"
        )["detail"]
    )
    assert shop.delete(f"{url}/products/a-red-one", headers=writer).status_code == 204
    assert shop.post("/match-text", json=asked, headers=writer).json()["matches"] == first["matches"]
    batch = {"products": [{"id": str(number), "name": "x"} for number in range(100)], "delete": ["red/1", "gone"]}
    found = shop.post(f"{url}/products:batch", json=batch, headers=writer).json()
    assert (found["added"], found["deleted"]) == (100, 1)


def test_each_answer_has_one_entry_in_the_log(shop: httpx.Client, tmp_path: Path) -> None:
    shop.headers["X-API-Key"] = "acme"
    found = shop.post(
        "/match-text", json={"text": "green", "top_k": 2, "where": "price > 0"}, headers={"X-Request-Id": "r-1"}
    ).json()
    product = found["matches"][0]["product"]["id"]
    events = f"/v1/matches/{found['match_id']}/events"
    assert shop.post(events, json={"kind": "click", "product": product}).status_code == 204
    problem(shop.post(events, json={"kind": "click", "product": "red/1"}), 422, "invalid_request")
    problem(shop.post(events, json={"kind": "like", "product": product}), 422, "invalid_request")
    problem(shop.post("/v1/matches/0/events", json={"kind": "click", "product": product}), 404, "unknown_match")
    shop.post("/match-text", json={"text": "x", "where": "nope = 1"})
    shop.post("/match-text", json={"text": "x", "where": "price > 1000"})
    shop.post("/match-text", content=b"{", headers={"Content-Type": "application/json"})
    shop.post("/match-text", json={"text": "x"}, headers={"X-API-Key": "wrong"})
    shop.post("/v1/catalogs/shop/match", json={"queries": [{"terms": ["a"]}, {"terms": [{"image_base64": "AAAA"}]}]})
    shop.get("/v1/catalogs/shop/products/bare/similar")
    shop.get("/v1/catalogs/shop/products/green%2F1/similar")
    with closing(open_match_log(tmp_path / "shop.catalog")) as log:
        wait_for(lambda: len(list(log.entries())) == 8)
        entries = {entry.id: entry for entry in log.entries()}
        first = entries[found["match_id"]]
        assert (first.route, first.request_id, first.tenant, first.status) == ("/match-text", "r-1", "acme", 200)
        assert [each["id"] for each in first.results] == [match["product"]["id"] for match in found["matches"]]
        assert first.query["terms"] == [{"text": "green", "weight": 1.0}]
        assert "acme" in json.dumps(first.where)
        assert (first.total, first.generation, first.plan) == (found["total"], 1, "exact")
        assert set(first.milliseconds) >= {"encode", "search", "total"}
        said = sorted((entry.error or "").partition(":")[0] for entry in entries.values())
        assert said == [
            "",
            "",
            "",
            "",
            "invalid_json",
            "invalid_request",
            "invalid_request",
            "not_an_image",
        ]
        wait_for(lambda: [event.product for event in log.events()] == [product])


def test_without_its_required_log_nothing_is_answered(tmp_path: Path) -> None:
    with open_catalog(tmp_path / "c", fields=FIELDS, encoder=ColourEncoder()) as catalog:
        catalog.add(products(tmp_path))
    settings = mini_settings(catalogs={"c": str(tmp_path / "c")}, match_log="required", log_queries="hashed")
    app = app_of(settings, ColourEncoder())
    with serving(app) as client:
        assert client.post("/match-text", json={"text": "red"}).status_code == 200
        with closing(open_match_log(tmp_path / "c")) as log:
            (entry,) = log.entries()
            assert "red" not in json.dumps(entry.query)
        for writer in app.state.journal.writers:
            writer.close()
        problem(client.post("/match-text", json={"text": "red"}), 503, "log_unavailable")
        assert client.get("/v1/catalogs").status_code == 200


@pytest.mark.parametrize("how", ["hashed", "off"])
def test_a_query_is_masked_once_and_not_on_the_event_loop(
    how: LogQueries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[LogQueries] = []
    loops = []

    def watched(query: Mapping[str, Any], queries: LogQueries) -> Mapping[str, Any]:
        with suppress(RuntimeError):  # no loop is running on this thread
            loops.append(asyncio.get_running_loop())
        calls.append(queries)
        return masked_query(query, queries)

    for module in (journal_of, privacy):
        monkeypatch.setattr(module, "masked_query", watched)
    with open_catalog(tmp_path / "c", fields=FIELDS, encoder=ColourEncoder()) as catalog:
        catalog.add(products(tmp_path))
    settings = mini_settings(catalogs={"c": str(tmp_path / "c")}, match_log="required", log_queries=how)
    with serving(app_of(settings, ColourEncoder())) as client:
        assert client.post("/match-text", json={"text": "red"}).status_code == 200
    assert (calls, loops) == ([how], [])
    with closing(open_match_log(tmp_path / "c")) as log:
        (entry,) = log.entries()
    assert ("terms" in entry.query) == (how == "hashed")
    assert "red" not in json.dumps(entry.query)
    long = journal_of._said_of(Query([Term(image="https://example.com/" + "x" * 201_000)]), how)
    assert journal_of._bounded(long, 200_000)[0] == ({"left_out": "201,020 characters"} if how == "hashed" else {})


@pytest.mark.parametrize(("count", "size"), [(700, 2000), (20, 3 << 20)], ids=["many entries", "large entries"])
def test_entries_of_one_request_are_required_even_if_they_do_not_fit_into_the_queue_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int, size: int
) -> None:
    monkeypatch.setattr(journal_of, "LogWriter", partial(LogWriter, most=600))
    monkeypatch.setattr(journal_of, "_ENTRY_BYTES", size)
    with open_catalog(tmp_path / "c", fields=FIELDS, encoder=ColourEncoder()) as catalog:
        catalog.add(Product("one"))
    settings = mini_settings(catalogs={"c": str(tmp_path / "c")}, match_log="required", max_pairs=700)
    with serving(app_of(settings, ColourEncoder())) as client:
        answer = client.post("/v1/catalogs/c/match", json={"queries": [{"top_k": 1}] * count})
        assert answer.status_code == 200, answer.text
    asked = [found["match_id"] for found in answer.json()["results"]]
    with closing(open_match_log(tmp_path / "c")) as log:
        assert sorted(entry.id for entry in log.entries()) == sorted(asked)
    assert len(asked) == count


def test_only_the_required_entries_that_are_not_written_count_as_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_of, "_groups", lambda kept: iter([kept[:3], kept[3:]]))
    write, written = LogWriter.write, iter(range(5))

    def fail(writer: LogWriter, *given: Any, **how: Any) -> Any:
        if next(written) >= 3:
            raise DatabaseError("the disk is full")
        return write(writer, *given, **how)

    monkeypatch.setattr(LogWriter, "write", fail)
    with open_catalog(tmp_path / "c", fields=FIELDS, encoder=ColourEncoder()) as catalog:
        catalog.add(Product("one"))
    app = app_of(mini_settings(catalogs={"c": str(tmp_path / "c")}, match_log="required"), ColourEncoder())
    with serving(app) as client:
        answer = client.post("/v1/catalogs/c/match", json={"queries": [{"top_k": 1}] * 5})
        problem(answer, 503, "log_unavailable")
        labels = app.state.journal._metrics.log_entries.labels
        assert [labels("c", result)._value.get() for result in ("written", "lost")] == [3, 2]


def test_the_sample_table_is_served_from_memory() -> None:
    settings = mini_settings(catalogs={"sample": str(ROOT / "sample_catalog" / "products.csv")})
    with serving(app_of(settings)) as client:
        found = client.post("/match-text", json={"text": "red shoe", "top_k": 3}).json()
        assert all("red" in match["product"]["id"] for match in found["matches"])
        assert client.get(found["matches"][0]["thumbnail"]).status_code == 200
        problem(client.put("/v1/catalogs/sample/products/x", json={}), 403, "forbidden")


def test_lines_of_keys_are_read_and_wrong_ones_named_without_the_key() -> None:
    lines = ["plain", "", '{"key": "k", "name": "n", "role": "write", "catalogs": ["a"], "where": {"shop": "x"}}']
    plain, full = read_keys(lines)
    assert (plain.role, full.may("write"), full.may("admin"), full.catalogs) == ("search", True, False, ("a",))
    for line, word in [
        ('{"key": "s3cret", "rol": 1}', "'rol'"),
        ('{"key": "s3cret", "role": "king"}', "role='king'"),
        ('{"name": "s3cret"}', '"key"'),
        ('{"key": "s3cret", "where": {"shop": "x"}}', "needs a name"),
        ('{"key": "s3cret", "name": " ", "where": "shop = 1"}', "needs a name"),
        ('{"key": "s3cret"', "JSON"),
    ]:
        with pytest.raises(Exception, match=f"line 2 .*{word}") as caught:
            read_keys(["x", line])
        assert "s3cret" not in str(caught.value)


def test_an_answer_from_before_a_store_followed_is_not_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_catalog(tmp_path / "c", fields=FIELDS, encoder=ColourEncoder()) as catalog:
        catalog.add(products(tmp_path)[1:])
        app = app_of(mini_settings(catalogs={"c": str(tmp_path / "c")}), ColourEncoder())
        with serving(app) as client:
            asked = {"text": "red", "top_k": 1}
            client.post("/match-text", json=asked)
            catalog.add(products(tmp_path)[0])
            with monkeypatch.context() as patch:  # as while another process makes the store follow
                patch.setattr(app.state.catalogs["c"].catalog._session, "follow", lambda *_, **__: None)
                assert ids(client.post("/match-text", json=asked)) != ["red/1"]
            assert ids(client.post("/match-text", json=asked)) == ["red/1"]


def test_a_query_that_is_not_encoded_in_time_may_be_sent_again() -> None:
    late = refused(RowError(ErrorCode.TIMEOUT, "the service did not finish within its limit of 30 s"))
    assert (late.status, late.headers["Retry-After"]) == (503, "1")
    assert refused(RowError(ErrorCode.NOT_AN_IMAGE, "it is text")).status == 422
