"""What an export for TensorRT holds, its script run with a stand-in for trtexec, and its plans with stand-ins for a GPU."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.support.processes import tool
from text_image_similarity import Config, ConfigError, ExportSummary, ModelError
from text_image_similarity.encoders import tensorrt_backend
from text_image_similarity.encoders.exported import load_exported, read_manifest
from text_image_similarity.encoders.tensorrt_backend import TensorRtBackend, open_tensorrt
from text_image_similarity.encoders.tokens import Tokens
from text_image_similarity.export.folder import describe
from text_image_similarity.export.tensorrt import write_tensorrt
from text_image_similarity.export.typing_lint import lint_typing

GPU, VERSION = "NVIDIA H100 80GB HBM3", "11.4.0"
TRTEXEC = f"""#!/bin/sh
echo "&&&& RUNNING TensorRT.trtexec [TensorRT v${{CODE:-110400}}] [b12] # $*"
for option; do
    case $option in
    --saveEngine=*) echo "$*" >"${{option#*=}}"; echo "[I] Selected Device: {GPU}" ;;
    esac
done
[ -z "${{BROKEN:-}}" ]
"""


def tower(folder: Path, name: str, *more: onnx.NodeProto, half: bool = True, opset: int = 23) -> Path:
    """Write a graph in which one matrix is multiplied, and other nodes."""
    image = name == "image"
    kind = TensorProto.UINT8 if image else TensorProto.INT64
    shape: list[str | int | None] = ["batch", 2, 2, 3] if image else ["batch", "length"]
    number = TensorProto.FLOAT16 if half else TensorProto.FLOAT
    weight = np.ones((3, 4), np.float16 if half else np.float32)
    nodes = [
        helper.make_node("Cast", ["given"], ["numbers"], to=number),
        helper.make_node("MatMul", ["numbers", "weight"], ["product"], name="product"),
        helper.make_node("Cast", ["product"], ["made"], to=TensorProto.FLOAT),
        *more,
    ]
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info("given", kind, shape)],
        [helper.make_tensor_value_info("made", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weight, "weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid("mine", 1)])
    onnx.save(model, path := folder / f"{name}.onnx")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("image", "text"):
        tower(tmp_path, name)
    (tmp_path / "config.json").write_text('{"context_length": 40}', encoding="utf-8")
    return tmp_path


def cast(given: str, made: str, to: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [given], [made], to=to, name=f"to {made}")


@pytest.mark.parametrize(
    ("nodes", "said"),
    [
        ([], []),
        ([helper.make_node("IsNaN", ["product"], ["nan"], name="ask")], ["IsNaN ask checks for NaN"]),
        ([cast("product", "wide", TensorProto.DOUBLE)], ["1 values are float64, such as wide"]),
        ([helper.make_node("Mine", ["product"], ["x"], domain="mine")], ["operators of mine are not ONNX's own"]),
        (
            [cast("product", "up", TensorProto.FLOAT), cast("up", "down", TensorProto.FLOAT16)],
            ["Cast to up casts half to float32 and back"],
        ),
        (
            [cast("weight", "up", TensorProto.FLOAT), helper.make_node("MatMul", ["made", "up"], ["x"], name="m")],
            ["MatMul m reads made in float32 in a half-precision file"],
        ),
        (
            [helper.make_node("LayerNormalization", ["product", "weight"], ["x"], stash_type=10, name="n")],
            ["LayerNormalization n sums in half precision"],
        ),
        ([helper.make_node("Identity", ["given"], ["x"], name="i")], ["Identity i returns uint8"]),
        (
            [
                helper.make_node("Mine", ["product"], ["x"], domain="mine"),
                helper.make_node("MatMul", ["x", "x"], ["y"]),
            ],
            ["operators of mine", "the types of 2 inputs of MatMul cannot be inferred"],
        ),
    ],
)
def test_a_graph_that_tensorrt_would_run_otherwise_is_named(
    nodes: list[onnx.NodeProto], said: list[str], tmp_path: Path
) -> None:
    found = lint_typing(tower(tmp_path, "image", *nodes))
    assert len(found) == len(said)
    assert all(one.startswith(start) for one, start in zip(found, said, strict=True)), found


def test_a_graph_in_float32_may_multiply_so_and_old_opsets_are_named(tmp_path: Path) -> None:
    assert lint_typing(tower(tmp_path, "image", half=False)) == []
    assert lint_typing(tower(tmp_path, "image", opset=16)) == [
        "opset 16 is outside 17 to 25, which TensorRT 10 and 11 read"
    ]


def test_the_weights_are_not_read(tmp_path: Path) -> None:
    path = tower(tmp_path, "text")
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="text.onnx.data", size_threshold=0)
    (tmp_path / "text.onnx.data").unlink()
    assert lint_typing(path) == []


def run_script(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    (program := folder / "trtexec").write_text(TRTEXEC, encoding="utf-8")
    program.chmod(0o755)
    return subprocess.run(
        ["sh", folder / "build_plans.sh"],
        env={**os.environ, "TRTEXEC": str(program), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_script_builds_plans_with_their_manifests(folder: Path) -> None:
    write_tensorrt(folder, folder, text_lengths=[16, 77], max_batch=64)
    done = run_script(folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"are for {GPU} with TensorRT {VERSION}" in done.stdout
    facts = json.loads((folder / "text.plan.json").read_text(encoding="utf-8"))
    assert (facts["gpu"], facts["tensorrt"]) == (GPU, VERSION)
    assert facts["profiles"] == [{"shape": [16], "batch": 64}, {"shape": [40], "batch": 64}]  # its context
    assert facts["onnx"] == {"text.onnx": hashlib.sha256((folder / "text.onnx").read_bytes()).hexdigest()}
    plan = (folder / "text.plan").read_text(encoding="utf-8")  # the options that it was built with
    assert facts["plan"] == hashlib.sha256(plan.encode()).hexdigest()
    assert "--profile=1 --minShapes=given:1x40 --optShapes=given:32x40 --maxShapes=given:64x40" in plan
    assert "--stronglyTyped" not in plan
    assert "--maxShapes=given:64x2x2x3" in (folder / "image.plan").read_text(encoding="utf-8")
    assert run_script(folder, CODE="101600").returncode == 0
    assert "--stronglyTyped" in (folder / "text.plan").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"CODE": "8601"}, "does not name the version"),
        ({"CODE": "120000"}, "TensorRT 12.0.0 was found; these graphs are for TensorRT 10 and 11"),
        ({"CODE": "100900"}, "TensorRT 10.9.0 does not read the attention of opset 23"),
        ({"BROKEN": "1"}, "image.plan could not be built; image.plan.log says why"),
        ({"TRTEXEC": "/nowhere/trtexec"}, "trtexec was not found"),
    ],
)
def test_a_script_that_cannot_build_says_so(folder: Path, environment: dict[str, str], said: str) -> None:
    write_tensorrt(folder, folder)
    done = run_script(folder, **environment)
    assert done.returncode == 1
    assert said in done.stderr
    assert not list(folder.glob("*.plan"))


def test_the_script_is_clean(folder: Path) -> None:
    write_tensorrt(folder, folder)
    subprocess.run([tool("shellcheck"), folder / "build_plans.sh"], check=True)


def test_graphs_that_are_not_typed_are_refused(folder: Path) -> None:
    tower(folder, "text", helper.make_node("IsNaN", ["product"], ["nan"], name="ask"))
    with pytest.raises(ModelError, match=r"text\.onnx is not typed for TensorRT: IsNaN ask checks for NaN"):
        write_tensorrt(folder, folder)
    with pytest.raises(ConfigError, match="max_batch=0"):
        write_tensorrt(folder, folder, max_batch=0)


class Engine:
    """A plan that adds up a row's values."""

    def __init__(self, memory: dict[int, Any]) -> None:
        self.memory = memory
        self.shapes: list[tuple[int, ...]] = []
        self.addresses: dict[str, int] = {}

    def get_tensor_name(self, number: int) -> str:
        return ("given", "made")[number]

    def get_tensor_shape(self, _name: str) -> tuple[int, int]:
        return (-1, 2)

    def create_execution_context(self) -> Engine:
        return self

    def set_optimization_profile_async(self, _number: int, _stream: int) -> bool:
        return True

    def set_input_shape(self, _name: str, shape: tuple[int, ...]) -> None:
        self.shapes.append(shape)

    def set_tensor_address(self, name: str, address: int) -> None:
        self.addresses[name] = address

    def execute_async_v3(self, _stream: int) -> bool:
        sums = self.memory[self.addresses["given"]].reshape(self.shapes[-1][0], -1).sum(axis=1)
        self.memory[self.addresses["made"]] = np.stack([sums, sums * 0 + 1], axis=1).astype(np.float32)
        return True


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> list[Engine]:
    """Stand-ins for TensorRT and the CUDA runtime, and the engines that were made."""
    made: list[Engine] = []
    memory: dict[int, Any] = {}

    def deserialize(_content: bytes) -> Engine:
        made.append(Engine(memory))
        return made[-1]

    def allocate(_size: int) -> tuple[int, int]:
        memory[address := len(memory) + 1] = None
        return 0, address

    def copy(to: int, of: int, size: int, kind: str, _stream: int) -> tuple[int]:
        if kind == "up":
            memory[to] = np.frombuffer(ctypes.string_at(of, size), np.uint8 if to == 1 else np.int64)
        else:
            ctypes.memmove(to, memory[of].ctypes.data, size)
        return (0,)

    cuda = SimpleNamespace(
        cudaMemcpyKind=SimpleNamespace(cudaMemcpyHostToDevice="up", cudaMemcpyDeviceToHost="down"),
        cudaSetDevice=lambda _device: (0,),
        cudaGetDeviceProperties=lambda _device: (0, SimpleNamespace(name=GPU.encode())),
        cudaStreamCreate=lambda: (0, 7),
        cudaMalloc=allocate,
        cudaMemcpyAsync=copy,
        cudaStreamSynchronize=lambda _stream: (0,),
    )
    tensorrt = ModuleType("tensorrt")
    tensorrt.__dict__.update(
        __version__=f"{VERSION}.12",
        Logger=type("Logger", (), {"WARNING": 2, "__init__": lambda *_: None}),
        Runtime=lambda _logger: SimpleNamespace(deserialize_cuda_engine=deserialize),
    )
    modules = {"tensorrt": tensorrt, "cuda.bindings.runtime": cuda}
    monkeypatch.setattr(tensorrt_backend, "import_module", modules.__getitem__)
    monkeypatch.setattr(tensorrt_backend, "is_installed", lambda _: True)
    return made


def opened(folder: Path) -> TensorRtBackend:
    return open_tensorrt(folder, Tokens(encode=lambda texts: [], pad=0, context_length=40), "fp16")


def test_plans_run_in_batches_that_fit_them(folder: Path, engines: list[Engine]) -> None:
    write_tensorrt(folder, folder, text_lengths=[16], max_batch=2)
    assert run_script(folder).returncode == 0
    backend = opened(folder)
    assert (backend.name, backend.device, backend.precision) == ("tensorrt", "cuda:0", "fp16")
    pixels = [np.full((2, 2, 3), value, np.uint8) for value in range(5)]
    np.testing.assert_array_equal(backend.image(pixels)[:, 0], [0, 12, 24, 36, 48])
    rows = [[1], [2, 3], [4] * 16, [5] * 17]
    np.testing.assert_array_equal(backend.text(rows)[:, 0], [1, 5, 64, 85])
    assert engines[0].shapes == [(2, 2, 2, 3), (2, 2, 2, 3), (1, 2, 2, 3)]
    assert engines[1].shapes == [(2, 16), (1, 16), (1, 40)]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda facts: facts.update(gpu="NVIDIA L4"), f"was built on NVIDIA L4, but this GPU is {GPU}"),
        (
            lambda facts: facts.update(tensorrt="10.14.1"),
            f"was built by TensorRT 10.14.1, but {VERSION}.12 is installed",
        ),
        (lambda facts: facts.update(plan="0"), "is damaged"),
        (lambda facts: facts["onnx"].update({"text.onnx": "0"}), "was built from another text.onnx"),
        (lambda facts: facts.pop("gpu"), "or its manifest cannot be read"),
    ],
)
def test_a_foreign_plan_is_refused_before_tensorrt_reads_it(
    folder: Path, engines: list[Engine], change: Callable[[dict[str, Any]], None], said: str
) -> None:
    write_tensorrt(folder, folder)
    assert run_script(folder).returncode == 0
    path = folder / "text.plan.json"
    change(facts := json.loads(path.read_text(encoding="utf-8")))
    path.write_text(json.dumps(facts), encoding="utf-8")
    with pytest.raises(ModelError, match=said) as caught:
        opened(folder)
    assert "run build_plans.sh in" in str(caught.value)
    assert not engines


def test_an_export_on_a_gpu_runs_its_plans(
    exported: tuple[Path, ExportSummary], engines: list[Engine], tmp_path: Path
) -> None:
    shutil.copytree(exported[0], folder := tmp_path / "export")
    config = Config(model=folder, device="cuda:1")
    with pytest.raises(ConfigError, match="runs on the CPU here"):  # it is for ONNX Runtime
        load_exported("ours", folder, config)
    write_tensorrt(folder, folder)
    facts = read_manifest(folder)
    describe(folder, {name: facts[name] for name in facts if name not in ("files", "digest")}, [], passed=True)
    with pytest.raises(ModelError, match=r"image\.plan or its manifest cannot be read.*run build_plans\.sh in"):
        load_exported("ours", folder, config)
    assert run_script(folder).returncode == 0
    info = load_exported("ours", folder, config).info
    assert (info.backend, info.device, len(engines)) == ("tensorrt", "cuda:1", 2)
    assert load_exported("ours", folder, Config(model=folder)).info.backend == "onnx"
