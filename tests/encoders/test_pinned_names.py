"""A name that is pinned is never a folder of the working directory, and no folder takes a hub model's place silently."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from huggingface_hub import constants

from text_image_similarity import Config
from text_image_similarity.encoders import load_encoder, model_folder, resolve_model
from text_image_similarity.errors import ModelNameError
from text_image_similarity.pipeline.engine import portable

HUB = "openai/clip-vit-base-patch32"


@pytest.mark.parametrize("name", ["fast", HUB])
def test_a_folder_called_like_a_pinned_model_is_not_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    found, revision = resolve_model(name, None)
    assert found == HUB
    assert revision is not None
    assert f"./{name}" in caplog.text
    assert portable(Config(model=name)).model == name
    assert model_folder(f"./{name}").is_dir()
    assert model_folder(Path(name)).is_dir()
    assert resolve_model(f"./{name}", None) == (os.fspath(tmp_path / name), None)


def test_libraries_that_would_take_the_folder_are_not_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / HUB).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for name in ("fast", HUB):
        with pytest.raises(ModelNameError, match=f"write ./{HUB}"):
            load_encoder(Config(model=name, backend="torch"))


def test_an_adapter_s_base_is_not_the_folder_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / HUB).mkdir(parents=True)
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(
        json.dumps({"base_model_name_or_path": HUB, "peft_type": "LORA"}), encoding="utf-8"
    )
    (adapter / "adapter_model.safetensors").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("text_image_similarity.encoders.load.is_installed", lambda name: True)
    with pytest.raises(ModelNameError, match=f"write ./{HUB}"):
        load_encoder(Config(model=adapter, backend="torch"))


def test_a_folder_called_like_a_hub_model_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    name = "laion/some-model"
    shutil.copytree(model_folder("mini"), tmp_path / name)
    monkeypatch.chdir(tmp_path)
    for said in (f"./{name}", Path(name)):
        load_encoder(Config(model=said))
    assert not caplog.text
    load_encoder(Config(model=name))
    assert f"model {name} is the folder ./{name} here, not the hub model {name}" in caplog.text
    snapshot = tmp_path / "cache" / "models--laion--some-model" / "snapshots" / ("a" * 40)
    shutil.copytree(model_folder("mini"), snapshot)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text(snapshot.name)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ModelNameError, match=rf"write \./{name} for the folder, or run in another directory"):
        load_encoder(Config(model=name))
    load_encoder(Config(model=f"./{name}"))
