"""The web page of the service, in a browser: its numbers, its manners, and that what strangers wrote does nothing."""

from __future__ import annotations

import base64
import csv
import io
import json
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.browsing import HOSTILE, chromium, drop, watched
from tests.support.images import make_png
from tests.support.packages import zip_package
from tests.support.paths import ROOT
from tests.support.services import app_of, mini_settings, serving
from text_image_similarity import Config, Limits, Record, load_encoder, score_csv, score_pairs
from text_image_similarity.service.page.static import POLICY

pytestmark = pytest.mark.browser
PAGE = ROOT / "text_image_similarity" / "service" / "page"
PICTURE = ROOT / "challenge_set" / "breakfast.jpg"
CAPTIONS = [
    "an empty street at night",
    "Breakfast on a red table: a fried egg, bread, coffee and an orange",
    "A lion, an elephant, a giraffe and a zebra on the dry savanna",
]
MINI = Config(model="mini", retries=0, limits=Limits(allow_local_files=False))


@pytest.fixture(scope="module")
def service() -> Iterator[str]:
    with serving(app_of(mini_settings(models={"mini": MINI}), load_encoder(MINI))) as client:
        yield f"{str(client.base_url).rstrip('/')}/"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as running:
        yield running


@pytest.fixture
def visit(browser: Any, service: str) -> Iterator[Callable[..., Any]]:
    with watched(browser, service, "() => document.querySelector('#model').value") as opened:
        yield opened


def paste(page: Any, text: str, *, kind: str = "paste") -> None:
    """Paste a text outside every field, or drop it there."""
    page.evaluate(
        """([kind, text]) => {
            const held = new DataTransfer();
            held.setData("text/plain", text);
            const made = {bubbles: true, cancelable: true, clipboardData: held, dataTransfer: held};
            document.body.dispatchEvent(kind === "paste" ? new ClipboardEvent(kind, made) : new DragEvent(kind, made));
        }""",
        [kind, text],
    )


def run(page: Any, mode: str = "image") -> None:
    """Press Score, and wait for the run's end."""
    page.click(f"#{mode}-mode form button")
    wait(page, mode)


def wait(page: Any, mode: str = "image") -> None:
    page.wait_for_function(
        """mode => {
            const said = document.querySelector(`#${mode}-mode .status`).textContent;
            const failed = document.querySelector(`#${mode}-mode .alert`).textContent;
            return document.querySelector(`#${mode}-mode .running`).hidden && (said.includes("scored,") || failed);
        }""",
        arg=mode,
    )


def bars(page: Any, mode: str = "image") -> list[tuple[float, str]]:
    """Return the scores as listed, with their captions."""
    items = page.locator(f"#{mode}-mode .scored > li").all()
    return [(float(i.locator("data").get_attribute("value")), i.locator(".caption").inner_text()) for i in items]


def text_of(page: Any, selector: str) -> str:
    return str(page.locator(selector).inner_text())


def table_of(rows: list[list[str]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL).writerows([["URL", "Caption", "note"], *rows])
    return text.getvalue().encode()


def data_url(content: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


# What is served


def test_the_files_are_served_with_a_strict_policy(service: str) -> None:
    with httpx.Client(base_url=service, trust_env=False) as client:
        index = client.get("/")
        assert index.headers["content-type"] == "text/html; charset=utf-8"
        linked = [name.decode() for name in _linked(index.content)]
        assert {"page/app.js", "page/style.css"} <= set(linked)
        for path in ["", *linked]:
            answer = client.get(path)
            assert answer.status_code == 200
            assert answer.headers["content-security-policy"] == POLICY
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["referrer-policy"] == "no-referrer"
            assert answer.headers["cache-control"] == "no-cache"
            known = {"if-none-match": f'"other", W/{answer.headers["etag"]}'}
            assert (client.get(path, headers=known).status_code, client.get(path, headers=known).content) == (304, b"")
            assert client.get(path, headers={"if-none-match": '"other"'}).content == answer.content
            assert client.head(path).headers["content-length"] == str(len(answer.content))
        for path in (
            "page/",
            "page/none.js",
            "page/static.py",
            "page/../pool.py",
            "page/%2e%2e/pool.py",
            "page/..%2fpool.py",
        ):
            assert client.get(path).status_code == 404, path
    assert "unsafe" not in POLICY
    assert "http" not in POLICY


def _linked(page: bytes) -> list[bytes]:
    return [part.split(b'"')[1] for part in page.replace(b"src=", b"href=").split(b"href=")[1:] if b"page/" in part[:8]]


def test_the_page_is_in_the_package_even_in_a_zip(tmp_path: Path) -> None:
    program = (
        "from text_image_similarity.service.page import static; print(static.__file__, sorted(static._read_files()))"
    )
    environment = {"PYTHONPATH": str(zip_package(tmp_path)), "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    place, _, names = done.stdout.strip().partition(" ")
    assert ".zip" in place
    assert names == str(sorted(path.name for path in PAGE.iterdir() if path.suffix in (".html", ".css", ".js")))


def test_the_page_writes_no_markup() -> None:
    for path in PAGE.glob("*.*"):
        text = path.read_text(encoding="utf-8")
        for way in ("innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval(", "localStorage", 'style="'):
            assert way not in text, (path.name, way)


# An image with captions


def test_a_dropped_picture_gets_sorted_bars_with_the_numbers_of_score_pairs(visit: Callable[..., Any]) -> None:
    page = visit()
    drop(page, ("breakfast.jpg", "image/jpeg", PICTURE.read_bytes()))
    assert page.locator("#preview").is_visible()
    page.fill("#captions", "\n".join(["", *CAPTIONS, "  "]))
    records = [Record(str(PICTURE), caption) for caption in CAPTIONS]
    for kind in ("cosine", "clip_score", "unit"):
        page.select_option("#score", kind)
        run(page)
        scores = [result.similarity for result in score_pairs(records, Config(model="mini", score=kind))]
        assert bars(page) == sorted(zip(scores, CAPTIONS, strict=True), reverse=True)
        assert text_of(page, "#image-mode .results .note").startswith(f"mini, {kind}.")
    assert text_of(page, "#image-mode .status") == "3 scored, 0 failed."


def test_bars_start_at_zero_and_are_as_long_as_their_scores(visit: Callable[..., Any]) -> None:
    page = visit()
    results = [{"similarity": score, "error": None} for score in (0.5, -0.25, 0.25, 0)]
    page.route("**/v1/similarity", lambda route: route.fulfill(json={"results": results}))
    page.fill("#url", "https://a.example/x.png")
    page.fill("#captions", "a\nb\nc\nd")
    page.emulate_media(reduced_motion="reduce")
    run(page)
    boxes = [bar.bounding_box() for bar in page.locator(".bar span").all()]
    whole = page.locator(".bar").first.bounding_box()
    starts = [(box["x"] - whole["x"]) / whole["width"] for box in boxes]
    lengths = [box["width"] / whole["width"] for box in boxes]
    assert lengths == pytest.approx([2 / 3, 1 / 3, 0, 1 / 3], abs=0.01)
    assert starts == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0], abs=0.01)


def test_the_keyboard_is_enough(visit: Callable[..., Any]) -> None:
    page = visit()
    page.on("filechooser", lambda chooser: chooser.set_files(PICTURE))

    def tab_to(name: str) -> None:
        for _ in range(20):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.id") == name:
                return
        raise AssertionError(f"{name} is not reached")

    tab_to("image")
    outline = page.evaluate("getComputedStyle(document.querySelector('#image-mode .drop')).outlineStyle")
    assert outline == "solid"
    page.keyboard.press("Enter")
    page.wait_for_selector("#preview", state="visible")
    tab_to("captions")
    page.keyboard.type("\n".join(CAPTIONS))
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    wait(page)
    assert len(bars(page)) == 3
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Control+Enter")
    wait(page)
    page.focus("[name=mode]:checked")
    page.keyboard.press("ArrowRight")
    assert page.locator("#csv").is_visible()
    tab_to("csv")
    page.keyboard.type(f'url,caption\n"{data_url(make_png())}",red')
    page.keyboard.press("Control+Enter")
    wait(page, "table")
    with page.expect_download() as saved:
        page.locator("#table-mode .download").press("Enter")
    assert saved.value.suggested_filename == "scored.csv"


def test_urls_are_pasted_and_dropped_and_failures_are_told_in_words(visit: Callable[..., Any]) -> None:
    page = visit()
    for kind, url, words in (
        ("drop", "http://127.0.0.1:9/x.png", "blocked_address the address is not public"),
        ("paste", data_url(b"no picture at all"), "not_an_image the content is text"),
        ("paste", data_url(b"no picture at all" * 20_000), "not_an_image the content is text"),
    ):
        paste(page, url, kind=kind)
        assert page.input_value("#url") == url
        page.fill("#captions", "a\nb")
        run(page)
        assert text_of(page, "#image-mode .failed .why").startswith(words)
        assert page.locator("#image-mode .failed ul li").all_inner_texts() == ["a", "b"]  # one failure, two captions
        assert bars(page) == []


def test_what_is_missing_is_said_and_focused(visit: Callable[..., Any]) -> None:
    page = visit()
    for fill, said, field in (
        (None, "Choose an image or give its URL.", "image"),
        ("#url", "Type a caption.", "captions"),
    ):
        if fill:
            page.fill(fill, "https://a.example/x.png")
        page.click("#image-mode form button")
        assert text_of(page, "#image-mode .alert") == said
        assert page.evaluate("document.activeElement.id") == field
    drop(page, ("a.png", "image/png", make_png()), ("b.png", "image/png", make_png()))
    assert "Choose one image at a time" in text_of(page, "#image-mode .alert")


# A table


def test_a_table_becomes_a_sorted_gallery_and_the_file_that_score_csv_writes(
    visit: Callable[..., Any], tmp_path: Path
) -> None:
    page, chance = visit(), random.Random(3)
    good = [data_url(make_png(colour)) for colour in ("red", "green", "blue", "white")]
    bad = ["http://127.0.0.1:9/x.png", "ftp://a.example/x", "nowhere.png", data_url(b"none"), ""]
    rows = [
        [chance.choice(good if chance.random() < 0.9 else bad), f'caption "{number}", with\na line', "=1+1"]
        for number in range(150)
    ]
    rows[7][1] = rows[8][2] = "a\rb"
    rows[9][1] = " "
    (tmp_path / "in.csv").write_bytes(table_of(rows))
    score_csv(tmp_path / "in.csv", tmp_path / "out.csv", MINI, col_url="URL", col_text="Caption")
    with page.expect_request(lambda request: request.url.endswith("similarity")) as first:
        drop(page, ("pairs.csv", "text/csv", (tmp_path / "in.csv").read_bytes()))
        run(page, "table")
    assert len(first.value.post_data_json["pairs"]) == 64
    expected = list(csv.DictReader(io.StringIO((tmp_path / "out.csv").read_text(encoding="utf-8"), newline="")))
    scores = [float(row["similarity"]) for row in expected if row["similarity"]]
    assert [score for score, _ in bars(page, "table")] == sorted(scores, reverse=True)
    assert page.locator("#table-mode .scored img").count() == len(scores)
    failed = [row for row in expected if row["error"]]
    assert len(failed) > 5
    assert page.locator("#table-mode .failed ul li").count() == len(failed)
    assert text_of(page, "#table-mode .status") == f"{len(scores)} scored, {len(failed)} failed."
    with page.expect_download() as saved:
        page.click("#table-mode .download")
    written = Path(saved.value.path()).read_bytes()
    assert written.splitlines() == (tmp_path / "out.csv").read_bytes().splitlines()
    assert written == (tmp_path / "out.csv").read_bytes()


def test_pictures_are_handed_over_with_the_table_that_names_them(visit: Callable[..., Any]) -> None:
    page = visit()
    drop(
        page,
        ("t.csv", "", b"url,caption\r\na/red.png,red\r\nb\\blue.png,blue\r\nhttp://127.0.0.1:9/red.png,x\r\n"),
        ("red.png", "image/png", make_png("red")),
        ("blue.png", "image/png", make_png("blue")),
    )
    assert text_of(page, "#file-names") == "t.csv and 2 images"
    run(page, "table")
    records = [Record(data_url(make_png(name)), name) for name in ("red", "blue")]
    scores = {result.similarity for result in score_pairs(records, MINI)}
    assert {score for score, _ in bars(page, "table")} == scores
    page.wait_for_function("() => [...document.querySelectorAll('.scored img')].every((i) => i.naturalWidth === 16)")
    assert "blocked_address" in text_of(page, "#table-mode .failed")


WRONG_TABLES = [
    (b"", "Choose a CSV file or paste its text."),
    (b"\n\n", "Choose a CSV file or paste its text."),
    (b"url,caption\n", "a header but no rows"),
    (b"link,caption\na,b\n", "The column url is missing; the header is: link, caption"),
    (b"url,URL ,caption\na,b,c\n", "The column url is in the table more than once"),
    (b"url,caption\na,b,c\n", "Row 1 has 3 fields, but the header has 2."),
    (b"url,caption\na\n", "Row 1 has 1 field, but the header has 2."),
    (b'url,caption\na,"b\n', "Row 1 has a quotation mark that is never closed."),
    (b'url,caption\na,"b"c\n', "Row 1 has text after a closing quotation mark."),
    (b"url,caption\n" + b"a,b\n" * 1001, "This page accepts at most 1,000 rows"),
    (b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 9, "t.csv is not a CSV file in UTF-8 or UTF-16."),
    (b"PK\x03\x04" + bytes(999), "it contains NUL bytes"),
    ("url,caption\na,café\n".encode("latin-1"), "t.csv is not a CSV file in UTF-8 or UTF-16."),
]


def test_a_wrong_table_is_refused_in_words(visit: Callable[..., Any]) -> None:
    page = visit()
    for content, said in WRONG_TABLES:
        drop(page, ("t.csv", "text/csv", content))
        run(page, "table")
        assert said in text_of(page, "#table-mode .alert")
        assert page.locator("#table-mode .results").is_hidden()


def test_a_long_text_is_kept_out_of_the_text_fields(visit: Callable[..., Any]) -> None:
    page = visit()
    rows = [[data_url(make_png()), "\U0001f600" * 69 + letter + "\U0001f600" * 2000, ""] for letter in ("", "x", "xy")]
    long = table_of(rows).decode() + "\n" * 200_000
    paste(page, long)
    assert "too long for captions" in text_of(page, "#image-mode .alert")
    page.check("[value=table]")
    paste(page, long)
    assert (page.input_value("#csv"), text_of(page, "#file-names")) == ("", "the pasted table")
    run(page, "table")
    assert len(bars(page, "table")) == 3
    shown = page.locator("#table-mode .scored").text_content()
    assert "[U+" not in shown  # no character is cut in half
    assert len(shown) < 3 * 2500


def test_tables_of_spreadsheets_are_read(visit: Callable[..., Any]) -> None:
    page, url = visit(), data_url(make_png())
    for content in (
        f"url\tcaption\n{url}\tred, or not\n".encode("utf-16"),
        f'\ufeffCAPTION;ID;Url\r\nred, or not;7;"{url}"\r\n'.encode(),
    ):
        drop(page, ("t.csv", "text/csv", content))
        run(page, "table")
        assert [caption for _, caption in bars(page, "table")] == ["red, or not"]
    paste(page, f'similarity,caption,error,url\n1,red,,"{url}"')
    assert text_of(page, "#file-names") == ""
    run(page, "table")
    with page.expect_download() as saved:
        page.click("#table-mode .download")
    header, row = csv.reader(Path(saved.value.path()).read_text(encoding="utf-8").splitlines())
    assert header == ["caption", "url", "similarity", "error"]
    assert row == ["red", url, repr(bars(page, "table")[0][0]), ""]


def test_csv_is_read_and_written_as_python_does(visit: Callable[..., Any]) -> None:
    page, chance = visit(), random.Random(5)
    texts = ["".join(chance.choices('a,"\n\r;', k=chance.randrange(16))) for _ in range(2000)]
    texts += ['"a"', '""', "a,", ",", '""\n', '"\n"', "\n\na", "a\r\n\r\nb", '"a""b"', "a\rb", '"', 'a"b"', " \n"]
    program = """async texts => {
        const {rows, spell} = await import("/page/csv.js");
        return texts.map((text) => {
            try { const found = [...rows(text)]; return [found, spell(found)]; } catch { return null; }
        });
    }"""
    refused = 0
    for text, found in zip(texts, page.evaluate(program, texts), strict=True):
        try:
            expected = [row for row in csv.reader(io.StringIO(text, newline=""), strict=True) if row]
        except csv.Error:
            assert found is None, text
            refused += 1
            continue
        assert found is not None, text
        assert found[0] == expected, text
        again = csv.reader(io.StringIO(found[1], newline=""), strict=True)
        assert [row for row in again if any(row)] == [row for row in expected if any(row)], text
    assert 100 < refused < 1500
    numbers = [0.0, 1.0, -1.0, 100.0, 0.1 + 0.2, 1e-4, 5e-5, -9.99e-7, 1e-10, 0.30000001192092896]
    numbers += [chance.uniform(-1, 1) * 10 ** -chance.randrange(12) for _ in range(500)]
    spelled = page.evaluate("async n => { const {repr} = await import('/page/csv.js'); return n.map(repr); }", numbers)
    assert spelled == [repr(number) for number in numbers]


# A service that is busy, closed or gone


def problem(status: int, code: str, **headers: str) -> dict[str, Any]:
    return {
        "status": status,
        "headers": {"content-type": "application/problem+json", **headers},
        "body": json.dumps({"status": status, "code": code, "detail": f"because of {code}"}),
    }


def answering(answer: dict[str, Any]) -> Callable[[Any], None]:
    return lambda route: route.fulfill(**answer)


def recording(asked: list[str]) -> Callable[[Any], None]:
    def answer(route: Any) -> None:
        asked.append(route.request.url)
        route.abort()

    return answer


@pytest.fixture
def table(visit: Callable[..., Any]) -> Any:
    """The page with a table of 150 rows, and a clock that only tests turn."""
    page = visit()
    page.clock.install(time="2026-01-01")
    page.clock.pause_at("2026-01-02")
    rows = [[data_url(make_png()), f"caption {number}", ""] for number in range(150)]
    drop(page, ("t.csv", "text/csv", table_of(rows)))
    return page


def test_a_busy_service_is_asked_again_after_the_time_it_names(table: Any) -> None:
    answers = [problem(429, "queue_full", **{"retry-after": "7"}), problem(503, "draining", **{"retry-after": "2"})]
    table.route("**/v1/similarity", lambda route: route.fulfill(**answers.pop(0)) if answers else route.continue_())
    table.click("#table-mode form button")
    for seconds in (7, 2):
        table.wait_for_function(
            "(said) => document.querySelector('#table-mode .status').textContent.includes(said)",
            arg=f"Trying again in {seconds} s.",
        )
        left = len(answers)
        table.clock.run_for(seconds * 1000 - 100)
        assert len(answers) == left
        table.clock.run_for(100)
    wait(table, "table")
    assert len(bars(table, "table")) == 150
    assert answers == []


def test_a_service_that_is_gone_ends_the_run_which_goes_on_later(table: Any) -> None:
    asked = []

    def second_fails(route: Any) -> None:
        asked.append(len(route.request.post_data_json["pairs"]))
        if len(asked) == 1:
            route.continue_()
        else:
            route.abort("connectionrefused")

    table.route("**/v1/similarity", second_fails)
    table.click("#table-mode form button")
    for seconds in (1, 2, 4, 8, 16):
        table.wait_for_function(
            "(said) => document.querySelector('#table-mode .status').textContent.includes(said)", arg=f" {seconds} s."
        )
        table.clock.run_for(seconds * 1000)
    wait(table, "table")
    assert asked == [64] * 7
    assert text_of(table, "#table-mode .alert") == "The service does not respond. (no_answer)"
    assert text_of(table, "#table-mode .status") == "Stopped after 64 of 150 pairs: 64 scored, 0 failed."
    with table.expect_download() as saved:
        table.click("#table-mode .download")
    lines = list(csv.reader(io.StringIO(Path(saved.value.path()).read_text(encoding="utf-8"), newline="")))
    assert [row[-2:] == ["", ""] for row in lines[1:]] == [False] * 64 + [True] * 86
    table.unroute("**/v1/similarity")
    table.click("text=Score the remaining 86")
    wait(table, "table")
    assert text_of(table, "#table-mode .status") == "150 scored, 0 failed."
    assert text_of(table, "#table-mode .alert") == ""
    assert len(bars(table, "table")) == 150


def test_a_run_is_cancelled(table: Any) -> None:
    held: list[Any] = []
    table.route(
        "**/v1/similarity",
        lambda route: (
            held.append(route)
            if held or route.request.post_data_json["pairs"][0]["caption"] != "caption 0"
            else route.continue_()
        ),
    )
    table.click("#table-mode form button")
    table.wait_for_function("() => document.querySelector('#table-mode .status').textContent.startsWith('64 of 150')")
    assert table.get_attribute("#table-mode progress", "max") == "150"
    table.click("#table-mode form button")  # a second press does nothing
    table.click("#table-mode .cancel")
    wait(table, "table")
    assert text_of(table, "#table-mode .status") == "Stopped after 64 of 150 pairs: 64 scored, 0 failed."
    assert text_of(table, "#table-mode .alert") == ""
    table.unroute("**/v1/similarity")
    run(table, "table")  # from the start
    assert len(bars(table, "table")) == 150


def test_one_bad_pair_does_not_fail_its_request(table: Any) -> None:
    def picky(route: Any) -> None:
        captions = [pair["caption"] for pair in route.request.post_data_json["pairs"]]
        route.fulfill(**problem(422, "invalid_request")) if "caption 70" in captions else route.continue_()

    table.route("**/v1/similarity", picky)
    run(table, "table")
    assert len(bars(table, "table")) == 149
    assert text_of(table, "#table-mode .failed .why") == "invalid_request because of invalid_request"
    assert text_of(table, "#table-mode .failed ul li").endswith("caption 70")


def test_a_refusal_and_an_answer_of_something_else_are_told(table: Any) -> None:
    for answer, said in (
        (problem(404, "unknown_model"), "because of unknown_model (unknown_model)"),
        ({"status": 403, "body": "<h1>no</h1>"}, "Forbidden (http_403)"),
        ({"status": 200, "json": {"results": []}}, "The response does not come from this service. (bad_answer)"),
        ({"status": 200, "json": []}, "The response does not come from this service. (bad_answer)"),
        (
            {"status": 200, "json": {"results": [{"error": "no"}] * 64}},
            "The response does not come from this service. (bad_answer)",
        ),
    ):
        table.route("**/v1/similarity", answering(answer))
        run(table, "table")
        assert text_of(table, "#table-mode .alert") == said
        assert table.locator("#table-mode .results").is_hidden()


def test_a_service_that_starts_late_or_changes_is_asked_again(visit: Callable[..., Any]) -> None:
    page = visit()
    drop(page, ("a.png", "image/png", make_png()))
    page.fill("#captions", "red")
    models = {"data": [{"id": "old", "default": True}]}
    page.route("**/v1/models", lambda route: route.fulfill(json=models))
    page.route("**/v1/info", lambda route: route.abort())
    page.reload()
    page.wait_for_function("() => document.querySelector('#about').textContent === 'The service does not respond.'")
    drop(page, ("a.png", "image/png", make_png()))
    page.fill("#captions", "red")
    run(page)
    assert text_of(page, "#image-mode .alert") == "The service does not respond. (no_answer)"
    page.unroute("**/v1/info")
    page.route("**/v1/similarity", answering(problem(404, "unknown_model")))
    run(page)
    assert text_of(page, "#image-mode .alert") == "because of unknown_model (unknown_model)"
    page.unroute("**/v1/*")
    page.unroute("**/v1/models")
    page.unroute("**/v1/similarity")
    run(page)
    assert page.input_value("#model") == "mini"
    assert len(bars(page)) == 1


def test_a_key_is_asked_for_and_kept_in_this_tab(visit: Callable[..., Any], service: str) -> None:
    page = visit()

    def guard(route: Any) -> None:
        known = route.request.headers.get("authorization") == "Bearer s3cret"
        route.continue_() if known else route.fulfill(**problem(401, "unauthorized"))

    assert page.locator("#unlock").is_hidden()
    page.context.route("**/v1/*", guard)
    page.reload()
    page.wait_for_selector("#unlock", state="visible")
    assert page.evaluate("document.activeElement.id") == "key"
    for key, note in (("wrong", "does not accept this key"), ("schlüssel", "ASCII"), ("", "ASCII")):
        page.fill("#key", key)
        page.keyboard.press("Enter")
        page.wait_for_function("(n) => document.querySelector('#key-note').textContent.includes(n)", arg=note)
    page.fill("#key", "s3cret")
    page.keyboard.press("Enter")
    page.wait_for_selector("#unlock", state="hidden")
    assert page.input_value("#key") == ""
    page.reload()
    page.wait_for_function("() => document.querySelector('#model').value")
    drop(page, ("a.png", "image/png", make_png()))
    page.fill("#captions", "red")
    run(page)
    assert len(bars(page)) == 1
    assert page.evaluate("[localStorage.length, document.cookie, location.search]") == [0, "", ""]
    other = page.context.new_page()
    other.goto(service)
    other.wait_for_selector("#unlock", state="visible")


# Strangers' texts


@pytest.mark.parametrize("bypass_csp", [False, True])
def test_hostile_texts_do_nothing(visit: Callable[..., Any], bypass_csp: bool) -> None:
    """Without the policy as well: what strangers wrote is text by itself."""
    page = visit(bypass_csp=bypass_csp)
    results: list[dict[str, Any]] = [{"similarity": None, "error": {"code": text, "detail": text}} for text in HOSTILE]
    results += [{"similarity": 0.5, "error": None} for _ in HOSTILE]
    answer = {"model": HOSTILE[0], "results": results}
    page.route("**/v1/similarity", lambda route: route.fulfill(json=answer))
    page.fill("#url", HOSTILE[0])
    page.fill("#captions", "\n".join(HOSTILE * 2))
    run(page)
    page.check("[value=table]")
    rows = [[url, HOSTILE[0] * 2, ""] for url in HOSTILE * 2]
    drop(page, (HOSTILE[1] + ".csv", "text/csv", table_of(rows)))
    run(page, "table")
    page.unroute("**/v1/similarity")
    page.route("**/v1/similarity", lambda route: route.fulfill(**problem(404, HOSTILE[0])))
    page.click("#table-mode form button")
    page.wait_for_function("() => document.querySelector('#table-mode .alert').textContent.includes('onerror')")
    assert page.title() == "Image–text similarity"
    assert page.locator("#pwned, main script, main svg").count() == 0
    assert page.locator("#image-mode .scored > li").count() == len(HOSTILE)
    shown = text_of(page, "#image-mode .scored")
    assert "left [U+202E]right[U+200B] [U+001B][31m" in shown
    assert all(link.get_attribute("href").startswith("http") for link in page.locator("section a").all())


def test_only_plain_addresses_become_links(visit: Callable[..., Any]) -> None:
    page = visit()
    urls = [
        "https://a.example/x?y=1#z",
        "http://[::1]:80/",
        *HOSTILE,
        "https://me@a.example/",
        "https://a.example/\u202e",
    ]
    results = [{"similarity": 0.5, "error": None} for _ in urls]
    page.route("**/v1/similarity", lambda route: route.fulfill(json={"results": results}))
    drop(page, ("t.csv", "text/csv", table_of([[url, "x", ""] for url in urls])))
    run(page, "table")
    links = page.locator("#table-mode a")
    assert [link.get_attribute("href") for link in links.all()] == [*urls[:2], HOSTILE[-1]]
    assert links.first.get_attribute("rel") == "noopener noreferrer nofollow"


def test_the_policy_stops_what_slips_through(browser: Any, service: str) -> None:
    """The probes of these tests work: markup that gets in asks nobody and runs nothing, and is seen without the policy."""
    for bypass in (False, True):
        context = browser.new_context(bypass_csp=bypass)
        page = context.new_page()
        asked: list[str] = []
        page.route("https://evil.example/**", recording(asked))
        page.goto(service)
        script = (
            "html => { const d = new DOMParser(); try { document.body.innerHTML = html } catch { return 'stopped' } }"
        )
        stopped = page.evaluate(script, HOSTILE[0])
        page.evaluate(
            "() => { const i = new Image(); const d = new Promise(r => i.onerror = r); i.src = 'https://evil.example/y'; return d }"
        )
        assert (stopped == "stopped") is not bypass
        assert bool(asked) is bypass
        context.close()


# How it looks


LOOK = """() => {
    const rgba = (text) => { const [r, g, b, a = 1] = text.match(/[\\d.]+/g).map(Number); return [r, g, b, a]; };
    const over = ([r, g, b, a], under) => [r, g, b].map((c, i) => c * a + under[i] * (1 - a));
    const ground = (node) => {
        if (!node) return [255, 255, 255];
        const own = rgba(getComputedStyle(node).backgroundColor);
        return own[3] === 1 ? own.slice(0, 3) : over(own, ground(node.parentElement));
    };
    const light = (colour) => {
        const [r, g, b] = colour.map((c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const ratio = (one, two) => { const [a, b] = [light(one), light(two)].sort((x, y) => y - x); return (a + 0.05) / (b + 0.05); };
    const found = [];
    for (const node of document.querySelectorAll("body *")) {
        const style = getComputedStyle(node);
        if (!node.getClientRects().length || node.matches("option, .unseen, script")) continue;
        if ([...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim()) || node.matches("input:not([type=radio]), textarea, select"))
            found.push(["text", node.outerHTML.slice(0, 80), ratio(over(rgba(style.color), ground(node)), ground(node))]);
        if (node.matches("textarea, input[type=url], select, .drop"))
            found.push(["edge", node.outerHTML.slice(0, 80), ratio(over(rgba(style.borderTopColor), ground(node.parentElement)), ground(node.parentElement))]);
        if (node.matches(".bar span"))
            found.push(["edge", node.outerHTML.slice(0, 80), ratio(ground(node), ground(node.closest("li")))]);
    }
    return found;
}"""


def test_both_colour_schemes_have_contrast(visit: Callable[..., Any]) -> None:
    seen = {}
    for scheme in ("light", "dark"):
        page = visit(color_scheme=scheme, reduced_motion="reduce")
        drop(page, ("t.csv", "text/csv", table_of([[data_url(make_png()), "red", ""], ["https://", "x", ""]])))
        run(page, "table")
        found = page.evaluate(LOOK)
        page.check("[value=image]")
        page.click("#image-mode form button")
        found += page.evaluate(LOOK)
        assert len(found) > 40
        assert [seen for seen in found if seen[2] < (4.5 if seen[0] == "text" else 3)] == []
        seen[scheme] = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert seen["light"] != seen["dark"]


def test_a_phone_scrolls_only_downward(visit: Callable[..., Any]) -> None:
    page = visit(viewport={"width": 360, "height": 640}, has_touch=True, is_mobile=True)
    long = "x" * 3000
    page.fill("#url", "https://a.example/" + long)
    page.fill("#captions", long)
    results = [{"similarity": 0.5, "error": None}, {"similarity": None, "error": {"code": "http_4xx", "detail": long}}]
    page.route(
        "**/v1/similarity",
        lambda route: route.fulfill(json={"results": results[: len(route.request.post_data_json["pairs"])]}),
    )
    run(page)
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    drop(page, (long + ".csv", "text/csv", table_of([["https://a.example/" + long, long, ""]] * 2)))
    run(page, "table")
    page.evaluate("document.querySelectorAll('details').forEach((d) => (d.open = true))")
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    assert (
        page.evaluate(
            "[...document.querySelectorAll('button')].filter((b) => b.offsetHeight && b.offsetHeight < 24).length"
        )
        == 0
    )


def test_motion_is_reduced_on_request(visit: Callable[..., Any]) -> None:
    for wish, moving in (("reduce", False), ("no-preference", True)):
        page = visit(reduced_motion=wish)
        drop(page, ("a.png", "image/png", make_png()))
        page.fill("#captions", "red")
        run(page)
        assert (
            page.evaluate("getComputedStyle(document.querySelector('.bar span')).transitionDuration") != "0s"
        ) is moving


def test_the_markup_says_what_it_is(visit: Callable[..., Any]) -> None:
    page = visit()
    found = page.evaluate("""() => ({
            lang: document.documentElement.lang,
            h1: document.querySelectorAll("h1").length,
            main: document.querySelectorAll("main").length,
            unnamed: [...document.querySelectorAll("input, select, textarea")].filter((f) => !f.labels.length).map((f) => f.id),
            mute: [...document.querySelectorAll("img")].filter((i) => !i.hasAttribute("alt")).length,
            silent: [...document.querySelectorAll("button")].filter((b) => !b.textContent && !b.hidden).length,
            progress: document.querySelector("progress").getAttribute("aria-label"),
            live: [...document.querySelectorAll("[role=status], [role=alert]")].length,
            ids: [...document.querySelectorAll("[id]")].length - new Set([...document.querySelectorAll("[id]")].map((n) => n.id)).size,
            dangling: [...document.querySelectorAll("[aria-describedby]")].filter((n) => !document.getElementById(n.getAttribute("aria-describedby"))).length,
        })""")
    assert found == {
        "lang": "en",
        "h1": 1,
        "main": 1,
        "unnamed": [],
        "mute": 0,
        "silent": 0,
        "progress": "Pairs finished",
        "live": 4,
        "ids": 0,
        "dangling": 0,
    }
    tree = page.locator("main").aria_snapshot()
    for named in ('textbox "Captions, one per line"', 'textbox "or its URL"', 'combobox "Model"', 'radio "A table"'):
        assert named in tree, tree
