"""The search page of the service, in a browser: what it asks for and shows, its manners, and that strangers' texts do nothing."""

from __future__ import annotations

import io
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from PIL import Image

from tests.support.browsing import HOSTILE, chromium, drop, paste_file, watched
from tests.support.clock import HANG_S
from tests.support.images import inline
from tests.support.paths import ROOT
from tests.support.services import MINI, app_of, mini_settings, serving
from text_image_similarity import Encoder, Field, Product, load_encoder, open_catalog
from text_image_similarity.search.match_log import open_match_log

pytestmark = pytest.mark.browser
AXE = ROOT / "build" / "axe" / "axe.min.js"
SAMPLE = ROOT / "sample_catalog" / "products.csv"
BAG = ROOT / "sample_catalog" / "images" / "blue_bag.jpg"
READY = "() => document.querySelector('#count').textContent && !document.querySelector('#results').ariaBusy"
ODD_FIELD = "</legend><b id=pwned>and"


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return load_encoder(MINI)


@pytest.fixture(scope="module")
def catalogs(encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The sample, one of a shop whose texts are markup, and one without products and fields."""
    odd = tmp_path_factory.mktemp("catalogs") / "odd.catalog"
    empty = odd.with_name("empty.catalog")
    open_catalog(empty, fields=[], config=MINI, encoder=encoder).close()
    with open_catalog(odd, fields=[Field(ODD_FIELD), Field("price", "number")], config=MINI, encoder=encoder) as made:
        made.add(
            Product(text, text, inline("red") if number else (), text * 9, fields={ODD_FIELD: text, "price": number})
            for number, text in enumerate(HOSTILE)
        )
    return {"sample": str(SAMPLE), "odd": str(odd), "empty": str(empty)}


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("log") / "log.sqlite"


@pytest.fixture(scope="module")
def service(encoder: Encoder, catalogs: dict[str, str], log: Path) -> Iterator[str]:
    with serving(app_of(mini_settings(catalogs=catalogs, log_place=str(log)), encoder)) as client:
        yield f"{str(client.base_url).rstrip('/')}/"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as running:
        yield running


@pytest.fixture
def visit(browser: Any, service: str) -> Iterator[Callable[..., Any]]:
    with watched(browser, service, READY) as opened:
        yield opened


def settle(page: Any, act: Callable[[], Any]) -> None:
    """Do something that searches, and wait for the answer to be shown."""
    page.evaluate("document.querySelector('#count').textContent = ''")
    act()
    page.wait_for_function(READY)


def search(page: Any, text: str) -> None:
    page.fill("#text", text)
    settle(page, lambda: page.press("#text", "Enter"))


def click(page: Any, selector: str) -> None:
    settle(page, lambda: page.click(selector))


def tick(page: Any, value: str) -> None:
    click(page, f".ticks label:has(bdi:text-is('{value}'))")


def shown(page: Any) -> list[str]:
    """Return the names of the products that are in sight."""
    return list(page.locator(".product .name:visible").all_inner_texts())


def count(page: Any) -> str:
    return str(page.locator("#count").inner_text())


def total(page: Any) -> int:
    """Return how many products pass the filters."""
    return int(re.findall(r"(\d+) product", count(page))[0])


def said(page: Any) -> dict[str, list[str]]:
    """Return what the address says, the catalogue aside."""
    return {name: values for name, values in parse_qs(urlsplit(page.url).query).items() if name != "catalog"}


def asked(page: Any) -> list[Any]:
    """Collect the queries that the page sends from now on."""
    queries: list[Any] = []
    page.on("request", lambda it: queries.extend(it.post_data_json["queries"]) if it.url.endswith("/match") else None)
    return queries


def numbers(page: Any) -> dict[str, int]:
    """Return the counts beside the values."""
    lines = page.locator(".ticks label").evaluate_all(
        "all => all.map((l) => [l.children[1].textContent, l.children[2].textContent])"
    )
    return {value: int(number) for value, number in lines}


def test_words_and_filters(visit: Callable[..., Any], service: str) -> None:
    page = visit("search")
    assert count(page) == "24 of 36 products shown."  # a shop window, until somebody asks
    click(page, "#more")
    assert count(page) == "36 products."
    assert len(set(shown(page))) == len(shown(page)) == 36
    assert page.evaluate("document.activeElement.textContent") == shown(page)[24]

    page.keyboard.press("Tab")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "text"
    search(page, "a red shoe")
    answer = httpx.post(f"{service}match-text", json={"text": "a red shoe", "top_k": 24}, trust_env=False).json()
    names = [found["product"]["name"] for found in answer["matches"]]
    good = int(count(page).split(" of 36 products match well.")[0])
    assert 1 < good < 24
    assert shown(page) == names[:good]
    scores = page.locator(".product data").evaluate_all("all => all.map((d) => Number(d.value))")
    assert scores == [found["score"] for found in answer["matches"]]
    assert page.locator(".price").first.inner_text().split() == ["Price", "134.50"]
    assert scores[good - 1] >= 0.6 * scores[0] > scores[good]
    page.click("#show-weaker")
    assert shown(page) == names
    assert page.evaluate("document.activeElement.textContent") == names[good]
    assert page.title() == "a red shoe – Search"

    before = numbers(page)
    tick(page, "Bags")
    tick(page, "red")
    assert total(page) == numbers(page)["Bags"]
    assert numbers(page)["Home"] > 0  # what one more tick would find
    tick(page, "Home")
    tick(page, "Yes")
    assert said(page) == {
        "text": ["a red shoe"],
        "is.category": ["Bags", "Home"],
        "is.color": ["red"],
        "is.in_stock": ["true"],
    }
    settle(page, lambda: page.get_by_label("Price, at most").fill("60") or page.keyboard.press("Enter"))
    cheap = shown(page)
    products = httpx.get(
        f"{service}v1/catalogs/sample/facets",
        params={
            "field": "_id",
            "where": 'category in ("Bags", "Home") and color = "red" and in_stock = true and price <= 60',
        },
        trust_env=False,
    ).json()
    assert total(page) == products["total"]
    assert 0 < len(cheap) <= products["total"]
    assert set(cheap) <= set(names)

    page.reload()
    page.wait_for_function(READY)
    assert shown(page) == cheap
    assert page.get_by_label("Price, at most").input_value() == "60"
    settle(page, page.go_back)
    assert page.get_by_label("Price, at most").input_value() == ""
    settle(page, page.go_forward)
    assert shown(page) == cheap
    click(page, "#clear")
    assert said(page) == {"text": ["a red shoe"]}
    assert numbers(page) == before
    assert page.locator("#chips").is_hidden()
    page.goto(service)
    page.click("#searching")
    page.wait_for_function(READY)
    page.click("text=Score images instead")
    page.wait_for_selector("#image-mode")


def test_pictures_and_products(visit: Callable[..., Any], log: Path) -> None:
    page = visit("search")
    queries = asked(page)
    settle(page, lambda: drop(page, ("bag.jpg", "image/jpeg", BAG.read_bytes())))
    assert shown(page)[0] == "Blue bag"
    assert page.locator("#balance").is_hidden()
    search(page, "a red thing")
    assert [term["weight"] for term in queries[-1]["terms"]] == [1, 1]
    settle(page, lambda: page.press("#weight", "ArrowRight"))
    assert [round(term["weight"], 3) for term in queries[-1]["terms"]] == [0.8, 1.2]
    assert said(page) == {"text": ["a red thing"], "balance": ["60"]}

    second = shown(page)[1]
    click(page, f"li:has(bdi:text-is('{second}')) >> text=Not like this")
    click(page, f"li:has(bdi:text-is('{shown(page)[0]}')) >> text=More like this")
    page.fill("#without", "a boot")
    settle(page, lambda: page.press("#without", "Enter"))
    assert [term["weight"] for term in queries[-1]["terms"]][2:] == [-0.75, 1, -0.75]
    assert page.locator("#chips li").all_inner_texts()[0].split() == ["Remove:", "not", "like", *second.split(), "×"]
    page.click(".because summary >> nth=0")
    parts = page.locator("li.product >> nth=0 >> .reasons b").all_inner_texts()
    values = [float(part.replace("−", "-")) for part in parts]
    assert len(values) == 6
    assert sum(values[:5]) == pytest.approx(values[5], abs=0.03)  # each is rounded

    page.click(".product .name >> nth=0")
    page.wait_for_function("() => document.querySelector('dialog img').naturalWidth > 256")
    assert page.evaluate("document.activeElement.closest('dialog') !== null")
    assert "Category" in page.locator("dialog dl").inner_text()
    page.keyboard.press("Escape")
    until = time.monotonic() + HANG_S
    with open_match_log(log) as written:
        while not (events := list(written.events())) and time.monotonic() < until:
            page.wait_for_timeout(20)
        assert [event.kind for event in events] == ["click"]
        entry = written.get(events[0].match_id)
    assert entry is not None
    assert entry.results[0]["id"] == events[0].product

    page.click("#chips button >> nth=0")
    page.wait_for_function(READY)
    page.click("#drop-image")
    page.wait_for_function("() => document.activeElement.id === 'image'")
    page.wait_for_function(READY)
    assert [set(term) for term in queries[-1]["terms"]] == [
        {"text", "weight"},
        {"product", "weight"},
        {"text", "weight"},
    ]
    settle(page, page.go_back)
    assert "image_base64" in queries[-1]["terms"][1]  # the visit remembers the image
    paste_file(page, ("a.txt", "text/plain", b"no"))
    assert page.locator("#alert").inner_text() == "a.txt is not an image."
    page.goto(page.url.split("?")[0] + "?unlike=runner-red&without=x&is.gone=1&from.price=x")
    page.wait_for_function("() => document.querySelector('#alert').textContent.includes('what to look for')")
    assert "not like Red shoe" in page.locator("#chips").inner_text()
    assert page.locator("#chips li").count() == 1


def test_nothing_found_and_failures(visit: Callable[..., Any], service: str) -> None:
    page = visit("search?text=a+bag&is.category=Bags&is.color=red&to.price=20")
    assert count(page) == "No product passes all these filters."
    offers = page.locator("#none button").all_inner_texts()
    assert offers == ["Without “Price: 20 or less”: 2 products", "Without “Category: Bags”: 1 product"]
    click(page, "#none button >> nth=0")
    assert len(shown(page)) == 2
    assert said(page) == {"text": ["a bag"], "is.category": ["Bags"], "is.color": ["red"]}

    answers: list[Any] = [429, 429, 429, 422]
    problem = {"detail": "the filter is <b>odd</b>", "code": "invalid_request"}
    page.route(
        "**/match",
        lambda route: (
            route.fulfill(status=answers.pop(0), json=problem, headers={"retry-after": "1"})
            if answers
            else route.continue_()
        ),
    )
    answers[:] = [429]
    search(page, "a hat")  # asked again by itself
    assert len(shown(page)) == 2
    answers[:] = [429, 429]
    page.click("#search button >> text=Search")
    page.wait_for_function("() => document.querySelector('#alert').textContent")
    assert page.locator("#alert").inner_text() == "The filter is <b>odd</b>."
    assert shown(page) == []
    page.unroute("**/match")
    page.route("**/match", lambda route: route.abort())
    page.click("#search button >> text=Search")
    page.wait_for_function("() => document.querySelector('#alert').textContent === 'The service does not respond.'")
    page.unroute("**/match")
    settle(page, lambda: page.select_option("#catalog", "empty"))
    assert page.locator("#none").inner_text().split("\n")[-1] == "The catalogue is empty."
    assert page.locator("#filters").is_hidden()
    page.route("**/v1/catalogs", lambda route: route.fulfill(json={"data": []}))
    page.reload()
    page.wait_for_function("() => document.querySelector('#alert').textContent.includes('--catalog')")
    assert page.locator("#search").is_hidden()


def test_a_key_opens_it(browser: Any, encoder: Encoder, catalogs: dict[str, str]) -> None:
    settings = mini_settings(catalogs=catalogs, api_keys=("s3cret",), match_log="off")
    with serving(app_of(settings, encoder)) as client:
        home = f"{str(client.base_url).rstrip('/')}/"
        with watched(browser, home, "() => !document.querySelector('#unlock').hidden") as opened:
            page = opened("search?text=a+red+bag")
            page.fill("#key", "wrong")
            page.keyboard.press("Enter")
            page.wait_for_function("() => document.querySelector('#key-note').textContent.includes('not accept')")
            page.fill("#key", "s3cret")
            page.keyboard.press("Enter")
            page.wait_for_function(READY)
            page.wait_for_function("() => document.querySelector('.shot img').naturalWidth > 64")
            assert page.locator("#unlock").is_hidden()
            assert page.evaluate("document.activeElement.id") == "text"
            page.reload()
            page.wait_for_function(READY)
            assert shown(page)


@pytest.mark.parametrize("bypass_csp", [False, True])
def test_hostile_products_do_nothing(visit: Callable[..., Any], bypass_csp: bool) -> None:
    """Without the policy as well: what a shop wrote is text by itself."""
    page = visit("search?catalog=odd", bypass_csp=bypass_csp, viewport={"width": 360, "height": 640})
    assert len(shown(page)) == len(HOSTILE)  # also the one without an image
    search(page, HOSTILE[0])
    page.click("#show-weaker")
    page.evaluate("document.querySelectorAll('details').forEach((d) => (d.open = true))")
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    page.click(".name:visible >> nth=0")
    assert page.evaluate("document.querySelector('dialog').scrollWidth") <= 360
    page.keyboard.press("Escape")
    page.evaluate("document.querySelector('.ticks input').click()")
    page.wait_for_function("() => document.querySelectorAll('#chips li').length === 1")
    settle(page, lambda: page.evaluate("document.querySelector('.leads button').click()"))
    page.reload()
    page.wait_for_function(READY)
    assert page.title() == f"{HOSTILE[0]} – Search"
    assert page.locator("#pwned, main script, main svg:not(.drop svg), main a:not([href='./'])").count() == 0
    page.select_option("#catalog", "sample")
    page.wait_for_function("() => document.querySelector('legend').textContent === 'Category'")
    page.wait_for_function(READY)
    assert said(page) == {"text": [HOSTILE[0]]}
    settle(page, page.go_back)
    assert page.input_value("#catalog") == "odd"


def findings(page: Any) -> list[str]:
    """Return what axe-core calls serious or critical."""
    found = page.evaluate("() => axe.run({resultTypes: ['violations']})")
    return [
        f"{each['id']}: {node['html'][:120]}"
        for each in found["violations"]
        if each["impact"] in ("serious", "critical")
        for node in each["nodes"]
    ]


def test_everybody_can_use_it(visit: Callable[..., Any]) -> None:
    if not AXE.is_file():
        pytest.skip("axe-core is not in build/axe, where `make tools` puts it")
    looks: list[dict[str, Any]] = [
        {"viewport": {"width": 1280, "height": 900}},
        {"color_scheme": "dark", "reduced_motion": "reduce"},
        {"viewport": {"width": 360, "height": 640}, "has_touch": True, "is_mobile": True},
    ]
    for look in looks:
        page = visit("search?text=a+bag&is.category=Bags&is.color=red&like=runner-red&without=a+hat", **look)
        page.evaluate(AXE.read_text(encoding="utf-8"))
        page.set_input_files("#image", BAG)
        page.wait_for_function("() => document.querySelectorAll('#strong > :first-child .reasons li').length === 5")
        page.evaluate("document.querySelectorAll('details').forEach((d) => (d.open = true))")
        page.wait_for_function("() => getComputedStyle(document.querySelector('.grid')).opacity === '1'")
        assert findings(page) == []
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
        if "is_mobile" in look:
            page.click(".name >> nth=0")
            assert findings(page) == []
            page.keyboard.press("Escape")
        settle(page, lambda page=page: page.get_by_label("Price, at most").fill("1") or page.keyboard.press("Enter"))  # type: ignore[misc]
        assert page.locator("#none").is_visible()
        assert findings(page) == []


def test_motion_and_high_contrast(visit: Callable[..., Any]) -> None:
    page = visit("search?text=a+bag", forced_colors="active")
    bar = Image.open(io.BytesIO(page.locator("#strong .bar").nth(1).screenshot())).convert("RGB")
    inside = [bar.getpixel((x, bar.height // 2)) for x in (3, bar.width - 4)]
    assert inside[0] != inside[1]  # the score can be told from the rest
    moving = "getComputedStyle(document.querySelector('.grid')).transitionDuration"
    assert page.evaluate(moving) != "0s"
    page.emulate_media(reduced_motion="reduce")
    assert page.evaluate(moving) == "0s"
