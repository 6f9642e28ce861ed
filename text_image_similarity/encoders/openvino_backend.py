"""Run models on the CPU with OpenVINO, from its own files (`image.xml`, `text.xml`) or from ONNX graphs.

Arithmetic is float32 on every processor, whereas OpenVINO's default is bfloat16 where available. OpenVINO chooses its
kernels by the shape of a call, so every call has the same number of images or captions, filled up with copies of the
last one. A vector is therefore the same to the last bit regardless of what is encoded with it, which a test checks. In
LSTM and GRU towers OpenVINO 2026.4 does not ignore the padding of captions (errors of 0.2), so captions of such a model
share a call only if they are equally long.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from threading import Lock, local
from typing import Any
from weakref import ref

import numpy as np
from numpy.typing import NDArray

from ..preprocess import Pixels
from ..similarity import Embeddings
from ..system import usable_cores
from .onnx_backend import Workers
from .tokens import Ids, Tokens
from .weights import arranged, read_weights

_IMAGES, _CAPTIONS = 2, 4  # per call; smaller batches are slower, larger ones are not faster
_WIDTH = 4  # captions are padded to a multiple of this many tokens
_TELEMETRY = "openvino_telemetry"
_RECURRENT = {"RNNSeq", "RNNCell", "TensorIterator", "Loop"}  # layer names of the CPU plugin
_importing = Lock()


def import_openvino() -> Any:
    """Import OpenVINO without its telemetry.

    The telemetry is a separate package that is installed with OpenVINO. The telemetry reports each import to Google
    Analytics and stores an id in the home folder. OpenVINO works the same without it.
    """
    with _importing:
        hide = _TELEMETRY not in sys.modules
        if hide:
            sys.modules[_TELEMETRY] = None  # type: ignore[assignment]  # makes an import of this module fail
        try:
            openvino = import_module("openvino")
            # OpenVINO's table of types is built on first use. If two threads use it first at the same time, they
            # deadlock: one holds the table and waits for the interpreter, while the other holds the interpreter and
            # waits for the table.
            openvino.Type.f32.to_dtype()
            return openvino
        finally:
            if hide:
                del sys.modules[_TELEMETRY]


@dataclass(frozen=True, slots=True)
class OpenVinoBackend:
    """A backend that runs two towers on OpenVINO.

    Args:
        towers: The compiled towers.
        tokens: `Tokens` that pad the ids.
        workers: The threads that make the calls.
        precision: `fp32`, or `int8` if weights are rounded.
        weight_bytes: Memory that the parameters take, in bytes.
    """

    towers: Towers
    tokens: Tokens
    workers: Workers
    precision: str
    weight_bytes: int

    @property
    def name(self) -> str:
        return "openvino"

    @property
    def device(self) -> str:
        return "cpu"

    @property
    def batch_invariant(self) -> bool:
        return True  # see the module's docstring

    def image(self, pixels: Sequence[Pixels]) -> Embeddings:
        batches = [np.stack(pixels[start : start + _IMAGES]) for start in range(0, len(pixels), _IMAGES)]
        return self._run("image", batches, _IMAGES)

    def text(self, rows: Sequence[Ids]) -> Embeddings:
        step = 1 if self.towers.recurrent else _WIDTH
        return self._run("text", list(self.tokens.batches(rows, most=_CAPTIONS, step=step)), _CAPTIONS)

    def _run(self, tower: str, batches: list[NDArray[Any]], count: int) -> Embeddings:
        def features(batch: NDArray[Any]) -> Embeddings:
            copies = batch[-1:].repeat(count - len(batch), axis=0)
            return self.towers.run(tower, np.concatenate([batch, copies]))[: len(batch)]

        return np.concatenate(self.workers.map(features, batches))


class Towers:
    """Compiled towers. Each process compiles its own, because OpenVINO's threads do not survive a fork.

    Args:
        compiled: Function that reads and compiles both towers, and returns them by name.
    """

    def __init__(self, compiled: Callable[[], Mapping[str, Any]]) -> None:
        self._compile = compiled
        self._lock = Lock()
        self.compiled, self._process = compiled(), os.getpid()
        self._requests = local()
        if hasattr(os, "register_at_fork"):
            alive = ref(self)
            os.register_at_fork(after_in_child=lambda: _keep(alive()))
        text = self.compiled["text"].get_runtime_model()
        self.recurrent = any(_kind(operation) in _RECURRENT for operation in text.get_ops())

    def run(self, tower: str, batch: NDArray[Any]) -> Embeddings:
        """Return a tower's features for a batch; several threads may call this concurrently."""
        request = getattr(self._requests, tower, None)
        if request is None:  # this thread's first call; threads of `Workers` do not survive a fork either
            request = self._here()[tower].create_infer_request()
            setattr(self._requests, tower, request)
        request.infer([batch], share_inputs=True)
        found: Embeddings = request.get_output_tensor(0).data.copy()  # the next call overwrites this memory
        return found

    def _here(self) -> Mapping[str, Any]:
        with self._lock:
            if self._process != os.getpid():
                self.compiled, self._process = self._compile(), os.getpid()
            return self.compiled


def _keep(towers: Towers | None) -> None:
    """Never free what the parent process compiled; freeing it would wait for threads that exist only in the parent."""
    if towers is not None:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(towers.compiled))


def _kind(operation: Any) -> str:
    return str(operation.get_rt_info()["layerType"].value)


def open_openvino(
    folder: Path, tokens: Tokens, precision: str, *, initializers: Mapping[str, Mapping[str, str]] | None = None
) -> OpenVinoBackend:
    """Open the two towers of an exported folder.

    Args:
        folder: Folder with `image.xml` and `text.xml` and their `.bin` files, or with `image.onnx` and `text.onnx`.
        tokens: `Tokens` that pad the ids.
        precision: Precision of the export, `fp32` or `int8`.
        initializers: The name in `model.safetensors` of each initializer, by tower, for ONNX graphs without weights.

    Raises:
        Exception: A file is missing or damaged. OpenVINO's own errors are RuntimeErrors.
    """
    cores = usable_cores()
    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        "EXECUTION_MODE_HINT": "ACCURACY",
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,  # otherwise activations are rounded wherever weights are
        "NUM_STREAMS": cores,
        "INFERENCE_NUM_THREADS": cores,
        "ENABLE_CPU_PINNING": False,  # the cores are shared with the threads that fetch and decode
    }

    def compiled() -> dict[str, Any]:
        core = import_openvino().Core()
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
            place = _with_weights(folder, Path(scratch), initializers) if initializers else folder
            # Weights are read during compilation, so the folder must exist until then.
            return {
                tower: core.compile_model(core.read_model(_graph(place, tower)), "CPU", settings)
                for tower in ("image", "text")
            }

    towers = Towers(compiled)
    files = [folder / "model.safetensors"] if initializers else _weight_files(folder)
    weight_bytes = sum(path.stat().st_size for path in files)
    return OpenVinoBackend(towers, tokens, Workers(cores), precision, weight_bytes)


def _graph(folder: Path, tower: str) -> Path:
    own = folder / f"{tower}.xml"
    return own if own.is_file() else folder / f"{tower}.onnx"


def _weight_files(folder: Path) -> list[Path]:
    graphs = [_graph(folder, tower) for tower in ("image", "text")]
    beside = [graph.with_suffix(".bin") if graph.suffix == ".xml" else Path(f"{graph}.data") for graph in graphs]
    return [path for path in (*graphs, *beside) if path.is_file()]


def _with_weights(folder: Path, scratch: Path, initializers: Mapping[str, Mapping[str, str]]) -> Path:
    """Copy graphs without weights to a folder, write each weight to the file that they name, and return the folder."""
    weights = read_weights(folder / "model.safetensors")
    for tower, given in initializers.items():
        shutil.copyfile(folder / f"{tower}.onnx", scratch / f"{tower}.onnx")
        for name in set(given.values()):
            arranged(weights, name).tofile(scratch / name)
    return scratch
