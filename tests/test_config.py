"""Settings and records are checked once, with words that help."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path
from typing import Any

import pytest

from text_image_similarity import Config, ConfigError, ErrorCode, Limits, Record, RowError, ScoreResult


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"device": "tpu"}, "device='tpu' is not one of auto, cpu, mps, cuda, cuda:0"),
        ({"device": "cuda:x"}, "device='cuda:x'"),
        ({"device": "auto:1"}, "device='auto:1'"),
        ({"device": None}, "device=None"),
        ({"precision": "int3"}, "precision='int3' is not one of auto, fp32, fp16"),
        ({"score": "dot"}, "score='dot' is not one of cosine, unit, clip_score, clipscore"),
        ({"batch_size": 0}, "batch_size=0 must be a whole number of at least 1"),
        ({"batch_size": 1.5}, "batch_size=1.5 must be a whole number"),
        ({"batch_size": True}, "batch_size=True must be a whole number"),
        ({"io_workers": -1}, "io_workers=-1"),
        ({"chunk_size": "9"}, "chunk_size='9'"),
        ({"retries": -1}, "retries=-1 must be a whole number of at least 0"),
        ({"timeout_s": 0}, r"timeout_s=0 must be a number of seconds from 0\.001"),
        ({"timeout_s": float("inf")}, "timeout_s=inf"),
        ({"timeout_s": float("nan")}, "timeout_s=nan"),
        ({"model": ""}, "fast, accurate, mini"),
        ({"model": None}, "fast, accurate, mini"),
        ({"limits": None}, r"limits must be a Limits\(connect_s"),
        ({"model": ""}, "model='' is not valid; give a hub id, a folder, or one of fast, accurate, mini"),
        ({"model_cache": 3}, "model_cache must be a path, not 3"),
        ({"embedding_cache": ""}, "embedding_cache must be a path, not ''"),
        ({"base_dir": 3}, "base_dir must be a path, not 3"),
        (
            {"precision": "int8", "backend": "torch"},
            "precision='int8' needs ONNX Runtime; set backend='onnx' or backend='auto'",
        ),
        ({"precision": "int8", "device": "cuda:1"}, "runs on the CPU, not on device='cuda:1'; set device='cpu'"),
        ({"backend": "onnx", "device": "mps"}, "runs on the CPU, not on device='mps'; set device='cpu'"),
        ({"backend": "openvino", "device": "cuda"}, "backend='openvino' runs on the CPU, not on device='cuda'"),
        ({"backend": "openvino", "precision": "fp16"}, "backend='openvino' runs in fp32 or int8"),
        ({"backend": "onnx", "precision": "fp16"}, "backend='onnx' runs in fp32 or int8"),
        ({"precision": "fp16", "device": "cpu"}, "precision='fp16' needs a GPU; with device='cpu' use auto or fp32"),
        ({"feeders": "many"}, "feeders='many' must be auto or a whole number of at least 0"),
        ({"feeders": -1}, "feeders=-1 must be auto or a whole number of at least 0"),
        ({"isolate_decoder": 1}, "isolate_decoder must be True or False, not 1"),
    ],
)
def test_wrong_settings(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Config(**given)


@pytest.mark.parametrize(
    "name", [field.name for field in dataclasses.fields(Limits) if field.name.startswith(("max", "per"))]
)
def test_limits_are_whole_numbers(name: str) -> None:
    wrong: Any
    for wrong in (-1, 0.5, "1"):
        with pytest.raises(ConfigError, match=name):
            Limits(**{name: wrong})


@pytest.mark.parametrize(
    "name", [field.name for field in dataclasses.fields(Limits) if isinstance(field.default, bool)]
)
def test_a_text_is_not_taken_for_true(name: str) -> None:
    wrong: Any = "false"
    with pytest.raises(ConfigError, match=f"{name} must be True or False, not 'false'"):
        Limits(**{name: wrong})


def test_a_proxys_password_is_not_repeated() -> None:
    with pytest.raises(ConfigError, match="proxy must look like http://host:port") as caught:
        Config(proxy="http://me:secret@proxy.test")
    assert "secret" not in str(caught.value)


def test_config_is_frozen_and_takes_paths() -> None:
    config = Config(model=Path("models/mine"), device="cuda:1")
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.model = "other"  # type: ignore[misc]
    with pytest.raises(ValueError, match="device"):  # a ConfigError is a ValueError too
        Config(device="")


def test_values_travel_to_workers() -> None:
    for value in (Config(model="mini", limits=Limits(per_host=2)), Record("a.jpg", "a"), ScoreResult(0.5)):
        assert pickle.loads(pickle.dumps(value)) == value


def test_codes_have_their_words_and_their_patience() -> None:
    assert {code.value for code in ErrorCode if code.retryable} == {
        "dns_error", "connect_error", "timeout", "http_429", "http_5xx", "bad_response",
    }  # fmt: skip
    assert len(ErrorCode) == 25
    assert len(str(RowError(ErrorCode.FILE_NOT_FOUND, "x" * 1_000_000))) < 330
    error = RowError(ErrorCode.TIMEOUT, "no answer\nwithin 10 s")
    assert str(error) == "timeout: no answer within 10 s"
    assert ScoreResult.failed(error).code is ErrorCode.TIMEOUT
