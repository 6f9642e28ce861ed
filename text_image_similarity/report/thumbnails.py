"""Thumbnails for the page: fetched and decoded within the run's limits, and encoded again.

The original bytes never reach the page; images that cannot be fetched in time are left out.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as TooLateError
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial
from typing import TypeVar

import httpx
from PIL import Image

from ..config import Config
from ..decode import IsolatedDecoder, decode
from ..fetch import Fetcher
from ..pipeline import Loaders
from .tally import MOST_URL

Source = TypeVar("Source", bound=str | bytes)  # a reference or an encoded file

SIDE = 160  # pixels of the longer side, at most
_THREADS = 8
_MOST_BYTES = 7000


def thumbnails(
    sources: Iterable[Source],
    config: Config,
    *,
    transport: httpx.BaseTransport | None = None,
    seconds: float = 30.0,
) -> dict[Source, bytes]:
    """Fetch images and make small JPEGs of them.

    Args:
        sources: Image references, as in the run, or encoded files.
        config: The run's settings; limits, address checks, `base_dir` and `isolate_decoder` apply here too. There are
            no retries.
        transport: Transport for HTTP requests, for tests; None is the network.
        seconds: Time limit for all images together. Images that are missing when the time is up are left out.

    Returns:
        JPEGs of at most 160 by 160 pixels, by reference or file, without images that failed.
    """
    config = replace(config, retries=0)
    wanted = [source for source in dict.fromkeys(sources) if isinstance(source, bytes) or len(source) <= MOST_URL]
    if not wanted:
        return {}
    end = time.monotonic() + seconds
    with ExitStack() as stack:
        loaders = stack.enter_context(closing(Loaders(min(_THREADS, config.io_workers))))
        fetcher = stack.enter_context(closing(Fetcher(config, transport=transport)))
        make: Callable[..., Image.Image] = partial(decode, limits=config.limits)
        if config.isolate_decoder:
            make = stack.enter_context(closing(IsolatedDecoder(config.limits))).decode

        def load(source: Source) -> bytes:
            content = source if isinstance(source, bytes) else fetcher.fetch(source)
            return small_jpeg(make(content, shorter_side=SIDE))

        futures = {source: loaders.submit(partial(load, source)) for source in wanted}
        return {source: future.result() for source, future in futures.items() if _is_there(future, end)}


def small_jpeg(image: Image.Image, *, side: int = SIDE) -> bytes:
    """Return an RGB image as a JPEG of at most `side` by `side` pixels, without any metadata."""
    image.thumbnail((side, side))
    bare = Image.new("RGB", image.size)  # without the image's comments and profiles
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
