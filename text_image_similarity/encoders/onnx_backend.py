"""Run models on ONNX Runtime, the fastest backend for CPUs in our measurements: two to three times as fast as torch.

A batch is divided among threads, one per core, with a few images per call, which keeps activations in the processor's
cache. The number of items in a call does not change a vector, except for a single caption, which is therefore encoded
with a copy of itself; a test checks this. In int8, activations are rounded token by token, so neighbours do not matter
there either.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..preprocess import Pixels
from ..similarity import Embeddings
from ..system import usable_cores
from .tokens import Ids, Tokens
from .weights import arranged, read_weights

T = TypeVar("T")
_IMAGES, _CAPTIONS = 4, 8  # maximum per call; more do not fit in the processor's cache
_WIDTH = 4  # captions are padded to a multiple of this many tokens


@dataclass(frozen=True, slots=True)
class OnnxBackend:
    """A backend that runs two exported towers on ONNX Runtime.

    Args:
        image_session, text_session: ONNX Runtime sessions of one thread each.
        tokens: `Tokens` that pad the ids.
        workers: The threads that make the calls.
        precision: `fp32`, `fp16` or `int8`.
        weight_bytes: Memory that the parameters take, in bytes.
    """

    image_session: Any
    text_session: Any
    tokens: Tokens
    workers: Workers
    precision: str
    weight_bytes: int

    @property
    def name(self) -> str:
        return "onnx"

    @property
    def device(self) -> str:
        return "cpu"

    @property
    def batch_invariant(self) -> bool:
        return True  # see the module's docstring

    def image(self, pixels: Sequence[Pixels]) -> Embeddings:
        step = self._at_once(len(pixels), _IMAGES)
        batches = [np.stack(pixels[start : start + step]) for start in range(0, len(pixels), step)]
        return self._run(self.image_session, "pixels", batches, least=1)

    def text(self, rows: Sequence[Ids]) -> Embeddings:
        batches = self.tokens.batches(rows, most=self._at_once(len(rows), _CAPTIONS), step=_WIDTH)
        return self._run(self.text_session, "input_ids", list(batches), least=2)

    def _at_once(self, count: int, most: int) -> int:
        return min(most, -(-count // self.workers.count))

    def _run(self, session: Any, taken: str, batches: list[NDArray[Any]], *, least: int) -> Embeddings:
        def features(batch: NDArray[Any]) -> Embeddings:
            filled = batch if len(batch) >= least else batch.repeat(least, axis=0)
            found: Embeddings = session.run(None, {taken: filled})[0]
            return found[: len(batch)]

        return np.concatenate(self.workers.map(features, batches))


class Workers:
    """A pool of threads that is restarted after a fork, which does not copy threads."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._lock = Lock()
        self._process = 0

    def map(self, work: Callable[[T], Embeddings], items: Sequence[T]) -> list[Embeddings]:
        """Call `work` with each item, in the threads, and return the results in order."""
        if self._process != os.getpid():
            with self._lock:
                if self._process != os.getpid():
                    self._pool = ThreadPoolExecutor(self.count, thread_name_prefix="score-onnx")
                    self._process = os.getpid()
        return list(self._pool.map(work, items))


def open_backend(
    folder: Path,
    tokens: Tokens,
    *,
    precision: str,
    initializers: Mapping[str, Mapping[str, str]] | None = None,
    graphs: str = "{}.onnx",
) -> OnnxBackend:
    """Open the two graphs in an exported folder.

    Args:
        folder: Folder with the graphs.
        tokens: `Tokens` that pad the ids.
        precision: `fp32`, `fp16` or `int8`.
        initializers: The name in `model.safetensors` of each initializer, by tower, for graphs without weights.
        graphs: Name of a tower's graph in the folder, where `{}` stands for the tower, `image` or `text`.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # otherwise ONNX Runtime stores a device id in the home folder
    import onnxruntime

    weights = read_weights(folder / "model.safetensors") if initializers else {}
    sessions, weight_bytes = [], 0
    for tower in ("image", "text"):
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # errors are raised anyway, and a graph's names could control the terminal
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        if initializers:
            given = initializers[tower]
            arrays = [arranged(weights, name) for name in given.values()]
            weight_bytes += sum(array.nbytes for array in arrays)
            values = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in arrays]
            options.add_external_initializers(list(given), values)
        graph = folder / graphs.format(tower)
        files = folder.glob(f"{graph.name}*")  # the graph and, for large models, the weights next to it
        weight_bytes += sum(file.stat().st_size for file in files)
        sessions.append(onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"]))
    image, text = sessions
    return OnnxBackend(image, text, tokens, Workers(usable_cores()), precision, weight_bytes)
