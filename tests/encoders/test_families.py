"""Models of other families of transformers equal transformers' own; the layouts that weights come in; adapters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer, CLIPConfig, CLIPModel

from tests.encoders.test_load import copy_of
from tests.support.family_models import FAMILIES, save_family
from tests.support.images import noise
from text_image_similarity import Config, ModelError, ModelNameError, load_encoder
from text_image_similarity.encoders.protocols import CutIds
from text_image_similarity.errors import MissingExtraError

CAPTIONS = ["a", "A photo of two dogs", "", "两只狗", "red dog " * 40]


@pytest.mark.parametrize("family", FAMILIES)
def test_embeddings_equal_transformers(family: str, tmp_path: Path) -> None:
    folder = save_family(family, tmp_path)
    encoder = load_encoder(Config(model=folder, device="cpu"))
    network, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    pixels = AutoImageProcessor.from_pretrained(folder, backend="pil")(noise(5), return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        image = network.get_image_features(pixel_values=pixels).pooler_output
        tokens = tokenizer(CAPTIONS, padding=True, truncation=True, max_length=38, return_tensors="pt")
        text = network.get_text_features(**{k: tokens[k] for k in ("input_ids", "attention_mask")}).pooler_output
    unit = torch.nn.functional.normalize
    found = encoder.encode_text(CAPTIONS)
    assert np.abs(encoder.encode_image(noise(2))[0] - encoder.encode_image(noise(2))[1]).max() > 1e-4
    assert np.abs(found[0] - found[1]).max() > 1e-3
    np.testing.assert_allclose(encoder.encode_image(noise(5)), unit(image).numpy(), atol=1e-5)
    np.testing.assert_allclose(found[:4], unit(text).numpy()[:4], atol=1e-5)
    for i, caption in enumerate(CAPTIONS):
        np.testing.assert_allclose(encoder.encode_text([caption])[0], found[i], atol=2e-7)
    cut = [isinstance(row, CutIds) for row in encoder.tokenize(CAPTIONS)]
    assert cut == [False, False, False, False, True]


def test_a_processor_that_does_more_is_refused(tmp_path: Path) -> None:
    folder = save_family("align", tmp_path)
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").write_text(json.dumps({**settings, "rescale_offset": True}))
    with pytest.raises(ModelError, match="its own processor and tokenizer prepare images in a way"):
        load_encoder(Config(model=folder, device="cpu"))


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"auto_map": {"AutoModel": "own.Model"}}, "is a model, which needs code"),
        ({"model_type": "bert", "auto_map": {"AutoModel": "own.Model"}}, "trust_remote_code is off"),
        ({"model_type": "llava", "text_config": {}, "vision_config": {}}, "is a llava model; this package loads CLIP, SigLIP, MetaCLIP 2, Chinese-CLIP, AltCLIP and ALIGN"),
        ({"model_type": "own", "text_config": {}, "vision_config": {}, "auto_map": {"AutoConfig": "own.C"}}, "trust_remote_code is off"),
    ],
)  # fmt: skip
def test_what_cannot_be_loaded_says_what_is_missing(
    config: dict[str, object], said: str, tiny_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builtins.input", lambda question: "y")  # whoever is asked whether to run its code
    folder = copy_of(tiny_clip, tmp_path / "model")
    (folder / "own.py").write_text("raise SystemExit('it was run')")
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelNameError, match=said):
        load_encoder(Config(model=folder, device="cpu"))


def test_sharded_and_bf16_weights(tiny_clip: Path, tmp_path: Path) -> None:
    expected = load_encoder(Config(model=tiny_clip, device="cpu", backend="torch")).encode_text(["a dog", "two cats"])
    network = CLIPModel.from_pretrained(tiny_clip)
    sharded = copy_of(tiny_clip, tmp_path / "sharded", without="model")
    network.save_pretrained(sharded, max_shard_size="40KB")
    assert (sharded / "model.safetensors.index.json").exists()
    found = load_encoder(Config(model=sharded, device="cpu", backend="torch")).encode_text(["a dog", "two cats"])
    np.testing.assert_array_equal(found, expected)
    half = copy_of(tiny_clip, tmp_path / "half", without="model")
    network.bfloat16().save_pretrained(half)
    assert {value.dtype for value in load_file(half / "model.safetensors").values()} == {torch.bfloat16}
    encoder = load_encoder(Config(model=half, device="cpu", backend="torch"))
    assert encoder.info.precision == "fp32"
    np.testing.assert_allclose(encoder.encode_text(["a dog", "two cats"]), expected, atol=0.05)


def test_a_text_tower_of_248_tokens(tiny_clip: Path, tmp_path: Path) -> None:
    folder = copy_of(tiny_clip, tmp_path / "long", without="model")
    settings = json.loads((folder / "config.json").read_text())
    settings["text_config"]["max_position_embeddings"] = 248
    torch.manual_seed(0)
    CLIPModel(CLIPConfig(**settings)).save_pretrained(folder)
    encoder = load_encoder(Config(model=folder, device="cpu", backend="torch"))
    long, cut, longer = encoder.tokenize(["x " * 246, "x " * 247, "x " * 600])
    assert [len(long), len(cut), len(longer)] == [248, 248, 248]
    assert [isinstance(row, CutIds) for row in (long, cut, longer)] == [False, True, True]


def test_an_adapter_for_an_export_is_refused(exported: tuple[Path, Any], tmp_path: Path) -> None:
    pytest.importorskip("peft")
    settings = {"peft_type": "LORA", "base_model_name_or_path": str(exported[0])}
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    (tmp_path / "adapter_model.safetensors").touch()
    with pytest.raises(ModelNameError, match=f"a PEFT adapter for {exported[0]}, which is not a model of transformers"):
        load_encoder(Config(model=tmp_path))


@pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)  # peft 0.21, of transformers
@pytest.mark.parametrize("place", ["absolute", "missing"])
def test_an_adapter_is_merged_into_its_model(place: str, tiny_clip: Path, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    network = CLIPModel.from_pretrained(tiny_clip)
    network.name_or_path = str(tiny_clip)
    adapted = peft.get_peft_model(
        network, peft.LoraConfig(target_modules=["q_proj", "fc1"], r=4, init_lora_weights=False)
    )
    adapted.save_pretrained(tmp_path)
    config = Config(model=tmp_path, device="cpu", backend="torch")
    if place == "missing":
        settings = json.loads((tmp_path / "adapter_config.json").read_text())
        (tmp_path / "adapter_config.json").write_text(
            json.dumps({**settings, "base_model_name_or_path": "nobody/none"})
        )
        with pytest.raises(ModelError, match="nobody/none is neither a folder here"):
            load_encoder(config)
        return
    tokens = AutoTokenizer.from_pretrained(tiny_clip)(["a dog"], return_tensors="pt")
    with torch.inference_mode():
        expected = torch.nn.functional.normalize(adapted.eval().get_text_features(**tokens).pooler_output).numpy()
    encoder, plain = load_encoder(config), load_encoder(Config(model=tiny_clip, device="cpu", backend="torch"))
    np.testing.assert_allclose(encoder.encode_text(["a dog"]), expected, atol=1e-5)
    assert np.abs(plain.encode_text(["a dog"]) - expected).max() > 1e-3
    assert encoder.info.fingerprint != plain.info.fingerprint
    assert encoder.info.model == str(tmp_path)
    (tmp_path / "adapter_model.safetensors").unlink()
    with pytest.raises(ModelNameError, match=r"without adapter_model\.safetensors"):
        load_encoder(config)


def test_an_adapter_without_peft_names_the_command_that_brings_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "nobody/none", "peft_type": "LORA"}')
    (tmp_path / "adapter_model.safetensors").touch()
    monkeypatch.setattr("text_image_similarity.encoders.load.is_installed", lambda name: name != "peft")
    with pytest.raises(MissingExtraError, match="holds a PEFT adapter, needs peft: pip install peft"):
        load_encoder(Config(model=tmp_path))


def test_naflex_keeps_the_shape_of_a_picture(tmp_path: Path) -> None:
    folder = save_family("siglip2", tmp_path)
    encoder = load_encoder(Config(model=folder, device="cpu"))
    network, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    pictures = [noise(1)[0].resize(size) for size in ((64, 48), (30, 200), (500, 20), (8, 8), (2000, 3), (77, 78))]
    given = AutoImageProcessor.from_pretrained(folder, backend="pil")(pictures, return_tensors="pt")
    captions = [caption.lower() for caption in CAPTIONS]
    with torch.inference_mode():
        image = network.get_image_features(**given).pooler_output
        ids = tokenizer(captions, padding="max_length", truncation=True, max_length=38, return_tensors="pt")[
            "input_ids"
        ]
        text = network.get_text_features(input_ids=ids).pooler_output
    unit = torch.nn.functional.normalize
    found = encoder.encode_image(pictures)
    assert np.abs(found[0] - found[1]).max() > 1e-3
    np.testing.assert_allclose(found, unit(image).numpy(), atol=1e-5)
    np.testing.assert_allclose(encoder.encode_text(CAPTIONS), unit(text).numpy(), atol=1e-5)
    for i, picture in enumerate(pictures):
        np.testing.assert_allclose(encoder.encode_image([picture])[0], found[i], atol=2e-7)
