"""Records whose captions name the colours of their images, the web that holds them, and a small run's settings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import httpx
import numpy as np

from tests.support.images import make_png
from text_image_similarity import Config, Limits, Record, ScoreResult

CONFIG = Config(batch_size=4, io_workers=4, retries=0, limits=Limits(allow_private_addresses=True))
COLOURS = ("red", "green", "blue", "yellow", "magenta", "cyan", "white")
_WORDS = ("a", "the", "photo", "of", "red", "green", "dogs", "running", "across", "Ünïcode", "grass,", "3", "times;",
          "isn't", "it?", "犬", "and-so-on")  # fmt: skip


def numbered(count: int) -> list[Record]:
    """Make records whose images and captions all differ as references and agree in colour."""
    return [Record(f"http://photos.test/{COLOURS[i % 7]}/{i}.png", f"{COLOURS[i % 7]} {i}") for i in range(count)]


def captions(count: int) -> list[str]:
    """Make captions of 1 to 200 words."""
    lengths = np.linspace(1, 200, count).astype(int)
    rng = np.random.default_rng(1)
    return [" ".join(rng.choice(_WORDS, length)) for length in lengths]


def codes(results: Sequence[ScoreResult]) -> list[str | None]:
    return [None if result.code is None else result.code.value for result in results]


@dataclass
class Web:
    """An injected transport that paints the image its URL names."""

    asked: Counter[str] = field(default_factory=Counter)

    def transport(self) -> httpx.MockTransport:
        def answer(request: httpx.Request) -> httpx.Response:
            self.asked[request.url.path] += 1
            colour = request.url.path.split("/")[1]
            # "green" for Pillow is half as bright as for a screen; both have the same direction.
            if colour not in COLOURS:
                return httpx.Response(404)
            number = int(request.url.path.split("/")[2].removesuffix(".png"))
            return httpx.Response(200, content=make_png(colour, (1 + number % 25, 1 + number // 25)))

        return httpx.MockTransport(answer)
