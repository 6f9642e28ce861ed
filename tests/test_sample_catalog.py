"""The sample catalogue: its table is true, its pictures can be drawn again, and `mini` finds its way in it."""

from __future__ import annotations

import csv
import filecmp
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scripts import make_sample_catalog
from scripts.products import COLORS, KINDS, PATTERNS
from tests.support.paths import ROOT
from text_image_similarity import Config, load_encoder
from text_image_similarity.similarity import Embeddings

FOLDER = ROOT / "sample_catalog"


@pytest.fixture(scope="module")
def rows() -> list[dict[str, str]]:
    with (FOLDER / "products.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def pictures(rows: list[dict[str, str]]) -> Embeddings:
    """The pictures' vectors, (36, dim)."""
    return load_encoder(Config(model="mini")).encode_image([Image.open(FOLDER / row["image"]) for row in rows])


def texts(captions: list[str]) -> Embeddings:
    return load_encoder(Config(model="mini")).encode_text(captions)


def recall(cosines: Embeddings, right: list[int], most: int) -> float:
    """Share of the queries, one a row, whose right product is among the first `most`."""
    own = cosines[np.arange(len(right)), right]
    return float(((cosines > own[:, None]).sum(1) < most).mean())


def test_the_script_draws_what_is_there(tmp_path: Path, rows: list[dict[str, str]]) -> None:
    make_sample_catalog.main(tmp_path)
    names = ["products.csv", *(row["image"] for row in rows)]
    assert filecmp.cmpfiles(FOLDER, tmp_path, names, shallow=False) == (names, [], [])
    assert sorted(path.name for path in (FOLDER / "images").iterdir()) == sorted(Path(name).name for name in names[1:])


def test_every_product_is_small_and_unlike_the_others(rows: list[dict[str, str]]) -> None:
    assert len(rows) == 36
    assert len({row["id"] for row in rows}) == len({(row["kind"], row["color"]) for row in rows}) == 36
    assert {row["kind"] for row in rows} == set(KINDS)
    assert {row["color"] for row in rows} == set(COLORS)
    assert {row["pattern"] for row in rows} == set(PATTERNS)
    assert {row["in_stock"] for row in rows} == {"true", "false"}
    # Variants of one product differ in what can be seen, and in nothing that makes it another product.
    of_group = {row["group"]: (row["kind"], row["category"], row["description"]) for row in rows}
    assert all(of_group[row["group"]] == (row["kind"], row["category"], row["description"]) for row in rows)
    for row in rows:
        path = FOLDER / row["image"]
        with Image.open(path) as image:
            assert image.size == (320, 320)
        assert path.stat().st_size < 15_000


def test_a_colour_and_a_kind_find_their_product(rows: list[dict[str, str]], pictures: Embeddings) -> None:
    cosines = texts([f"a {row['color']} {row['kind']}" for row in rows]) @ pictures.T
    for most, least in ((1, 0.45), (3, 0.6), (5, 0.7)):
        assert recall(cosines, list(range(36)), most) >= least


def test_picture_and_text_find_more_than_either(rows: list[dict[str, str]], pictures: Embeddings) -> None:
    """A product's picture and another colour's name ask for the same kind in that colour."""
    kinds = [row["kind"] for row in rows]
    pairs = [(a, b) for a in range(36) for b in range(36) if a != b and kinds[a] == kinds[b]]
    shown, right = [a for a, _ in pairs], [b for _, b in pairs]
    text, picture = texts([rows[b]["color"] for b in right]), pictures[shown]
    fused = (text + picture).astype(np.float32)
    for most in (1, 3, 5):
        alone = max(recall(text @ pictures.T, right, most), recall(picture @ pictures.T, right, most))
        assert recall(fused @ pictures.T, right, most) > alone + 0.04


def test_what_a_negative_text_names_is_found_less(rows: list[dict[str, str]], pictures: Embeddings) -> None:
    colors = np.array([row["color"] for row in rows])
    kinds = texts([f"a {row['kind']}" for row in rows])
    unwanted = texts([f"a {row['color']} {row['kind']}" for row in rows])

    def share(queries: Embeddings) -> float:
        best = np.argsort(-(queries @ pictures.T), axis=1)[:, :10]
        return float((colors[best] == colors[:, None]).mean())

    assert share((kinds - 0.5 * unwanted).astype(np.float32)) <= share(kinds) / 2
