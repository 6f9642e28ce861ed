"""Checkpoints of strangers."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models

from text_image_similarity.encoders.towers import DualEncoderConfig
from text_image_similarity.errors import ModelError
from text_image_similarity.training.checkpoint import NAME, load_checkpoint, restore, save_checkpoint
from text_image_similarity.training.model import rebuild_model

_SHAPE = {f.name: f.default for f in fields(DualEncoderConfig) if isinstance(f.default, (int, str, float))}
_TOKENIZER = Tokenizer(models.WordLevel({"[UNK]": 0, "[PAD]": 1}, "[UNK]")).to_str()


@pytest.mark.parametrize(
    ("stated", "reason"),
    [({"text_width": 1024}, "far larger"), ({"image_size": 1 << 20}, "pixels"), ({"x": 1}, "damaged")],
)
def test_a_model_that_does_not_fit_its_file_is_not_built(tmp_path: Path, stated: dict[str, int], reason: str) -> None:
    save_file({"model.x": torch.zeros(1)}, tmp_path / NAME)
    with pytest.raises(ModelError, match=reason):
        rebuild_model({**_SHAPE, "vocab_size": 100_000, **stated}, _TOKENIZER, tmp_path / NAME)


def test_deeply_nested_progress_is_damage(tmp_path: Path) -> None:
    for progress in ("[" * 100_000, json.dumps({})[:1]):
        save_file({"model.x": torch.zeros(1)}, tmp_path / NAME, {"progress": progress})
        with pytest.raises(ModelError, match="is damaged"):
            load_checkpoint(tmp_path)


@pytest.mark.parametrize("name", ["other.x", "model", "optimiser.x.exp_avg", "optimiser.0"])
def test_an_unknown_tensor_is_damage(tmp_path: Path, name: str) -> None:
    save_file({name: torch.zeros(1)}, tmp_path / NAME, {"progress": "{}"})
    with pytest.raises(ModelError, match=f"is damaged .*{name}.*train from scratch"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("optimiser.0.exp_avg", torch.zeros(3, 3)),
        ("optimiser.0.step", torch.zeros(2)),
        ("optimiser.1.exp_avg_sq", None),
        ("optimiser.1.other", torch.zeros(2)),
        ("optimiser.2.step", torch.zeros(())),
    ],
)
def test_an_optimiser_of_another_shape_does_not_fit(tmp_path: Path, name: str, value: torch.Tensor | None) -> None:
    model = torch.nn.Linear(3, 2)
    optimiser = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimiser.step()
    save_checkpoint(tmp_path, model, {}, optimiser, {})
    found = load_checkpoint(tmp_path)
    assert found is not None
    restore(found, model, {}, optimiser)
    changed = {**found.tensors, name: value}
    with pytest.raises(ModelError, match=f"does not fit this model: .* parameter {name.split('.')[1]} "):
        restore(replace(found, tensors={k: v for k, v in changed.items() if v is not None}), model, {}, optimiser)
