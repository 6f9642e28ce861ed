"""A shop's whole loop over HTTP: what is asked is logged, what is clicked is learned from; on a folder and on PostgreSQL."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from tests.support.postgres import schema_at
from tests.support.services import app_of, mini_settings, serving
from tests.support.shop import FIELDS, product
from text_image_similarity import Config, TrainConfig, load_encoder, open_catalog, train
from text_image_similarity.dataset import read_dataset
from text_image_similarity.encoders.testing import ColourEncoder
from text_image_similarity.search.match_log import export_training, open_match_log

HUES = {"red": (1, 0, 0), "green": (0, 1, 0), "blue": (0, 0, 1), "white": (1, 1, 1)}
SHADES = {f"{hue} {light}": hue for light in (255, 200, 150) for hue in HUES}


@pytest.mark.parametrize("kind", ["folder", pytest.param("postgres", marks=pytest.mark.extended)])
def test_what_was_found_and_clicked_over_http_is_what_a_model_trains_on(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    place = str(tmp_path / "shop.catalog")
    if kind == "postgres":
        request.getfixturevalue("postgres")
        place = schema_at(tmp_path)
    with open_catalog(place, fields=FIELDS, encoder=ColourEncoder()) as catalog:
        for name, hue in SHADES.items():
            catalog.add(product(name, tuple(int(name.split()[1]) * part for part in HUES[hue])))
    settings = mini_settings(catalogs={"shop": place}, match_log="required")
    clicked = {}
    with serving(app_of(settings, ColourEncoder())) as client:
        for number, (name, hue) in enumerate(SHADES.items()):
            found = client.post("/match-text", json={"text": hue, "top_k": 3}).json()
            assert [match["similarity"] for match in found["matches"]] == pytest.approx([1.0] * 3, abs=0.02)
            event = {"kind": ("click", "cart", "buy")[number % 3], "product": name}
            assert name in [match["product"]["id"] for match in found["matches"]]
            assert client.post(f"/v1/matches/{found['match_id']}/events", json=event).status_code == 204
            clicked[found["match_id"]] = name
        nothing = client.post("/match-text", json={"text": "pink", "where": "price > 1"}).json()
    with closing(open_match_log(place)) as log, open_catalog(place, encoder=ColourEncoder()) as catalog:
        assert {entry.id for entry in log.entries()} == {*clicked, nothing["match_id"]}
        assert {event.match_id: event.product for event in log.events()} == clicked
        for match_id in clicked:
            entry = log.get(match_id)
            assert entry is not None
            assert len(entry.results) == 3
        report = export_training(log, catalog, tmp_path / "clicks.csv")
        assert (report.pairs, report.clicks, report.missing) == (12, 12, 0)
    photos = list(read_dataset(tmp_path / "clicks.csv"))
    assert sorted(caption for photo in photos for caption in photo.captions) == sorted(SHADES.values())
    learning = TrainConfig(
        image_weights="none",
        image_size=32,
        embed_dim=16,
        text_width=16,
        vocab_size=60,
        epochs=1,
        batch_size=4,
        splits="random",
        device="cpu",
        workers=1,
        tracking="none",
    )
    assert train(tmp_path / "clicks.csv", tmp_path / "model", learning).history
    assert load_encoder(Config(model=str(tmp_path / "model"), backend="torch")).embed_dim == 16
