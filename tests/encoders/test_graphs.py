"""Graphs that are built by hand or changed give the vectors of their towers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch.nn import functional as F

from text_image_similarity import ModelError
from text_image_similarity.encoders.graphs import file as graph_file
from text_image_similarity.encoders.graphs.half import to_half
from text_image_similarity.encoders.graphs.int8 import round_graph
from text_image_similarity.encoders.graphs.recurrent import recurrent_graph
from text_image_similarity.encoders.graphs.write import TEXT
from text_image_similarity.encoders.towers import DualEncoder, DualEncoderConfig

CONTEXT = 12
MEAN = np.array([100, 120, 140])  # of red, green and blue


def recurrent(kind: str, *, head_width: int = 0, text_width: int = 32) -> DualEncoder:
    torch.manual_seed(3)
    shape = DualEncoderConfig(
        vocab_size=60,
        text_tower=kind,
        image_tower="mobilenet_v2",
        text_width=text_width,
        text_layers=2,
        embed_dim=24,
        context_length=CONTEXT,
        image_size=32,
        head_width=head_width,
    )
    return DualEncoder(shape).eval().requires_grad_(False)


def session(graph: bytes | Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("kind", ["lstm", "gru"])
@pytest.mark.parametrize("head_width", [0, 40])
def test_a_recurrent_graph_equals_its_tower(kind: str, head_width: int) -> None:
    model = recurrent(kind, head_width=head_width)
    opened = session(recurrent_graph(model, TEXT, 20).SerializeToString())
    lengths = np.arange(64) % CONTEXT + 1  # 1 to the whole context
    ids = np.random.default_rng(0).integers(1, 60, (64, CONTEXT))
    ids[np.arange(CONTEXT) >= lengths[:, None]] = 0
    with torch.inference_mode():
        expected = F.normalize(model.text(torch.from_numpy(ids))).numpy()

    def vectors(rows: np.ndarray) -> np.ndarray:
        found: np.ndarray = opened.run(None, {"input_ids": rows})[0]
        return found

    together = vectors(ids)
    np.testing.assert_allclose(together, expected, atol=1e-6)
    assert np.abs(expected[1:] - expected[:-1]).max() > 1e-2  # captions differ
    for count in (2, 7):
        parts = [vectors(ids[start : start + count]) for start in range(0, 64, count)]
        np.testing.assert_array_equal(np.concatenate(parts), together)
    for row, length, vector in zip(ids, lengths, together, strict=True):
        unpadded = row[None, :length].repeat(2, axis=0)  # the backend never runs a caption alone
        np.testing.assert_array_equal(vectors(unpadded)[0], vector)


def run(path: Path, rows: np.ndarray) -> np.ndarray:
    opened = session(path)
    found: np.ndarray = opened.run(None, {opened.get_inputs()[0].name: rows})[0]
    return found


def types(path: Path, operator: str) -> set[str]:
    """Return the types that an operator's outputs have in a graph."""
    graph = onnx.shape_inference.infer_shapes(onnx.load(path), strict_mode=True).graph
    known = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.output)}
    kinds = {known[node.output[0]] for node in graph.node if node.op_type == operator}
    return {onnx.TensorProto.DataType.Name(kind) for kind in kinds}


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_a_recurrent_graph_in_half_precision(kind: str, tmp_path: Path) -> None:
    whole, halved = tmp_path / "whole.onnx", tmp_path / "half.onnx"
    onnx.save(recurrent_graph(recurrent(kind), TEXT, 20), whole)
    ids = np.random.default_rng(0).integers(1, 60, (40, CONTEXT))
    ids[::2, 5:] = 0
    assert to_half(whole, halved, [ids[:4]]) == []
    before, after = run(whole, ids), run(halved, ids)
    assert (before * after).sum(axis=1).min() >= 0.9999
    assert np.abs(before - after).max() > 1e-6  # it is half
    assert halved.stat().st_size < 0.56 * whole.stat().st_size
    for operator in (kind.upper(), "Gemm", "Gather"):
        assert types(halved, operator) == {"FLOAT16"}
    assert types(halved, "LpNormalization") == {"FLOAT"}


def sharp_graph(folder: Path) -> tuple[Path, np.ndarray]:
    """Write a tower with a value beyond half's largest between its products, as some encoders have."""
    text = """<ir_version: 10, opset_import: ["": 20]>
        image (uint8[batch, 4, 4, 3] pixels) => (float[batch, 16] image_embeds) {
            values = Cast <to = 1> (pixels)
            scaled = Mul (values, scale)
            flat = Flatten (scaled)
            hidden = MatMul (flat, first)
            wide = Mul (hidden, many)
            sum = Add (hidden, wide)
            even = LayerNormalization <axis = -1, stash_type = 0> (sum, ones)
            shares = Softmax (even)
            features = MatMul (shares, last)
            image_embeds = LpNormalization <axis = 1> (features)
        }"""
    model, rng = onnx.parser.parse_model(text), np.random.default_rng(0)
    weights = {
        "scale": np.array(1 / 255, np.float32),
        "many": np.array(15_000, np.float32),
        "first": rng.standard_normal((48, 64), np.float32),
        "ones": np.ones(64, np.float32),
        "last": rng.standard_normal((64, 16), np.float32),
    }
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in weights.items())
    onnx.save(model, folder / "whole.onnx")
    return folder / "whole.onnx", rng.integers(0, 256, (6, 4, 4, 3), np.uint8)


def test_what_half_cannot_hold_stays_float32(tmp_path: Path) -> None:
    whole, pixels = sharp_graph(tmp_path)
    halved, blind = tmp_path / "half.onnx", tmp_path / "blind.onnx"
    assert to_half(whole, halved, [pixels]) == ["sum", "wide"]
    before, after = run(whole, pixels), run(halved, pixels)
    assert (before * after).sum(axis=1).min() >= 0.9999
    assert types(halved, "Softmax") == types(halved, "LayerNormalization") == types(halved, "Add") == {"FLOAT"}
    assert types(halved, "MatMul") == {"FLOAT16"}
    to_half(whole, blind, [])  # without a look at the values they overflow
    assert types(blind, "Add") == types(blind, "LayerNormalization") == {"FLOAT16"}
    assert (
        next(node for node in onnx.load(blind).graph.node if node.op_type == "LayerNormalization").attribute[1].i == 1
    )
    assert not np.isfinite(run(blind, pixels)).all()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_constant_that_is_not_finite_is_named(value: float, tmp_path: Path) -> None:
    whole, _ = sharp_graph(tmp_path)
    model = onnx.load(whole)
    weight = next(each for each in model.graph.initializer if each.name == "first")
    spoilt = numpy_helper.to_array(weight).copy()
    spoilt[3, 3] = value
    weight.CopyFrom(numpy_helper.from_array(spoilt, "first"))
    onnx.save(model, whole)
    with pytest.raises(ModelError, match="the constant first is not finite"):
        to_half(whole, tmp_path / "half.onnx", [])


@pytest.mark.parametrize("apart", [False, True])
def test_weights_as_int8_take_a_quarter_and_move_little(apart: bool, tmp_path: Path) -> None:
    """Also from a file whose weights lie beside it, as those beyond 2 GB do; what is written moves to another place."""
    whole, made = tmp_path / "whole.onnx", tmp_path / "made"
    model = recurrent("lstm", text_width=96)
    onnx.save(recurrent_graph(model, TEXT, 20), whole, save_as_external_data=apart, location="whole.onnx.data")
    made.mkdir()
    round_graph(whole, made / "text.onnx", activations=False)
    moved = made.rename(tmp_path / "moved") / "text.onnx"
    ids = np.random.default_rng(0).integers(1, 60, (20, CONTEXT))
    before, after = run(whole, ids), run(moved, ids)
    assert 0.99 < (before * after).sum(axis=1).min() < 1 - 1e-7
    size = sum(path.stat().st_size for path in tmp_path.glob("whole.onnx*"))
    assert sum(path.stat().st_size for path in moved.parent.iterdir()) < 0.29 * size
    halves = np.concatenate([run(moved, ids[:7]), run(moved, ids[7:])])
    np.testing.assert_array_equal(halves, after)


@pytest.mark.parametrize("largest", [2**31, 2_000])
def test_a_graph_is_written_weight_by_weight_and_read_whole(
    largest: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph_file, "_LARGEST", largest)
    whole, ids = products_graph(tmp_path)
    made = tmp_path / "made"
    made.mkdir()
    half = np.arange(300, dtype=np.float16)
    model = onnx.load(whole, load_external_data=False)
    model.graph.initializer.append(onnx.TensorProto(name="half", data_type=onnx.TensorProto.FLOAT16, dims=half.shape))
    graph_file.write_graph(model, made / "text.onnx", tmp_path, made={"half": lambda: half})
    assert len(list(made.iterdir())) == (1 if largest > 2_000 else 2)
    found, expected = onnx.load(made / "text.onnx"), onnx.load(whole)
    onnx.checker.check_model(found, full_check=True)
    assert [node.SerializeToString() for node in found.graph.node] == [
        node.SerializeToString() for node in expected.graph.node
    ]
    weights = {weight.name: numpy_helper.to_array(weight) for weight in found.graph.initializer}
    np.testing.assert_array_equal(weights.pop("half"), half)
    assert weights.keys() == {weight.name for weight in expected.graph.initializer}
    for weight in expected.graph.initializer:
        np.testing.assert_array_equal(weights[weight.name], numpy_helper.to_array(weight))
    np.testing.assert_array_equal(run(made / "text.onnx", ids), run(whole, ids))


def products_graph(folder: Path) -> tuple[Path, np.ndarray]:
    """Write a tower with a table, a product without and one with a bias, a convolution, and ids to try it on."""
    text = """<ir_version: 10, opset_import: ["": 20]>
        text (int64[batch, 8] ids) => (float[batch, 48] embeds) {
            found = Gather (table, ids)
            hidden = MatMul (found, first)
            bent = Gelu (hidden)
            turned = Transpose <perm = [0, 2, 1]> (bent)
            mixed = Conv <kernel_shape = [1]> (turned, kernel)
            sum = ReduceMean <keepdims = 0> (mixed, axes)
            embeds = Gemm <transB = 1> (sum, last, bias)
        }"""
    model, rng = onnx.parser.parse_model(text), np.random.default_rng(0)
    shapes = {"table": (300, 64), "first": (64, 96), "kernel": (96, 96, 1), "last": (48, 96)}
    weights = {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}
    weights["table"] *= np.geomspace(0.1, 10, 300, dtype=np.float32)[:, None]  # as captions' tokens differ
    weights |= {"bias": np.arange(48, dtype=np.float32), "axes": np.array([2])}
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in weights.items())
    onnx.save(model, folder / "whole.onnx", save_as_external_data=True, location="whole.onnx.data")
    return folder / "whole.onnx", rng.integers(0, 300, (30, 8))


def test_products_of_integers_depend_on_each_token_alone(tmp_path: Path) -> None:
    whole, ids = products_graph(tmp_path)
    made = tmp_path / "made"
    made.mkdir()
    round_graph(whole, made / "text.onnx", activations=True)
    before, after = run(whole, ids), run(made / "text.onnx", ids)
    assert 1e-3 < np.linalg.norm(after - before) / np.linalg.norm(before) < 0.03
    for count in (2, 7):
        parts = [run(made / "text.onnx", ids[start : start + count]) for start in range(0, 30, count)]
        np.testing.assert_array_equal(np.concatenate(parts), after)


@pytest.mark.parametrize("activations", [True, False])
def test_what_onnx_runtime_makes_of_int8(activations: bool, tmp_path: Path) -> None:
    """Products are of integers or, with weights alone, of floats that were restored once; a table is never restored whole."""
    whole, _ = products_graph(tmp_path)
    round_graph(whole, tmp_path / "text.onnx", activations=activations)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(tmp_path / "optimized.onnx"), 3
    onnxruntime.InferenceSession(tmp_path / "text.onnx", options, providers=["CPUExecutionProvider"])
    graph = onnx.load(tmp_path / "optimized.onnx").graph
    operators = [node.op_type for node in graph.node]
    assert operators.count("MatMulIntegerToFloat") == (2 if activations else 0)
    assert "DequantizeLinear" not in operators
    kinds = {each.name: each.data_type for each in graph.initializer}
    tables = [kinds[node.input[0]] for node in graph.node if node.op_type == "Gather"]
    assert onnx.TensorProto.INT8 in tables
    assert sum(np.prod(each.dims) for each in graph.initializer if each.data_type == onnx.TensorProto.INT8) >= 300 * 64


def patches_graph(folder: Path, text_of_cut: str = "strides = [8, 8]", patches: int = 24) -> tuple[Path, np.ndarray]:
    """Write the beginning of a vision transformer, and images to try it on."""
    text = f"""<ir_version: 10, opset_import: ["": 20]>
        image (uint8[batch, 32, 48, 3] pixels) => (float[batch, {patches}, 96] values) {{
            floats = Cast <to = 1> (pixels)
            channels = Transpose <perm = [0, 3, 1, 2]> (floats)
            scaled = Mul (channels, scale)
            normal = Sub (scaled, shift)
            found = Conv <{text_of_cut}> (normal, kernel, bias)
            flat = Reshape (found, shape)
            values = Transpose <perm = [0, 2, 1]> (flat)
        }}"""
    model, rng = onnx.parser.parse_model(text), np.random.default_rng(0)
    scale = (1 / np.array([50, 60, 70], np.float32)).reshape(3, 1, 1)
    weights: dict[str, NDArray[Any]] = {
        "scale": scale,
        "shift": MEAN.astype(np.float32).reshape(3, 1, 1) * scale,
        "kernel": rng.standard_normal((96, 3, 8, 8), np.float32),
        "bias": rng.standard_normal(96, np.float32),
        "shape": np.array([-1, 96, patches]),
    }
    weights["kernel"][0] = np.abs(weights["kernel"][0]).max() / scale  # sums that leave 16 bits most easily
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in weights.items())
    onnx.save(model, folder / "whole.onnx", save_as_external_data=True, location="whole.onnx.data")
    return folder / "whole.onnx", rng.integers(0, 256, (5, 32, 48, 3), np.uint8)


def run_operators(path: Path) -> list[str]:
    """Return what ONNX Runtime makes of a graph."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(path.with_suffix(".optimized")), 3
    onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return [node.op_type for node in onnx.load(path.with_suffix(".optimized")).graph.node]


def test_bytes_of_patches_are_multiplied_as_they_are(tmp_path: Path) -> None:
    whole, images = patches_graph(tmp_path)
    round_graph(whole, rounded := tmp_path / "image.onnx", activations=True)
    onnx.checker.check_model(onnx.load(rounded), full_check=True)
    operators = run_operators(rounded)
    assert operators.count("MatMulIntegerToFloat") == 1
    assert not {"Conv", "Cast", "QuantizeLinear", "DequantizeLinear"} & set(operators)
    before, after = run(whole, images), run(rounded, images)
    assert 1e-3 < np.linalg.norm((after - before)[..., 1:]) / np.linalg.norm(before[..., 1:]) < 0.02
    np.testing.assert_array_equal(np.concatenate([run(rounded, image[None]) for image in images]), after)
    white, plain = np.full_like(images, 255), np.broadcast_to(MEAN, images.shape).astype(np.uint8)
    for extreme in (images, white):  # the first sums are thousands, of even weights: nothing is lost
        np.testing.assert_allclose(run(rounded, extreme)[..., 0], run(whole, extreme)[..., 0], atol=0.02)
    # Rounding moves no plain image: what normalising makes zero is zero.
    np.testing.assert_allclose(run(rounded, plain)[..., 1:], run(whole, plain)[..., 1:], atol=1e-4)


@pytest.mark.parametrize(
    ("cut", "patches"),
    [
        ("strides = [4, 4]", 77),
        ("strides = [8, 8], pads = [0, 0, 8, 0]", 30),
        ("strides = [8, 8], dilations = [2, 2]", 15),
    ],
)
def test_other_convolutions_stay_floats(cut: str, patches: int, tmp_path: Path) -> None:
    whole, images = patches_graph(tmp_path, cut, patches)
    round_graph(whole, rounded := tmp_path / "image.onnx", activations=True)
    assert "Conv" in run_operators(rounded)
    before, after = run(whole, images), run(rounded, images)
    assert np.linalg.norm(after - before) / np.linalg.norm(before) < 0.02


def test_half_precision_reads_weights_that_lie_beside_the_file(tmp_path: Path) -> None:
    graph, paths = recurrent_graph(recurrent("gru"), TEXT, 20), [tmp_path / "one.onnx", tmp_path / "two.onnx"]
    graph.graph.initializer.append(numpy_helper.from_array(np.arange(500), "whole numbers"))
    onnx.save(graph, paths[0])
    onnx.save(graph, paths[1], save_as_external_data=True, location="two.onnx.data")
    ids = np.random.default_rng(0).integers(1, 60, (4, CONTEXT))
    for path in paths:
        to_half(path, path.with_suffix(".half"), [ids])
    (tmp_path / "two.onnx.data").unlink()
    one, two = (run(path.with_suffix(".half"), ids) for path in paths)
    np.testing.assert_array_equal(one, two)
