"""Exports of every family and for every target give the scores of their source."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from tests.support.open_clip_models import register_architecture, save_open_clip
from text_image_similarity import Config, ConfigError, ExportOptions, export_model, load_encoder, score_images
from text_image_similarity.encoders import model_folder
from text_image_similarity.encoders.drawn import drawn_pairs
from text_image_similarity.encoders.dual_encoder import write_dual_encoder
from text_image_similarity.encoders.towers import DualEncoder, DualEncoderConfig


def scores(model: Path | str, **settings: str) -> list[float]:
    images, captions = zip(*drawn_pairs(12), strict=True)
    return [result.similarity for result in score_images(images, captions, Config(model=model, **settings))]  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def tiny_lstm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `train` makes by default, with random weights and a vocabulary of mini's."""
    tokenizer = Tokenizer.from_file(str(model_folder("mini") / "tokenizer.json"))
    shape = DualEncoderConfig(vocab_size=tokenizer.get_vocab_size(), image_size=64, text_width=16, embed_dim=32)
    folder = tmp_path_factory.mktemp("models") / "lstm"
    write_dual_encoder(folder, DualEncoder(shape), tokenizer)
    return folder


@pytest.mark.extended
@pytest.mark.parametrize("family", ["tiny_siglip", "tiny_lstm"])
def test_other_families_are_exported_too(family: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    model: Path = request.getfixturevalue(family)
    assert export_model(Config(model=model), tmp_path / "out").passed
    before, after = scores(model, backend="torch", device="cpu"), scores(tmp_path / "out")
    assert np.abs(np.subtract(before, after)).max() <= 1e-6
    assert np.ptp(before) > 1e-3


@pytest.mark.extended
def test_a_model_of_open_clip_by_architecture_and_weights_is_exported(tmp_path: Path) -> None:
    register_architecture("tiny-vit", "vit")
    weights = save_open_clip("vit", tmp_path / "vit") / "open_clip_model.safetensors"
    model = f"open_clip:tiny-vit//{weights}"
    assert export_model(Config(model=model), tmp_path / "out").source == model
    before, after = scores(model, backend="torch", device="cpu"), scores(tmp_path / "out")
    assert np.abs(np.subtract(before, after)).max() <= 1e-6
    assert np.ptp(before) > 1e-3


@pytest.mark.extended
def test_an_export_for_openvino_runs_on_openvino(tiny_clip: Path, tmp_path: Path) -> None:
    export_model(Config(model=tiny_clip), tmp_path / "out", ExportOptions(to="openvino"))
    assert load_encoder(Config(model=tmp_path / "out")).info.backend == "openvino"
    assert not list((tmp_path / "out").glob("*.onnx"))
    before, after = scores(tiny_clip, backend="torch", device="cpu"), scores(tmp_path / "out")
    assert np.abs(np.subtract(before, after)).max() <= 1e-6


@pytest.mark.extended
def test_an_export_for_tensorrt_has_typed_graphs_and_the_script(tiny_clip: Path, tmp_path: Path) -> None:
    summary = export_model(
        Config(model=tiny_clip),
        tmp_path / "out",
        ExportOptions(to="tensorrt", precision="fp16", allow_drift=True),  # scores of random weights lie close together
    )
    assert summary.parities[0].score_max <= 2e-3
    assert (tmp_path / "out" / "build_plans.sh").stat().st_mode & 0o100
    assert load_encoder(Config(model=tmp_path / "out")).info.precision == "fp16"


def test_openvino_takes_no_half_precision() -> None:
    with pytest.raises(ConfigError, match=r"fp32, or in int8 with recipe='weights'"):
        ExportOptions(to="openvino", precision="fp16")
