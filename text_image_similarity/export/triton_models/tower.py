"""Run a tower on ONNX Runtime in Triton's python backend, for servers that lack the onnxruntime backend."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils

from text_image_similarity.encoders.onnx_backend import Workers
from text_image_similarity.system import usable_cores

_AT_ONCE = 4  # items per call of a thread


class TowerModel:
    """The model `image` or `text`, as Triton calls it."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the graph."""
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # an error is raised, too, and names in a graph could control the terminal
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        graph = Path(__file__).with_name("model.onnx")
        self.session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self.takes, self.gives = self.session.get_inputs()[0].name, self.session.get_outputs()[0].name
        self.workers = Workers(usable_cores())

    def execute(self, requests: list[Any]) -> list[Any]:
        """Process the requests that Triton has collected, with one batch for each shape."""
        given = [pb_utils.get_input_tensor_by_name(request, self.takes).as_numpy() for request in requests]
        answers: list[Any] = [None] * len(requests)
        for shape in {values.shape[1:] for values in given}:
            places = [place for place, values in enumerate(given) if values.shape[1:] == shape]
            found = self._features(np.concatenate([given[place] for place in places]))
            for place in places:
                part, found = found[: len(given[place])], found[len(given[place]) :]
                answers[place] = pb_utils.InferenceResponse([pb_utils.Tensor(self.gives, part)])
        return answers

    def _features(self, batch: Any) -> Any:
        at_once = min(_AT_ONCE, -(-len(batch) // self.workers.count))
        parts = [batch[start : start + at_once] for start in range(0, len(batch), at_once)]

        def features(part: Any) -> Any:
            # A single caption is encoded with a copy of itself, so that its vector is the same as in a larger batch.
            filled = part if part.ndim > 2 or len(part) > 1 else part.repeat(2, axis=0)
            return self.session.run(None, {self.takes: filled})[0][: len(part)]

        return np.concatenate(self.workers.map(features, parts))


TritonPythonModel = TowerModel  # the name that Triton looks for
