"""Training: losses and towers by worked example and parity, runs on a handful of drawn photos."""

from __future__ import annotations

import io
import itertools
import json
import math
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import urllib.error
import urllib.request
import warnings
from contextlib import closing
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from filelock import FileLock, Timeout
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from torchvision import models as torchvision_models
from transformers import BertConfig, BertModel

from tests.support.tables import FORMS, write_form
from text_image_similarity import Calibration, Config, TrainConfig, load_encoder, score_images, train
from text_image_similarity.cli import main
from text_image_similarity.encoders import image_cost
from text_image_similarity.encoders.dual_encoder import quantised, set_up, token_ids
from text_image_similarity.encoders.towers import DualEncoder, DualEncoderConfig
from text_image_similarity.encoders.towers.image import build_backbone
from text_image_similarity.encoders.towers.text import PAD, TransformerTower, build_text_tower
from text_image_similarity.encoders.two_tower import TwoTowerEncoder
from text_image_similarity.encoders.weights import dequantised
from text_image_similarity.errors import BusyError, ConfigError, ModelError, ModelUnavailableError, UsageError
from text_image_similarity.folder_lock import FolderLock
from text_image_similarity.training import loop
from text_image_similarity.training.checkpoint import NAME as CHECKPOINT
from text_image_similarity.training.checkpoint import save_checkpoint
from text_image_similarity.training.data import Batch, fingerprint, load_splits
from text_image_similarity.training.loop import TrainProgress, TrainResult
from text_image_similarity.training.losses import info_nce, sigmoid_loss
from text_image_similarity.training.optimisation import average_into, warmup_cosine
from text_image_similarity.training.pretrained import load_image_weights
from text_image_similarity.training.step import Stepper
from text_image_similarity.training.tracking import MlflowTracker, _absolute
from text_image_similarity.training.vocabulary import learn_tokenizer

COLOURS = ("red", "green", "blue", "yellow", "purple", "grey")
TINY = TrainConfig(
    image_weights="none",
    image_size=32,
    embed_dim=16,
    text_width=16,
    vocab_size=60,
    epochs=2,
    batch_size=12,
    splits="random",
    device="cpu",
    workers=2,
    tracking="none",
)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """72 pictures, a coloured bar at one side each, with two captions, in the columns of jxie/flickr8k."""
    rows: dict[str, list[Any]] = {"image": [], "caption_0": [], "caption_1": []}
    corners = {"left": (0, 0), "right": (1, 0), "top": (0, 0), "bottom": (0, 1)}
    for colour in COLOURS:
        for place, (x, y) in corners.items():
            for name, thick in (("thin", 8), ("plain", 14), ("thick", 20)):
                size = (thick, 40) if place in ("left", "right") else (40, thick)
                picture = Image.new("RGB", (40, 40), "white")
                picture.paste(Image.new("RGB", size, colour), (x * (40 - thick), y * (40 - thick)))
                file = io.BytesIO()
                picture.save(file, "PNG")
                rows["image"].append({"bytes": file.getvalue(), "path": f"{name}_{colour}_{place}.png"})
                rows["caption_0"].append(f"a {name} {colour} bar at the {place}")
                rows["caption_1"].append(f"at the {place} something {name} and {colour}")
    path = tmp_path_factory.mktemp("photos") / "all.parquet"
    pq.write_table(pa.table(rows), path)
    return path


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def test_losses_equal_their_definitions() -> None:
    torch.manual_seed(0)
    image, text = (nn.functional.normalize(torch.randn(5, 3), dim=1) for _ in range(2))
    scale, bias = torch.tensor(4.0), torch.tensor(-2.0)
    logits = [[4 * float(i @ t) for t in text] for i in image]
    ways = (logits, [list(column) for column in zip(*logits, strict=True)])
    nce = -sum(math.log(math.exp(w[i][i]) / sum(map(math.exp, w[i]))) for w in ways for i in range(5)) / 10
    assert float(info_nce(image, text, scale)) == pytest.approx(nce, abs=1e-6)
    yes_or_no = (
        sum(math.log1p(math.exp((2 * (i != j) - 1) * (logits[i][j] - 2))) for i in range(5) for j in range(5)) / 5
    )
    assert float(sigmoid_loss(image, text, scale, bias)) == pytest.approx(yes_or_no, abs=1e-6)


def test_the_learning_rate_rises_and_falls() -> None:
    course = [warmup_cosine(step, 100, 10) for step in range(100)]
    assert course[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert course[10] == 1.0
    assert course[55] == pytest.approx(0.5)
    assert all(a > b for a, b in itertools.pairwise(course[10:]))


def test_the_average_moves_by_a_share_and_copies_counters() -> None:
    average = {"w": torch.tensor([0.0]), "n": torch.tensor(0)}
    average_into(average, {"w": torch.tensor([1.0]), "n": torch.tensor(7)}, decay=0.9, step=1000)
    assert average["w"].item() == pytest.approx(0.1)
    assert average["n"].item() == 7
    average_into(average, {"w": torch.tensor([1.0]), "n": torch.tensor(8)}, decay=0.9, step=0)  # early: decay 1/10
    assert average["w"].item() == pytest.approx(0.1 + 0.9 * 0.9)


def test_the_transformer_is_berts_encoder() -> None:
    torch.manual_seed(0)
    bert = BertModel(
        BertConfig(
            vocab_size=50, hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=256,
            max_position_embeddings=16,
        ),
        add_pooling_layer=False,
    ).eval()  # fmt: skip
    given = bert.state_dict()
    tower = TransformerTower(vocab_size=50, width=64, layers=2, dropout=0.1, context_length=16).eval()
    tower.tokens.weight.data = given["embeddings.word_embeddings.weight"]
    tower.positions.weight.data = (
        given["embeddings.position_embeddings.weight"] + given["embeddings.token_type_embeddings.weight"][0]
    )
    tower.norm.load_state_dict(
        {"weight": given["embeddings.LayerNorm.weight"], "bias": given["embeddings.LayerNorm.bias"]}
    )
    for number, layer in enumerate(tower.layers):
        at = f"encoder.layer.{number}."
        for part in ("weight", "bias"):
            query = [given[f"{at}attention.self.{name}.{part}"] for name in ("query", "key", "value")]
            getattr(layer.qkv, part).data = torch.cat(query)
            for ours, theirs in (("out", "attention.output.dense"), ("norm1", "attention.output.LayerNorm"),
                                 ("up", "intermediate.dense"), ("down", "output.dense"), ("norm2", "output.LayerNorm")):  # fmt: skip
                getattr(getattr(layer, ours), part).data = given[f"{at}{theirs}.{part}"]
    ids = torch.tensor([[5, 6, 7, 8], [9, 4, PAD, PAD]])
    mask = (ids != PAD).float()
    with torch.inference_mode():
        states = bert(ids, attention_mask=mask.long()).last_hidden_state
        expected = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        torch.testing.assert_close(tower(ids), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["lstm", "gru", "transformer"])
def test_a_longer_neighbour_changes_no_caption(name: str) -> None:
    torch.manual_seed(0)
    tower, width = build_text_tower(name, vocab_size=20, width=32, layers=2, dropout=0.5, context_length=8)
    tower.eval()
    alone, beside = torch.tensor([[3, 4]]), torch.tensor([[3, 4, PAD, PAD], [5, 6, 7, 8]])
    with torch.inference_mode():
        assert tower(alone).shape == (1, width)
        torch.testing.assert_close(tower(beside)[:1], tower(alone), atol=1e-6, rtol=0)


@pytest.mark.extended
@pytest.mark.parametrize(
    "name", ["mobilenet_v2", "efficientnet_lite0", "mobilenet_v3_small", "resnet18", "timm/resnet10t"]
)
def test_image_towers_by_name(name: str) -> None:
    backbone = build_backbone(name, 64).eval()
    with torch.inference_mode():
        assert backbone(torch.zeros(2, 3, 64, 64)).shape == (2, backbone.width)


@pytest.mark.parametrize("name", ["no_such_tower", "timm/no_such_tower"])
def test_an_unknown_tower_is_named(name: str) -> None:
    with pytest.raises(ConfigError, match="no_such_tower"):
        build_backbone(name, 64)


def test_folded_weights_compute_what_torchvision_computes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = torchvision_models.mobilenet_v2(weights=None).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
        if isinstance(module, nn.Conv2d) and module.stride == (2, 2):  # TensorFlow's padding: at the far end only
            module.padding = (0, 0)
            module.register_forward_pre_hook(lambda _, x: nn.functional.pad(x[0], (0, 1, 0, 1)))
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    backbone = build_backbone("mobilenet_v2", 64).eval()
    load_image_weights(backbone, "mobilenet_v2", tmp_path / "weights.safetensors")
    pixels = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(backbone.features(pixels), network.features(pixels), atol=1e-4, rtol=1e-4)


def test_weights_of_other_shapes_are_not_multiplied(tmp_path: Path) -> None:
    """A kernel of one channel and the scales of a million would give a million kernels."""
    given = torchvision_models.mobilenet_v2(weights=None).state_dict()
    backbone = build_backbone("mobilenet_v2", 64)
    for change in (
        {"features.0.0.weight": given["features.0.0.weight"][:1].clone()},
        {"features.0.1.weight": torch.ones(1)},
        {"features.0.1.running_var": torch.ones(64)},
    ):
        save_file({**given, **change}, tmp_path / "weights.safetensors")
        with pytest.raises(ModelError, match=r"features\.0\.0 has another shape"):
            load_image_weights(backbone, "mobilenet_v2", tmp_path / "weights.safetensors")


def test_torchvision_weights_are_read_from_a_file(tmp_path: Path) -> None:
    network = torchvision_models.resnet18(weights=None)
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    backbone = build_backbone("resnet18", 64)
    load_image_weights(backbone, "resnet18", tmp_path / "weights.safetensors")
    assert torch.equal(backbone.features.state_dict()["layer4.1.conv2.weight"], network.layer4[1].conv2.weight)
    with pytest.raises(ModelError, match="do not fit resnet34"):
        load_image_weights(build_backbone("resnet34", 64), "resnet34", tmp_path / "weights.safetensors")


def test_unreachable_weights_say_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise urllib.error.URLError("no route")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    for tower in ("mobilenet_v3_small", "resnet18"):
        with pytest.raises(ModelUnavailableError, match=r"no route.*set --image-weights"):
            load_image_weights(build_backbone(tower, 64), tower, "imagenet")
    with pytest.raises(UsageError, match="set --image-weights"):
        load_image_weights(build_backbone("mobilenet_v2", 64), "mobilenet_v2", "imagenet")


def test_int8_keeps_each_row_within_half_a_step() -> None:
    torch.manual_seed(0)
    state = {"matrix": torch.randn(64, 100) * torch.logspace(-3, 3, 64)[:, None], "bias": torch.randn(64)}
    state["layer.scale"] = torch.randn(64)  # some networks call a parameter so
    state["layer"] = torch.randn(64)
    stored = quantised(state)
    assert stored["matrix"].dtype == torch.int8
    back = {
        name: torch.from_numpy(value) for name, value in dequantised({k: v.numpy() for k, v in stored.items()}).items()
    }
    assert set(back) == set(state)
    steps = state["matrix"].abs().amax(dim=1) / 127
    assert ((back["matrix"] - state["matrix"]).abs().amax(dim=1) <= 0.501 * steps).all()
    torch.testing.assert_close(back["bias"], state["bias"], atol=2e-3, rtol=0)


def test_a_learned_vocabulary_starts_with_padding_and_the_unknown() -> None:
    tokenizer = learn_tokenizer(["A red bar", "a red ball"], 50)
    assert (tokenizer.token_to_id("[PAD]"), tokenizer.token_to_id("[UNK]")) == (0, 1)
    ids = token_ids(tokenizer, ["a red", "a RED bar", ""])
    assert ids[0, : len(tokenizer.encode("a red").ids)].tolist() == tokenizer.encode("A Red").ids
    assert ids[2].tolist() == [1] + [0] * (ids.shape[1] - 1)


# Words that a mark, a dot or a sharp s alone tells apart: Hindi, Bengali, Tamil, Thai, Hebrew, Arabic, Vietnamese, Khmer,
# Russian, Japanese (also in half width), Turkish, German.
MARKED = "काला कला কালো কাল மரம் மரம กำ กา שָׁלוֹם שלום كَتَبَ كُتِبَ ma má mà mả កា ក й и が か ﾊﾟ ﾊ kız kiz straße strasse schön schon"
# The same words in another case, width or Unicode form, and an emoji with and without its variation selector.
ALIKE = [
    ("İSTANBUL", "istanbul"),
    ("SCHÖN", "schön"),
    ("ﾊﾟ", "パ"),
    ("년", "\u1102\u1167\u11ab"),
    ("má", "ma\u0301"),
    ("❤\ufe0f", "❤"),
]


def test_a_learned_vocabulary_tells_words_apart_by_their_marks() -> None:
    words = MARKED.split()
    tokenizer = learn_tokenizer([*words, *(word for pair in ALIKE for word in pair)] * 2, 1000)
    ids = [tuple(encoding.ids) for encoding in tokenizer.encode_batch(words)]
    assert len(set(ids)) == len(words)
    assert not any(tokenizer.token_to_id("[UNK]") in row for row in ids)


@pytest.mark.parametrize(("word", "other"), ALIKE)
def test_a_learned_vocabulary_reads_a_word_alike_in_every_spelling(word: str, other: str) -> None:
    tokenizer = learn_tokenizer([word, other] * 2, 1000)
    assert tokenizer.encode(word).ids == tokenizer.encode(other).ids
    assert tokenizer.token_to_id("[UNK]") not in tokenizer.encode(word).ids


@pytest.mark.extended
def test_training_learns_and_the_folder_loads_at_once(photos: Path, tmp_path: Path) -> None:
    config = replace(
        TINY, image_tower="timm/resnet10t", epochs=20, lr=3e-3, image_lr=1e-3, patience=0, augment=False, ema=0.5
    )
    seen: list[TrainProgress] = []
    result = train(photos, tmp_path / "model", config, progress=seen.append)
    losses = [row["loss"] for row in result.history]
    assert losses[-1] < 0.5 * losses[0]
    assert [at.step for at in seen if at.epoch == 1 and at.metrics is None] == [1, 2, 3]
    assert (seen[0].steps, seen[-1].epoch, seen[-1].metrics) == (3, 20, result.history[-1])
    found = [
        [
            sum(row[f"{way}_{name}"] for way in ("text_to_image", "image_to_text"))
            for name in ("recall@10", "recall@1", "mrr")
        ]
        for row in result.history
    ]
    assert result.best_epoch == 1 + found.index(max(found)) > 1
    assert found[result.best_epoch - 1][0] > found[0][0]
    assert json.loads((tmp_path / "model" / "history.json").read_text()) == result.history
    assert {path.name for path in (tmp_path / "model").glob("*.png")} == {"loss.png", "recall.png"}
    assert Calibration.load(tmp_path / "model").slope > 0
    assert set(result.test) == {name for name in result.history[0] if name not in ("epoch", "loss", "learning_rate")}
    encoder = load_encoder(Config(model=tmp_path / "model", device="cpu"))
    rows = pq.read_table(photos).to_pylist()
    pictures = [rows[0]["image"]["bytes"], rows[40]["image"]["bytes"]]
    own, other = (
        [r.similarity for r in score_images(pictures, captions, Config(), encoder=encoder)]
        for captions in ([rows[0]["caption_0"], rows[40]["caption_0"]], [rows[40]["caption_0"], rows[0]["caption_0"]])
    )
    assert sum(own) > sum(other)


@pytest.mark.extended
def test_the_same_seed_gives_the_same_weights(photos: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(photos, tmp_path / name, replace(TINY, seed=seed, epochs=1))
    assert weights(tmp_path / "a") == weights(tmp_path / "b")
    assert weights(tmp_path / "a") != weights(tmp_path / "c")


@pytest.mark.extended
def test_loading_threads_change_nothing(photos: Path, tmp_path: Path) -> None:
    for name, workers in (("a", 1), ("b", 8)):
        train(photos, tmp_path / name, replace(TINY, workers=workers, epochs=1))
    assert weights(tmp_path / "a") == weights(tmp_path / "b")


STEPWISE = replace(TINY, epochs=3, checkpoint_steps=2, lr=1e-2, image_lr=1e-2)


@pytest.fixture(scope="module")
def whole(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    """A run that nothing interrupted."""
    return train(photos, tmp_path_factory.mktemp("training") / "whole", STEPWISE)


@pytest.mark.slow
@pytest.mark.parametrize("step", [1, pytest.param(8, marks=pytest.mark.extended)])
def test_a_killed_run_resumes_to_the_same_weights(photos: Path, whole: TrainResult, tmp_path: Path, step: int) -> None:
    config = STEPWISE
    program = f"""
import os, signal
from text_image_similarity import Config, Dialect, Limits, TrainConfig, train
steps = 0
def count(at):
    global steps
    steps += at.metrics is None
    if steps == {step}:
        os.kill(os.getpid(), signal.SIGKILL)
train({str(photos)!r}, {str(tmp_path / "killed")!r}, {config!r}, progress=count)
"""
    killed = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=False, capture_output=True, text=True)
    assert killed.returncode == -9, killed.stderr
    seen: list[TrainProgress] = []
    resumed = train(photos, tmp_path / "killed", config, resume=True, progress=seen.append)
    # Three steps an epoch; a checkpoint at the start, at every second step and at each epoch's end.
    kept = {1: 0, 8: 8}[step]
    assert sum(at.metrics is None for at in seen) == 9 - kept
    assert resumed == replace(whole, folder=tmp_path / "killed")
    assert weights(tmp_path / "killed") == weights(whole.folder)
    ours, theirs = (load_file(folder / CHECKPOINT) for folder in (tmp_path / "killed", whole.folder))
    assert {name.partition(".")[0] for name in ours} == {"model", "average", "optimiser"}
    for name, value in theirs.items():
        assert torch.equal(ours[name], value), name


@pytest.mark.slow
def test_a_batch_in_parts_gives_the_gradient_of_a_whole_one(monkeypatch: pytest.MonkeyPatch) -> None:
    # With dropout and batch norm: whole is the same parts, encoded once and compared together.
    config = replace(TINY, grad_accum=2, batch_size=6, dropout=0.3, clip_norm=1e6)
    tokenizer = learn_tokenizer(["red bar", "blue bar", "red", "blue", "bar", "red blue"], 30)
    shape = DualEncoderConfig(
        vocab_size=30, image_tower="resnet18", embed_dim=8, text_width=16, dropout=0.3, image_size=64
    )
    torch.manual_seed(0)
    batch = Batch(
        torch.randint(256, (6, 3, 64, 64), dtype=torch.uint8), ["red bar", "blue", "red", "bar", "a", "b"], []
    )
    set_up(tokenizer, 8)
    models = [DualEncoder(shape) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    steppers = [Stepper(model, tokenizer, config, steps=10) for model in models]
    for stepper in steppers:
        monkeypatch.setattr(stepper.optimiser, "step", lambda: None)
    steppers[0].step(batch, 4)
    models[1].train()
    encoded = [steppers[1]._encode(batch, slice(start, start + 3), 4) for start in (0, 3)]
    image, text = (torch.cat(side) for side in zip(*encoded, strict=True))
    info_nce(image, text, models[1].log_logit_scale.exp()).backward()
    for (name, ours), theirs in zip(models[0].named_parameters(), models[1].parameters(), strict=True):
        if theirs.grad is not None:
            assert ours.grad is not None
            assert (ours.grad - theirs.grad).norm() <= 1e-3 * theirs.grad.norm() + 1e-6, name
    for (name, our_buffer), their_buffer in zip(models[0].named_buffers(), models[1].buffers(), strict=True):
        if "num_batches" not in name:
            torch.testing.assert_close(our_buffer, their_buffer, msg=name)


@pytest.mark.slow
def test_a_gradient_that_is_not_finite_stops_before_the_weights_move() -> None:
    tokenizer = learn_tokenizer(["red bar"], 30)
    model = DualEncoder(DualEncoderConfig(vocab_size=30, embed_dim=8, text_width=16, image_size=32))
    stepper = Stepper(model, tokenizer, replace(TINY, batch_size=2), steps=10)
    linear = model.image_head[1]
    assert isinstance(linear, nn.Linear)
    linear.weight.register_hook(lambda gradient: gradient / 0)
    before = {name: value.clone() for name, value in model.named_parameters()}
    with pytest.raises(ModelError, match=r"at step 3 .* lower\s+--lr"):
        stepper.step(Batch(torch.zeros(2, 3, 32, 32, dtype=torch.uint8), ["red", "bar"], []), 2)
    for name, value in model.named_parameters():
        assert torch.equal(value, before[name])


@pytest.mark.extended
@pytest.mark.parametrize(
    "change",
    [{"loss": "sigmoid"}, {"text_tower": "transformer", "text_width": 32, "head_width": 24}, {"precision": "bf16"}],
    ids=lambda change: next(iter(change)),
)
def test_other_losses_towers_and_precisions_train(photos: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    result = train(photos, tmp_path / "model", replace(TINY, epochs=1, **change))
    assert math.isfinite(result.history[0]["loss"])
    load_encoder(Config(model=tmp_path / "model", backend="torch"))


@pytest.mark.slow
def test_training_stops_when_validation_stops_improving(photos: Path, tmp_path: Path) -> None:
    result = train(photos, tmp_path / "model", replace(TINY, epochs=9, lr=0.0, image_lr=0.0, patience=2))
    assert result.stopped_early
    assert (result.best_epoch, len(result.history)) == (1, 3)


@pytest.mark.extended
def test_a_kept_image_tower_stays_as_it_is(photos: Path, tmp_path: Path) -> None:
    train(photos, tmp_path / "kept", replace(TINY, epochs=1, image_lr=0.0))
    train(photos, tmp_path / "free", replace(TINY, epochs=1))
    kept, free = (load_file(tmp_path / name / "model.safetensors") for name in ("kept", "free"))
    torch.manual_seed(TINY.seed)
    shape = json.loads((tmp_path / "kept" / "config.json").read_text())
    start = DualEncoder(DualEncoderConfig(**{f.name: shape[f.name] for f in fields(DualEncoderConfig)})).state_dict()
    ours = [name for name in start if name.startswith("backbone.")]
    assert any("running_mean" in name for name in ours)
    assert all(torch.equal(kept[name], start[name]) for name in ours)
    assert not any(torch.equal(free[name], start[name]) for name in ours if name.endswith("running_mean"))


@pytest.mark.slow
def test_training_goes_on_from_a_trained_folder(photos: Path, tmp_path: Path) -> None:
    train(photos, tmp_path / "first", replace(TINY, epochs=1))
    small = TrainConfig(epochs=1, batch_size=12, lr=0.0, image_lr=0.0, ema=0.0, device="cpu", tracking="none")
    train(photos, tmp_path / "second", replace(small, init=tmp_path / "first", splits="random"))
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("first", "second"))
    assert torch.equal(first["text_head.1.weight"], second["text_head.1.weight"])
    with pytest.raises(ConfigError, match=r"embed_dim cannot be set with init"):
        replace(small, init=tmp_path / "first", embed_dim=8)


@pytest.mark.extended
def test_a_resumed_run_needs_nothing_it_started_from(photos: Path, tmp_path: Path) -> None:
    train(photos, tmp_path / "first", replace(TINY, epochs=1))
    small = TrainConfig(epochs=1, batch_size=12, device="cpu", tracking="none", init=tmp_path / "first")
    done = train(photos, tmp_path / "second", small)
    shutil.rmtree(tmp_path / "first")
    assert train(photos, tmp_path / "second", small, resume=True) == done


@pytest.mark.parametrize("form", FORMS)
def test_photos_come_from_every_form_that_score_reads(form: str, tmp_path: Path) -> None:
    rows = [{"url": f"/photos/{number}.png", "caption": f"number {number}"} for number in range(20)]
    loading = Config(files_under="/photos")
    splits = load_splits(write_form(form, tmp_path, rows), replace(TINY, splits="auto", batch_size=4, loading=loading))
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [12, 4, 4]
    assert {image.source for part in (splits.train, splits.validation, splits.test) for image in part} == {
        row["url"] for row in rows
    }


def test_rows_without_a_reference_or_a_caption_are_left_out_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = "".join(f"{number}.png,number {number}\n" for number in range(20))
    for name in ("pairs", "train"):
        (tmp_path / f"{name}.csv").write_text(f"url,caption\n,a cat\n{rows}0.png,\n")
    for source in (tmp_path / "pairs.csv", tmp_path):  # a table, and a folder of splits
        caplog.clear()
        splits = load_splits(str(source), replace(TINY, splits="auto", batch_size=4))
        assert sum(map(len, (splits.train, splits.validation, splits.test))) == 20
        assert "2 rows were left out: row 1 of" in caplog.text


def test_relative_references_start_from_the_folder_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pairs.csv").write_text("url,caption\n" + "".join(f"{i}.png,number {i}\n" for i in range(20)))
    seen: list[TrainConfig] = []

    def keep(source: str, out: Path, config: TrainConfig, **_: object) -> None:
        seen.append(config)
        raise UsageError("enough")

    monkeypatch.setattr("text_image_similarity.training.loop.train", keep)
    given = ["train", str(tmp_path / "pairs.csv"), str(tmp_path / "out"), "--batch-size", "4", "--base-dir"]
    with pytest.raises(SystemExit):
        main([*given, str(tmp_path)])
    splits = load_splits(str(tmp_path / "pairs.csv"), seen[0])
    assert {Path(str(image.source)).parent for image in splits.train} == {tmp_path}
    monkeypatch.chdir(tmp_path.parent)
    assert fingerprint(splits) == fingerprint(load_splits(str(tmp_path / "pairs.csv"), TrainConfig(batch_size=4)))


def test_a_set_with_test_photos_alone_keeps_them_apart(photos: Path, tmp_path: Path) -> None:
    rows = pq.read_table(photos).to_pylist()
    pq.write_table(pa.Table.from_pylist(rows[:60]), tmp_path / "train.parquet")
    pq.write_table(pa.Table.from_pylist(rows[59:]), tmp_path / "test.parquet")
    splits = load_splits(str(tmp_path), replace(TINY, splits="auto"))
    names = [{image.name for image in part} for part in (splits.train, splits.validation, splits.test)]
    assert list(map(len, names)) == [47, 12, 13]
    assert names[2] == {row["image"]["path"] for row in rows[59:]}
    assert len(set.union(*names)) == 72


@pytest.mark.slow
def test_an_unreadable_photo_is_left_out_and_named(
    photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = pq.read_table(photos).to_pylist()
    table[5]["image"]["bytes"] = b"\xffno picture"
    pq.write_table(pa.Table.from_pylist(table), tmp_path / "train.parquet")
    held_out = [*table[:1], {**table[1], "image": {"bytes": b"\xffneither", "path": "x"}}, *table[2:4]]
    pq.write_table(pa.Table.from_pylist(held_out), tmp_path / "validation.parquet")
    result = train(tmp_path, tmp_path / "model", replace(TINY, epochs=1, splits="own"))
    assert "photos of this epoch that could not be read: 1, such as" in caplog.text
    assert "not_an_image" in caplog.text
    assert "left out of the evaluation" in caplog.text
    assert len(result.history) == 1


@pytest.mark.parametrize("resume", [True, False])
@pytest.mark.parametrize("name", ["checkpoint.safetensors", "model.safetensors", "history.json", "recall.png"])
def test_a_link_out_of_the_folder_is_refused_before_anything_is_read(tmp_path: Path, name: str, resume: bool) -> None:
    """Not when the first checkpoint is written, which may be hours later."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / name).symlink_to("../.bash_aliases")
    with pytest.raises(UsageError, match=rf"{name} is a link to .*bash_aliases, which is not in its folder"):
        train(tmp_path / "no data", tmp_path / "model", TINY, resume=resume)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere, the folder is checked only before each step")
def test_a_folder_that_is_replaced_during_a_run_leads_nowhere_else(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, home, save = tmp_path / "model", tmp_path / "home", save_checkpoint
    home.mkdir()
    (home / CHECKPOINT).write_text("precious")

    def beaten(place: Path, *given: Any) -> None:
        out.rename(tmp_path / "moved")
        out.symlink_to(home)
        save(place, *given)

    monkeypatch.setattr(loop, "save_checkpoint", beaten)
    with pytest.raises(UsageError, match=f"{out} was replaced while {out} was written; keep others"):
        train(photos, out, replace(TINY, epochs=1))
    assert {path.name: path.read_text() for path in home.iterdir()} == {CHECKPOINT: "precious"}
    assert (tmp_path / "moved" / CHECKPOINT).exists()


@pytest.mark.extended
def test_a_resumed_run_keeps_its_settings(photos: Path, tmp_path: Path) -> None:
    train(photos, tmp_path / "model", replace(TINY, epochs=1))
    with pytest.raises(UsageError, match="continue with --resume"):
        train(photos, tmp_path / "model", TINY)
    with pytest.raises(UsageError, match=r"lr was 0.001 and is now 0.5"):
        train(photos, tmp_path / "model", replace(TINY, epochs=1, lr=0.5), resume=True)
    rows = pq.read_table(photos).to_pylist()
    rows[0]["caption_0"] = "something else"
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "other.parquet")
    with pytest.raises(UsageError, match=r"data was '[0-9a-f]{16}' and is now"):
        train(tmp_path / "other.parquet", tmp_path / "model", replace(TINY, epochs=1), resume=True)
    (tmp_path / "model" / CHECKPOINT).write_bytes(b"half a file")
    with pytest.raises(ModelError, match="delete it"):
        train(photos, tmp_path / "model", replace(TINY, epochs=1), resume=True)
    (tmp_path / "model" / CHECKPOINT).unlink()
    with pytest.raises(UsageError, match="no checkpoint to resume"):
        train(photos, tmp_path / "model", replace(TINY, epochs=1), resume=True)


@pytest.mark.parametrize("name", ["loss.png", "history.json", "tokenizer.json"])
def test_files_of_others_in_the_folder_are_kept(photos: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / name).write_text("precious")
    with pytest.raises(UsageError, match=f"contains {name}, which would be overwritten; name another folder"):
        train(photos, tmp_path / "model", TINY)
    assert (tmp_path / "model" / name).read_text() == "precious"
    (tmp_path / "model" / name).rename(tmp_path / "model" / "cat.JPG")
    with pytest.raises(
        UsageError, match=r"model contains the image cat\.JPG, so a model must not be written there; name a new folder"
    ):
        train(photos, tmp_path / "model", TINY)
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["cat.JPG"]


def test_too_few_photos_are_refused_before_training(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="choose a smaller --batch-size"):
        train(photos, tmp_path / "model", replace(TINY, batch_size=100))
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loss": "triplet"}, "info_nce, sigmoid"),
        ({"epochs": 0}, "epochs=0 must be a whole number of at least 1"),
        ({"dropout": 1.0}, "dropout=1.0 must be a number from 0 to 0.9"),
        ({"grad_accum": 13}, "must not exceed batch_size=12"),
    ],
)
def test_wrong_settings_name_the_right_ones(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(TINY, **change)


@pytest.mark.extended
def test_mlflow_holds_parameters_curves_and_files(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings(action="ignore"):  # MLflow and its store have their own
        config = replace(TINY, tracking="sqlite:///runs.db")
        train(photos, tmp_path / "model", config)
        train(photos, tmp_path / "model", config, resume=True)  # there is nothing left to do, and no second run
        from mlflow import MlflowClient

        client = MlflowClient("sqlite:///runs.db")
        experiment = client.get_experiment_by_name("text-image-similarity")
        assert experiment is not None
        (found,) = client.search_runs([experiment.experiment_id])
        assert found.info.status == "FINISHED"
        assert found.data.params["text_tower"] == "lstm"
        assert found.data.params["train_photos"] == "43"
        assert found.data.params["source"] == str(photos)
        curve = client.get_metric_history(found.info.run_id, "loss")
        assert [point.step for point in curve] == [1, 2]
        assert "text_to_image_recall_at_10" in found.data.metrics
        assert "test_text_to_image_recall_at_10" in found.data.metrics
        files = {file.path for file in client.list_artifacts(found.info.run_id)}
    assert files == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "calibration.json",
        "history.json",
        "loss.png",
        "recall.png",
    }


@pytest.mark.extended
def test_a_store_that_fails_costs_its_curves_not_the_run(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from mlflow import MlflowClient

    def fail(*args: object, **kwargs: object) -> None:
        raise ConnectionError("the store has gone")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(MlflowClient, "log_batch", fail)
    with warnings.catch_warnings(action="ignore"):
        train(photos, tmp_path / "model", replace(TINY, epochs=1, tracking="sqlite:///runs.db"))
    assert caplog.text.count("MLflow failed") == 1
    load_encoder(Config(model=tmp_path / "model", backend="torch"))


def test_one_run_at_a_time_writes_into_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "models" / "first"
    out.mkdir(parents=True)
    lock = FolderLock(out, "first")
    lock.acquire()
    for resume in (False, True):
        with pytest.raises(
            BusyError, match=rf"{out} is being written by process {os.getpid()} on .*; wait for it or stop"
        ):
            train(tmp_path / "none.csv", out, TINY, resume=resume)
    (tmp_path / "some.csv").write_text("url,caption\n")
    with pytest.raises(SystemExit) as caught:
        main(["train", str(tmp_path / "some.csv"), str(out), "--tracking", "none", "--image-weights", "none"])
    assert caught.value.code == 3
    assert "is being written by" in capsys.readouterr().err
    (tmp_path / "some.csv").unlink()
    lock.remove()
    lock.release()
    for folder in (out, tmp_path / "other"):  # one that was there, and one that was not
        with pytest.raises(UsageError, match=r"none.csv does not exist"):
            train(tmp_path / "none.csv", folder, TINY)
    assert [path.name for path in tmp_path.rglob("*")] == ["models", "first"]


class FakeStore:
    """MLflow's client, where another run makes the experiment at the same moment."""

    seen: ClassVar[list[str]] = []
    found: SimpleNamespace | None = None
    place = "/files"

    def __init__(self, tracking_uri: str) -> None:
        path = tracking_uri.removeprefix("sqlite:///").partition("?")[0]
        with pytest.raises(Timeout):  # no other run is let into the database
            FileLock(f"{path}.lock").acquire(timeout=0)

    def get_experiment_by_name(self, name: str) -> SimpleNamespace | None:
        return self.found

    def create_experiment(self, name: str) -> str:
        self.found = SimpleNamespace(experiment_id="7")
        raise RuntimeError("(sqlite3.IntegrityError) the name is taken\n[SQL: ...]")

    def create_run(self, home: str, run_name: str) -> SimpleNamespace:
        self.seen.append(home)
        return SimpleNamespace(info=SimpleNamespace(run_id="run"))

    def get_run(self, run_id: str) -> SimpleNamespace:
        return SimpleNamespace(info=SimpleNamespace(artifact_uri=self.place))

    def log_param(self, run_id: str, key: str, value: object) -> None:
        raise RuntimeError("(sqlite3.OperationalError) the disk is full\n[SQL: ...]")


def test_runs_that_begin_at_once_share_a_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    monkeypatch.setattr(mlflow, "MlflowClient", FakeStore)
    uri = f"sqlite:///{tmp_path}/runs.db"
    assert MlflowTracker(uri, experiment="e", name="n", parameters={}, run_id=None).run_id == "run"
    assert FakeStore.seen == ["7"]
    with pytest.raises(
        UsageError, match=r"^MLflow cannot use tracking=.*: \(sqlite3.OperationalError\) the disk is full$"
    ):
        MlflowTracker(uri, experiment="e", name="n", parameters={"seed": 0}, run_id=None)
    assert [path.name for path in tmp_path.iterdir()] == ["runs.db"]  # the lock is gone


@pytest.mark.parametrize("place", ["file:///files", "files", "C:\\files"])
def test_a_database_may_keep_files_on_this_machine(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    monkeypatch.setattr(mlflow, "MlflowClient", FakeStore)
    monkeypatch.setattr(FakeStore, "place", place)
    uri = f"sqlite:///{tmp_path}/runs.db"
    assert MlflowTracker(uri, experiment="e", name="n", parameters={}, run_id=None).run_id == "run"


@pytest.mark.parametrize(
    "place", ["http://x.example/7", "s3://x/7", "mlflow-artifacts:/7", "file://x.example/7", r"\\x\7"]
)
def test_a_database_does_not_choose_a_server_for_the_model(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An mlflow.db may have come with the images."""
    import mlflow

    monkeypatch.setattr(mlflow, "MlflowClient", FakeStore)
    monkeypatch.setattr(FakeStore, "place", place)
    uri = f"sqlite:///{tmp_path}/runs.db"
    with pytest.raises(
        UsageError, match=f"^experiment=e in tracking={uri} sends files to {re.escape(place)}; use another"
    ):
        MlflowTracker(uri, experiment="e", name="n", parameters={}, run_id=None)


def test_a_relative_database_is_that_of_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow keeps a store open for each URI, also when the working folder changes."""
    import mlflow

    class Store(FakeStore):
        def __init__(self, tracking_uri: str) -> None:
            super().__init__(tracking_uri)
            self.seen.append(tracking_uri)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(mlflow, "MlflowClient", Store)
    monkeypatch.setattr(FakeStore, "place", "mlruns/7")
    MlflowTracker("sqlite:///runs.db?timeout=9", experiment="e", name="n", parameters={}, run_id=None)
    assert f"sqlite:///{tmp_path}/runs.db?timeout=9" in FakeStore.seen
    assert _absolute("sqlite:///:memory:") == "sqlite:///:memory:"
    assert _absolute("http://x:///runs.db") == "http://x:///runs.db"


@pytest.mark.parametrize("link", [False, True])
def test_a_database_in_the_working_folder_does_not_choose_another_folder(
    link: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    (tmp_path / "other").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    Path("mlruns").symlink_to(tmp_path / "other")
    monkeypatch.setattr(mlflow, "MlflowClient", FakeStore)
    monkeypatch.setattr(FakeStore, "place", "mlruns/7" if link else str(tmp_path / "other"))
    with pytest.raises(
        UsageError, match=f"sends files to .*; use another experiment, or a database outside {Path.cwd()}"
    ):
        MlflowTracker("sqlite:///runs.db", experiment="e", name="n", parameters={}, run_id=None)
    elsewhere = f"sqlite:///{tmp_path}/runs.db"  # which the user named
    assert MlflowTracker(elsewhere, experiment="e", name="n", parameters={}, run_id=None).run_id == "run"


@pytest.mark.parametrize(
    "change",
    [
        "CREATE TRIGGER t AFTER INSERT ON metrics BEGIN UPDATE runs SET artifact_uri = '/other'; END",
        "CREATE TRIGGER prevent_secrets_aad_mutation AFTER INSERT ON metrics BEGIN DELETE FROM runs; END",
        "CREATE TRIGGER prevent_secrets_aad_mutation BEFORE UPDATE ON secrets FOR EACH ROW "
        "WHEN OLD.secret_id != NEW.secret_id OR OLD.secret_name != NEW.secret_name BEGIN DELETE FROM metrics; END",
        "CREATE VIEW runs AS SELECT * FROM metrics",
        "CREATE VIRTUAL TABLE runs USING fts5(artifact_uri)",
    ],
)
def test_a_database_whose_schema_acts_is_refused(change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    monkeypatch.setattr(mlflow, "MlflowClient", FakeStore)
    uri = f"sqlite:///{tmp_path}/runs.db"
    with closing(sqlite3.connect(tmp_path / "runs.db")) as database:
        database.executescript("CREATE TABLE metrics (key TEXT); CREATE UNIQUE INDEX one ON metrics (key);")
        database.executescript("CREATE TABLE secrets (secret_id TEXT, secret_name TEXT)")
    assert MlflowTracker(uri, experiment="e", name="n", parameters={}, run_id=None).run_id == "run"
    with closing(sqlite3.connect(tmp_path / "runs.db")) as database:
        database.executescript(change)
        database.commit()
    with pytest.raises(UsageError, match=r"contains the \w+ '\w+', which MLflow did not create.*or use tracking=none"):
        MlflowTracker(uri, experiment="e", name="n", parameters={}, run_id=None)


def test_the_trigger_of_mlflow_itself_is_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow
    from mlflow.store.db_migrations import versions

    text = next(Path(versions.__path__[0]).glob("*_add_secrets_tables.py")).read_text(encoding="utf-8")
    trigger = text.partition('SQLITE_TRIGGER = """')[2].partition('"""')[0]
    assert "BEFORE UPDATE ON secrets" in trigger
    monkeypatch.setattr(mlflow, "MlflowClient", FakeStore)
    with closing(sqlite3.connect(tmp_path / "runs.db")) as database:
        database.executescript(f"CREATE TABLE secrets (secret_id TEXT, secret_name TEXT);{trigger}")
    uri = f"sqlite:///{tmp_path}/runs.db"
    assert MlflowTracker(uri, experiment="e", name="n", parameters={}, run_id=None).run_id == "run"


def test_a_local_store_is_asked_once_where_files_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It could name another place later; a server chooses the place itself."""
    import mlflow

    def log_artifact(self: FakeStore, run_id: str, path: str) -> None:
        self.seen.append(f"{run_id} {path}")

    monkeypatch.setattr(mlflow, "MlflowClient", FakeStore)
    monkeypatch.setattr(FakeStore, "place", str(tmp_path / "files"))
    monkeypatch.setattr(FakeStore, "log_artifact", log_artifact, raising=False)
    (tmp_path / "a.txt").write_text("a")
    tracker = MlflowTracker(f"sqlite:///{tmp_path}/runs.db", experiment="e", name="n", parameters={}, run_id=None)
    monkeypatch.setattr(FakeStore, "place", "http://x.example/7")
    tracker.artifact(tmp_path / "a.txt")
    assert (tmp_path / "files" / "a.txt").read_text() == "a"
    monkeypatch.setattr(FakeStore, "__init__", lambda *_, **__: None)
    server = MlflowTracker("http://x.example", experiment="e", name="n", parameters={}, run_id=None)
    server.artifact(tmp_path / "a.txt")
    assert FakeStore.seen[-1] == f"run {tmp_path / 'a.txt'}"


@pytest.mark.slow
def test_long_captions_are_cut_from_the_first_step(photos: Path, tmp_path: Path) -> None:
    rows = pq.read_table(photos).to_pylist()
    for row in rows:
        row["caption_0"] = row["caption_1"] = row["caption_0"] + 20 * " and no other colour"
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "long.parquet")
    config = replace(TINY, epochs=1, text_tower="transformer", text_width=32, context_length=8)
    train(tmp_path / "long.parquet", tmp_path / "model", config)
    encoder = load_encoder(Config(model=tmp_path / "model", backend="torch"))
    assert isinstance(encoder, TwoTowerEncoder)
    assert encoder.context_length == 8
    words = "red blue green " * 20
    np.testing.assert_array_equal(encoder.encode_text([words]), encoder.encode_text([words + "and no other colour"]))


def test_tracking_without_mlflow_says_what_to_install(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(UsageError, match=r'pip install "\.\[train\]"'):
        train(photos, tmp_path / "model", replace(TINY, tracking="sqlite:///runs.db"))


def test_the_command_loads_images_within_the_limits(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", str(photos), str(tmp_path / "model"), "--image-weights", "none", "--image-size", "32"]
    command += [
        "--epochs",
        "1",
        "--batch-size",
        "12",
        "--tracking",
        "none",
        "--device",
        "cpu",
        "--limit",
        "max_side=30",
    ]
    with pytest.raises(SystemExit) as ended:
        main(command)
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert ", such as too_many_pixels" in said  # of the batches
    assert "photos can be evaluated, but at least 2" in said


@pytest.mark.slow
def test_the_command_trains_resumes_and_says_what_it_came_to(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", str(photos), str(tmp_path / "model"), "--image-weights", "none", "--image-size", "32"]
    command += ["--embed-dim", "16", "--text-width", "16", "--epochs", "1", "--batch-size", "12", "--workers", "1"]
    command += ["--tracking", "none", "--device", "cpu"]
    with pytest.raises(SystemExit) as ended:
        main(command)
    assert ended.value.code == 0
    shown = capsys.readouterr()
    assert "best epoch" in shown.out
    assert "epoch 1: loss" in shown.err
    with pytest.raises(SystemExit) as ended:
        main(command)
    assert ended.value.code == 2
    assert "--resume" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        main([*command, "--resume", "--quiet"])
    assert ended.value.code == 0
    encoder = load_encoder(Config(model=tmp_path / "model", backend="torch"))
    assert np.isfinite(encoder.encode_text(["a red bar"])).all()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"image_size": 4096}, "a side of 4,096 pixels"),
        ({"image_tower": "resnet18"}, "multiplications in the image tower"),
    ],
)
def test_images_that_would_cost_too_much_are_refused_before_the_data_is_read(
    change: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_cost, "_MOST_PRODUCTS", 1 << 20)
    with pytest.raises(ModelError, match=said):
        loop._check(TrainConfig(device="cpu", tracking="none", **change), resumes=False)
