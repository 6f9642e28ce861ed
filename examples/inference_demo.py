"""Search images by text and captions by image, offline: `python examples/inference_demo.py "a boat at sea"`."""

from __future__ import annotations

import argparse
import csv
import tempfile
from pathlib import Path

from text_image_similarity import ImageDatabase, ItemMatch, create_predictor

ROOT = Path(__file__).resolve().parent.parent
PICTURES = ROOT / "challenge_set"


def show(title: str, matches: list[ItemMatch]) -> None:
    print(f"\n{title}")
    for match in matches:
        print(f"  {match.similarity:.3f}  {match.item.removeprefix(f'{PICTURES}/')}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("query", nargs="?", default="a sailboat and a dolphin under the sun")
    parser.add_argument("--model", default="mini", help="a hub id, a folder, or one of fast, accurate, mini")
    parser.add_argument("--top-k", type=int, default=3)
    given = parser.parse_args()
    predictor = create_predictor(given.model)

    # A few images, ranked once.
    few = [PICTURES / name for name in ("sailing.jpg", "surf.jpg", "pets.jpg", "fast_food.jpg")]
    show(f"Four images, ranked for {given.query!r}", predictor.rank_images(given.query, few, given.top_k))

    # Many images, encoded once and searched any number of times, also by other processes.
    built = predictor.build_image_database(PICTURES)
    print(f"\nA database of {len(built)} images; not in it:")
    for path, error in built.failures.items():
        print(f"  {Path(path).name}: {error}")
    with tempfile.TemporaryDirectory() as folder:
        built.save(Path(folder) / "pictures.safetensors")
        loaded = ImageDatabase.load(Path(folder) / "pictures.safetensors")
    show(f"The database, searched for {given.query!r}", predictor.search_database(given.query, given.top_k, loaded))

    # The other direction: captions for an image.
    with (ROOT / "challenge_set.csv").open(encoding="utf-8", newline="") as table:
        predictor.build_caption_database(row["caption"] for row in csv.DictReader(table))
    show("Captions for pets.jpg", predictor.search_captions(PICTURES / "pets.jpg", given.top_k))


if __name__ == "__main__":
    main()
