"""Measure `mini`: retrieval on validation photos, separation of matching pairs in the challenge set, and time per pair.

    .venv/bin/python scripts/measure_mini.py ../shared/data/flickr8k/validation.parquet

The figures are the same as those of `text-image-similarity evaluate PHOTOS --model mini`, which shows more. The
challenge set contains a few swapped captions; a caption counts as matching the first image that has it. The time is for
one core, in batches of 32, from decoded 224x224 photos and captions to vectors: the shortest of five rounds, after the
file has been read.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import time
from pathlib import Path

import numpy as np
import torch

from text_image_similarity import Config, evaluate, load_encoder
from text_image_similarity.dataset import load_image, read_dataset
from text_image_similarity.decode import decode
from text_image_similarity.metrics import pair_statistics

ROOT = Path(__file__).resolve().parent.parent


def challenge_auc() -> float:
    """Return the area under the ROC curve for matching and all mismatching pairs of the 49 images."""
    config, encoder = Config(), load_encoder(Config(model="mini"))
    with (ROOT / "challenge_set.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))[:49]  # the last two are broken on purpose
    image = encoder.encode_image([decode((ROOT / row["url"]).read_bytes(), config.limits) for row in rows])
    captions = [row["caption"] for row in rows]
    owner = np.array([captions.index(caption) for caption in captions])
    return pair_statistics(image, encoder.encode_text(captions), owner).auc


def milliseconds_a_pair(photos: Path) -> float:
    """Return the milliseconds to encode a photo and a caption on one core, including resizing and tokenising."""
    os.environ["OMP_NUM_THREADS"] = "1"  # read when the encoder is loaded, for the number of ONNX Runtime's threads
    torch.set_num_threads(1)
    encoder = load_encoder(Config(model="mini", device="cpu"))
    images = read_dataset(photos)[:32]
    pictures, captions = [load_image(image, Config()) for image in images], [image.captions[0] for image in images]
    rounds = []
    for _ in range(6):  # the first round warms up
        began = time.perf_counter()
        encoder.encode_image(pictures)
        encoder.encode_text(captions)
        rounds.append(1000 * (time.perf_counter() - began) / len(images))
    return min(rounds[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, help="Parquet file with the same columns as jxie/flickr8k")
    args = parser.parse_args()
    report = evaluate(args.photos, Config(model="mini"))
    found = {
        "photos": report.images,
        "captions": report.captions,
        "caption_to_photo_recall@10": round(100 * report.retrieval.text_to_image.recall[10], 2),
        "photo_to_caption_recall@10": round(100 * report.retrieval.image_to_text.recall[10], 2),
        "challenge_set_auc": round(challenge_auc(), 4),
        "ms_a_pair_on_one_core": round(milliseconds_a_pair(args.photos), 1),
    }
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
