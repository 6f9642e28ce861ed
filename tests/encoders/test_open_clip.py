"""Models of open_clip give open_clip's own embeddings, whatever they are encoded beside, on both backends."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from tests.encoders.test_load import put_in_cache
from tests.support.open_clip_models import MODELS, register_architecture, save_open_clip
from text_image_similarity import Config, ModelError, ModelNameError, ModelUnavailableError, load_encoder
from text_image_similarity.encoders import open_clip_table, resolve_model
from text_image_similarity.encoders.captions import CLEANINGS, cleaner
from text_image_similarity.encoders.open_clip_files import find_open_clip
from text_image_similarity.encoders.open_clip_names import check_architecture, read_open_clip_name, table_tags
from text_image_similarity.encoders.protocols import CutIds

CAPTIONS = [
    "a photo of 2 dogs",
    "It's RAINING cats &amp; dogs — naïve café",
    "",
    "  ",
    "日本語 ünïcode 👩‍👩‍👧 <end_of_text> x_y",
    "â€œbroken encodingâ€\x9d",
    "word " * 300,
    "a",
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("open_clip")
    return {kind: save_open_clip(kind, root / kind) for kind in MODELS}


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    sizes = [(48, 64), (33, 70), (300, 41), (32, 32), (65, 129), (20, 600), (31, 47), (64, 64), (101, 100)]
    rng = np.random.default_rng(0)
    coarse = [rng.integers(0, 256, (h // 8 + 1, w // 8 + 1, 3), np.uint8) for w, h in sizes]
    return [Image.fromarray(c).resize(size) for c, size in zip(coarse, sizes, strict=True)]


def theirs(folder: Path, pictures: list[Image.Image], captions: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """What open_clip itself makes of pictures and captions."""
    network, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    network = network.eval()
    with torch.inference_mode():
        images = network.encode_image(torch.stack([preprocess(picture) for picture in pictures]), normalize=True)
        texts = network.encode_text(tokenizer(captions), normalize=True)
    return images.numpy(), texts.numpy()


@pytest.mark.parametrize("kind", MODELS)
def test_embeddings_equal_open_clips(
    kind: str, folders: dict[str, Path], pictures: list[Image.Image], capsys: pytest.CaptureFixture[str]
) -> None:
    images, texts = theirs(folders[kind], pictures, CAPTIONS)
    assert np.abs(images[0] - images[1]).max() > 5e-4
    assert np.abs(texts[0] - texts[1]).max() > 1e-3
    encoder = load_encoder(Config(model=folders[kind], device="cpu", backend="torch"))
    np.testing.assert_allclose(encoder.encode_image(pictures), images, rtol=0, atol=1e-5)
    np.testing.assert_allclose(encoder.encode_text(CAPTIONS), texts, rtol=0, atol=1e-5)


@pytest.mark.extended
@pytest.mark.parametrize("kind", ["quickgelu", "siglip"])  # an export takes seconds; all kinds pass
def test_onnx_equals_open_clip(
    kind: str, folders: dict[str, Path], pictures: list[Image.Image], tmp_path: Path
) -> None:
    images, texts = theirs(folders[kind], pictures, CAPTIONS)
    encoder = load_encoder(Config(model=folders[kind], device="cpu", backend="onnx", model_cache=tmp_path))
    assert encoder.info.backend == "onnx"
    torch_encoder = load_encoder(Config(model=folders[kind], device="cpu", backend="torch"))
    for one in (encoder, torch_encoder):
        likely = one.probability(images @ texts.T)  # type: ignore[attr-defined]
        assert (likely is not None) == (kind == "siglip")
        if likely is not None:
            logits = (images @ texts.T) / 0.07 - 10  # as open_clip starts them
            np.testing.assert_allclose(likely, 1 / (1 + np.exp(-logits)), rtol=1e-4)
    np.testing.assert_allclose(encoder.encode_image(pictures), images, rtol=0, atol=1e-5)
    np.testing.assert_allclose(encoder.encode_text(CAPTIONS), texts, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["vit", "siglip", "convnext"])
def test_neighbours_move_no_vector_and_cut_captions_are_marked(
    kind: str, folders: dict[str, Path], pictures: list[Image.Image]
) -> None:
    encoder = load_encoder(Config(model=folders[kind], device="cpu", backend="torch"))
    images, texts = encoder.encode_image(pictures), encoder.encode_text(CAPTIONS)
    for i, picture in enumerate(pictures):
        np.testing.assert_allclose(encoder.encode_image([picture])[0], images[i], rtol=0, atol=2e-7)
    for i, caption in enumerate(CAPTIONS):
        np.testing.assert_allclose(encoder.encode_text([caption])[0], texts[i], rtol=0, atol=2e-7)
    cut = [isinstance(row, CutIds) for row in encoder.tokenize(CAPTIONS)]
    assert cut[-2:] == [True, False]


def test_captions_are_cleaned_as_open_clip_does() -> None:
    for kind in CLEANINGS:
        theirs = open_clip.tokenizer.get_clean_fn(kind)
        assert [cleaner(kind)(text) for text in CAPTIONS] == [theirs(text) for text in CAPTIONS]  # type: ignore[arg-type]


def test_a_file_of_weights_is_loaded_by_its_architecture(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register_architecture("tiny-vit", "vit")
    weights = folders["vit"] / "open_clip_model.safetensors"
    expected = load_encoder(Config(model=folders["vit"], backend="torch", device="cpu")).encode_text(CAPTIONS)
    monkeypatch.chdir(folders["vit"].parent)
    for name in (f"open_clip:tiny-vit//{weights}", "open_clip:tiny-vit//vit/open_clip_model.safetensors"):
        encoder = load_encoder(Config(model=name, backend="torch", device="cpu"))
        assert encoder.info.model == name
        np.testing.assert_array_equal(encoder.encode_text(CAPTIONS), expected)
    assert resolve_model(name, None) == resolve_model(f"open_clip:tiny-vit//{weights}", None)
    monkeypatch.chdir("/")
    with pytest.raises(ModelNameError, match="does not exist"):
        load_encoder(Config(model=name))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelNameError, match=f"did you mean 'open_clip:tiny-vit//{weights}'"):
        load_encoder(Config(model=f"open_clip:tiny-vit/{weights}"))
    register_architecture("tiny-eva", "eva")
    with pytest.raises(ModelError, match=r"are incomplete: visual\."):
        load_encoder(Config(model=f"open_clip:tiny-eva//{weights}", backend="torch", device="cpu"))


def test_every_tag_of_open_clips_table_is_found_in_its_text() -> None:
    found = table_tags(Path(open_clip.__file__))
    assert {tag for _, tag in open_clip.list_pretrained()} <= set(found)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("open_clip:ViT-B-32", "names no weights; write open_clip:ARCHITECTURE/TAG"),
        ("open_clip:ViT-B-99/openai", "open_clip has no architecture ViT-B-99; did you mean ViT-B-"),
        ("open_clip:ViT-B-32/laion3b", "open_clip has no weights laion3b for ViT-B-32"),
        ("open_clip:ViT-B/32/openai", "an architecture has dashes instead of slashes"),
        ("open_clip:ViT-B-32//none.safetensors", "none.safetensors does not exist"),
        ("hf-hub:clip", "cannot be read"),
        ("open_clip:hf-hub:org/clip", "did you mean 'hf-hub:org/clip'?"),
        ("local-dir:/tmp/none", "has no open_clip_config.json"),
    ],
)
def test_names_that_cannot_be_meant(name: str, said: str) -> None:
    with pytest.raises(ModelNameError) as caught:
        load_encoder(Config(model=name))
    assert said in str(caught.value)


def test_a_wrong_architecture_is_known_before_the_library_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "open_clip")
    with pytest.raises(ModelNameError, match="has no architecture ViT-B-99; did you mean ViT-B-32"):
        check_architecture("open_clip:ViT-B-99/openai", "ViT-B-99")
    check_architecture("open_clip:ViT-B-32/openai", "ViT-B-32")
    assert "open_clip" not in sys.modules


@pytest.mark.parametrize("name", ["open_clip:ViT-B-32/laion2b_s34b_b79k", "hf-hub:laion/CLIP-ViT-B-32", "laion/clip-b"])
def test_an_unreachable_hub_says_so(name: str) -> None:
    with pytest.raises(ModelUnavailableError, match="the model hub cannot be reached"):
        load_encoder(Config(model=name))


def test_a_filled_cache_needs_no_hub(folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = put_in_cache(folders["vit"], tmp_path, monkeypatch)
    expected = load_encoder(Config(model=folders["vit"], backend="torch", device="cpu"))
    for name in ("hf-hub:somebody/tiny", "somebody/tiny"):
        encoder = load_encoder(Config(model=name, backend="torch", device="cpu"))
        assert (encoder.info.model, encoder.info.revision) == (name, commit)
        np.testing.assert_array_equal(encoder.encode_text(CAPTIONS), expected.encode_text(CAPTIONS))
        assert encoder.info.fingerprint == expected.info.fingerprint


def test_the_activation_is_what_the_weights_were_trained_with(folders: dict[str, Path], tmp_path: Path) -> None:
    for architecture in ("ViT-B-32", "ViT-B-32-quickgelu"):
        settings, _, repository, _ = open_clip_table.tag_settings("x", architecture, "openai")
        assert (settings["quick_gelu"], repository) == (True, "timm/vit_base_patch32_clip_224.openai")
    assert "quick_gelu" not in open_clip_table.tag_settings("x", "ViT-B-32", "laion2b_s34b_b79k")[0]
    weights = tmp_path / "vit_base.openai" / "open_clip_model.safetensors"
    weights.parent.mkdir()
    shutil.copy(folders["vit"] / "open_clip_model.safetensors", weights)
    with pytest.raises(ModelNameError, match="trained with QuickGELU, but ViT-B-32 computes GELU"):
        load_encoder(Config(model=f"open_clip:ViT-B-32//{weights}"))
    assert open_clip_table.twin_problem("ViT-B-32-quickgelu", weights) is None
    assert open_clip_table.twin_problem("ViT-B-32", tmp_path / "ours.safetensors") is None
    plain, quick = (dict(MODELS[kind][0]) for kind in ("vit", "quickgelu"))
    assert quick.pop("quick_gelu")
    assert plain == quick  # the same weights then give other vectors
    other = tmp_path / "other"
    shutil.copytree(folders["quickgelu"], other)
    config = json.loads((other / "open_clip_config.json").read_text())
    config["model_cfg"]["quick_gelu"] = False
    (other / "open_clip_config.json").write_text(json.dumps(config))
    a, b = (load_encoder(Config(model=f, backend="torch", device="cpu")) for f in (folders["quickgelu"], other))
    assert np.abs(a.encode_text(CAPTIONS) - b.encode_text(CAPTIONS)).max() > 1e-4
    assert a.info.fingerprint != b.info.fingerprint


def test_openai_marks_in_the_weights_name_the_twin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors.torch import load_file, save_file

    folder = save_open_clip("vit", tmp_path / "model")
    weights = folder / "open_clip_model.safetensors"
    marks = {name: torch.tensor(7) for name in ("input_resolution", "context_length", "vocab_size")}
    save_file({**load_file(weights), **marks}, weights)
    for architecture in ("tiny", "tiny-quickgelu"):
        register_architecture(architecture, "vit")
        monkeypatch.setattr(open_clip, "list_models", lambda: ["tiny", "tiny-quickgelu"])
        config = Config(model=f"open_clip:{architecture}//{weights}", backend="torch", device="cpu")
        if architecture == "tiny":
            with pytest.raises(ModelError, match="these are OpenAI weights that were trained with QuickGELU"):
                load_encoder(config)
        else:
            assert load_encoder(config).embed_dim == 16


def test_pickled_weights_are_read_from_known_hashes_alone(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import hashlib

    from safetensors.torch import load_file

    folder = tmp_path / "pickled"
    folder.mkdir()
    shutil.copy(folders["vit"] / "open_clip_config.json", folder)
    weights = folder / "open_clip_pytorch_model.bin"
    torch.save(load_file(folders["vit"] / "open_clip_model.safetensors"), weights)
    config = Config(model=folder, backend="torch", device="cpu")
    with pytest.raises(ModelNameError, match="is a pickle whose full SHA-256 is not in open_clip's table"):
        load_encoder(config)
    known = hashlib.sha256(weights.read_bytes()).hexdigest()
    monkeypatch.setattr(open_clip_table, "weight_hashes", lambda: frozenset([known[:8]]))
    with pytest.raises(ModelNameError, match="open_clip:ARCHITECTURE/TAG fetches published weights as safetensors"):
        load_encoder(config)
    monkeypatch.setattr(open_clip_table, "weight_hashes", lambda: frozenset([known]))
    expected = load_encoder(Config(model=folders["vit"], backend="torch", device="cpu")).encode_text(["a dog"])
    np.testing.assert_array_equal(load_encoder(config).encode_text(["a dog"]), expected)


def test_open_clips_table_holds_hashes() -> None:
    known = open_clip_table.weight_hashes()
    assert "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af" in known
    assert {len(digits) for digits in known} == {64}, "eight digits are forged in seconds"


@pytest.mark.parametrize(
    ("part", "value", "said"),
    [
        ("text_cfg", {"tokenizer_kwargs": {"trust_remote_code": True}}, "code that comes with a model is never run"),
        ("text_cfg", {"tokenizer_kwargs": {"reduction_mask": "random"}}, "captions are never cut at random"),
        ("text_cfg", {"tokenizer_kwargs": [1]}, "tokenizer_kwargs that are not a JSON object; correct them"),
        ("text_cfg", {"tokenizer_mode": "random"}, "tokenizer_mode 'random', which is not supported; use clips"),
        *(
            ("text_cfg", {"tokenizer_kwargs": {key: value}}, rf"have .* in {key} of tokenizer_kwargs, which must be")
            for key, value in (
                ("additional_special_tokens", ["<ok>", "[MASK]"]),
                ("additional_special_tokens", ["(a+)+b"]),
                ("additional_special_tokens", [f"<{number}>" for number in range(257)]),
                ("additional_special_tokens", "<x>"),
                ("clean", ["lower"]),
                ("strip_sep_token", "yes"),
                ("language", "a" * 33),
            )
        ),
        ("vision_cfg", {"timm_model_name": "hf-hub:somebody/else"}, "fetch an image tower from elsewhere"),
        ("vision_cfg", {"no_such_setting": 1}, "cannot be loaded: TypeError"),
    ],
)
def test_settings_of_strangers_decide_nothing(
    part: str, value: dict[str, Any], said: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(folders["vit"], folder)
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"][part] |= value
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=said):
        load_encoder(Config(model=folder, backend="torch", device="cpu"))


def test_a_file_is_prepared_as_its_architectures_weights_are(folders: dict[str, Path]) -> None:
    """open_clip itself would take OpenAI's means for a SigLIP's file."""
    weights = folders["siglip"] / "open_clip_model.safetensors"
    parsed = read_open_clip_name(f"open_clip:ViT-B-16-SigLIP//{weights}")
    assert parsed is not None
    found = find_open_clip("x", parsed, None)
    assert found.preprocess == {
        "mean": (0.5,) * 3,
        "std": (0.5,) * 3,
        "interpolation": "bicubic",
        "resize_mode": "squash",
    }
    assert found.tokenizer == folders["siglip"]
