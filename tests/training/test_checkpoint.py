"""Checkpoints of strangers."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models

from text_image_similarity.encoders.towers import DualEncoderConfig
from text_image_similarity.errors import ModelError
from text_image_similarity.training.checkpoint import NAME, load_checkpoint
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
