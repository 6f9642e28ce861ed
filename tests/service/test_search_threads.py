"""What a request of a search service asks for is read and checked on threads, and refused first if it is too long."""

from __future__ import annotations

import threading
from base64 import b64encode
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.service.test_http import problem
from tests.service.test_search import FIELDS, KEYS, by, products
from tests.support.images import make_png
from tests.support.services import app_of, mini_settings, serving
from text_image_similarity.encoders.testing import ColourEncoder
from text_image_similarity.search import open_catalog
from text_image_similarity.service.http import access, catalog_routes
from text_image_similarity.service.http.access import check_length
from text_image_similarity.service.keys import ApiKey
from text_image_similarity.service.problems import ProblemError
from text_image_similarity.service.search import catalog as serving_catalog
from text_image_similarity.service.search import journal

SHOP = "/v1/catalogs/shop"
BEST = ApiKey("best", name="best", role="write", where='shop = "best"')


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    folder = tmp_path_factory.mktemp("threads")
    with open_catalog(folder / "shop.catalog", fields=FIELDS, encoder=ColourEncoder()) as catalog:
        catalog.add(products(folder))
    catalogs = {"shop": str(folder / "shop.catalog")}
    with serving(app_of(mini_settings(catalogs=catalogs, api_keys=(*KEYS[:4], BEST)), ColourEncoder())) as client:
        yield client


def noting(monkeypatch: pytest.MonkeyPatch, module: Any, name: str) -> list[str]:
    """Note the names of the threads that call a function."""
    seen: list[str] = []
    function = getattr(module, name)

    def note(*given: Any) -> Any:
        seen.append(threading.current_thread().name)
        return function(*given)

    monkeypatch.setattr(module, name, note)
    return seen


def test_filters_are_parsed_on_threads(service: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = noting(monkeypatch, access, "parse_filter")
    where = {"where": "price > 0"}
    asked: dict[str, dict[str, Any]] = {
        "/match-text": {"json": {"text": "red", **where}},
        "/match-image": {"data": where, "files": {"image": make_png("red")}},
        f"{SHOP}/match": {"json": {"queries": [where, where]}},
        f"{SHOP}/products/red%2F1/similar": {"params": where},
        f"{SHOP}/facets": {"params": {**where, "field": "shop"}},
    }
    for path, given in asked.items():
        method = "GET" if "params" in given else "POST"
        answer = service.request(method, path, headers=by("reader"), **given)
        assert answer.status_code == 200, answer.text
        assert seen
        assert {name.partition("_")[0] for name in seen} == {"wait-shop"}
        seen.clear()


def test_products_are_checked_on_threads(service: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = [noting(monkeypatch, *each) for each in ((access, "stored_values"), (access, "normal_form"))]
    calls.append(noting(monkeypatch, catalog_routes, "read_product"))
    body = {"products": [{"id": "new", "fields": {"shop": "best"}}]}
    assert service.post(f"{SHOP}/products:batch", json=body, headers=by("best")).status_code == 200
    assert service.post(f"{SHOP}/products:batch", json={"delete": ["new"]}, headers=by("best")).status_code == 200
    for seen in calls:
        assert seen
        assert {name.partition("_")[0] for name in seen} == {"wait-shop"}


def test_work_that_grows_with_an_image_is_done_on_threads(
    service: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = [
        noting(monkeypatch, *each) for each in ((serving_catalog, "key_of"), (journal, "_query"), (journal, "sha256"))
    ]
    image = b64encode(make_png("red") + bytes(3 << 16)).decode()
    for body in ({"image_base64": image}, {"image_url": f"data:;base64,{image}"}):
        assert service.post("/match-image", json=body, headers=by("reader")).status_code == 200
    upload = {"image": make_png("red") + bytes(3 << 16)}
    assert service.post("/match-image", files=upload, headers=by("reader")).status_code == 200
    for seen in calls:
        assert seen
        assert {name.partition("_")[0] for name in seen} == {"wait-shop"}


@pytest.mark.parametrize("where", ["price > 0" + 2000 * " ", {"price": {"in": [1] * 900}}, {"note": "x" * 2000}])
def test_the_filters_of_a_request_are_limited_together(
    service: httpx.Client, monkeypatch: pytest.MonkeyPatch, where: object
) -> None:
    seen = noting(monkeypatch, access, "parse_filter")
    queries = {"queries": [{"where": where}] * 40}
    detail = problem(service.post(f"{SHOP}/match", json=queries, headers=by("reader")), 422, "invalid_request")[
        "detail"
    ]
    assert "the filters of a request have at most 65,536 characters in total" in detail
    long = {"or": [where] * 40}
    if not isinstance(where, str):
        for body in ({"text": "red", "where": long}, {"image_url": "http://x", "where": long}):
            path = "/match-text" if "text" in body else "/match-image"
            answer = problem(service.post(path, json=body, headers=by("reader")), 422, "invalid_request")
            assert "characters in total" in answer["detail"]
    assert not seen


def test_a_long_filter_is_not_measured_to_its_end() -> None:
    class Unread(list[object]):
        def __iter__(self) -> Iterator[object]:
            raise AssertionError

    for where in ({"price": Unread([1] * 32_769)}, {"or": ["x" * 65_536, Unread([1])]}):
        with pytest.raises(ProblemError, match="at most 65,536 characters"):
            check_length([where])
    for count in (100, 3000):  # whole numbers of 1,000 digits
        with pytest.raises(ProblemError, match="at most 65,536 characters"):
            check_length([{"price": [10**1000] * count}])
    deep: object = 1
    for _ in range(5000):
        deep = [deep]
    check_length([{"price": deep}, "price > 0", None, {"price": list(range(10_000))}])
