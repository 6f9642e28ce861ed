"""Small pictures for the page: fetched and decoded under the run's own limits, and encoded again by us.

The bytes of an origin never reach the page; what cannot be had in time is left out.
"""

from __future__ import annotations

import io
import time
from collections.abc import Iterable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as TooLateError
from contextlib import closing
from dataclasses import replace
from functools import partial

import httpx
from PIL import Image

from ..config import Config
from ..decode import decode
from ..fetch import Fetcher
from ..pipeline import Loaders
from .tally import MOST_URL

SIDE = 160  # pixels of the longer side, at most
_THREADS = 8
_MOST_BYTES = 7000


def thumbnails(
    urls: Iterable[str], config: Config, *, transport: httpx.BaseTransport | None = None, seconds: float = 30.0
) -> dict[str, bytes]:
    """Fetch pictures and make small JPEGs of them.

    Args:
        urls: Image references, as the run read them.
        config: The run's settings; limits, address guard and `base_dir` hold here too. Nothing is tried twice.
        transport: Where http requests go, for tests; None is the network.
        seconds: Time for all of them. What is not there by then is left out.

    Returns:
        JPEGs of at most 160 by 160 pixels, by reference; pictures that failed are not among them.
    """
    config = replace(config, retries=0)
    fetcher = Fetcher(config, transport=transport)

    def load(url: str) -> bytes:
        return small_jpeg(decode(fetcher.fetch(url), config.limits, shorter_side=SIDE))

    wanted = [url for url in dict.fromkeys(urls) if len(url) <= MOST_URL]
    end = time.monotonic() + seconds
    with closing(Loaders(min(_THREADS, config.io_workers))) as loaders, closing(fetcher):
        futures = {url: loaders.submit(partial(load, url)) for url in wanted}
        return {url: future.result() for url, future in futures.items() if _is_there(future, end)}


def small_jpeg(image: Image.Image, *, side: int = SIDE) -> bytes:
    """Return an RGB picture as a JPEG of at most `side` by `side` pixels, which carries its pixels and nothing else."""
    image.thumbnail((side, side))
    bare = Image.new("RGB", image.size)  # without the comments and profiles that came with the picture
    bare.paste(image)
    for quality in (80, 60, 40, 20):
        out = io.BytesIO()
        bare.save(out, "JPEG", quality=quality, optimize=True)
        if out.tell() <= _MOST_BYTES * (side / SIDE) ** 2:
            break
    return out.getvalue()


def _is_there(future: Future[bytes], end: float) -> bool:
    try:
        return future.exception(timeout=max(0.0, end - time.monotonic())) is None
    except TooLateError:
        return False
