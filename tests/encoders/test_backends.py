"""ONNX Runtime gives torch's embeddings; what cannot be exported says so or runs on torch."""

from __future__ import annotations

import gc
import json
import logging
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from platformdirs import user_cache_path

from tests.support.images import noise
from tests.support.missing import run_without
from tests.support.models import save_clip
from tests.support.records import captions
from text_image_similarity import Config, ConfigError, DeviceLostError, ModelError, load_encoder, system
from text_image_similarity.encoders import forks, model_folder, onnx_export
from text_image_similarity.encoders.fingerprint import fingerprint, unchanged
from text_image_similarity.encoders.graphs import drop_weights, write_towers
from text_image_similarity.encoders.placement import runs_on_onnx
from text_image_similarity.encoders.torch_backend import TorchBackend
from text_image_similarity.encoders.two_tower import TwoTowerEncoder


@pytest.fixture(scope="session")
def exports() -> Path:
    """Where exported models are kept by default, which all processes of a session share."""
    return user_cache_path("text-image-similarity")


@pytest.fixture(scope="session")
def exported(tiny_clip: Path, exports: Path) -> Path:
    """The folder of tiny_clip's export."""
    load_encoder(Config(model=tiny_clip, backend="onnx"))
    mark = fingerprint(tiny_clip)
    files = exports.glob("onnx/*-fp32-*/encoder.json")
    (found,) = (path.parent for path in files if mark in path.read_text(encoding="utf-8"))
    return found


@pytest.fixture
def own_cache(exported: Path, tmp_path: Path) -> Path:
    """A cache that holds a copy of that export."""
    shutil.copytree(exported, tmp_path / "cache" / "onnx" / exported.name)
    return tmp_path / "cache"


@pytest.mark.slow
@pytest.mark.parametrize(
    "model",
    [
        pytest.param("mini", marks=pytest.mark.extended),
        "tiny_clip",
        pytest.param("tiny_siglip", marks=pytest.mark.extended),
    ],
)
def test_onnx_equals_torch(model: str, exports: Path, request: pytest.FixtureRequest) -> None:
    name = "mini" if model == "mini" else request.getfixturevalue(model)
    torch, onnx = (
        load_encoder(Config(model=name, model_cache=exports, backend=backend)) for backend in ("torch", "onnx")
    )
    assert (torch.info.backend, onnx.info.backend) == ("torch", "onnx")
    assert replace(onnx.info, backend="torch", fingerprint=torch.info.fingerprint) == torch.info
    for fact in ("embed_dim", "context_length", "logit_scale"):
        assert getattr(onnx, fact) == getattr(torch, fact)
    images = noise(11)
    texts = [*captions(11), "", " ", "日本語", "a [PAD] dog", "[UNK]", "<|endoftext|> after the end", "word " * 500]
    assert np.abs(torch.encode_image(images)[1:] - torch.encode_image(images)[:-1]).max() > 1e-3  # pictures differ
    np.testing.assert_allclose(onnx.encode_image(images), torch.encode_image(images), atol=2e-6)
    np.testing.assert_allclose(onnx.encode_text(texts), torch.encode_text(texts), atol=2e-6)
    assert onnx.encode_image([]).shape == onnx.encode_text([]).shape == (0, onnx.embed_dim)


@pytest.mark.extended
def test_int8_is_near_and_not_the_same(exports: Path) -> None:
    exact = load_encoder(Config(model="mini", model_cache=exports, backend="onnx"))
    rounded = load_encoder(Config(model="mini", model_cache=exports, precision="int8"))
    texts = ["two dogs play with a ball", "a man rides a bicycle down a hill", "children at the beach"]
    for one, other in (
        (exact.encode_image(noise(6)), rounded.encode_image(noise(6))),
        (exact.encode_text(texts), rounded.encode_text(texts)),
    ):
        cosines = (one * other).sum(axis=1)
        assert (cosines > 0.98).all()
        assert np.abs(one - other).max() > 1e-4
    assert exact.info.fingerprint != rounded.info.fingerprint


def test_an_exported_model_needs_nothing_that_exported_it(tiny_clip: Path, exports: Path) -> None:
    texts = ["a dog", "two cats"]
    exported = load_encoder(Config(model=tiny_clip, model_cache=exports, backend="onnx")).encode_text(texts)
    code = (
        "from text_image_similarity import Config, load_encoder\n"
        f"encoder = load_encoder(Config(model={str(tiny_clip)!r}, device='cpu', model_cache={str(exports)!r}))\n"
        f"print(encoder.info.backend, encoder.encode_text({texts}).tolist())"
    )
    done = run_without(("torch", "torchvision", "transformers", "onnx", "onnxscript", "huggingface_hub"), code)
    assert (done.stdout.strip(), done.stderr) == (f"onnx {exported.tolist()}", "")


@pytest.mark.extended
def test_the_weights_of_an_exported_model_leave_memory(tiny_clip: Path, tmp_path: Path) -> None:
    encoder = load_encoder(Config(model=tiny_clip, device="cpu", backend="torch"))
    assert isinstance(encoder, TwoTowerEncoder)
    assert isinstance(encoder.backend, TorchBackend)
    places = {weight.untyped_storage().data_ptr() for weight in encoder.backend.text_tower.parameters()}

    def held() -> list[tuple[int, ...]]:
        gc.collect()
        tensors = [found for found in gc.get_objects() if type(found) in (torch.Tensor, torch.nn.Parameter)]
        return [tuple(each.shape) for each in tensors if each.numel() and each.untyped_storage().data_ptr() in places]

    assert held()
    write_towers(encoder, tmp_path)
    drop_weights(encoder)
    assert not held()


def test_what_cannot_be_exported_for_want_of_a_library_runs_on_torch(
    tiny_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(system, "find_spec", lambda name: None if name == "onnxscript" else find_spec(name))
    config = Config(model=tiny_clip, model_cache=tmp_path, device="cpu")
    assert load_encoder(config).info.backend == "torch"
    assert not caplog.records
    with pytest.raises(ConfigError, match=r'to ONNX needs onnxscript: pip install "\.\[onnx\]"'):
        load_encoder(replace(config, backend="onnx"))


def test_threads_share_an_onnx_encoder(tiny_clip: Path, exports: Path) -> None:
    encoder = load_encoder(Config(model=tiny_clip, model_cache=exports, backend="onnx"))
    texts, images = captions(20), noise(20)
    text, image = encoder.encode_text(texts), encoder.encode_image(images)
    with ThreadPoolExecutor(4) as pool:
        found = list(
            pool.map(lambda i: (encoder.encode_image([images[i]]), encoder.encode_text([texts[i]])), range(20))
        )
    np.testing.assert_allclose(np.concatenate([one for one, _ in found]), image, atol=2e-6)
    np.testing.assert_allclose(np.concatenate([one for _, one in found]), text, atol=2e-6)


@pytest.mark.extended
def test_a_model_is_exported_once_for_its_content(
    tiny_clip: Path, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Path] = []
    inner = onnx_export.export

    def export(*given: Any, **more: Any) -> None:
        made.append(given[1])
        if len(made) == 1:
            shutil.copytree(exported, given[1])  # an export takes seconds
        else:
            inner(*given, **more)

    monkeypatch.setattr(onnx_export, "export", export)
    config = Config(model=tiny_clip, model_cache=tmp_path / "cache", backend="onnx")
    first = load_encoder(config).encode_text(["dog"])
    np.testing.assert_array_equal(load_encoder(config).encode_text(["dog"]), first)
    assert len(made) == 1
    other = save_clip(tmp_path / "other")
    settings = json.loads((other / "preprocessor_config.json").read_text())
    (other / "preprocessor_config.json").write_text(json.dumps({**settings, "image_mean": [0.1, 0.2, 0.3]}))
    changed = load_encoder(replace(config, model=other))
    assert len(made) == 2
    assert isinstance(changed, TwoTowerEncoder)
    assert changed.preprocess.mean == (0.1, 0.2, 0.3)
    assert fingerprint(other) != fingerprint(tiny_clip)
    assert not [path for path in (tmp_path / "cache" / "onnx").iterdir() if path.name.startswith(".exporting")]


@pytest.mark.slow
def test_an_export_that_differs_is_refused(
    tiny_clip: Path,
    exported: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def write_towers(encoder: object, folder: Path, **_: object) -> None:  # what takes seconds
        for graph in exported.glob("*.onnx"):
            shutil.copy(graph, folder)

    monkeypatch.setattr(onnx_export, "FP32_TOLERANCE", 0.0)
    config = Config(model=tiny_clip, model_cache=tmp_path, device="cpu")
    monkeypatch.setattr(onnx_export, "write_towers", write_towers)
    with pytest.raises(ModelError, match="returns embeddings that differ"):
        load_encoder(replace(config, backend="onnx"))
    with caplog.at_level(logging.WARNING, "text_image_similarity"):
        encoder = load_encoder(config)
    assert encoder.info.backend == "torch"
    assert "runs on torch" in caplog.text
    assert [path.suffix for path in (tmp_path / "onnx").iterdir()] == [".lock"]


def test_a_cache_that_cannot_be_written_leaves_torch(
    tiny_clip: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    config = Config(model=tiny_clip, model_cache=tmp_path / "file", device="cpu")
    with pytest.raises(ModelError, match="cannot be exported"):
        load_encoder(replace(config, backend="onnx"))
    with caplog.at_level(logging.WARNING, "text_image_similarity"):
        assert load_encoder(config).info.backend == "torch"
    assert "runs on torch" in caplog.text


@pytest.mark.slow
def test_a_damaged_export_says_what_to_do(tiny_clip: Path, own_cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = Config(model=tiny_clip, model_cache=own_cache, backend="onnx")
    load_encoder(config)
    graph = next((own_cache / "onnx").glob("*/image.onnx"))
    graph.write_bytes(graph.read_bytes()[:1000])
    with pytest.raises(ModelError, match="delete it to export it again"):
        load_encoder(config)
    with caplog.at_level(logging.WARNING, "text_image_similarity"):
        assert load_encoder(replace(config, backend="auto", device="cpu")).info.backend == "torch"
    assert "delete it to export it again" in caplog.text


@pytest.mark.slow
def test_an_export_of_another_model_is_refused(tiny_clip: Path, own_cache: Path) -> None:
    config = Config(model=tiny_clip, model_cache=own_cache, backend="onnx")
    load_encoder(config)
    facts = next((own_cache / "onnx").glob("*/encoder.json"))
    facts.write_text(facts.read_text().replace(fingerprint(tiny_clip), "0" * 32))
    with pytest.raises(ModelError, match="belongs to another model"):
        load_encoder(config)


def test_what_the_exporter_trips_over_leaves_torch(
    tiny_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("no such operator")

    monkeypatch.setattr(onnx_export, "write_towers", broken)
    config = Config(model=tiny_clip, model_cache=tmp_path, device="cpu")
    with pytest.raises(ModelError, match="RuntimeError: no such operator"):
        load_encoder(replace(config, backend="onnx"))
    with caplog.at_level(logging.WARNING, "text_image_similarity"):
        assert load_encoder(config).info.backend == "torch"


def test_a_model_that_is_written_while_it_is_read_is_refused(tiny_clip: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_clip, folder)
    with pytest.raises(ModelError, match="changed while it was being read"), unchanged(folder):
        (folder / "model.safetensors").write_bytes(b"another model")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this system")
@pytest.mark.parametrize("backend", ["onnx", "torch"])
def test_a_forked_process_encodes_too(backend: str, exports: Path) -> None:
    """With the parent's encoder, and with one that it loads itself after the parent has used its own."""
    code = (
        "import os, sys\nimport numpy as np\nfrom text_image_similarity import Config, load_encoder\n"
        f"config = Config(model='mini', backend={backend!r}, model_cache={str(exports)!r})\n"
        "images = list(np.random.default_rng(0).integers(0, 256, (9, 64, 64, 3), np.uint8))\n"
        "encoder = load_encoder(config)\n"
        "def encode(encoder): return np.concatenate([encoder.encode_image(images), encoder.encode_text(['a dog'] * 9)])\n"
        "first = encode(encoder)\n"
        "for load in (lambda: encoder, lambda: load_encoder(config)):\n"
        "    if (child := os.fork()) == 0:\n"
        "        os._exit(0 if np.abs(encode(load()) - first).max() < 1e-5 else 1)\n"
        "    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]): sys.exit(1)"
    )
    threads = {**os.environ, "OMP_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], env=threads, timeout=120, check=False)
    assert done.returncode == 0


def test_a_gpu_that_the_parent_used_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forks, "_first", {"process": -1})
    monkeypatch.setattr(torch.cuda, "_is_in_bad_fork", lambda: True)
    with pytest.raises(DeviceLostError, match="load the encoder in the child process, not before the fork"):
        forks.adapt_to_fork(torch.device("cuda:0"))


def test_what_cannot_run_on_onnx_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = {"model_type": "altclip"}
    assert not runs_on_onnx(Config(model="other", device="cpu"), shape)
    with pytest.raises(ConfigError, match="backend='torch'"):
        runs_on_onnx(Config(model="other", backend="onnx"), shape)
    with pytest.raises(ConfigError, match="runs on the CPU"):
        load_encoder(Config(model="mini", backend="onnx", device="cuda"))
    with pytest.raises(ConfigError, match="runs on the CPU"):
        load_encoder(Config(model="mini", precision="int8", device="mps"))
    with pytest.raises(ConfigError, match="int8"):
        load_encoder(Config(model="mini", precision="int8", backend="torch"))

    def without(name: str) -> ModuleSpec | None:
        return None if name == "onnxruntime" else find_spec(name)

    monkeypatch.setattr(system, "find_spec", without)
    with pytest.raises(ConfigError, match=r'needs onnxruntime: pip install "\.\[onnx\]"'):
        load_encoder(Config(model="mini", backend="onnx"))
    assert load_encoder(Config(model="mini", device="cpu")).info.backend == "torch"


def test_the_fingerprint_is_of_the_files_that_matter(tmp_path: Path) -> None:
    for path in model_folder("mini").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    before = fingerprint(model_folder("mini"))
    assert fingerprint(tmp_path) == before
    (tmp_path / "README.md").write_text("a model card")
    (tmp_path / "calibration.json").unlink()
    assert fingerprint(tmp_path) == before
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        kept = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(kept + b" ")
        assert fingerprint(tmp_path) != before
        (tmp_path / name).write_bytes(kept)
    for name in ("vocab.txt", "tokenizer.model", "model-00002-of-00002.safetensors", "adapter_config.json"):
        (tmp_path / name).write_text("more of the model")
        assert fingerprint(tmp_path) != before
        (tmp_path / name).unlink()
