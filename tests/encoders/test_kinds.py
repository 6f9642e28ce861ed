"""What is not a model that can be loaded is named, with what to do; the command exits with 2."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import HfApi

from tests.encoders.test_load import put_in_cache
from text_image_similarity import Config, ModelError, ModelNameError, UsageError, load_encoder
from text_image_similarity.encoders import dual_encoder_folder
from text_image_similarity.encoders.kinds import check_folder
from text_image_similarity.encoders.names import check_name

CLIP = {"model_type": "clip"}
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


def folder_of(files: dict[str, Any], at: Path) -> Path:
    at.mkdir(exist_ok=True)
    for name, content in files.items():
        path = at / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    return at


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "is an empty folder"),
        ({"open_clip_model.safetensors": ""}, "holds open_clip weights without open_clip_config.json"),
        ({"config.json": {"model_cfg": {}}}, "rename that file to open_clip_config.json"),
        ({"modules.json": [], "0_CLIPModel/config.json": CLIP, "1_Dense/config.json": {}}, "is in {}/0_CLIPModel; use that folder"),
        ({"modules.json": [], "1_Pooling/pooling.json": {}}, "is a sentence-transformers model without a CLIP model"),
        ({"adapter_config.json": {"base_model_name_or_path": "o/base", "peft_type": "LORA"}}, "holds a PEFT adapter for o/base without adapter_model.safetensors"),
        ({"adapter_config.json": {"base_model_name_or_path": "o/base", "peft_type": "LORA", "megatron_config": {"a": 1}, "megatron_core": "evil"}, "adapter_model.safetensors": ""}, "with megatron_config in its adapter_config.json, which would make peft run code"),
        ({"adapter_config.json": "{", "config.json": CLIP, "model.safetensors": ""}, "whose adapter_config.json does not name its base model"),
        ({f"checkpoint-{n}/config.json": CLIP for n in (90, 500, 1000)}, "Trainer's checkpoints; the model is in {}/checkpoint-1000"),
        ({"config.json": CLIP, "model.safetensors": "", "trainer_state.json": {}, "optimizer.pt": ""}, "lacks preprocessor_config.json and tokenizer.json or other tokenizer files, like a Trainer checkpoint"),
        ({"config.json": CLIP, "model.safetensors": "", "vocab.json": {}}, "lacks preprocessor_config.json; save"),
        ({"config.json": CLIP, "training_args.bin": "", "rng_state.pth": ""}, "has a config.json but no weights"),
        ({"config.json": CLIP, "pytorch_model.bin": ""}, "only as pytorch_model.bin, a pickle"),
        ({"config.json": CLIP, "pytorch_model-00001-of-00002.bin": ""}, "only as pytorch_model-00001-of-00002.bin, a pickle"),
        ({"config.json": CLIP, "tf_model.h5": ""}, "only as tf_model.h5, which belongs to another framework"),
        ({"config.json": CLIP, "model.safetensors": POINTER, "tokenizer.json": "", "preprocessor_config.json": {}}, "run `git lfs pull`"),
        ({"config.json": {"model_type": "dual_encoder"}, "model.safetensors": ""}, "is not complete: it lacks tokenizer.json"),
        ({"config.json": {"model_type": "dual_encoder"}, "model.safetensors": POINTER, "tokenizer.json": ""}, "run `git lfs pull`"),
        ({"config.json": {"model_type": "bert"}}, "is a bert model; this package loads CLIP, SigLIP, MetaCLIP 2"),
        ({"config.json": {"model_type": "siglip2"}}, "has a config.json but no weights"),
        ({"config.json": {"model_type": "clip_text_model"}}, "is one tower of a model"),
        ({"config.json": {"architecture": "resnet50"}}, r"is a timm model \(resnet50\)"),
        ({"config.json": "null"}, "names no model_type"),
        ({"config.json": "{"}, "is not a model folder: its config.json cannot be read"),
        ({"model_index.json": {}, "text_encoder/config.json": CLIP}, "is a diffusers pipeline"),
        ({"refs/main": "a", "snapshots/a/config.json": CLIP}, "is in {}/snapshots/a; use that folder"),
        ({"models--o--clip/refs/main": "a"}, "is the hub's cache, not a model"),
        ({"ViT-B-32.pt": ""}, "holds a pickled checkpoint"),
        ({"encoder.json": {}, "image.onnx": ""}, "is an incomplete export of a model"),
        ({"checkpoint.safetensors": ""}, "training run that has not finished an epoch; continue it with `train --resume`"),
        ({"inner/config.json": CLIP}, "did you mean '{}/inner'"),
        ({"notes.txt": ""}, "is not a model folder: it has no config.json; this package loads"),
    ],
)  # fmt: skip
def test_folders_of_other_kinds(files: dict[str, Any], said: str, tmp_path: Path) -> None:
    folder = folder_of(files, tmp_path / "model")
    with pytest.raises(ModelNameError, match=said.replace("{}", str(folder))) as caught:
        check_folder(str(folder), folder)
    assert "\n" not in str(caught.value)
    with pytest.raises(UsageError) as loaded:  # the command's exit code 2
        load_encoder(Config(model=folder))
    assert str(loaded.value) == str(caught.value)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (" mini", "has spaces, quotes or invisible characters around it; did you mean 'mini'?"),
        ("mini\n", "did you mean 'mini'?"),
        ("\u200bmini", "did you mean 'mini'?"),
        ("'fast'", "did you mean 'fast'?"),
        ("Mini", "did you mean 'mini'?"),
        ("acurate", "did you mean 'accurate'?"),
        ("ViT-B/32", "did you mean 'fast'?"),
        ("ViT-L/14@336px", "did you mean 'openai/clip-vit-large-patch14-336'?"),
        ("clip-ViT-L-14", "did you mean 'accurate'?"),
        ("timm:ViT-B-32/openai", "cannot begin with timm:: give a hub id or a folder"),
        ("clip-vit-base-patch32", "did you mean 'openai/clip-vit-base-patch32'?"),
        ("siglip-base-patch16-224", "did you mean 'google/siglip-base-patch16-224'?"),
        ("https://huggingface.co/a/clip-b/tree/main", "did you mean 'a/clip-b'?"),
        ("a/clip-b/", "did you mean 'a/clip-b'?"),
        ("a/clip-b@v2", "pass the part after @ as the revision"),
        ("s3://models/clip", "cannot begin with s3://"),
        ("RN50", "is not a folder here, a hub id (owner/name) or one of accurate, fast, mini"),
        ("x" * 9000, "xxx...' is not a folder here"),
        ("clip.onnx", "model file clip.onnx does not exist, and a model is a folder or a hub id"),
        ("models/clip.safetensors", "model file models/clip.safetensors does not exist"),
        (Path("models/none"), "model folder models/none does not exist"),
        ("models\\clip-b", "did you mean 'models/clip-b'?"),
        ("./models/clipb", "did you mean 'models/clip-b'?"),
        ("~nobody-of-this-name/clip", "model folder ~nobody-of-this-name/clip does not exist"),
        ("models/clip-b/config.json", "is a file; name its folder, models/clip-b"),
        ("models/some.pt", "is a file; name a folder with config.json"),
    ],
)
def test_names_that_are_not_a_model(
    name: str | Path, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder_of({"models/clip-b/config.json": CLIP, "models/some.pt": ""}, tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelNameError) as caught:
        load_encoder(Config(model=name))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["fast", "accurate", "openai/clip-vit-base-patch32", "models/clip-v1.5", "o/siglip_b"])
def test_names_that_may_be_a_model(name: str) -> None:
    check_name(name)


def test_a_hub_model_of_another_kind(tiny_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def listing(*files: str) -> None:
        found = SimpleNamespace(siblings=[SimpleNamespace(rfilename=file) for file in files])
        monkeypatch.setattr(HfApi, "model_info", lambda *_, **__: found)

    listing("modules.json", "0_CLIPModel/config.json", "0_CLIPModel/model.safetensors")
    with pytest.raises(ModelNameError, match="`hf download o/clip --local-dir FOLDER`, and use FOLDER/0_CLIPModel"):
        load_encoder(Config(model="o/clip"))
    listing("open_clip_model.safetensors")
    with pytest.raises(ModelNameError, match="o/clip holds open_clip weights without open_clip_config"):
        load_encoder(Config(model="o/clip"))
    listing("adapter_config.json", "adapter_model.safetensors")
    with pytest.raises(ModelNameError, match="o/clip holds a PEFT adapter"):
        load_encoder(Config(model="o/clip"))


def test_a_cached_model_with_pickled_weights(tiny_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = put_in_cache(tiny_clip, tmp_path, monkeypatch, without="model.safetensors")
    (tmp_path / "models--somebody--tiny" / "snapshots" / commit / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ModelNameError, match=r"somebody/tiny holds its weights only as pytorch_model\.bin"):
        load_encoder(Config(model="somebody/tiny"))


def test_a_name_near_a_hub_models_is_suggested() -> None:
    with pytest.raises(ModelError, match="did you mean 'openai/clip-vit-base-patch32'"):
        load_encoder(Config(model="openai/clip-vit-base-patch-32"))


def test_training_starts_from_a_dual_encoder(tiny_clip: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelNameError, match="was not created by `train`; training starts from mini"):
        dual_encoder_folder(tiny_clip)
    with pytest.raises(ModelNameError, match="did you mean 'mini'"):
        dual_encoder_folder("Mini")
    with pytest.raises(ModelNameError, match="model folder fast does not exist"):
        dual_encoder_folder("fast")
