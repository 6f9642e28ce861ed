"""A device or precision that a machine does not have is named as such, before a hub is asked and torch is loaded."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch

from tests.support.missing import run_without
from text_image_similarity import Config, ConfigError, load_encoder
from text_image_similarity.encoders import hub, placement
from text_image_similarity.encoders.device import Placement, choose_placement

GPU = ("/dev/null",)  # a file that exists


@pytest.fixture(autouse=True)
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(*_: object) -> None:
        raise AssertionError("the hub was asked")

    monkeypatch.setattr(hub, "require_model", asked)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"device": "cuda"}, "device='cuda' needs an NVIDIA or AMD GPU, but this process finds none; use auto or cpu"),
        ({"device": "cuda:3", "model": "mini"}, "device='cuda:3' needs an NVIDIA or AMD GPU"),
        ({"device": "cuda", "precision": "fp16"}, "device='cuda' needs an NVIDIA or AMD GPU"),
        (
            {"precision": "fp16"},
            "precision='fp16' needs an NVIDIA or AMD GPU, but this process finds none; use auto or fp32",
        ),
        ({"device": "mps"}, "device='mps' is Apple's GPU, which this machine does not have"),
    ],
)
def test_a_machine_without_a_gpu_says_so(given: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "_GPU_FILES", ())
    monkeypatch.setattr(sys, "platform", "linux")
    with pytest.raises(ConfigError, match=message):
        load_encoder(Config(**given))


def test_it_says_so_without_torch() -> None:
    code = (
        "from text_image_similarity import Config, ConfigError, load_encoder\n"
        "from text_image_similarity.encoders import placement\nplacement._GPU_FILES = ()\n"
        "for given in ({'device': 'cuda'}, {'precision': 'fp16'}):\n"
        "    try:\n        load_encoder(Config(**given))\n    except ConfigError as exc:\n        print(exc)"
    )
    done = run_without(("torch", "transformers", "huggingface_hub"), code)
    assert done.stdout.count("this process finds none") == 2, done.stderr


@pytest.mark.parametrize(
    ("device", "built", "count", "message"),
    [
        (
            "cuda",
            False,
            0,
            r"device='cuda' is not available: the installed torch, \S+, was built without CUDA; use auto or cpu",
        ),
        ("cuda", True, 0, "device='cuda' is not available: torch finds no such device"),
        ("cuda:2", True, 2, "device='cuda:2' is not available: torch sees 2 such devices, cuda:0 to cuda:1"),
        ("cuda:1", True, 1, "device='cuda:1' is not available: torch sees 1 such device, cuda:0; "),
    ],
)
def test_where_there_is_a_gpu_torch_says_what_is_wrong(
    device: str, built: bool, count: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placement, "_GPU_FILES", GPU)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: built)
    with pytest.raises(ConfigError, match=message):
        load_encoder(Config(device=device))


def test_what_runs_on_the_cpu_is_not_moved_there_from_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "_GPU_FILES", GPU)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(ConfigError, match="run on the CPU; this machine has a GPU, so set device='cpu'"):
        load_encoder(Config(precision="int8"))


def test_devices_and_precisions() -> None:
    if not torch.cuda.is_available():
        assert str(choose_placement(Config()).device) in ("cpu", "mps")
        with pytest.raises(ConfigError, match="not available"):
            choose_placement(Config(device="cuda"))
    assert choose_placement(Config(device="cpu")).dtype == torch.float32
    with pytest.raises(ConfigError, match="fp16"):
        choose_placement(Config(device="cpu", precision="fp16"))


def test_cuda_is_chosen_with_fp16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_placement(Config()) == Placement(torch.device("cuda"), torch.float16)
    assert choose_placement(Config(device="cuda:1", precision="fp32")).dtype == torch.float32
    with pytest.raises(ConfigError, match="cuda:2"):
        choose_placement(Config(device="cuda:2"))
