"""ONNX Runtime's own log, which goes past Python to the terminal, shows nothing of a graph."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import text_image_similarity
from text_image_similarity.encoders.onnx_backend import open_backend
from text_image_similarity.encoders.web_backend import PREPROCESSOR, open_web, web_graph

HOSTILE = "\x1b]0;pwned\x07\x1b[31m"
PACKAGE = Path(text_image_similarity.__file__).parent


def write_graph(path: Path) -> None:
    """Write a graph of which ONNX Runtime warns that it has a value that nothing uses, and names it."""
    taken, given = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("taken", "given"))
    unused = numpy_helper.from_array(np.zeros(1, np.float32), HOSTILE)
    graph = helper.make_graph([helper.make_node("Neg", ["taken"], ["given"])], "g", [taken], [given], [unused])
    path.parent.mkdir(exist_ok=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)


def test_names_in_a_graph_are_not_logged(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    tokens: Any = None
    for tower in ("image", "text"):
        write_graph(tmp_path / f"{tower}.onnx")
        write_graph(web_graph(tmp_path, tower, "fp32"))
    (tmp_path / PREPROCESSOR).write_text(json.dumps({"image_mean": [0, 0, 0], "image_std": [1, 1, 1]}))
    open_backend(tmp_path, tokens, precision="fp32")
    open_web(tmp_path, tokens, "fp32")
    assert capfd.readouterr().err == ""


def test_no_session_logs_anything() -> None:
    there = 0
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        made = len(re.findall(r"SessionOptions\(\)", text))
        assert len(re.findall(r"\.log_severity_level = 4\b", text)) == made, path
        assert ("InferenceSession(" in text) == bool(made), path
        there += made
    assert there > 3
