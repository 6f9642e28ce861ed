"""An image that is poison costs itself alone: its neighbours' scores are those without it, and the service stays ready."""

from __future__ import annotations

import errno
import random
import socket
import time
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.support import corpus
from tests.support.clock import HANG_S
from tests.support.faults import FAULTS, MANY
from tests.support.images import make_png, saved
from tests.support.puppets import COMMAND, let_hangs_end
from tests.support.server import Server, response
from tests.support.services import MINI, app_of, base64_pair, mini_settings, serving
from text_image_similarity import Config, Limits, Record, RowError, score_pairs
from text_image_similarity.decode import decode
from text_image_similarity.decode import isolation as isolation_module
from text_image_similarity.encoders.testing import ColourEncoder

CLIENTS = 8
PAIRS = 16  # of a request, half of them poison
HASTY = replace(MINI, timeout_s=5.0, limits=replace(MINI.limits, total_s=5.0))
# They take seconds each, and tests/decode/test_corpus.py decodes them.
SLOW_BOMBS = {"jpeg exif", "png chunks", "tiff many strips", "bigtiff tags", "bmp many runs"}


@contextmanager
def service(config: Config = MINI, **changes: Any) -> Iterator[httpx.Client]:
    """Serve `mini` with room for all, and with no memory of images; whatever was done, it works afterwards."""
    settings = mini_settings(models={"mini": config}, max_queue=10_000, max_inflight=10_000, cache_entries=1, **changes)
    with serving(app_of(settings)) as client:
        yield client
        assert client.get("/readyz").status_code == 200
        assert client.get("/livez").status_code == 200
        answer = client.post("/v1/similarity", json={"pairs": [base64_pair(make_png("red"), "a red square")]})
        assert answer.json()["results"][0]["error"] is None
        assert "tis_inflight_pairs 0.0" in client.get("/metrics").text


class Ready:
    """Looks at /readyz all the while that other things happen."""

    def __init__(self, client: httpx.Client) -> None:
        self._client, self._going = client, True

    def __enter__(self) -> Ready:
        self._pool = ThreadPoolExecutor(1)
        self._found = self._pool.submit(self._look)
        return self

    def __exit__(self, *_: object) -> None:
        self._going = False
        assert self._found.result(HANG_S) > 0
        self._pool.shutdown()

    def _look(self) -> int:
        count = 0
        while self._going:
            assert self._client.get("/readyz").status_code == 200
            count += 1
            time.sleep(0.02)
        return count


@pytest.fixture(scope="module")
def good() -> list[bytes]:
    """Images that differ from each other."""
    rng = np.random.default_rng(0)
    return [saved(Image.fromarray(rng.integers(0, 256, (24, 32, 3), np.uint8)), "PNG") for _ in range(128)]


@pytest.fixture(scope="module")
def alone(good: list[bytes]) -> list[float]:
    """Their scores where there is no poison."""
    return [result.similarity for result in score_pairs((Record(inline(image), "noise") for image in good), MINI)]


def inline(image: bytes) -> str:
    return "data:;base64," + b64encode(image).decode()


def code_alone(image: bytes) -> str | None:
    """Return the code of an image, or None if it is one after all."""
    try:
        decode(image, Limits())
    except RowError as error:
        return error.code.value
    return None


def mix(
    client: httpx.Client,
    good: Sequence[dict[str, Any]],
    poison: Sequence[tuple[dict[str, Any], str | None]],
    *,
    may_be: Sequence[str] = (),
) -> tuple[list[float | None], Counter[str | None]]:
    """Ask about good pairs with poison in every second place, and in every second request, from several threads.

    Args:
        client: Of the service.
        good: Pairs that have a score.
        poison: Pairs with their codes.
        may_be: Codes that each of them may have instead, on a busy machine.

    Returns:
        The good pairs' scores, and the poison's codes.
    """
    half = PAIRS // 2
    requests: list[list[tuple[dict[str, Any], str | bool | None]]] = []
    for number, start in enumerate(range(0, max(len(good), len(poison)), half)):
        few = [(good[(start + i) % len(good)], True) for i in range(half)]
        many = [poison[(start + i) % len(poison)] for i in range(half)]
        if number % 2:
            requests += [[(pair, True) for pair, _ in few], list(many)]  # a request of poison alone
        else:
            requests.append([pair for both in zip(many, few, strict=True) for pair in both])

    def ask(request: list[tuple[dict[str, Any], str | bool | None]]) -> list[dict[str, Any]]:
        pairs = [pair | {"id": number} for number, (pair, _) in enumerate(request)]
        answer = client.post("/v1/similarity", json={"pairs": pairs}, timeout=60)
        assert answer.status_code == 200, answer.text
        results: list[dict[str, Any]] = answer.json()["results"]
        assert [result["id"] for result in results] == list(range(len(pairs)))
        return results

    scores: dict[int, float | None] = {}
    codes: Counter[str | None] = Counter()
    places = {id(pair): place for place, pair in enumerate(good)}
    with Ready(client), ThreadPoolExecutor(CLIENTS) as pool:
        for request, results in zip(requests, pool.map(ask, requests), strict=True):
            for (pair, expected), result in zip(request, results, strict=True):
                code = result["error"] and result["error"]["code"]
                if expected is True:
                    place = places[id(pair)]
                    assert scores.setdefault(place, result["similarity"]) == result["similarity"], "each time the same"
                else:
                    assert code in (expected, *may_be), (result, str(pair)[:200])
                    codes[code] += 1
    return [scores[place] for place in range(len(good))], codes


def broken_images() -> list[bytes]:
    """Make files of every format and mode that end early, and files that were changed somewhere."""
    cases, chance = corpus.pictures(), random.Random(0)
    cut = [case.data[: int(len(case.data) * 0.4)] for case in cases]
    small = [case.data for case in cases if len(case.data) < 8000]
    changed = []
    for _ in range(150):
        data = bytearray(chance.choice(small))
        for _ in range(chance.randint(1, 6)):
            at = chance.randrange(len(data))
            data[at : at + chance.choice([1, 4])] = chance.choice(
                [b"\0\0\0\0", b"\xff\xff\xff\x7f", chance.randbytes(3)]
            )
        changed.append(bytes(data))
    return [make_png("red", (1, 1)), b"x", b"<html>no image</html>", b"GIF89a", *cut, *changed]


@pytest.mark.slow
def test_broken_images_move_no_score(good: list[bytes], alone: list[float]) -> None:
    broken = broken_images()
    poison = [(base64_pair(image, "noise"), code_alone(image)) for image in broken]
    poison += [
        ({"image_base64": "", "caption": "noise"}, "empty_body"),
        ({"image_base64": "?", "caption": "noise"}, "invalid_url"),
        ({"image_url": "", "caption": "noise"}, "invalid_url"),
        ({"image_url": "/etc/passwd", "caption": "noise"}, "unsupported_scheme"),
        ({"image_url": "file:///etc/passwd", "caption": "noise"}, "unsupported_scheme"),
        (base64_pair(good[0], " \n"), "empty_caption"),
    ]
    with service() as client:
        scores, codes = mix(client, [base64_pair(image, "noise") for image in good], poison)
        metrics = client.get("/metrics").text
    assert scores == alone
    assert {"truncated", "corrupt", "not_an_image", "empty_caption", None} <= set(codes)
    for code, count in codes.items():
        if code is not None:
            assert f'error_code="{code}",model="mini",result="failed"}} {float(count)}' in metrics


@pytest.mark.slow
def test_bombs_move_no_score(good: list[bytes], alone: list[float], server: Server) -> None:
    poison = []
    for number, (name, make) in enumerate(corpus.bombs().items()):
        if name not in SLOW_BOMBS:
            bomb = make()
            server.routes[f"/{number}"] = response(bomb)
            code = "too_many_bytes" if len(bomb) > Limits().max_bytes else code_alone(bomb)
            poison.append(({"image_url": server.url(f"/{number}"), "caption": "noise"}, code))
    assert {"too_many_pixels", "too_many_bytes", "corrupt", None} <= {code for _, code in poison}
    with service() as client:
        pairs = [base64_pair(image, "noise") for image in good[: len(poison)]]
        assert mix(client, pairs, poison)[0] == alone[: len(poison)]


@pytest.mark.slow
def test_servers_that_misbehave_move_no_score(good: list[bytes], alone: list[float], server: Server) -> None:
    poison, pairs = [], []
    for number, (name, fault) in enumerate(FAULTS.items()):
        if name == "a redirect to a closed door":  # behind a name that is known to other tests' resolver
            continue
        path = "/x" if name == "a redirect to itself" else f"/bad{number}"
        server.routes[path] = fault.answer
        poison.append(({"image_url": server.url(path), "caption": "noise"}, fault.code))
    for number, image in enumerate(good):
        server.routes[f"/good{number}"] = response(image)
        url = server.url(f"/good{number}").replace("127.0.0.1", "localhost")
        pairs.append({"image_url": url, "caption": "noise"})
    config = replace(HASTY, limits=replace(HASTY.limits, max_bytes=MANY), io_workers=32)
    with service(config) as client:
        scores, codes = mix(client, pairs, poison, may_be=["timeout"])
    assert scores == alone
    assert {"timeout", "bad_response", "redirect_error", "too_many_bytes", "empty_body", "http_5xx"} <= set(codes)


def test_addresses_that_are_not_public_are_never_dialled(
    good: list[bytes], alone: list[float], server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    public, dialled = "93.184.215.14", set()
    real: Callable[..., int] = socket.socket.connect_ex

    def connect_ex(self: socket.socket, address: tuple[str, int]) -> int:
        dialled.add(address[0])
        return real(self, ("127.0.0.1", address[1])) if address[0] == public else errno.ECONNREFUSED

    monkeypatch.setattr(socket.socket, "connect_ex", connect_ex)
    server.routes["/secret"] = response(make_png("red"))
    denied = [
        server.url("/secret"),
        f"http://localhost:{server.port}/secret",
        "http://169.254.169.254/latest/meta-data",
    ]
    denied += ["http://10.0.0.1/", "http://[::ffff:127.0.0.1]/", "http://[64:ff9b::a9fe:a9fe]/"]
    urls = list(denied)
    for number, location in enumerate(denied):
        server.routes[f"/door{number}"] = response(b"", "302 Found", location=location)
        urls.append(f"http://{public}:{server.port}/door{number}")
    poison = [({"image_url": url, "caption": "noise"}, "blocked_address") for url in urls]
    config = Config(model="mini", retries=0)
    with service(config) as client:
        assert mix(client, [base64_pair(image, "noise") for image in good], poison)[0] == alone
    assert dialled == {public}
    assert "/secret" not in server.hits


@pytest.mark.slow
def test_an_isolated_decoder_gives_the_same(good: list[bytes], alone: list[float]) -> None:
    poison = [(base64_pair(image, "noise"), code_alone(image)) for image in broken_images()[:64]]
    with service(replace(MINI, isolate_decoder=True)) as client:
        assert mix(client, [base64_pair(image, "noise") for image in good], poison)[0] == alone


def test_a_decoder_that_crashes_costs_one_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolation_module, "worker_command", lambda _: COMMAND)
    let_hangs_end(monkeypatch, b"hang", b"half")
    config = replace(MINI, isolate_decoder=True)
    pairs = [base64_pair(b"fine %d" % number, "white") for number in range(64)]  # the puppet says a white dot
    does = [b"crash", b"exit", b"noise", b"claim", b"word", b"crash", b"endless", b"exit"] * 3 + [b"hang", b"half"]
    poison = [(base64_pair(what, "white"), "decoder_crash") for what in does]
    settings = mini_settings(models={"mini": config}, max_queue=10_000, cache_entries=1)
    with serving(app_of(settings, ColourEncoder())) as client:
        scores, _ = mix(client, pairs, poison)
        assert client.get("/readyz").status_code == 200
        assert client.post("/v1/similarity", json={"pairs": pairs[:1]}).json()["results"][0]["error"] is None
    (dot,) = score_pairs([Record(inline(make_png("white", (1, 1))), "white")], MINI, encoder=ColourEncoder())
    assert scores == [dot.similarity] * len(pairs)
