"""Several models on one table: a column for each, one for all, and each image read once."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.evaluation.test_compare import Confused
from tests.support.images import inline, make_png
from tests.support.records import CONFIG, Web
from text_image_similarity import (
    Calibration,
    Config,
    ConfigError,
    LocalEngine,
    Record,
    Scorer,
    UsageError,
    classify,
    cli,
    load_encoders,
    score_pairs,
    score_table,
)
from text_image_similarity.encoders import SeveralEncoders, column_names, model_folder
from text_image_similarity.encoders.testing import ColourEncoder

BOTH = SeveralEncoders((ColourEncoder(), Confused()))
CURVE = Calibration(
    slope=4.0, intercept=-3.0, prior=0.5, matching=9, mismatching=9, brier=0.1, calibration_error=0.1, model="colour"
)


@pytest.fixture
def models(tmp_path: Path) -> list[str]:
    shutil.copytree(model_folder("mini"), tmp_path / "my other-model")
    return ["mini", str(tmp_path / "my other-model")]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    (tmp_path / "red.png").write_bytes(make_png("red"))
    (tmp_path / "in.csv").write_text("url,caption,more\nred.png,red,a blue dot\nnone.png,red,red\nred.png,,red\n")
    return tmp_path / "in.csv"


def test_each_result_has_every_models_own_score_and_their_mean() -> None:
    web = Web()
    pairs = [
        Record(f"http://photos.test/{image}/1.png", text) for image in ("green", "red") for text in ("green", "red")
    ]
    pairs.append(Record("http://photos.test/none/1.png", "red"))
    found = list(score_pairs(pairs, CONFIG, encoder=BOTH, transport=web.transport()))
    alone = [list(score_pairs(pairs, CONFIG, encoder=each, transport=Web().transport())) for each in BOTH.members]
    for both, *each in zip(found[:4], *(results[:4] for results in alone), strict=True):
        assert both.by_model == tuple(result.similarity for result in each)  # to the last bit
        assert both.similarity == pytest.approx(sum(both.by_model) / 2)
    assert [result.similarity for result in found[:4]] == [0.5, 0.0, 0.0, 1.0]
    assert (found[4].by_model, str(found[4].error)[:8]) == ((), "http_4xx")
    assert web.asked["/green/1.png"] == 1


def test_vectors_of_several_models_have_length_one_and_the_mean_of_their_cosines() -> None:
    with Scorer(CONFIG, encoder=BOTH) as scorer:
        (image,) = scorer.embed_images([inline("green")])
        (text,) = scorer.embed_texts(["green"])
        assert np.linalg.norm(image) == pytest.approx(1)  # type: ignore[arg-type]
        assert float(image @ text) == pytest.approx(0.5)  # type: ignore[operator]
        assert scorer.similarity_matrix([inline("green")], ["green", "cyan"]).ravel() == pytest.approx(
            [0.5, 0.7071], abs=1e-4
        )
        (found,) = classify([inline("green")], ["green", "red"], scorer, logit_scale=2)
        assert found.probability == pytest.approx(np.e / (np.e + 1))


@pytest.mark.parametrize("kind", ["clip_score", "ref_clipscore"])
def test_other_score_kinds_are_those_of_each_model(kind: Any) -> None:
    record = Record(inline("green"), "green", references=("green", "cyan"))
    config = Config(score=kind)
    (found,) = score_pairs([record], config, encoder=BOTH)
    each = [next(score_pairs([record], config, encoder=member)).similarity for member in BOTH.members]
    assert found.by_model == tuple(each)
    assert found.similarity == pytest.approx(sum(each) / 2)


def test_an_ensemble_of_probabilities_is_their_mean() -> None:
    encoder = SeveralEncoders(BOTH.members, (CURVE, CURVE))
    (found,) = score_pairs([Record(inline("green"), "green")], CONFIG, encoder=encoder)
    assert found.by_model == (1.0, 0.0)
    assert found.similarity == pytest.approx((1 / (1 + np.exp(-1)) + 1 / (1 + np.exp(3))) / 2)


def test_names_of_columns() -> None:
    names = ["openai/clip-vit-base-patch32", "open_clip:ViT-B-32/laion2b", "mini", "a b", "a-b", "--"]
    assert column_names(names) == [
        "openai_clip_vit_base_patch32",
        "open_clip_ViT_B_32_laion2b",
        "mini",
        "a_b",
        "a_b_2",
        "model",
    ]


def _rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def test_a_table_gets_a_column_for_each_model_as_it_would_get_alone(table: Path, models: list[str]) -> None:
    out, alone = table.with_name("out.csv"), table.with_name("alone.csv")
    summary = score_table(table, out, Config(), models=models, ensemble="mean", col_text=["caption", "more"])
    rows = _rows(out)
    assert list(rows[0])[3:] == [
        f"{name}_{column}"
        for column in ("caption", "more")
        for name in ("similarity_mini", "similarity_my_other_model", "similarity", "error")
    ]
    score_table(table, alone, Config(model="mini"), col_text=["caption", "more"])
    for ours, theirs in zip(rows, _rows(alone), strict=True):
        for column in ("caption", "more"):
            score = theirs[f"similarity_{column}"]
            names = ("similarity_mini", "similarity_my_other_model", "similarity")
            assert [ours[f"{name}_{column}"] for name in names] == [score] * 3
            assert ours[f"error_{column}"] == theirs[f"error_{column}"]
    assert (summary.rows, summary.scored) == (3, 1)
    assert summary.info.model == f"mini, {models[1]}"


def test_failures_of_several_models_are_retried(tmp_path: Path) -> None:
    import httpx

    from text_image_similarity.tables import TableOptions, run_table
    from text_image_similarity.tables.task import by_several, scoring

    (tmp_path / "in.csv").write_text(
        "url,caption\nhttp://photos.test/red/1.png,red\nhttp://photos.test/green/1.png,green\n"
    )
    web, task = Web(), by_several(scoring("url", "caption"), ["a", "b"], None)
    down = httpx.MockTransport(
        lambda request: httpx.Response(503) if "green" in request.url.path else web.transport().handle_request(request)
    )
    paths = (tmp_path / "in.csv", tmp_path / "out.csv")
    run_table(paths, CONFIG, task, LocalEngine(encoder=BOTH, transport=down))
    retry = TableOptions(start="retry_failed")
    run_table(paths, CONFIG, task, LocalEngine(encoder=BOTH, transport=web.transport()), options=retry)
    rows = _rows(paths[1])
    assert [(row["similarity_a"], row["similarity_b"], row["error"]) for row in rows] == [
        ("1.0", "1.0", ""),
        ("1.0", "0.0", ""),
    ]
    assert web.asked["/red/1.png"] == 1


def test_what_cannot_be_combined_is_refused(table: Path, models: list[str]) -> None:
    out = table.with_name("out.csv")
    engine = LocalEngine(encoder=ColourEncoder())
    for given, said in (
        ({"models": ["mini"]}, "two or more"),
        ({"models": ["mini", "mini"]}, "two or more"),
        ({"ensemble": "mean"}, "two or more"),
        ({"models": models, "engine": engine}, "leave out engine"),
    ):
        with pytest.raises(UsageError, match=said):
            score_table(table, out, Config(), **given)
    with pytest.raises(ConfigError, match="ensemble='vote' is not one of mean, probability"):
        load_encoders(models, Config(), ensemble="vote")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="revision applies to a single model"):
        load_encoders(models, Config(revision="main"))
    (Path(models[1]) / "calibration.json").unlink()
    with pytest.raises(ConfigError, match=r"needs a calibration.json .* but .*other-model has none"):
        load_encoders(models, Config(), ensemble="probability")
    assert not out.exists()


def test_the_command_takes_several_models(table: Path, models: list[str]) -> None:
    out, page = table.with_name("out.jsonl"), table.with_name("page.html")

    def command(*given: object) -> int:
        named = [each for model in models for each in ("--model", model)]
        with pytest.raises(SystemExit) as caught:
            cli.main(["score", str(table), str(out), *map(str, given), *named, "--quiet"])
        return int(caught.value.code or 0)

    assert command("--ensemble", "probability") == 0
    row = json.loads(out.read_text().splitlines()[0])
    assert list(row)[3:] == ["similarity_mini", "similarity_my_other_model", "similarity", "error"]
    assert row["similarity"] == pytest.approx(
        float(Calibration.load(model_folder("mini")).probability([row["similarity_mini"]])[0])
    )
    assert command("--report", page) == 2
    assert command("--service-url", "http://127.0.0.1:9") == 2
    assert command("--ensemble", "mean", "--report", page, "--restart", "--force") == 0
    assert "1 of 3 rows scored" in page.read_text()
