"""Encoders equal their references, and a row's vector does not depend on its neighbours."""

from __future__ import annotations

import hashlib
import json
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import HfApi
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPModel, SiglipImageProcessorPil, SiglipModel

from tests.support.images import noise
from tests.support.records import captions
from text_image_similarity import (
    Config,
    ConfigError,
    ModelError,
    ModelNameError,
    ModelUnavailableError,
    load_encoder,
    score_images,
)
from text_image_similarity.encoders import model_folder, resolve_model
from text_image_similarity.encoders.clip import load_clip
from text_image_similarity.encoders.fingerprint import fingerprint


@pytest.mark.slow
@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_tiny_models_equal_transformers(family: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(f"tiny_{family}")
    images, texts = noise(9), captions(9)
    encoder = load_encoder(Config(model=folder))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model: CLIPModel | SiglipModel
    processor: CLIPImageProcessorPil | SiglipImageProcessorPil
    if family == "clip":
        model, processor = CLIPModel.from_pretrained(folder), CLIPImageProcessorPil.from_pretrained(folder)
        tokens = tokenizer(texts, padding=True, truncation=True, max_length=77, return_tensors="pt")
    else:
        model, processor = SiglipModel.from_pretrained(folder), SiglipImageProcessorPil.from_pretrained(folder)
        tokens = tokenizer(texts, padding="max_length", truncation=True, max_length=16, return_tensors="pt")
        tokens.pop("attention_mask", None)
    with torch.inference_mode():
        image = model.get_image_features(**processor(images, return_tensors="pt")).pooler_output
        text = model.get_text_features(**tokens).pooler_output
    unit = torch.nn.functional.normalize
    np.testing.assert_allclose(encoder.encode_image(images), unit(image).numpy(), atol=1e-5)
    np.testing.assert_allclose(encoder.encode_text(texts), unit(text).numpy(), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["mini", "tiny_clip", "tiny_siglip"])
def test_neighbours_do_not_move_a_vector(model: str, request: pytest.FixtureRequest) -> None:
    encoder = load_encoder(Config(model="mini" if model == "mini" else request.getfixturevalue(model)))
    images, texts = noise(12), captions(12)
    together_image, together_text = encoder.encode_image(images), encoder.encode_text(texts)
    for i in range(12):
        np.testing.assert_allclose(encoder.encode_image([images[i]])[0], together_image[i], atol=5e-6)
        np.testing.assert_allclose(encoder.encode_text([texts[i]])[0], together_text[i], atol=5e-6)
    assert together_image.dtype == together_text.dtype == np.float32
    assert together_image.shape == together_text.shape == (12, encoder.embed_dim)
    np.testing.assert_allclose(np.linalg.norm(together_image, axis=1), 1, atol=1e-5)


def test_arrays_and_prepared_pixels_equal_the_picture(tiny_clip: Path) -> None:
    encoder = load_encoder(Config(model=tiny_clip))
    image = noise(1)[0]
    expected = encoder.encode_image([image])
    np.testing.assert_array_equal(encoder.encode_image([np.asarray(image)]), expected)
    np.testing.assert_array_equal(encoder.encode_pixels([encoder.prepare(image)]), expected)
    with pytest.raises(ValueError, match=r"\(h, w, 3\) uint8"):
        encoder.encode_image([np.zeros((4, 4, 3), np.float32)])


def test_long_captions_keep_their_end_token(tiny_clip: Path) -> None:
    encoder = load_encoder(Config(model=tiny_clip))
    # Every "x " is one token: 75 of them, a start and an end fill the 77 places. Without its end token a cut caption
    # would be read at another place.
    full, longer, shorter = encoder.encode_text(["x " * 75, "x " * 500, "x " * 74])
    np.testing.assert_allclose(longer, full, atol=1e-6)
    assert np.abs(shorter - full).max() > 1e-4


def test_an_encoder_is_shared_between_threads(tiny_clip: Path) -> None:
    encoder = load_encoder(Config(model=tiny_clip))
    texts = captions(40)
    expected = np.concatenate([encoder.encode_text([text]) for text in texts])
    found: dict[int, np.ndarray] = {}
    start = threading.Barrier(4)

    def work(k: int) -> None:
        start.wait()
        found[k] = np.concatenate([encoder.encode_text(texts[i : i + k + 1]) for i in range(0, 40, k + 1)])

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for k in range(4):
        np.testing.assert_allclose(found[k], expected, atol=1e-5)


def test_mini_ships_small_and_safe() -> None:
    assert {path.suffix for path in model_folder("mini").iterdir()} == {".json", ".onnx", ".safetensors"}
    assert sum(path.stat().st_size for path in model_folder("mini").iterdir()) <= 20_000_000


def test_mini_reads_any_caption() -> None:
    encoder = load_encoder(Config(model="mini"))
    vectors = encoder.encode_text(["", " ", "日本語", "word " * 500, "\x00"])
    assert np.isfinite(vectors).all()


def test_code_that_comes_with_a_model_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builtins.input", lambda question: "y")
    config = {"model_type": "clip", "auto_map": {"AutoConfig": "configuration.OwnConfig"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    code = f"open({str(tmp_path / 'ran')!r}, 'w')\nfrom transformers import PretrainedConfig as OwnConfig\n"
    (tmp_path / "configuration.py").write_text(code)
    with pytest.raises(ModelError, match=r"has auto_map in its config\.json, which names code"):
        load_clip(str(tmp_path), Config(backend="torch"), revision=None, trusted=False)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("file", "kind"),
    [
        ("config.json", "AutoModel"),
        ("tokenizer_config.json", "AutoTokenizer"),
        ("preprocessor_config.json", "AutoImageProcessor"),
    ],
)
def test_code_beside_a_known_model_is_neither_asked_about_nor_run(
    file: str, kind: str, tiny_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked(question: str) -> str:
        raise AssertionError(question)

    monkeypatch.setattr("builtins.input", asked)
    folder = copy_of(tiny_clip, tmp_path / "model")
    settings = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps({**settings, "auto_map": {kind: "own.Own"}}))
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Own: pass\n")
    with pytest.raises(ModelNameError, match=f"has auto_map in its {file}"):
        load_encoder(Config(model=folder, device="cpu", backend="torch"))
    assert not (tmp_path / "ran").exists()


def test_weights_in_the_hub_s_cache_are_held_to_their_names(tmp_path: Path) -> None:
    content = b"weights"
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / ("a" * 40)
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    blob = blobs / hashlib.sha256(content).hexdigest()
    blob.write_bytes(content)
    (blobs / ("b" * 40)).write_bytes(b"{}")  # of git, by its SHA-1
    (snapshot / "model.safetensors").symlink_to(f"../../blobs/{blob.name}")
    (snapshot / "config.json").symlink_to(f"../../blobs/{'b' * 40}")
    assert len(fingerprint(snapshot)) == 32
    blob.write_bytes(b"Weights")
    with pytest.raises(ModelError, match=rf"model.safetensors differs from the hub's: .*, not {blob.name}; delete"):
        fingerprint(snapshot)


@pytest.mark.parametrize(
    ("model", "name"),
    [("fast", "pytorch_model.bin"), ("accurate", "pytorch_model.bin"), ("accurate", "model.safetensors")],
)
def test_weights_of_a_pinned_model_are_held_to_what_is_known_of_them(model: str, name: str, tmp_path: Path) -> None:
    commit = resolve_model(model, None)[1] or ""
    content = b"weights that a hub, or somebody between it and us, calls by their own hash"
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / commit
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    blob = blobs / hashlib.sha256(content).hexdigest()
    blob.write_bytes(content)
    (snapshot / name).symlink_to(blob)
    with pytest.raises(
        ModelError, match=rf"{name} differs from the one in its commit: its SHA-256 is {blob.name}, not \w{{64}};"
    ):
        fingerprint(snapshot)
    other = snapshot.rename(snapshot.with_name("a" * 40))
    assert len(fingerprint(other)) == 32


def test_an_unknown_folder_says_so(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailableError, match="does not exist"):
        load_encoder(Config(model=tmp_path / "none"))


def test_an_unreachable_hub_names_the_ways_out() -> None:
    with pytest.raises(ModelUnavailableError) as caught:
        load_encoder(Config())
    for way in ("path/to/folder", "hf download openai/clip-vit-base-patch32", "--model mini"):
        assert way in str(caught.value)


def test_a_hub_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    from text_image_similarity.encoders import hub

    never = threading.Event()
    monkeypatch.setattr(hub, "PROBE_S", 0.05)
    monkeypatch.setattr(HfApi, "model_info", lambda *_, **__: never.wait())
    with pytest.raises(ModelUnavailableError, match="TimeoutError"):
        hub.require_model("openai/clip-vit-base-patch32", None)
    never.set()


def put_in_cache(folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, *, without: str = "nothing") -> str:
    """Lay a model out as the hub's cache would, as somebody/tiny, and return its commit."""
    from huggingface_hub import constants

    commit = "a" * 40
    repo = cache / "models--somebody--tiny"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(commit)
    (repo / "snapshots").mkdir()
    copy_of(folder, repo / "snapshots" / commit, without=without)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    return commit


def test_a_filled_cache_needs_no_hub(tiny_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = put_in_cache(tiny_clip, tmp_path, monkeypatch)
    encoder = load_encoder(Config(model="somebody/tiny"))
    assert (encoder.info.model, encoder.info.revision) == ("somebody/tiny", commit)
    np.testing.assert_array_equal(
        encoder.encode_text(["dog"]), load_encoder(Config(model=tiny_clip)).encode_text(["dog"])
    )


@pytest.mark.parametrize("without", ["tokenizer", "preprocessor", "model"])
def test_a_cache_left_incomplete_asks_the_hub(
    tiny_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without: str
) -> None:
    put_in_cache(tiny_clip, tmp_path, monkeypatch, without=without)
    with pytest.raises(ModelUnavailableError, match="cannot be reached"):
        load_encoder(Config(model="somebody/tiny"))


def test_another_family_in_the_cache_asks_nobody(
    tiny_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = put_in_cache(tiny_clip, tmp_path, monkeypatch)
    (tmp_path / "models--somebody--tiny" / "snapshots" / commit / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ModelError, match="bert"):
        load_encoder(Config(model="somebody/tiny"))


def test_other_families_and_pickles_are_refused(tiny_clip: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ModelError, match="bert"):
        load_encoder(Config(model=tmp_path))
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    for path in tiny_clip.iterdir():
        if path.suffix != ".safetensors":
            (pickled / path.name).write_bytes(path.read_bytes())
    torch.save({}, pickled / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"model\.safetensors"):
        load_encoder(Config(model=pickled))


def copy_of(folder: Path, to: Path, *, without: str = "nothing") -> Path:
    to.mkdir()
    for path in folder.iterdir():
        if not path.name.startswith(without):
            (to / path.name).write_bytes(path.read_bytes())
    return to


def test_incomplete_folders_are_refused(tiny_clip: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="tokenizer"):
        load_encoder(Config(model=copy_of(tiny_clip, tmp_path / "a", without="tokenizer")))
    with pytest.raises(ModelError, match=r"preprocessor_config\.json"):
        load_encoder(Config(model=copy_of(tiny_clip, tmp_path / "b", without="preprocessor")))
    weights = load_file(tiny_clip / "model.safetensors")
    del weights["visual_projection.weight"]
    folder = copy_of(tiny_clip, tmp_path / "c")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"incomplete: visual_projection\.weight"):
        load_encoder(Config(model=folder))
    (folder / "model.safetensors").write_bytes((tiny_clip / "model.safetensors").read_bytes()[:5000])
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_encoder(Config(model=folder))


@pytest.mark.extended
def test_a_model_that_resizes_beyond_its_crop(tiny_clip: Path, tmp_path: Path) -> None:
    folder = copy_of(tiny_clip, tmp_path / "a")
    CLIPImageProcessorPil(size={"shortest_edge": 40}, crop_size=32).save_pretrained(folder)
    images = noise(5)
    pixels = CLIPImageProcessorPil.from_pretrained(folder)(images, return_tensors="pt")
    encoder = load_encoder(Config(model=folder))
    with torch.inference_mode():
        found = CLIPModel.from_pretrained(folder).get_image_features(**pixels).pooler_output
    expected = torch.nn.functional.normalize(found).numpy()
    np.testing.assert_allclose(encoder.encode_image(images), expected, atol=1e-5)
    results = score_images(images, ["x"] * 5, Config(model=folder))
    np.testing.assert_allclose(
        [result.similarity for result in results], expected @ encoder.encode_text(["x"])[0], atol=1e-5
    )


def test_a_revision_belongs_to_a_hub_model(tiny_clip: Path) -> None:
    for model in ("mini", tiny_clip):
        with pytest.raises(ConfigError, match="revision='main' is for hub models"):
            load_encoder(Config(model=model, revision="main"))


def test_special_tokens_in_a_caption_are_text_to_mini() -> None:
    encoder = load_encoder(Config(model="mini"))
    vectors = encoder.encode_text(["[PAD]", "a dog [PAD]", "a dog", "[UNK]"])
    assert np.isfinite(vectors).all()
    assert np.abs(vectors[1] - vectors[2]).max() > 1e-3


def test_a_damaged_dual_encoder_says_so(tmp_path: Path) -> None:
    for path in model_folder("mini").iterdir():
        (tmp_path / path.name).write_bytes(
            path.read_bytes()[:1000] if path.suffix == ".safetensors" else path.read_bytes()
        )
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_encoder(Config(model=tmp_path))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_fp16_on_cuda_is_close_to_the_cpu(tiny_clip: Path) -> None:
    images, texts = noise(8), captions(8)
    cpu, gpu = (load_encoder(Config(model=tiny_clip, device=device)) for device in ("cpu", "cuda"))
    assert gpu.info.precision == "fp16"
    np.testing.assert_allclose(gpu.encode_image(images), cpu.encode_image(images), atol=5e-3)
    np.testing.assert_allclose(gpu.encode_text(texts), cpu.encode_text(texts), atol=5e-3)
