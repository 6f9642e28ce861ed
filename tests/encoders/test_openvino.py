"""OpenVINO gives the scores of ONNX Runtime, moves no bit for a neighbour, survives a fork and reports to nobody."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from tests.support.images import noise
from tests.support.records import captions
from text_image_similarity import Config, ConfigError, ModelError, load_encoder, system
from text_image_similarity.encoders import PreparingEncoder, dual_encoder_folder
from text_image_similarity.encoders.dual_encoder import as_encoder, read_dual_encoder
from text_image_similarity.encoders.graphs.recurrent import recurrent_graph
from text_image_similarity.encoders.openvino_backend import open_openvino
from text_image_similarity.encoders.towers import DualEncoder, DualEncoderConfig
from text_image_similarity.export.openvino import write_openvino

TEXTS = [*captions(9), "", "日本語", "word " * 500]


@pytest.fixture(scope="module")
def encoder() -> PreparingEncoder:
    return load_encoder(Config(model="mini", backend="openvino", device="cpu"))


def test_openvino_equals_onnx_runtime(encoder: PreparingEncoder) -> None:
    other = load_encoder(Config(model="mini", backend="onnx", device="cpu"))
    assert (encoder.info.backend, encoder.info.precision, encoder.info.device) == ("openvino", "fp32", "cpu")
    assert encoder.info.fingerprint != other.info.fingerprint
    images = noise(5)
    np.testing.assert_allclose(encoder.encode_image(images), other.encode_image(images), atol=1e-6)
    np.testing.assert_allclose(encoder.encode_text(TEXTS), other.encode_text(TEXTS), atol=1e-6)


def test_neighbours_move_no_bit_and_threads_share_it(encoder: PreparingEncoder) -> None:
    images = noise(5)
    image, text = encoder.encode_image(images), encoder.encode_text(TEXTS)
    assert encoder.batch_invariant
    with ThreadPoolExecutor(3) as pool:
        alone = list(pool.map(lambda one: encoder.encode_image([one])[0], images))
        among = list(pool.map(lambda start: encoder.encode_text(TEXTS[start : start + 3]), range(0, 12, 3)))
    np.testing.assert_array_equal(alone, image)
    np.testing.assert_array_equal(np.concatenate(among), text)
    np.testing.assert_array_equal(np.concatenate([encoder.encode_text([one]) for one in TEXTS]), text)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this system")
def test_it_reports_to_nobody_and_a_forked_process_encodes_too(tmp_path: Path) -> None:
    code = (
        "import os, sys, threading\nimport numpy as np\nfrom text_image_similarity import Config, load_encoder\n"
        "config = Config(model='mini', backend='openvino', device='cpu')\n"
        "encoder = load_encoder(config)\n"
        "found = [name for name in sys.modules if name.startswith('openvino_telemetry')]\n"
        "assert found == [] and os.listdir(os.environ['HOME']) == [], found\n"
        "import openvino.tools.ovc.telemetry_utils as utils\n"
        "assert utils.tm.__name__.endswith('telemetry_stub'), utils.tm\n"
        "first = encoder.encode_text(['a dog'] * 9)\n"
        "for load in (lambda: encoder, lambda: load_encoder(config)):\n"
        "    if (child := os.fork()) == 0:\n"
        "        os._exit(0 if (load().encode_text(['a dog'] * 9) == first).all() else 1)\n"
        "    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0"
    )
    environment = {**os.environ, "HOME": str(tmp_path), "OMP_NUM_THREADS": "2"}
    environment = {
        name: value for name, value in environment.items() if name != "CI"
    }  # in which it would report nothing
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env=environment,
        timeout=120,
        check=False,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_captions_of_other_lengths_do_not_reach_a_recurrent_tower(cell: str, tmp_path: Path) -> None:
    mini = dual_encoder_folder("mini")
    tokenizer = read_dual_encoder(mini)[1]
    shape = json.loads((mini / "config.json").read_text(encoding="utf-8"))
    del shape["model_type"]
    torch.manual_seed(3)
    towers = DualEncoder(DualEncoderConfig(**{**shape, "text_tower": cell, "text_width": 16, "text_layers": 1})).eval()
    source = as_encoder(towers, tokenizer, "ours", fast=False, weights=None, at_once=8)
    graph = recurrent_graph(towers, ("input_ids", "text_embeds"), 23)
    for tower in ("image", "text"):  # the former is not run
        onnx.save(graph, tmp_path / f"{tower}.onnx")
    rows = sorted(source.tokenize([*captions(11), "a"]), key=len)
    assert len({len(row) for row in rows}) > 2
    found = open_openvino(tmp_path, source.tokens, "fp32").text(rows)
    np.testing.assert_allclose(found, source.encode_tokens(rows), atol=1e-6)


def test_what_cannot_run_on_openvino_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="runs mini in fp32; for int8, set backend='onnx'"):
        load_encoder(Config(model="mini", backend="openvino", precision="int8", device="cpu"))
    monkeypatch.setattr(system, "find_spec", lambda name: None if name == "openvino" else find_spec(name))
    with pytest.raises(ConfigError, match=r'needs openvino: pip install "\.\[openvino\]"'):
        load_encoder(Config(model="mini", backend="openvino", device="cpu"))
    assert load_encoder(Config(model="mini", device="cpu")).info.backend == "onnx"  # which auto takes


def test_graphs_become_openvinos_own_files(tmp_path: Path) -> None:
    weight = onnx.numpy_helper.from_array(np.arange(12, dtype=np.float32).reshape(3, 4), "weight")
    given = onnx.helper.make_tensor_value_info("pixels", onnx.TensorProto.FLOAT, ["batch", 3])
    made = onnx.helper.make_tensor_value_info("image_embeds", onnx.TensorProto.FLOAT, ["batch", 4])
    node = onnx.helper.make_node("MatMul", ["pixels", "weight"], ["image_embeds"])
    graph = onnx.helper.make_graph([node], "tower", [given], [made], [weight])
    for tower in ("image", "text"):
        onnx.save(
            onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)]), tmp_path / f"{tower}.onnx"
        )
    write_openvino(tmp_path, tmp_path, "fp32")
    assert weight.raw_data in (tmp_path / "text.bin").read_bytes()  # not rounded to half, as OpenVINO does by default
    assert "image_embeds" in (tmp_path / "image.xml").read_text(encoding="utf-8")
    with pytest.raises(ModelError, match="holds fp32 weights, not int8"):
        write_openvino(tmp_path, tmp_path, "int8")
    with pytest.raises(ConfigError, match="in fp32 or int8, not in fp16"):
        write_openvino(tmp_path, tmp_path, "fp16")
    (tmp_path / "text.onnx").write_bytes(b"damaged")
    with pytest.raises(ModelError, match=r"text\.onnx cannot be converted to OpenVINO"):
        write_openvino(tmp_path, tmp_path, "fp32")


FIRST_USES = """
import sys
from threading import Barrier, Thread
from text_image_similarity.encoders.openvino_backend import import_openvino

sys.setswitchinterval(1e-6)
openvino, together = import_openvino(), Barrier(4)

def use():
    together.wait()
    openvino.Type.f32.to_dtype()

threads = [Thread(target=use) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


def test_threads_may_use_it_for_the_first_time_together() -> None:
    subprocess.run([sys.executable, "-c", FIRST_USES], check=True, timeout=60)
