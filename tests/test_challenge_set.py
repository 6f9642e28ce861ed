"""The challenge set, scored end to end with the model that ships."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from PIL import Image

from tests.support.paths import ROOT
from text_image_similarity import Config, load_encoder, score_csv
from text_image_similarity.decode import decode


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    out = tmp_path_factory.mktemp("challenge") / "out.csv"
    score_csv(ROOT / "challenge_set.csv", out, Config(model="mini"))
    with out.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_every_row_has_a_score_or_a_code(rows: list[dict[str, str]]) -> None:
    assert len(rows) == 51
    assert [row["error"].partition(":")[0] for row in rows] == [""] * 49 + ["file_not_found", "not_an_image"]
    assert all(bool(row["similarity"]) != bool(row["error"]) for row in rows)


def test_matching_captions_beat_shuffled_ones(rows: list[dict[str, str]]) -> None:
    scored = [row for row in rows if not row["error"]]
    encoder = load_encoder(Config(model="mini"))
    limits = Config().limits
    image = encoder.encode_image([decode((ROOT / row["url"]).read_bytes(), limits) for row in scored])
    text = encoder.encode_text([row["caption"] for row in scored])
    cosines = image @ text.T  # (49 pictures, 49 captions)
    np.testing.assert_allclose(np.diag(cosines), [float(row["similarity"]) for row in scored], atol=1e-5)

    captions = [row["caption"] for row in scored]
    # A swapped caption matches the row it was taken from, which comes first in the file, and not its own.
    owner = [captions.index(caption) for caption in captions]
    matching = np.array([[owner[j] == i for j in range(49)] for i in range(49)])
    assert matching.sum() == 49
    assert np.diag(matching).sum() == 46
    good, bad = cosines[matching], cosines[~matching]
    auc = (good[:, None] > bad[None]).mean() + (good[:, None] == bad[None]).mean() / 2
    assert auc >= 0.90
    swapped = [i for i in range(49) if owner[i] != i]
    assert len(swapped) == 3
    assert np.diag(cosines)[swapped].max() < np.median(good)


def test_every_format_people_meet_is_there() -> None:
    found: set[object] = set()
    for path in (ROOT / "challenge_set").iterdir():
        if path.name == "not_a_picture.jpg":
            continue
        with Image.open(path) as image:
            found.add((image.format, image.mode))
            found |= {"progressive"} if image.info.get("progressive") else set()
            found |= {"animated"} if getattr(image, "is_animated", False) else set()
            found |= {"rotated"} if image.getexif().get(0x0112, 1) != 1 else set()
    assert found >= {
        ("JPEG", "RGB"), "progressive", ("PNG", "RGBA"), ("PNG", "P"), ("PNG", "I;16"), ("WEBP", "RGB"), ("GIF", "P"),
        "animated", ("JPEG", "CMYK"), "rotated",
    }  # fmt: skip
    assert sum(path.stat().st_size for path in (ROOT / "challenge_set").iterdir()) <= 3_000_000
