"""The figures of an evaluation: examples worked by hand, parity with torchmetrics and scipy, memory."""

from __future__ import annotations

import json
import math
import os
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats
from torchmetrics import AUROC, CalibrationError, KendallRankCorrCoef
from torchmetrics.functional.regression import spearman_corrcoef
from torchmetrics.retrieval import RetrievalHitRate, RetrievalMRR, RetrievalRecall

from text_image_similarity import ModelError, TableError, UsageError
from text_image_similarity.metrics import (
    Calibration,
    Retrieval,
    agreement,
    auc,
    fit_calibration,
    matching_scores,
    mismatching_scores,
    pair_statistics,
    retrieval,
)
from text_image_similarity.metrics.calibration import calibration_error
from text_image_similarity.metrics.histogram import Histogram

# With unit vectors along the axes for pictures, a caption's vector holds its scores: one row a caption, one column a
# picture. Captions 0 and 1 belong to picture 0, caption 2 to picture 1, caption 3 to picture 2.
PICTURES = np.eye(3)
CAPTIONS = np.array(
    [
        [0.9, 0.1, 0.2],  # own 0.9, nobody better: rank 1
        [0.3, 0.5, 0.3],  # own 0.3, 0.5 is better and 0.3 as good: rank 3
        [0.2, 0.4, 0.5],  # own 0.4, 0.5 is better: rank 2
        [0.9, 0.0, 0.6],  # own 0.6, 0.9 is better: rank 2
    ]
)
OWNER = np.array([0, 0, 1, 2])


def random_set(seed: int = 0, n: int = 37, captions: int = 5, d: int = 8) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pictures and captions that resemble their picture a little; captions in no order."""
    draw = np.random.default_rng(seed)
    owner = draw.permutation(np.repeat(np.arange(n), captions))
    image = draw.normal(size=(n, d))
    text = image[owner] + 1.5 * draw.normal(size=(len(owner), d))
    return *(v / np.linalg.norm(v, axis=1, keepdims=True) for v in (image, text)), owner


def plain_ranks(image: np.ndarray, text: np.ndarray, owner: np.ndarray) -> tuple[list[int], list[int]]:
    """The definition, one query at a time."""
    scores = text @ image.T
    texts = [1 + sum(row[i] >= row[o] for i in range(len(row)) if i != o) for row, o in zip(scores, owner, strict=True)]
    images = []
    for i, column in enumerate(scores.T):
        if (owner == i).any():
            images.append(1 + int((column[owner != i] >= column[owner == i].max()).sum()))
    return texts, images


def test_retrieval_worked_by_hand() -> None:
    found = retrieval(PICTURES, CAPTIONS, OWNER, ks=(1, 2, 3))
    there = found.text_to_image  # ranks 1, 3, 2, 2
    assert (there.queries, there.candidates) == (4, 3)
    assert there.recall == {1: 0.25, 2: 0.75, 3: 1.0}
    assert (there.mean_rank, there.median_rank) == (2.0, 2.0)
    assert there.mrr == pytest.approx((1 + 1 / 3 + 1 / 2 + 1 / 2) / 4)
    # Picture 0 scores 0.9 with its better caption; caption 3 scores as much, caption 1 is its own: rank 2.
    # Picture 1 scores 0.4; caption 1 scores 0.5: rank 2. Picture 2 scores 0.6, nobody more: rank 1.
    back = found.image_to_text
    assert (back.queries, back.candidates) == (3, 4)
    assert back.recall == {1: pytest.approx(1 / 3), 2: 1.0, 3: 1.0}
    assert back.mean_rank == pytest.approx(5 / 3)
    assert back.median_rank == 2.0
    assert back.mrr == pytest.approx(2 / 3)


def test_a_constant_model_finds_nothing() -> None:
    """Where all scores are equal, a metric that lets ties pass would report perfect recall."""
    same = np.ones((20, 4), np.float32) / 2
    found = retrieval(same, same, np.arange(20), ks=(1, 19, 20))
    for direction in (found.text_to_image, found.image_to_text):
        assert direction.recall == {1: 0.0, 19: 0.0, 20: 1.0}
        assert direction.mean_rank == 20


def test_copies_of_a_picture_are_ties_wherever_they_stand() -> None:
    """A matrix product rounds the same vectors differently in different places."""
    draw = np.random.default_rng(3)
    one = draw.normal(size=(1, 257)).astype(np.float32)
    image = np.repeat(one / np.linalg.norm(one), 1111, axis=0)
    text = draw.normal(size=(1111, 257)).astype(np.float32)
    text /= np.linalg.norm(text, axis=1, keepdims=True)
    assert retrieval(image, text, np.arange(1111), block=100).text_to_image.recall[10] == 0


def test_a_picture_without_captions_only_distracts() -> None:
    found = retrieval(np.eye(3), np.array([[0.5, 0.1, 0.9]]), np.array([0]), ks=(1,))
    assert found.text_to_image.mean_rank == 2
    assert (found.image_to_text.queries, found.image_to_text.mean_rank) == (1, 1.0)


@pytest.mark.parametrize("seed", range(3))
def test_retrieval_equals_torchmetrics(seed: int) -> None:
    image, text, owner = random_set(seed)
    found = retrieval(image, text, owner, block=16)
    scores = torch.tensor((text @ image.T + 1) / 2)  # torchmetrics takes scores of 0 and less for not retrieved
    match = torch.tensor(owner[:, None] == np.arange(len(image))[None])
    for direction, values, relevant in (
        (found.text_to_image, scores, match),
        (found.image_to_text, scores.T, match.T),
    ):
        query = torch.arange(values.shape[0])[:, None].expand(values.shape)
        given = values.flatten(), relevant.flatten(), query.flatten()
        assert direction.mrr == pytest.approx(float(RetrievalMRR()(*given)), abs=1e-6)
        for k, recall in direction.recall.items():
            assert recall == pytest.approx(float(RetrievalHitRate(top_k=k)(*given)), abs=1e-6)
            if direction is found.text_to_image:  # one right answer: the share that is found is found or not
                assert recall == pytest.approx(float(RetrievalRecall(top_k=k)(*given)), abs=1e-6)


@settings(max_examples=60)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 12),
    st.integers(1, 30),
    st.integers(1, 9),
)
def test_retrieval_equals_its_definition(seed: int, n: int, m: int, block: int) -> None:
    draw = np.random.default_rng(seed)
    image = draw.integers(-2, 3, size=(n, 3)).astype(np.float32)  # small whole numbers: many ties
    text = draw.integers(-2, 3, size=(m, 3)).astype(np.float32)
    owner = draw.integers(n, size=m)
    found = retrieval(image, text, owner, block=block)
    for direction, ranks in zip(
        (found.text_to_image, found.image_to_text), plain_ranks(image, text, owner), strict=True
    ):
        assert direction.queries == len(ranks)
        assert direction.mean_rank == pytest.approx(np.mean(ranks))
        assert direction.median_rank == np.median(ranks)
        assert direction.mrr == pytest.approx(np.mean([1 / rank for rank in ranks]))
        assert direction.recall == {k: pytest.approx(np.mean(np.array(ranks) <= k)) for k in (1, 5, 10)}


def test_retrieval_never_holds_the_whole_matrix() -> None:
    n, m = 4_000, 20_000  # in float32 the matrix takes 320 MB, its comparison 80 MB
    draw = np.random.default_rng(0)
    image, text = (draw.normal(size=(count, 4)).astype(np.float32) for count in (n, m))
    owner = np.arange(m) // 5
    tracemalloc.start()
    try:
        retrieval(image, text, owner)
        pair_statistics(image, text, owner, most=100_000)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 20e6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": np.eye(4)}, "shapes"),
        ({"owner": OWNER[:3]}, "shapes"),
        ({"owner": OWNER + 1}, "owner must contain indices of images, from 0 to 2"),
        ({"owner": OWNER - 1}, "owner must contain indices of images, from 0 to 2"),
        ({"text": CAPTIONS[:0], "owner": OWNER[:0]}, "there is no caption"),
        ({"text": np.where(CAPTIONS == 0, np.nan, CAPTIONS)}, "1 caption vectors are not finite .row 3 is the first"),
        ({"image": np.full((3, 3), np.inf)}, "3 image vectors are not finite"),
        ({"image": np.array([[1, 0, 0], [np.inf, -np.inf, 0], [0, 0, 1]])}, "1 image vectors are not finite .row 1"),
    ],
)
def test_unfit_embeddings_are_refused(change: dict[str, np.ndarray], message: str) -> None:
    given: dict[str, Any] = {"image": PICTURES, "text": CAPTIONS, "owner": OWNER} | change
    for measure in (retrieval, pair_statistics, matching_scores, mismatching_scores):
        with pytest.raises(ValueError, match=message):
            measure(**given)
    with pytest.raises(ValueError, match="at least 1"):
        retrieval(PICTURES, CAPTIONS, OWNER, ks=(0,))


def test_pairs_worked_by_hand() -> None:
    assert matching_scores(PICTURES, CAPTIONS, OWNER).tolist() == [0.9, 0.3, 0.4, 0.6]
    assert mismatching_scores(PICTURES, CAPTIONS, OWNER).tolist() == [0.1, 0.2, 0.5, 0.3, 0.2, 0.5, 0.9, 0.0]
    found = pair_statistics(PICTURES, CAPTIONS, OWNER)
    # Mismatching scores below 0.9: 7 and one tie; below 0.3: 4 and one tie; below 0.4: 5; below 0.6: 7.
    assert found.auc == pytest.approx((7.5 + 4.5 + 5 + 7) / (4 * 8))
    assert not found.sampled
    assert (found.matching.count, found.mismatching.count) == (4, 8)
    assert found.matching.mean == pytest.approx(0.55)
    assert found.matching.std == pytest.approx(math.sqrt((0.35**2 + 0.25**2 + 0.15**2 + 0.05**2) / 4))
    assert found.matching.quantiles[0.5] == pytest.approx(0.5)


def test_auc_equals_torchmetrics_and_scipy_with_ties() -> None:
    draw = np.random.default_rng(0)
    matching = draw.integers(20, 80, size=300) / 100
    mismatching = draw.integers(0, 60, size=500) / 100
    ours = auc(matching, mismatching)
    given = torch.tensor(np.concatenate([matching, mismatching])), torch.arange(800) < 300
    assert ours == pytest.approx(float(AUROC(task="binary")(given[0], given[1].long())), abs=1e-6)
    assert ours == pytest.approx(stats.mannwhitneyu(matching, mismatching).statistic / (300 * 500), abs=1e-12)
    assert auc(matching, matching) == 0.5
    assert math.isnan(auc(matching, mismatching[:0]))


def test_a_sample_of_pairs_has_no_matching_ones_and_says_what_all_say() -> None:
    image, text, owner = random_set(n=200)
    whole = pair_statistics(image, text, owner)
    part = pair_statistics(image, text, owner, most=50_000, seed=1)
    assert (whole.sampled, part.sampled) == (False, True)
    assert whole.mismatching.count == 1000 * 199
    assert part.mismatching.count == 50_000
    assert part.auc == pytest.approx(whole.auc, abs=0.01)
    assert part == pair_statistics(image, text, owner, most=50_000, seed=1)
    assert part != pair_statistics(image, text, owner, most=50_000, seed=2)
    own = mismatching_scores(np.eye(5), np.eye(5), np.arange(5), most=19)
    assert own.tolist() == [0.0] * 19


def test_one_picture_has_no_mismatching_pair() -> None:
    found = pair_statistics(np.eye(1), np.ones((2, 1)), np.zeros(2, int))
    assert found.mismatching.count == 0
    assert math.isnan(found.auc)
    assert math.isnan(found.mismatching.quantiles[0.5])


def test_agreement_worked_by_hand() -> None:
    # Of the 6 pairs of rows 4 agree and 2 are tied in the rating.
    found = agreement([0.1, 0.2, 0.3, 0.4], [1, 1, 2, 2])
    assert found.pairs == 4
    assert found.kendall_tau_b == pytest.approx(4 / math.sqrt(6 * 4))
    assert found.kendall_tau_c == pytest.approx(2 * 4 * 2 / (4**2 * (2 - 1)))  # two distinct ratings
    # Ranks 1, 2, 3, 4 against 1.5, 1.5, 3.5, 3.5.
    assert found.spearman == pytest.approx(4 / math.sqrt(5 * 4))


@pytest.mark.parametrize("seed", range(3))
def test_agreement_equals_torchmetrics_with_ties(seed: int) -> None:
    draw = np.random.default_rng(seed)
    ratings = draw.integers(1, 5, size=200).astype(float)
    scores = np.round(ratings / 20 + draw.normal(size=200) / 10, 1)
    found = agreement(scores, ratings)
    ours, theirs = torch.tensor(scores), torch.tensor(ratings)
    assert found.kendall_tau_b == pytest.approx(float(KendallRankCorrCoef(variant="b")(ours, theirs)), abs=1e-6)
    assert found.kendall_tau_c == pytest.approx(float(KendallRankCorrCoef(variant="c")(ours, theirs)), abs=1e-6)
    assert found.spearman == pytest.approx(float(spearman_corrcoef(ours, theirs)), abs=1e-6)
    assert found.spearman == pytest.approx(stats.spearmanr(scores, ratings).statistic, abs=1e-12)


@pytest.mark.parametrize(("scores", "ratings"), [([0.1, 0.1], [1, 2]), ([0.1, 0.2], [1, 1]), ([0.1], [1]), ([], [])])
def test_nothing_to_agree_on_is_not_a_number(scores: list[float], ratings: list[float]) -> None:
    found = agreement(scores, ratings)
    assert found.pairs == len(scores)
    assert np.isnan([found.kendall_tau_b, found.kendall_tau_c, found.spearman]).all()


def test_unfit_ratings_are_refused() -> None:
    with pytest.raises(ValueError, match="of the same length"):
        agreement([0.1, 0.2], [1])
    with pytest.raises(ValueError, match="not finite"):
        agreement([0.1, math.nan], [1, 2])


def test_a_calibration_worked_by_hand() -> None:
    # Two scores, so the curve meets the mean target of each exactly. Platt's targets of four pairs a kind are 5/6 and
    # 1/6; at 0.4 there are three matching and one mismatching pair: (3 * 5/6 + 1/6) / 4 = 2/3, at 0.2 it is 1/3.
    found = fit_calibration(np.array([0.4, 0.4, 0.4, 0.2]), np.array([0.4, 0.2, 0.2, 0.2]), model="toy")
    assert found.probability([0.4, 0.3, 0.2]) == pytest.approx([2 / 3, 1 / 2, 1 / 3])
    assert found.cosine(2 / 3) == pytest.approx(0.4)
    assert found.slope == pytest.approx(10 * math.log(2))
    assert found.intercept == pytest.approx(-3 * math.log(2))
    # Half of the pairs match: odds of 2 to 1. One in a hundred does: 99 times less, 2 to 99.
    assert found.probability(0.4, prior=0.01) == pytest.approx(2 / 101)
    assert (found.matching, found.mismatching, found.prior, found.model) == (4, 4, 0.5, "toy")


def test_a_calibration_finds_the_true_curve_though_kinds_differ_in_number() -> None:
    # Two normal distributions of one width: the true log odds are a line, with slope (0.30 - 0.15) / 0.05^2 = 60 and
    # intercept -(0.30^2 - 0.15^2) / (2 * 0.05^2) = -13.5; so 0.27 is a match in 94 of 100 cases.
    draw = np.random.default_rng(0)
    found = fit_calibration(draw.normal(0.30, 0.05, 20_000), draw.normal(0.15, 0.05, 100_000), model="toy")
    assert found.slope == pytest.approx(60, rel=0.03)
    assert found.intercept == pytest.approx(-13.5, rel=0.03)
    assert found.probability(0.27) == pytest.approx(1 / (1 + math.exp(-2.7)), abs=0.01)
    assert found.calibration_error < 0.01
    assert found.brier == pytest.approx(0.048, abs=0.005)  # what the true curve gets, by numerical integration


def test_the_fit_is_the_least_loss() -> None:
    draw = np.random.default_rng(1)
    matching, mismatching = draw.normal(0.4, 0.2, 30), draw.normal(0.1, 0.3, 50)
    found = fit_calibration(matching, mismatching, model="toy")

    def loss(curve: np.ndarray) -> float:
        high, low = (curve[0] * scores + curve[1] for scores in (matching, mismatching))
        return float(
            np.mean(np.logaddexp(0, high) - 31 / 32 * high) / 2 + np.mean(np.logaddexp(0, low) - 1 / 52 * low) / 2
        )

    best = optimize.minimize(loss, np.zeros(2), method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-14})
    assert [found.slope, found.intercept] == pytest.approx(best.x.tolist(), abs=1e-5)


@pytest.mark.parametrize("far", [1e-4, 1.0])
def test_pairs_that_a_threshold_separates_have_a_finite_curve(far: float) -> None:
    found = fit_calibration(np.array([0.3, 0.31]) + far, np.array([0.1, 0.3]), model="toy")
    assert math.isfinite(found.slope)
    assert found.slope > 0
    assert found.probability(0.31 + far) > 0.5 > found.probability(0.1)


def test_calibration_error_worked_by_hand_and_equal_to_torchmetrics() -> None:
    # In the bin of 0.1 one of two is true, 0.4 more than guessed; in the bin of 0.8 one of two, 0.3 less.
    guess, truth = np.array([0.1, 0.1, 0.8, 0.8]), np.array([0.0, 1.0, 1.0, 0.0])
    assert calibration_error(guess, truth, np.full(4, 0.25)) == pytest.approx((0.4 + 0.3) / 2)
    draw = np.random.default_rng(0)
    guess = draw.random(500)
    truth = (draw.random(500) < 0.25 + guess / 2).astype(float)
    theirs = CalibrationError(task="binary", n_bins=15)(torch.tensor(guess), torch.tensor(truth).long())
    assert calibration_error(guess, truth, np.full(500, 1 / 500)) == pytest.approx(float(theirs), abs=1e-6)


def test_quality_is_measured_on_pairs_not_fitted_to() -> None:
    """On scores that say nothing a curve fitted to few pairs looks better on them than it is."""
    draw = np.random.default_rng(0)
    found = [fit_calibration(draw.normal(size=5), draw.normal(size=5), model="toy") for _ in range(50)]
    assert np.mean([one.brier for one in found]) > 0.25


def test_scores_that_cannot_be_calibrated() -> None:
    two = np.array([0.1, 0.2])
    for matching, mismatching, message in (
        (two[:1], two, "at least two"),
        (two, two[:0], "at least two"),
        (two, np.array([0.1, np.nan]), "not finite"),
        (np.full(3, 0.5), np.full(3, 0.5), "same score"),
    ):
        with pytest.raises(ValueError, match=message):
            fit_calibration(matching, mismatching, model="toy")


@pytest.fixture
def calibration() -> Calibration:
    return Calibration(
        slope=60.0,
        intercept=-13.5,
        prior=0.5,
        matching=10,
        mismatching=20,
        brier=0.05,
        calibration_error=0.01,
        model="toy",
    )


def test_a_calibration_is_kept_beside_its_model(tmp_path: Path, calibration: Calibration) -> None:
    assert calibration.save(tmp_path) == tmp_path / "calibration.json"
    assert Calibration.load(tmp_path) == calibration
    assert [path.name for path in tmp_path.iterdir()] == ["calibration.json"]
    assert np.isnan(calibration.probability([math.nan, 0.3])).tolist() == [True, False]
    assert calibration.probability([-1e9, 1e9]).tolist() == [0, 1]
    for prior in (0.0, 1.0, 2.0):
        with pytest.raises(UsageError, match="between 0 and 1"):
            calibration.probability(0.3, prior=prior)


def test_a_calibration_that_could_fill_the_memory_or_is_a_pipe_is_refused(tmp_path: Path) -> None:
    (tmp_path / "calibration.json").write_text("[" + "[]," * 1_000_000 + "[]]")
    with pytest.raises(ModelError, match="cannot be read: it has more than 1,000,000 commas and brackets"):
        Calibration.load(tmp_path)
    (tmp_path / "calibration.json").unlink()
    os.mkfifo(tmp_path / "calibration.json")
    with pytest.raises(ModelError, match="cannot be read: it is not a regular file"):
        Calibration.load(tmp_path)


def test_an_unwritable_folder(tmp_path: Path, calibration: Calibration) -> None:
    with pytest.raises(TableError, match="cannot be written"):
        calibration.save(tmp_path / "none")
    before = calibration.save(tmp_path).read_text()
    with pytest.raises(ValueError, match="JSON compliant"):
        Calibration(**{**json.loads(before), "slope": math.nan}).save(tmp_path)
    assert (tmp_path / "calibration.json").read_text() == before
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"slope": "60"}, "slope is not a finite number"),
        ({"slope": True}, "slope is not a finite number"),
        ({"intercept": math.inf}, "intercept is not a finite number"),
        ({"prior": 1.5}, "prior is not between"),
        ({"prior": 0}, "prior is 0 or 1"),
        ({"matching": 1.5}, "matching is not a whole number of at least 1"),
        ({"mismatching": 0}, "mismatching is not a whole number of at least 1"),
        ({"model": 3}, "model is not a text"),
        ({"more": 1}, "exactly slope, intercept"),
    ],
)
def test_a_damaged_calibration_is_refused(
    tmp_path: Path, calibration: Calibration, change: dict[str, object], message: str
) -> None:
    path = calibration.save(tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ModelError, match=message):
        Calibration.load(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "{}"])
def test_no_calibration_at_all(tmp_path: Path, content: str) -> None:
    with pytest.raises(ModelError, match="--calibrate"):
        Calibration.load(tmp_path)
    (tmp_path / "calibration.json").write_text(content)
    with pytest.raises(ModelError):
        Calibration.load(tmp_path)


def test_the_figures_are_plain_values() -> None:
    assert isinstance(retrieval(PICTURES, CAPTIONS, OWNER), Retrieval)
    from dataclasses import asdict

    assert json.dumps(asdict(retrieval(PICTURES, CAPTIONS, OWNER)))
    assert json.dumps(asdict(pair_statistics(PICTURES, CAPTIONS, OWNER)))


@pytest.mark.parametrize("width", [64, 256, 257, 512])
def test_a_model_that_says_the_same_of_everything_is_worth_a_coin(width: int) -> None:
    vector = np.random.default_rng(0).normal(size=width).astype(np.float32)
    same = np.tile(vector / np.linalg.norm(vector), (300, 1))
    found = pair_statistics(same, same, np.arange(300))
    assert found.auc == 0.5
    with pytest.raises(ValueError, match="nothing to calibrate"):
        fit_calibration(
            matching_scores(same, same, np.arange(300)), mismatching_scores(same, same, np.arange(300)), model="same"
        )


def test_scores_beyond_every_range_are_in_the_outer_bins() -> None:
    scores = Histogram("cosine")
    scores.add_all([1e308, -1e308, 0.5])
    scores.add(1e308)
    assert (scores.count, scores.smallest, scores.largest) == (4, -1e308, 1e308)
    assert scores.quantile(0.5) == 0.5
    assert [count for _, _, count in scores.merged(2)] == [1, 3]
