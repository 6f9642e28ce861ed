"""Measure `mini`: retrieval on validation photos, and matching against mismatching pairs on the challenge set.

    .venv/bin/python scripts/measure_mini.py ../shared/data/flickr8k/validation.parquet

Recall@10 counts a caption as found when its own photo is among the ten with the highest cosine, and a photo as found
when any of its captions is among its ten. The pictures go through the encoder as files do in a run.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from text_image_similarity import Config, load_encoder
from text_image_similarity.decode import decode

ROOT = Path(__file__).resolve().parent.parent


def recalls(image: np.ndarray, text: np.ndarray, owner: np.ndarray, k: int = 10) -> dict[str, float]:
    """Return recall@k both ways in percent; ties count against us.

    Args:
        image: Unit vectors (n, d).
        text: Unit vectors (m, d).
        owner: The picture of each caption, (m,).
        k: How many places count as found.
    """
    cosines = text @ image.T  # (m, n)
    own = cosines[np.arange(len(text)), owner]
    better_photos = (cosines >= own[:, None]).sum(1) - 1
    best_own = np.full(len(image), -2.0)
    np.maximum.at(best_own, owner, own)
    others = owner[:, None] != np.arange(len(image))[None]
    better_captions = ((cosines >= best_own[None]) & others).sum(0)
    return {
        f"caption_to_photo_recall@{k}": round(100 * float((better_photos < k).mean()), 2),
        f"photo_to_caption_recall@{k}": round(100 * float((better_captions < k).mean()), 2),
    }


def challenge_auc() -> float:
    """Return the area under the ROC curve of matching against all mismatching pairs of the 49 pictures."""
    config, encoder = Config(), load_encoder(Config(model="mini"))
    with (ROOT / "challenge_set.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))[:49]  # the last two are broken on purpose
    image = encoder.encode_image([decode((ROOT / row["url"]).read_bytes(), config.limits) for row in rows])
    captions = [row["caption"] for row in rows]
    cosines = image @ encoder.encode_text(captions).T  # (49, 49)
    owner = np.array([captions.index(caption) for caption in captions])  # a swapped caption belongs to the first
    matching = owner[None] == np.arange(len(rows))[:, None]
    return float((cosines[matching][:, None] > cosines[~matching][None]).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, help="Parquet file with the columns of jxie/flickr8k")
    args = parser.parse_args()
    config, encoder = Config(), load_encoder(Config(model="mini"))
    rows = pq.read_table(args.photos).to_pylist()
    image = np.concatenate(
        [
            encoder.encode_image([decode(row["image"]["bytes"], config.limits) for row in rows[i : i + 50]])
            for i in range(0, len(rows), 50)
        ]
    )
    captions = [row[f"caption_{i}"] for row in rows for i in range(5)]
    text = np.concatenate([encoder.encode_text(captions[i : i + 500]) for i in range(0, len(captions), 500)])
    found = {"photos": len(rows), "captions": len(captions)}
    found |= recalls(image, text, np.repeat(np.arange(len(rows)), 5))
    print(json.dumps(found | {"challenge_set_auc": round(challenge_auc(), 4)}, indent=2))


if __name__ == "__main__":
    main()
