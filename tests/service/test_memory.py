"""What strangers can make the service hold: counted as it is held, and at its worst below the limits in deploy/."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, cast

import httpx
import pytest
import yaml

from scripts import memory_sum
from tests.support.images import make_png
from tests.support.paths import ROOT
from tests.support.services import app_of, base64_pair, mini_settings, serving
from text_image_similarity.encoders.testing import ColourEncoder
from text_image_similarity.errors import RowError
from text_image_similarity.fetch.references import data_url_bytes
from text_image_similarity.service.http import bodies
from text_image_similarity.service.http.json_bodies import JsonAnswer, read_json, text_bytes
from text_image_similarity.service.http.middleware import Gate, _Body
from text_image_similarity.service.problems import ProblemError

LENGTH = 1 << 20
SLACK = LENGTH // 16
EMOJI = "\N{GRINNING FACE}"
TEXTS = {
    "ASCII": "a" * LENGTH,
    "an emoji at the end": "a" * LENGTH + EMOJI,
    "emoji": EMOJI * (LENGTH // 4),
    "Chinese": "\u4e2d" * (LENGTH // 3),
    "quotes": '"' * (LENGTH // 2),
    "backslashes": "\\" * (LENGTH // 2),
    "colons": ":" * LENGTH,
    "an escaped emoji": "a" * LENGTH + "\\ud83d\\ude00",
}


@contextmanager
def taking(most: float) -> Iterator[Callable[[], int]]:
    """Hold what a block takes at most against a limit, in bytes; yield what says how much is left of it."""
    tracemalloc.start()
    try:
        yield lambda: tracemalloc.get_traced_memory()[0]
        assert tracemalloc.get_traced_memory()[1] <= most + SLACK
    finally:
        tracemalloc.stop()


def body_of(text: str) -> bytearray:
    """Return a body that holds a text, with what is escaped in it, in UTF-8 and not in ASCII."""
    content = text if "\\ud83d" in text else text.replace("\\", "\\\\").replace('"', '\\"')
    return bytearray(b'{"a": "' + content.encode() + b'", "b": ":"}')


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_a_body_takes_what_is_counted_and_no_more_than_thrice_its_length_while_it_is_read(text: str) -> None:
    body = body_of(text)
    counted = text_bytes(body)
    with taking(counted + 2 * len(body)) as kept:  # the body itself is there already
        found = read_json(body)
        assert kept() <= counted + SLACK
    assert found["a"] == text.replace("\\ud83d\\ude00", EMOJI)


def test_an_answer_is_written_without_a_text_of_the_whole() -> None:
    text = "a" * LENGTH + EMOJI
    with taking(5 * LENGTH):  # of which Python takes four for a moment, when it writes a text in UTF-8
        answer = JsonAnswer({"a": text})
    assert answer.body == b'{"a":"' + text.encode() + b'"}'


@pytest.mark.parametrize(
    ("content", "most"),
    [("a" * LENGTH + EMOJI, 2 * LENGTH), ("\\" * LENGTH, LENGTH // 3), ("%41" * (LENGTH // 3), LENGTH // 3)],
    ids=["an emoji", "backslashes", "escapes"],
)
def test_a_data_url_takes_five_times_its_length(content: str, most: int) -> None:
    url = f"data:,{content}"
    with taking(5 * LENGTH), pytest.raises(RowError) if content[0] == "\\" else nullcontext():
        assert data_url_bytes(url, most) == content.replace("%41", "A").encode()


def test_a_body_is_counted_as_what_its_texts_take() -> None:
    parts = dict.fromkeys(["app", "pool", "metrics", "tracing", "work_routes", "open_routes", "match_routes"])
    settings = mini_settings(max_body_bytes=1000)
    gate = Gate(**cast(Any, parts), settings=settings, journal=cast(Any, None), auditor=cast(Any, None))
    first, second, third = (_Body(gate, cast(Any, None), {}) for _ in range(3))
    for body in (first, second, third):
        body.client = "one"
    first.count(3000)
    assert (first.held, gate.held["one"]) == (3000, 3000)
    with pytest.raises(ProblemError, match="leave no room") as full:
        second.count(1500)
    assert full.value.code == "queue_full"
    gate.release("one", second.held)
    first.count(400)
    assert gate.held["one"] == 400
    with pytest.raises(ProblemError) as long:
        third.count(4001)  # which would never have room
    assert (long.value.code, gate.held["one"]) == ("too_many_bytes", 400)


def test_the_routes_count_it(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = base64_pair(make_png("red"), "a red square")
    with serving(app_of(mini_settings(), ColourEncoder())) as client:

        def ask() -> httpx.Response:
            return client.post("/v1/similarity", json={"pairs": [pair]})

        assert ask().status_code == 200
        monkeypatch.setattr(bodies, "text_bytes", lambda body: 1 << 40)
        assert (ask().status_code, ask().json()["code"]) == (413, "too_many_bytes")


def test_the_sum_on_the_page_is_that_of_the_settings_and_below_the_limits() -> None:
    page = memory_sum.PAGE.read_text(encoding="utf-8")
    assert memory_sum.documented(page) == page, "run make docs"
    found = memory_sum.deployed()
    assert list(found) == ["compose", "Triton", "Kubernetes"]
    for name, (arguments, limit) in found.items():
        settings = memory_sum.settings_for(arguments)
        assert settings.models[settings.default].isolate_decoder
        together = sum(part.most for part in memory_sum.parts(settings, memory_sum.CORES))
        assert limit // 2 < together < limit, name
    for file in ("service", "triton"):
        services = yaml.safe_load((ROOT / "deploy" / file / "compose.yaml").read_text(encoding="utf-8"))["services"]
        for service in (each for name, each in services.items() if name.startswith("scorer")):
            limits = service["deploy"]["resources"]["limits"]
            assert service["environment"]["OMP_NUM_THREADS"] == limits["cpus"] == str(memory_sum.CORES)
    pod = yaml.safe_load((ROOT / "deploy/service/kubernetes/deployment.yaml").read_text(encoding="utf-8"))
    assert pod["spec"]["template"]["spec"]["containers"][0]["resources"]["requests"]["cpu"] == str(memory_sum.CORES)


@pytest.mark.parametrize(
    ("argument", "part"),
    [("--max-body-mb=64", 1), ("--io-workers=64", 4), ("--limit=decode_memory=1GiB", 5), ("--max-pixels=50000000", 7)],
)
def test_the_sum_grows_with_its_settings(argument: str, part: int) -> None:
    arguments, _ = memory_sum.deployed()["Kubernetes"]
    less, more = (memory_sum.parts(memory_sum.settings_for([*arguments, *add]), 2) for add in ([], [argument]))
    assert more[part].most > 1.8 * less[part].most


def test_a_large_body_of_long_numbers_is_refused_before_they_are_read() -> None:
    body = b'{"a": [' + b",".join([b"9" * 4000] * 300) + b"]}"
    with pytest.raises(ProblemError, match="a number in it is too long"):
        read_json(body)
    for text in (b"1234567890 " * 120_000, b"9" * LENGTH, b'\\",' + b"9" * LENGTH):
        assert read_json(b'{"a": "' + text + b'", "b": 1}')["b"] == 1
    quotes = b'"' * 2 * LENGTH + EMOJI.encode()
    assert text_bytes(quotes) == 4 * len(quotes)  # unseen: to look at each would take seconds
    with pytest.raises(ProblemError, match="not valid JSON"):
        read_json(quotes + b"9" * 500)
