"""All models of a service together: the numbers of `load_encoders`, and one download for all of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.evaluation.test_compare import Confused
from tests.support.images import inline, make_png
from tests.support.records import Web
from tests.support.services import MINI, base64_pair, mini_settings, serving
from tests.tables.test_several_models import CURVE
from text_image_similarity import Config, ConfigError, Encoder, Record, score_pairs
from text_image_similarity.client import ServiceEngine
from text_image_similarity.encoders import SeveralEncoders
from text_image_similarity.encoders.testing import ColourEncoder
from text_image_similarity.pipeline import embed_images
from text_image_similarity.service import create_app
from text_image_similarity.service.inference.local import LocalModelPool
from text_image_similarity.service.settings import Settings
from text_image_similarity.service.telemetry.metrics import Metrics

BOTH = SeveralEncoders((ColourEncoder(), Confused()))
CONFIG = replace(MINI, score="unit")
URL = "http://photos.test/green/1.png"


def settings(**changes: Any) -> Settings:
    return mini_settings(**{"models": {"colour": MINI, "confused": replace(MINI, model="other")}, **changes})


def load(config: Config) -> Encoder:
    return Confused() if config.model == "other" else ColourEncoder()


@pytest.fixture(scope="module")
def web() -> Web:
    return Web()


@pytest.fixture(scope="module")
def service(web: Web) -> Iterator[httpx.Client]:
    given, metrics = settings(ensemble="mean"), Metrics()
    pool = LocalModelPool(given, metrics, load=load, transport=web.transport())
    with serving(create_app(given, pool=pool, metrics=metrics)) as client:
        yield client


def test_all_models_answer_together_about_an_image_that_is_fetched_once(service: httpx.Client, web: Web) -> None:
    captions = ["green", "red", "cyan"]
    pairs = [{"image_url": URL, "caption": caption} for caption in captions]
    pairs.append({"image_url": "http://photos.test/none/1.png", "caption": "red"})
    found = service.post("/v1/similarity", json={"pairs": pairs, "model": "ensemble", "score": "unit"}).json()
    expected = list(score_pairs([Record(inline("green"), caption) for caption in captions], CONFIG, encoder=BOTH))
    assert found["model"] == "ensemble"
    assert [result["similarity"] for result in found["results"][:3]] == [result.similarity for result in expected]
    assert [result["by_model"] for result in found["results"][:3]] == [
        dict(zip(["colour", "confused"], result.by_model, strict=True)) for result in expected
    ]
    assert (found["results"][3]["by_model"], found["results"][3]["error"]["code"]) == (None, "http_4xx")
    assert web.asked["/green/1.png"] == 1
    alone = service.post("/v1/similarity", json={"pairs": [base64_pair(make_png("red"), "red")]}).json()
    assert "by_model" not in alone["results"][0], "one model has no others beside it"
    assert [model["id"] for model in service.get("/v1/models").json()["data"]] == ["colour", "confused", "ensemble"]


def test_its_vectors_have_length_one_and_its_cosines_are_counted_as_such(service: httpx.Client) -> None:
    asked = {"input": inline("green"), "model": "ensemble", "modality": "image"}
    (found,) = service.post("/v1/embeddings", json=asked).json()["data"]
    (expected,) = embed_images([inline("green")], MINI, encoder=BOTH)
    assert np.array_equal(np.float32(found["embedding"]), np.asarray(expected))
    service.post("/v1/similarity", json={"pairs": [base64_pair(make_png("red"), "red")], "model": "ensemble"})
    counted = re.findall(r'tis_score_bucket{le="(?:1.0|\+Inf)",model="ensemble"} (.*)', service.get("/metrics").text)
    assert float(counted[0]) == float(counted[1]) > 0, "no cosine is more than 1"


def test_a_client_gets_what_each_model_said(service: httpx.Client) -> None:
    with ServiceEngine(str(service.base_url), model="ensemble") as engine:
        engine.start(Config())
        (found,) = engine.score_some([Record(inline("green"), "cyan")])
    assert found == next(score_pairs([Record(inline("green"), "cyan")], MINI, encoder=BOTH))


def test_probabilities_come_from_the_calibrations_beside_the_models(tmp_path: Path) -> None:
    curves = {name: replace(CURVE, slope=slope) for name, slope in (("colour", 4.0), ("other", 2.0))}
    for name, curve in curves.items():
        (tmp_path / name).mkdir()
        curve.save(tmp_path / name)
    given = settings(models={name: replace(MINI, model=tmp_path / name) for name in curves}, ensemble="probability")

    def load_of(config: Config) -> Encoder:
        return load(Config(model=Path(config.model).name))

    pool = LocalModelPool(given, Metrics(), load=load_of)
    with serving(create_app(given, pool=pool, metrics=Metrics())) as client:
        asked = {"pairs": [base64_pair(make_png("green"), "cyan")], "model": "ensemble"}
        (found,) = client.post("/v1/similarity", json=asked).json()["results"]
        old = {"image_input": inline("red"), "text_prompt": "red", "model_config_name": "ensemble"}
        refused = client.post("/evaluator/v1/evaluation/single", json=old).json()
    encoder = SeveralEncoders(BOTH.members, tuple(curves.values()))
    (expected,) = score_pairs([Record(inline("green"), "cyan")], MINI, encoder=encoder)
    assert (found["similarity"], tuple(found["by_model"].values())) == (expected.similarity, expected.by_model)
    assert "which cannot be returned as clip_score" in refused["detail"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"models": {"mini": MINI}}, "an ensemble needs two or more models"),
        ({"models": {"mini": MINI, "ensemble": MINI}}, "'ensemble' is the name of all models together"),
        ({"splits": {"ensemble": {"colour": 1}}}, "'ensemble' is the name of all models together"),
        ({"lazy": frozenset({"confused"})}, "keeps its models in memory"),
        ({"model_memory": 10**9}, "keeps its models in memory"),
        ({"ensemble": "vote"}, "ensemble='vote' is not one of mean, probability"),
    ],
)
def test_an_ensemble_that_cannot_be(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        settings(**{"ensemble": "mean", **changes})
