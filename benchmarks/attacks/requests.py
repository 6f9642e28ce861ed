"""Requests that cost more than they seem to."""

from __future__ import annotations

import gzip
from base64 import b64encode
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from functools import cache
from itertools import count
from typing import Any

from ..load import PATH, connect, head, post
from ..server import answering, response
from .pictures import lying_avif, picture, webp
from .target import Target, score, send

OLD_BATCH = "/evaluator/v1/evaluation/batch"
WORST = ("\u0315\u0300", ".", '"', "\\", "9", "[", " ", "\u200b")  # characters to fill overlong texts with
_MIB = 1 << 20
_SIDE = 4990  # side of an image of 25 megapixels, the largest that a service decodes by default


@asynccontextmanager
async def hostile_host() -> AsyncIterator[str]:
    """Run a web server that never responds, serves bombs, or redirects to slow host names; yield its address."""
    bomb = gzip.compress(bytes(32 * _MIB))
    async with answering(
        {
            b"/silent": b"",
            b"/bomb": response(bomb, Content_Type="image/png", Content_Encoding="gzip"),
            b"/redirect": response(b"", "302 Found", Location=f"http://{_slow_name(4000)}/"),
        }
    ) as address:
        yield address


async def slow_host_names(target: Target, number: int) -> int:
    """Send host names whose normalisation takes time quadratic in their length."""
    return await score(target, [f"http://{_slow_name(80_000)}/{number}", f"{target.host}/redirect?{number}"])


async def megabytes(target: Target, number: int) -> int:
    """Send a megabyte of one character in each field."""
    status = 0
    for request in _megabytes(WORST[number % len(WORST)], target.key):
        status = await send(target, request)
    return status


@cache
def _megabytes(worst: str, key: str) -> list[bytes]:
    return [post(body, path, key) for path, body in long_texts(worst)]


def long_texts(worst: str) -> Iterable[tuple[str, dict[str, Any]]]:
    """Return requests, as paths and bodies, with a megabyte of one character in every text that they may contain."""
    text = worst * (_MIB // len(worst.encode()))
    good = {"image_base64": b64encode(picture(0)).decode()}
    references = [
        f"http://a{text}/",
        f"http://127.0.0.1:1111/{text}",
        f"data:{text}",
        f"data:;base64,{text}",
        f"a{text}a",
    ]
    pairs = [{"image_url": reference, "caption": "a"} for reference in references] + [{**good, "caption": f"a{text}"}]
    old = {"image_input": f"{text}a", "text_prompt": f"a{text}", "model_config_name": f"a{text}"}
    return [
        (PATH, {"pairs": pairs}),
        (PATH, {"pairs": [{**good, "caption": "a"}], "model": f"a{text}"}),
        ("/v1/embeddings", {"input": [f"a{text}"], "model": "mini"}),
        ("/evaluator/v1/evaluation/single", old),
        (OLD_BATCH, {"evaluations": [old]}),
    ]


async def large_pictures(target: Target, number: int) -> int:
    """Send distinct images of a few bytes that decode to 25 megapixels each."""
    pictures = (webp(_SIDE - (number * target.size + n) % 2000) for n in range(target.size))
    return await score(target, pictures, f"a {number}")


async def one_large_picture(target: Target, number: int) -> int:
    picture = webp(_SIDE - number % 2000)
    pairs = [{"image_base64": b64encode(picture).decode(), "caption": f"a {number} {n}"} for n in range(target.size)]
    return await send(target, post({"pairs": pairs}, PATH, target.key))


async def old_batch(target: Target, number: int) -> int:
    """Send the work of 24 requests in a single request."""
    pictures = [b64encode(webp(_SIDE - n)).decode() for n in range(target.size)]
    asked = [
        {"image_input": pictures[n % len(pictures)], "text_prompt": f"a {number} {n}", "model_config_name": name}
        for n, name in zip(range(24 * target.size), _names(), strict=False)
    ]
    return await send(target, post({"evaluations": asked}, OLD_BATCH, target.key))


def _names() -> Iterable[str | None]:
    """Yield names of models, every third of which does not exist."""
    return (f"model {number}" if number % 3 == 0 else None for number in count(1))


async def silent_hosts(target: Target, number: int) -> int:
    return await score(target, [f"{target.host}/silent?{number}.{n}" for n in range(target.size)])


async def lying_avifs(target: Target, number: int) -> int:
    """Send images that claim to be 64 x 64 but have 4 megapixels."""
    return await score(target, [lying_avif()] * target.size, f"a {number}")


async def emoji(target: Target, number: int) -> int:
    """Send a body of half the maximum length, in characters that need four times as much memory in Python."""
    caption = "\N{GRINNING FACE}" * (target.size * _MIB // 16)
    body = f'{{"pairs":[{{"image_url":"{target.host}/silent","caption":"a{caption}"}}]}}'
    return await send(target, post(body.encode(), PATH, target.key))


async def gzip_bombs(target: Target, number: int) -> int:
    """Send a body, and references to images, that each expand to a thousand times their length."""
    body = _bomb(target.size * _MIB // 4)
    start = head(
        "POST", PATH, target.key, Content_Type="application/json", Content_Encoding="gzip", Content_Length=len(body)
    )
    await send(target, start + body)
    return await score(target, [f"{target.host}/bomb?{number}.{n}" for n in range(max(1, target.size // 4))])


@cache
def _bomb(size: int) -> bytes:
    return gzip.compress(b'{"pairs":[' + b" " * size)


async def long_numbers(target: Target, number: int) -> int:
    """Send numbers whose parsing takes time quadratic in their length."""
    numbers = ",".join(["9" * 4000] * (64 * target.size))
    body = f'{{"pairs":[{{"image_url":"data:,","caption":"a","id":[{numbers}]}}]}}'
    return await send(target, post(body.encode(), PATH, target.key))


async def tiny_pieces(target: Target, number: int) -> int:
    """Send a body in chunks of one byte."""
    start = head("POST", PATH, target.key, Content_Type="application/json", Transfer_Encoding="chunked")
    return await send(target, start + b"1\r\n \r\n" * (1000 * target.size) + b"0\r\n\r\n")


async def wrong_keys(target: Target, number: int) -> int:
    """Try hundreds of keys."""
    status, connection = 0, await connect(target.address, target.source)
    for n in range(16 * target.size):
        if not connection.usable:
            break
        status, _ = await connection.answer(head("POST", PATH, f"guess-{number}-{n}", Content_Length=0))
    connection.close()
    return status


def _slow_name(characters: int) -> str:
    return "a" + "\u0315\u0300" * (characters // 2)
