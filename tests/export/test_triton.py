"""What a model repository says, without a server."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from text_image_similarity.encoders.facts import preprocess_facts
from text_image_similarity.export.options import TritonBackend
from text_image_similarity.export.triton import write_triton
from text_image_similarity.preprocess import Preprocess

HOW = Preprocess(size=32, crop=(32, 32), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def configs(made: Path, backend: TritonBackend, **facts: Any) -> dict[str, Any]:
    """Write a repository of graphs without content, and return the configuration of each model."""
    made.mkdir()
    for name in ("image.onnx", "text.onnx", "text.onnx.data", "tokenizer.json"):
        (made / name).write_text(name, encoding="utf-8")
    tokens = {"context_length": 77, "whole": False}
    said = {"preprocess": preprocess_facts(HOW), "tokens": tokens, "embed_dim": 8, "precision": "fp32", "recipe": None}
    write_triton(made, {**said, **facts}, backend, 64)
    parse = text_format.Parse
    return {
        path.parent.name: parse(path.read_text(encoding="utf-8"), model_config_pb2.ModelConfig())
        for path in made.glob("*/config.pbtxt")
    }


def test_what_a_step_takes_is_not_what_the_ensemble_gives(tmp_path: Path) -> None:
    ensemble = configs(tmp_path / "made", "onnxruntime")["score"]
    steps = ensemble.ensemble_scheduling.step
    taken = {value for step in steps for value in step.input_map.values()} - {given.name for given in ensemble.input}
    made = {value for step in steps for value in step.output_map.values()}
    assert taken <= made
    assert {given.name for given in ensemble.output} == made - taken


def test_variants_differ_in_what_runs_the_towers_and_nothing_else(tmp_path: Path) -> None:
    tested = configs(tmp_path / "python", "python")
    for backend in ("onnxruntime", "tensorrt"):
        variant = configs(tmp_path / backend, backend)
        for name, config in variant.items():
            if name in ("image", "text"):
                config.backend, config.platform = tested[name].backend, tested[name].platform
                config.instance_group[0].kind = tested[name].instance_group[0].kind
            assert config == tested[name], (backend, name)
        assert (tmp_path / backend / "text" / "1" / "text.onnx.data").is_file()


@pytest.mark.parametrize("model", ["preprocess", "image", "text", "similarity"])
def test_a_model_finds_all_that_it_imports_in_the_repository(model: str, tmp_path: Path) -> None:
    configs(tmp_path / "made", "python")
    (tmp_path / "triton_python_backend_utils.py").touch()  # comes with the server
    folders = [str(tmp_path), str(tmp_path / "made" / model / "1")]
    done = subprocess.run(
        [sys.executable, "-c", "import model; print(model.__file__)"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(folders)},
        capture_output=True,
        text=True,
    )
    assert done.stdout.startswith(folders[1]), done.stderr
