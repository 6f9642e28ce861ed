"""OpenVINO as a backend on the CPU: its own files (`image.xml`, `text.xml`) or the same ONNX graphs as ONNX Runtime.

Arithmetic is float32 whatever the processor offers: left alone, OpenVINO takes bfloat16 where there is some. Every call has
the same number of images or captions, filled up with copies of its last one, because which kernel runs depends on the
shape of a call; so neighbours move no bit of a vector, which a test holds. OpenVINO 2026.4 reads the padding of captions
into LSTM and GRU towers (errors of 0.2), so captions of such a model share a call only if they are equally long.
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

_IMAGES, _CAPTIONS = 2, 4  # in a call, always; fewer are slower, more are no faster
_WIDTH = 4  # captions are padded to multiples of so many tokens
_TELEMETRY = "openvino_telemetry"
_RECURRENT = {"RNNSeq", "RNNCell", "TensorIterator", "Loop"}  # the CPU's names of its layers
_importing = Lock()


def import_openvino() -> Any:
    """Import OpenVINO without its telemetry, which reports each import to Google Analytics and leaves an id in the home folder.

    Without that package, which its installation brings, OpenVINO does the same and reports nothing.
    """
    with _importing:
        hide = _TELEMETRY not in sys.modules
        if hide:
            sys.modules[_TELEMETRY] = None  # type: ignore[assignment]  # how Python says that a module cannot be imported
        try:
            return import_module("openvino")
        finally:
            if hide:
                del sys.modules[_TELEMETRY]


@dataclass(frozen=True, slots=True)
class OpenVinoBackend:
    """Two towers on OpenVINO.

    Args:
        towers: What runs them.
        tokens: What pads the ids.
        workers: The threads that share the calls.
        precision: `fp32`, or `int8` where weights are rounded.
        weight_bytes: What the parameters take in memory.
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
        return True  # see the module

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
    """Compiled towers, which each process compiles for itself: OpenVINO's threads do not survive a fork.

    Args:
        compiled: Reads and compiles both by name.
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
        """Return a tower's features of a batch; several threads may ask at once."""
        request = getattr(self._requests, tower, None)
        if request is None:  # a thread of `Workers` runs for the first time, and none of them is older than its process
            request = self._here()[tower].create_infer_request()
            setattr(self._requests, tower, request)
        request.infer([batch], share_inputs=True)
        found: Embeddings = request.get_output_tensor(0).data.copy()  # the next call writes into the same memory
        return found

    def _here(self) -> Mapping[str, Any]:
        with self._lock:
            if self._process != os.getpid():
                self.compiled, self._process = self._compile(), os.getpid()
            return self.compiled


def _keep(towers: Towers | None) -> None:
    """Never free what the parent of this process compiled: that waits for threads which exist there alone."""
    if towers is not None:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(towers.compiled))


def _kind(operation: Any) -> str:
    return str(operation.get_rt_info()["layerType"].value)


def open_openvino(
    folder: Path, tokens: Tokens, precision: str, *, initializers: Mapping[str, Mapping[str, str]] | None = None
) -> OpenVinoBackend:
    """Open the two towers of an exported folder.

    Args:
        folder: Holds `image.xml` and `text.xml` with their `.bin`, or `image.onnx` and `text.onnx`.
        tokens: What pads the ids.
        precision: `fp32` or `int8`, as the folder has it.
        initializers: For each ONNX graph that holds no weights, which of `model.safetensors` each of its initializers is.

    Raises:
        Exception: A file is missing or damaged; OpenVINO's own errors are of the type RuntimeError.
    """
    cores = usable_cores()
    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        "EXECUTION_MODE_HINT": "ACCURACY",
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,  # else activations are rounded where weights are
        "NUM_STREAMS": cores,
        "INFERENCE_NUM_THREADS": cores,
        "ENABLE_CPU_PINNING": False,  # the cores are shared with those who fetch and decode
    }

    def compiled() -> dict[str, Any]:
        core = import_openvino().Core()
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
            place = _with_weights(folder, Path(scratch), initializers) if initializers else folder
            # Weights are read while a model is compiled.
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
    """Put graphs without weights into a folder where each weight is the file that the graphs name."""
    weights = read_weights(folder / "model.safetensors")
    for tower, given in initializers.items():
        shutil.copyfile(folder / f"{tower}.onnx", scratch / f"{tower}.onnx")
        for name in set(given.values()):
            arranged(weights, name).tofile(scratch / name)
    return scratch
