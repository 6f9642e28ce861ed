"""Create the inputs of the benchmarks: 2,000 JPEGs of 512x512, tables of captions, and a ViT-B/32 with random weights.

Photos and captions come from Flickr8k if the data folder contains it; otherwise they are drawn. Photos are enlarged to
512x512, a common size for web images, because decoding and resizing are part of the work. Speed does not depend on the
values of the weights, so random ones of the exact shape are sufficient.
"""

from __future__ import annotations

import csv
import io
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "benchmarks"
INPUTS = BUILD / "inputs"
MODEL = INPUTS / "vitb32"
PHOTOS = 2000
SIDE = 512
CAPTIONS = 5  # per photo

_NOUNS = [
    "dog",
    "cat",
    "boat",
    "house",
    "tree",
    "ball",
    "child",
    "horse",
    "street",
    "field",
    "river",
    "mountain",
    "bicycle",
    "car",
    "bird",
]
_COLOURS = ["red", "green", "blue", "yellow", "white", "black", "brown", "grey", "orange"]
_PLACES = ["on the grass", "by the water", "in front of a house", "on a busy street", "in the snow", "under a tree"]


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a table: an image, as a path relative to `INPUTS` or a URL, and its caption."""

    url: str
    caption: str

    @property
    def path(self) -> str:
        """The path of the image on this machine."""
        return str(INPUTS / self.url)


def make_inputs(data: Path) -> None:
    """Create the inputs that do not exist yet; an unfinished folder is created again."""
    make_photos(data)
    make_model()


def read_rows(table: str, count: int, skip: int = 0) -> list[Row]:
    """Read `count` rows of a table in `INPUTS`, after the first `skip`.

    Raises:
        ValueError: The table has fewer rows; jobs compute their rates from the number that they asked for.
    """
    with (INPUTS / table).open(newline="", encoding="utf-8") as file:
        rows = [Row(row["url"], row["caption"]) for row in csv.DictReader(file)]
    if skip + count > len(rows):
        raise ValueError(f"{table} has {len(rows):,} rows, but {skip + count:,} are needed; use a smaller --pairs")
    return rows[skip : skip + count]


def warm(rows: list[Row]) -> None:
    """Read the images once, so that every contestant finds them in the page cache."""
    for row in rows:
        Path(row.path).read_bytes()


def make_photos(data: Path) -> None:
    if (INPUTS / "pairs5.csv").exists():  # written last
        return
    photos = INPUTS / "photos"
    photos.mkdir(parents=True, exist_ok=True)
    parquet = data / "flickr8k" / "train.parquet"
    source = _flickr(parquet) if parquet.exists() else _drawn()
    captions = []
    for number, (image, five) in enumerate(source):
        image.save(photos / f"{number:04}.jpg", quality=90)
        captions.append(five)
    _write_table("pairs.csv", ((number, five[0]) for number, five in enumerate(captions)))
    _write_table("pairs5.csv", ((number, text) for number, five in enumerate(captions) for text in five))


def make_model() -> None:
    if MODEL.exists():
        return
    from tests.support.models import save_clip  # imports torch and transformers, which nothing else here needs

    partial = MODEL.with_name("vitb32.partial")
    shutil.rmtree(partial, ignore_errors=True)
    save_clip(partial, full_size=True).rename(MODEL)


def _write_table(name: str, rows: Iterator[tuple[int, str]]) -> None:
    with (INPUTS / name).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("url", "caption"))
        writer.writerows((f"photos/{number:04}.jpg", text) for number, text in rows)


def _flickr(parquet: Path) -> Iterator[tuple[Image.Image, list[str]]]:
    import pyarrow.parquet

    columns = ["image", *(f"caption_{i}" for i in range(CAPTIONS))]
    left = PHOTOS
    for batch in pyarrow.parquet.ParquetFile(parquet).iter_batches(64, columns=columns):
        for row in batch.to_pylist()[:left]:
            image = Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB")
            yield image.resize((SIDE, SIDE), Image.Resampling.LANCZOS), [row[name] for name in columns[1:]]
            left -= 1
        if not left:
            return


def _drawn() -> Iterator[tuple[Image.Image, list[str]]]:
    """Yield smooth noise with shapes on it, about as hard to compress as a photo, and captions that name them."""
    for number in range(PHOTOS):
        words, noise = random.Random(number), np.random.default_rng(number)
        coarse = Image.fromarray(noise.integers(0, 256, (24, 24, 3), dtype=np.uint8))
        image = coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        things = [(words.choice(_COLOURS), words.choice(_NOUNS)) for _ in range(3)]
        draw = ImageDraw.Draw(image)
        for colour, _ in things:
            x, y, side = words.randrange(400), words.randrange(400), words.randrange(40, 200)
            draw.ellipse((x, y, x + side, y + side // 2), fill=colour)
        grain = noise.normal(0, 6, (SIDE, SIDE, 1))
        pixels = np.clip(np.asarray(image) + grain, 0, 255).astype(np.uint8)
        yield Image.fromarray(pixels), [_caption(words, things) for _ in range(CAPTIONS)]


def _caption(words: random.Random, things: list[tuple[str, str]]) -> str:
    (colour, noun), (other_colour, other) = words.sample(things, 2)
    return f"A {colour} {noun} and a {other_colour} {other} {words.choice(_PLACES)} ."
