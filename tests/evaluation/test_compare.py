"""Two models on one data set: intervals worked by hand, both figures as alone, the page, and the command."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from tests.evaluation.test_evaluate import COLOUR, command
from tests.support.images import inline, make_png
from text_image_similarity import Config, Scorer, TableError, UsageError, compare_models, evaluate, load_encoder
from text_image_similarity.encoders import SeveralEncoders, model_folder
from text_image_similarity.encoders.testing import ColourEncoder
from text_image_similarity.metrics import paired_intervals

NAMES = ("red", "green", "blue", "yellow", "magenta", "cyan")


@dataclass(frozen=True, slots=True)
class Confused(ColourEncoder):
    """Takes green words for blue ones and the other way round; says how many images it was given."""

    fingerprint: str | None = "confused"
    images: list[int] = field(default_factory=list)

    def encode_text(self, texts: Any) -> Any:
        return ColourEncoder.encode_text(self, texts)[:, [0, 2, 1]]

    def encode_pixels(self, pixels: Any) -> Any:
        self.images.append(len(pixels))
        return ColourEncoder.encode_pixels(self, pixels)


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    lines = ["url,caption"]
    for name in NAMES:
        (tmp_path / f"{name}.png").write_bytes(make_png(name))
        lines += [f"{name}.png,{name}", f"{name}.png,a {name} thing"]
    lines.append("none.png,red")
    (tmp_path / "pairs.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "pairs.csv"


def test_an_interval_covers_what_a_person_can_enumerate() -> None:
    # Two images, differences 1 and 0: draws give 0, 1/2, 1/2, 1 with equal probability, so the middle half is at 1/2.
    (found,) = paired_intervals([[1.0, 0.0]], [np.arange(2)], 2, level=0.4)
    assert (found.difference, found.low, found.high) == (0.5, 0.5, 0.5)
    (wide,) = paired_intervals([[1.0, 0.0]], [np.arange(2)], 2, level=0.9)
    assert (wide.low, wide.high, wide.excludes_zero) == (0.0, 1.0, False)
    # Queries of one image stay together: four equal ones in one image are worth one.
    (grouped,) = paired_intervals([[1.0, 1.0, 1.0, 1.0, 0.0]], [np.array([0, 0, 0, 0, 1])], 2, level=0.9)
    assert (grouped.difference, grouped.low, grouped.high) == (0.8, 0.0, 1.0)
    with pytest.raises(ValueError, match="at least one"):
        paired_intervals([[]], [np.arange(0)], 2)


def test_intervals_agree_with_scipy() -> None:
    differences = np.random.default_rng(5).normal(0.1, 1, 80)
    (found,) = paired_intervals([differences], [np.arange(80)], 80, resamples=9999)
    theirs = stats.bootstrap((differences,), np.mean, method="percentile", n_resamples=9999, rng=1).confidence_interval
    assert found.low == pytest.approx(theirs.low, abs=0.02)
    assert found.high == pytest.approx(theirs.high, abs=0.02)
    assert found == paired_intervals([differences], [np.arange(80)], 80, resamples=9999)[0]  # seeded


def test_both_are_measured_as_alone_on_pictures_that_are_encoded_once(pairs: Path) -> None:
    confused = Confused()
    found = compare_models(pairs, Config(), Config(), encoders=(COLOUR, confused))
    assert sum(confused.images) == len(NAMES)
    for ours, encoder in ((found.first, COLOUR), (found.second, Confused())):
        alone = evaluate(pairs, Config(), encoder=encoder)
        assert (ours.retrieval, ours.failures) == (alone.retrieval, {"file_not_found": 1})
        assert ours.pairs.auc == alone.pairs.auc
        assert ours.pairs.matching.mean == pytest.approx(alone.pairs.matching.mean, abs=1e-6)
    # Red and cyan name the same either way; the confused model finds their pictures only.
    recall = found.differences["recall@1, caption to image"]
    assert recall.difference == pytest.approx(2 / 6 - 1)
    assert recall.excludes_zero
    assert found.differences["AUC"].difference == pytest.approx(found.second.pairs.auc - found.first.pairs.auc)
    again = compare_models(pairs, Config(), Config(), encoders=(COLOUR, confused))
    assert again.differences == found.differences  # seeded


def test_a_model_does_not_differ_from_itself(pairs: Path) -> None:
    found = compare_models(pairs, Config(), Config(), encoders=(COLOUR, COLOUR))
    assert {(each.difference, each.low, each.high) for each in found.differences.values()} == {(0.0, 0.0, 0.0)}
    assert found.disagreements == []
    assert found.correlation.mismatching == pytest.approx(1)
    assert math.isnan(found.correlation.matching)  # every matching cosine is 1


def test_the_pairs_that_two_models_rank_most_differently_come_first(tmp_path: Path) -> None:
    for name in NAMES:
        (tmp_path / f"{name}.png").write_bytes(make_png(name))
    # With the colours' own meaning 1, 0.7071, 0; with green and blue swapped 1, 0.7071, 1: "blue" moves from last to first.
    (tmp_path / "in.csv").write_text("url,caption\nred.png,red\nyellow.png,red\ngreen.png,blue\n")
    found = compare_models(tmp_path / "in.csv", Config(), Config(), encoders=(COLOUR, Confused()))
    worst = found.disagreements[0]
    assert (Path(worst.image).name, worst.caption) == ("green.png", "blue")
    assert worst.cosines == pytest.approx((0, 1))
    assert worst.places == pytest.approx((0.5 / 3, 2 / 3))
    expected = stats.spearmanr([1, 0.5**0.5, 0], [1, 0.5**0.5, 1]).statistic
    assert found.correlation.matching == pytest.approx(expected)


def test_several_encoders_give_each_model_its_own_vectors() -> None:
    both = SeveralEncoders((COLOUR, load_encoder(Config(model="mini"))))
    assert (both.embed_dim, both.info.model) == (3 + both.members[1].embed_dim, "colour, mini")
    with Scorer(Config(), encoder=both) as scorer:
        for given, embed in (([make_png("red"), b"none"], "embed_images"), (["red", ""], "embed_texts")):
            good, bad = getattr(scorer, embed)(given)
            assert str(bad).startswith(("not_an_image", "empty_caption"))
            assert np.linalg.norm(good) == pytest.approx(1)
            for place, member in enumerate(both.members):
                with Scorer(Config(), encoder=member) as alone:
                    own = next(iter(getattr(alone, embed)(given[:1])))
                np.testing.assert_allclose(both.member_vectors(good[None], place)[0], own, atol=1e-6)


def test_the_command_writes_json_and_a_page(pairs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page, report = pairs.with_name("page.html"), pairs.with_name("report.json")
    other = shutil.copytree(model_folder("mini"), pairs.with_name("other"))
    given = ("evaluate", pairs, "--model", "mini", "--against", other, "--out", report, "--report", page)
    assert command(*given, "--precision", "fp32") == 0
    said = json.loads(report.read_text())
    assert (said["model"], said["against"]["model"]) == ("mini", str(other))
    assert set(said["differences"]["AUC"]) == {"difference", "low", "high"}
    assert said["correlation"]["matching"] == pytest.approx(1)
    assert "recall@1, caption to image" in capsys.readouterr().out
    text = page.read_text()
    assert "recall@1, caption to image" in text
    assert "The models rank all pairs alike." in text
    assert command(*given) == 0  # may replace its own
    for wrong in (("--report", page), ("--against", "mini", "--calibrate"), ("--against", "mini", "--rating-col", "r")):
        assert command("evaluate", pairs, "--model", "mini", *wrong) == 2


def test_a_page_shows_the_pictures_of_pairs_and_no_markup_of_strangers(tmp_path: Path) -> None:
    from PIL import Image

    from text_image_similarity.report import ComparedPair, small_jpeg, write_comparison

    jpeg = small_jpeg(Image.new("RGB", (300, 200)))
    evil = "<script>alert(1)</script>"
    pairs = [ComparedPair(evil, evil, (0.25, -0.5), (0.9, 0.1), jpeg), ComparedPair("b", "c", (0, 0), (0.5, 0.6), None)]
    write_comparison(tmp_path / "page.html", evil, (evil, "b"), [(evil, "1", "2", "3", "4")], {evil: evil}, pairs)
    text = (tmp_path / "page.html").read_text()
    assert evil not in text
    assert text.count("data:image/jpeg;base64,") == 1
    assert "90.0 % <small>0.2500</small>" in text


def test_nothing_to_compare_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("url,caption\nnone.png,red\n")
    with pytest.raises(TableError, match="nothing in"):
        compare_models(tmp_path / "in.csv", Config(), Config(), encoders=(COLOUR, COLOUR))
    (tmp_path / "in.csv").write_text(f"url,caption\n\"{inline('red')}\",red\nnone.png,red\n")
    with pytest.raises(UsageError, match="has 1 usable image"):
        compare_models(tmp_path / "in.csv", Config(), Config(), encoders=(COLOUR, COLOUR))
    with pytest.raises(UsageError, match="mini cannot be compared with itself"):
        compare_models(tmp_path / "in.csv", Config(model="mini"), Config(model=model_folder("mini")))
