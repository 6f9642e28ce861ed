"""Functions that the sections about the service share: requests made from the photos, and the time of a full batch."""

from __future__ import annotations

import io
import re
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from PIL import Image

from text_image_similarity import Limits
from text_image_similarity.decode import decode
from text_image_similarity.encoders import Encoder, PreparingEncoder

from .inputs import read_rows
from .load import Address, post_pair
from .replica import answer_of
from .scoring import MINI, VIT

BATCH = 32  # pairs; the default of score_pairs and of the service
MAX_WAIT_S = 0.005  # the default of serve's --max-wait-ms
NAMES = {VIT: "ViT-B/32", MINI: "mini"}
_TIMED = 12  # batches, after two to warm up


def read_pairs(count: int, *, side: int | None = None) -> list[tuple[bytes, str]]:
    """Read distinct photos and captions; photos as they are, or as JPEGs of `side` by `side` pixels."""
    rows = read_rows("pairs.csv", count)
    return [(_photo(row.path, side), f"{row.caption} {number}") for number, row in enumerate(rows)]


def requests_of(count: int, *, side: int | None = None) -> list[bytes]:
    """Return complete requests for the score of one pair each; see `read_pairs`."""
    return [post_pair(photo, caption) for photo, caption in read_pairs(count, side=side)]


def full_batch(encoder: Encoder, pairs: list[tuple[bytes, str]]) -> float:
    """Return the median time to encode a full batch while nothing else runs, in seconds."""
    assert isinstance(encoder, PreparingEncoder)
    pixels = [encoder.prepare(decode(photo, Limits())) for photo, _ in pairs[:BATCH]]
    tokens = encoder.tokenize([caption for _, caption in pairs[:BATCH]])
    times = []
    for _ in range(2 + _TIMED):
        began = time.perf_counter()
        encoder.encode_pixels(pixels)
        encoder.encode_tokens(tokens)
        times.append(time.perf_counter() - began)
    return median(times[2:])


@dataclass(frozen=True, slots=True)
class Encoded:
    """The batches of a service since it started, according to its Prometheus metrics.

    Args:
        seconds: The time spent on encoding.
        batches: The number of batches.
        pairs: The number of pairs in the batches.
    """

    seconds: float
    batches: int
    pairs: int

    def since(self, before: Encoded) -> Encoded:
        """Return the difference from an earlier reading."""
        return Encoded(self.seconds - before.seconds, self.batches - before.batches, self.pairs - before.pairs)

    @property
    def full_batch_s(self) -> float:
        """The mean time for as many pairs as a full batch has, in seconds."""
        return BATCH * self.seconds / max(self.pairs, 1)


def encoded(address: Address) -> Encoded:
    """Read a service's /metrics."""
    text = answer_of(address, "/metrics")[1].decode()

    def value(name: str) -> float:
        return sum(map(float, re.findall(rf"^{name}}} (\S+)$", text, re.MULTILINE)))

    stage = 'tis_stage_duration_seconds_{}{{model="[^"]+",stage="encode"'
    seconds, batches = value(stage.format("sum")), value(stage.format("count"))
    return Encoded(seconds, int(batches), int(value('tis_batch_size_sum{model="[^"]+"')))


def _photo(path: str, side: int | None) -> bytes:
    if side is None:
        return Path(path).read_bytes()
    out = io.BytesIO()
    with Image.open(path) as image:
        image.resize((side, side), Image.Resampling.LANCZOS).save(out, "JPEG", quality=85)
    return out.getvalue()
