"""What a stranger's PEFT adapter makes peft compute before and while it is merged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft.tuners.lora.layer import LoraLayer
from torch import nn

from text_image_similarity.encoders.adapters import merged


def network(width: int = 16) -> nn.ModuleDict:
    torch.manual_seed(0)
    return nn.ModuleDict({"a": nn.Linear(width, 8), "b": nn.Linear(8, width)})


def saved(folder: Path, settings: Any) -> torch.Tensor:
    """Save an adapter with random weights, and return the weight of layer `a` once it is merged."""
    adapted = peft.get_peft_model(network(), settings)  # type: ignore[arg-type]
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_" in name:
                weight.copy_(torch.randn_like(weight))
    adapted.save_pretrained(str(folder))
    weight = adapted.merge_and_unload()["a"].weight  # type: ignore[operator]
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
    assert torch.equal(found["b"].weight, network()["b"].weight)
