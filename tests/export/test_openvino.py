"""An export for OpenVINO scores like its source, in a process that has neither torch nor ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.support.images import noise
from tests.support.missing import run_without
from tests.support.records import captions
from text_image_similarity import Config, ExportOptions, export_model, load_encoder


@pytest.mark.extended
def test_an_export_for_openvino_keeps_its_weights_in_int8(tiny_clip: Path, tmp_path: Path) -> None:
    out = tmp_path / "export"
    summary = export_model(Config(model=tiny_clip), out, ExportOptions(to="openvino", precision="int8"))
    assert (summary.passed, summary.recipe) == (True, "weights")
    assert not list(out.glob("*.onnx"))
    export, source = (load_encoder(Config(model=model, device="cpu")) for model in (out, tiny_clip))
    assert (export.info.backend, export.info.precision) == ("openvino", "int8")
    for ours, theirs in (
        (export.encode_image(noise(5)), source.encode_image(noise(5))),
        (export.encode_text(captions(5)), source.encode_text(captions(5))),
    ):
        assert ((ours * theirs).sum(axis=1) > 0.999).all()
        assert np.abs(ours - theirs).max() > 1e-5
    code = (
        "from text_image_similarity import Config, load_encoder\n"
        f"print(load_encoder(Config(model={str(out)!r})).encode_text({captions(2)!r}).tolist())"
    )
    done = run_without(("torch", "torchvision", "transformers", "onnx", "onnxruntime", "openvino_telemetry"), code)
    assert (done.stdout.strip(), done.stderr) == (str(export.encode_text(captions(2)).tolist()), "")
