"""What a stranger's PEFT adapter makes peft compute before and while it is merged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft.tuners.lora.layer import LoraLayer
from safetensors.torch import save_file
from torch import nn

from text_image_similarity import ModelError
from text_image_similarity.encoders.adapters import merged
from text_image_similarity.encoders.weight_limit import limited_by


def network(width: int = 16) -> nn.ModuleDict:
    torch.manual_seed(0)
    return nn.ModuleDict({"a": nn.Linear(width, 8), "b": nn.Linear(8, width)})


def saved(folder: Path, settings: Any) -> torch.Tensor:
    """Save an adapter with random weights, and return the weight of layer `a` once it is merged."""
    adapted = peft.get_peft_model(network(), settings)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_" in name:
                weight.copy_(torch.randn_like(weight))
    adapted.save_pretrained(str(folder))
    weight = adapted.merge_and_unload()["a"].weight
    assert isinstance(weight, torch.Tensor)
    return weight.detach()


@pytest.mark.parametrize("how", [True, "gaussian", "orthogonal", "olora", "pissa"])
def test_an_adapter_is_merged_right_whatever_it_was_filled_with(
    how: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def filled(*_: Any) -> None:
        raise AssertionError

    expected = saved(tmp_path, peft.LoraConfig(r=4, target_modules=["a"], init_lora_weights=how))
    monkeypatch.setattr(LoraLayer, "orthogonal_init", filled)  # may take hours, and its values would be overwritten
    found = merged("theirs", network(), tmp_path)
    assert torch.allclose(found["a"].weight, expected, atol=1e-5)
    unchanged: Any = network()["b"].weight
    assert torch.equal(found["b"].weight, unchanged)


WIDE = "would take too much memory or time, because its model has a layer of"


@pytest.mark.parametrize("kind", [peft.OFTConfig, peft.VeraConfig, peft.RandLoraConfig])
def test_matrices_of_a_layers_width_squared_are_limited(
    kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(
        tmp_path, kind(target_modules=["a"], **({"r": 0, "oft_block_size": 4} if kind is peft.OFTConfig else {"r": 4}))
    )
    assert merged("theirs", network(), tmp_path)["a"].weight.shape == (8, 16)
    with torch.device("meta"):
        wide = network(8193)
    with pytest.raises(ModelError, match=f"the adapter theirs {WIDE} 8 x 8,193 weights; merge the adapter into"):
        merged("theirs", wide, tmp_path)


@pytest.mark.parametrize("how", ["olora", "pissa", "pissa_niter_4"])
def test_matrices_that_are_decomposed_are_limited(how: str, tmp_path: Path) -> None:
    saved(tmp_path, peft.LoraConfig(r=4, target_modules=["a"], init_lora_weights=how))
    with torch.device("meta"):
        square = nn.ModuleDict({"a": nn.Linear(2049, 2049)})
    with pytest.raises(ModelError, match=f"{WIDE} 2,049 x 2,049 weights"):
        merged("theirs", square, tmp_path)


def test_a_vocabulary_is_no_width(tmp_path: Path) -> None:
    saved(tmp_path, peft.OFTConfig(target_modules=["a"], r=0, oft_block_size=4))
    with_words = network()
    with_words["words"] = nn.Embedding(30_000, 8)
    assert "words" in merged("theirs", with_words, tmp_path)


def test_buffers_count_towards_the_size_of_a_network(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(1)}, tmp_path / "a.safetensors")
    with limited_by("theirs", lambda: [tmp_path / "a.safetensors"]), torch.device("meta"):
        module = nn.Module()
        module.register_buffer("small", torch.empty(8))
        module.register_buffer("none", None)
        with pytest.raises(ModelError, match="a network that is far larger than the weights"):
            module.register_buffer("large", torch.empty(10_000, 10_000))
