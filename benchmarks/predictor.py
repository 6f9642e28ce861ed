"""Measure the predictor's latency: `python benchmarks/predictor.py [--model mini] [--pictures 10000]`.

The database holds random unit vectors, because the time does not depend on their values; the model, the captions and
the image, which is read from disk, are real. After one warm-up run, the script prints the times of `--repeats` runs in
milliseconds.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import torch

from text_image_similarity import CaptionDatabase, ImageDatabase, create_predictor
from text_image_similarity.search.nearest import nearest

PICTURE = Path(__file__).resolve().parent.parent / "challenge_set" / "sailing.jpg"
QUERY = "two dogs play with a red ball on the green grass in front of a house"


def milliseconds(action: Callable[[], object], repeats: int) -> list[float]:
    """Run an action once to warm up, then time it `repeats` times."""
    action()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        action()
        times.append(1000 * (time.perf_counter() - began))
    return times


def main() -> None:
    """Measure the latencies, and print them."""
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("--model", default="mini", help="model of the predictor (default: %(default)s)")
    parser.add_argument("--pictures", type=int, default=10_000, help="number of images in the database")
    parser.add_argument("--repeats", type=int, default=100, help="number of timed runs (default: %(default)s)")
    given = parser.parse_args()

    predictor = create_predictor(given.model)
    identity = predictor.identity
    rows = np.random.default_rng(0).normal(size=(given.pictures, identity.embed_dim)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    names = tuple(f"photo {number}" for number in range(given.pictures))
    pictures, captions = ImageDatabase(names, rows, identity), CaptionDatabase(names, rows, identity)
    query = predictor.encoder.encode_text([QUERY])[0]

    print(f"{identity}, {predictor.encoder.info.device}, {torch.get_num_threads()} threads, {platform.machine()}")
    print(f"{'milliseconds':<58}{'min':>9}{'median':>9}{'max':>9}")
    actions: dict[str, Callable[[], object]] = {
        f"search {given.pictures} images, once the query is encoded": partial(nearest, query, rows, 10),
        "encode a text": partial(predictor.encoder.encode_text, [QUERY]),
        "search_database: encode and search": partial(predictor.search_database, QUERY, 10, pictures),
        "search_captions: read, decode, encode an image and search": partial(
            predictor.search_captions, PICTURE, 10, captions
        ),
        "rank_images: a text and one image that is not cached": partial(predictor.rank_images, QUERY, PICTURE, 1),
    }
    for what, action in actions.items():
        times = milliseconds(action, given.repeats)
        print(f"{what:<58}{min(times):>9.2f}{median(times):>9.2f}{max(times):>9.2f}")


if __name__ == "__main__":
    main()
