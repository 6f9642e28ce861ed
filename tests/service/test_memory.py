"""What strangers can make the service hold: counted as it is held, and at its worst below the limits in deploy/."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, cast

import httpx
import pytest
import yaml
from PIL import Image
from pydantic import BaseModel, ValidationError

from scripts import memory_sum
from tests.support.images import make_png
from tests.support.paths import ROOT
from tests.support.services import app_of, base64_pair, mini_settings, serving
from text_image_similarity.encoders.adapter import UnpreparedEncoder
from text_image_similarity.encoders.testing import ColourEncoder
from text_image_similarity.errors import RowError
from text_image_similarity.fetch.references import data_url_bytes
from text_image_similarity.preprocess import MOST_SIDE
from text_image_similarity.service.http import json_bodies
from text_image_similarity.service.http.exchange import IncomingBody, Room
from text_image_similarity.service.http.json_bodies import JsonAnswer, JsonBody, finish
from text_image_similarity.service.http.schema import LegacyEvaluationBatch
from text_image_similarity.service.http.search_schema import BatchRequest, MatchRequest
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


def body_in(*pieces: bytes) -> JsonBody:
    body = JsonBody()
    for piece in pieces:
        body.take(piece)
    return body


def counted(content: bytes) -> int:
    """Return how many bytes a body's texts count as."""
    found: list[int] = []
    finish(body_in(content).read(found.append))
    (size,) = found
    return size


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_a_body_takes_what_is_counted_and_no_more_than_thrice_its_length_while_it_is_read(text: str) -> None:
    content = bytes(body_of(text))
    size = counted(content)
    body = body_in(content)
    with taking(size + 2 * len(content)) as kept:  # the body itself is there already
        found = finish(body.read())
        assert kept() <= size + SLACK
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
    settings = mini_settings(max_body_bytes=1000)
    room = Room(settings.max_body_bytes)
    first, second, third = (IncomingBody(room, settings, cast(Any, None), {}) for _ in range(3))
    for body in (first, second, third):
        body.client = "one"
    first.count(3000)
    assert (first.held, room.held["one"]) == (3000, 3000)
    with pytest.raises(ProblemError, match="leave no memory") as full:
        second.count(1500)
    assert full.value.code == "queue_full"
    room.release("one", second.held)
    first.count(400)
    assert room.held["one"] == 400
    with pytest.raises(ProblemError) as long:
        third.count(4001)  # which would never have room
    assert (long.value.code, room.held["one"]) == ("too_many_bytes", 400)


def test_the_routes_count_it(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = base64_pair(make_png("red"), "a r\u00e9d square")
    with serving(app_of(mini_settings(), ColourEncoder())) as client:

        def ask() -> httpx.Response:
            return client.post("/v1/similarity", json={"pairs": [pair]})

        assert ask().status_code == 200
        monkeypatch.setattr(json_bodies, "_WIDEST", 1 << 40)
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
    [
        ("--max-body-mb=64", 1),
        ("--io-workers=64", 4),
        ("--limit=decode_memory=1GiB", 5),
        ("--max-pixels=50000000", 7),
        ("--catalog=shop=shop.catalog", 10),  # from nothing
    ],
)
def test_the_sum_grows_with_its_settings(argument: str, part: int) -> None:
    arguments, _ = memory_sum.deployed()["Kubernetes"]
    less, more = (memory_sum.parts(memory_sum.settings_for([*arguments, *add]), 2) for add in ([], [argument]))
    assert more[part].most > 1.8 * less[part].most


def test_images_at_full_size_are_in_the_sum() -> None:
    settings = memory_sum.settings_for([])
    pixels = settings.models[settings.default].limits.max_pixels
    image = UnpreparedEncoder(ColourEncoder()).prepare(Image.new("RGB", (300, 200)))
    assert image.size == (300, 200), "it waits at full size"
    larger, full = memory_sum.others(settings, memory_sum.CORES)
    usual = memory_sum.parts(settings, memory_sum.CORES)[8]
    assert full.most + usual.most == settings.max_inflight * 4 * pixels
    assert larger.most + usual.most == settings.max_inflight * 3 * MOST_SIDE**2
    (catalogued,) = (each for each in memory_sum.others(memory_sum.settings_for(["--catalog=a=b.catalog"]), 2)[1:])
    assert catalogued.most > 1.5 * full.most, "writes to catalogues keep them too"


def test_long_numbers_are_refused_before_they_are_read() -> None:
    for zeros in range(60_000, 70_000, 1111):  # before, across and behind the end of a piece
        content = b'{"a": "' + b"0" * zeros + b'", "b": ' + b"9" * 200 + b"}"
        with pytest.raises(ProblemError, match="a number in it is too long"):
            finish(body_in(content).read())
    for text in (b"1234567890 " * 120_000, b"9" * LENGTH, b'\\",' + b"9" * LENGTH):
        assert finish(body_in(b'{"a": "' + text + b'", "b": 1}').read())["b"] == 1


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b'["' + b"\\u3042" * 3 * LENGTH, "too_many_bytes"),
        (b'["' + b'\\"' * 3 * LENGTH, "too_many_bytes"),
        (b'["' + EMOJI.encode() * 4 * LENGTH, "too_many_bytes"),
        (b'"' * 2 * LENGTH, "invalid_json"),
        (b"[" * LENGTH, "invalid_request"),
    ],
    ids=["escapes", "escaped quotes", "emoji", "quotes", "brackets"],
)
def test_what_makes_a_parser_slow_is_refused_before_it_is_parsed(
    monkeypatch: pytest.MonkeyPatch, content: bytes, code: str
) -> None:
    monkeypatch.setattr(json_bodies, "from_json", None)
    with pytest.raises(ProblemError) as refused:
        finish(body_in(content).read())
    assert refused.value.code == code


def test_others_have_their_turn_while_a_body_is_read() -> None:
    for content in (b'["' + b"a" * LENGTH + b'"]', b'["' + b"a" * LENGTH, b'{"a":1,"a":"' + b"a" * LENGTH + b'"}'):
        pauses, steps = 0, body_in(content).read()
        try:
            while True:
                next(steps)
                pauses += 1
        except (StopIteration, ProblemError):
            pass
        assert pauses > LENGTH >> 16


@pytest.mark.parametrize("piece", range(2, 12))
def test_a_body_is_the_same_in_whichever_pieces_it_is_looked_at(monkeypatch: pytest.MonkeyPatch, piece: int) -> None:
    values = [
        {'a"': "\\", "\\": ['"\\"', 12, -0.5e3, None], ":": {"": "\n\u00e9:,[{"}},
        "\u3042" * 9,
        '\\"' * 5,
        [],
        {"b": ""},
    ]
    for ascii_only in (True, False):
        content = json.dumps(values, ensure_ascii=ascii_only).encode()
        size = counted(content)
        with monkeypatch.context() as patch:
            patch.setattr(json_bodies, "_PIECE", piece)
            assert finish(body_in(content).read()) == values
            assert counted(content) == size
            with pytest.raises(ProblemError, match="has the member"):
                finish(body_in(b'[{"c": 1, "d": "\\\\", "c": 2}, ' + content[1:]).read())


@pytest.mark.parametrize(
    ("model", "value"),
    [
        (BatchRequest, {"products": [dict.fromkeys(map(str, range(90)), 0)] * 1000}),
        (BatchRequest, {"delete": [0] * 1000}),
        (MatchRequest, {"queries": [{"terms": [{"vector": ["x"] * 90_000}]}]}),
        (MatchRequest, {"queries": [{"terms": [dict.fromkeys(map(str, range(90)), 0)] * 16}] * 64}),
        (LegacyEvaluationBatch, {"evaluations": [{}] * 10_000}),
    ],
)
def test_one_wrong_item_of_many_is_enough(model: type[BaseModel], value: Any) -> None:
    with pytest.raises(ValidationError) as refused:  # to report a hundred thousand takes a third of a second
        model.model_validate(value)
    assert refused.value.error_count() <= 64 * 91
