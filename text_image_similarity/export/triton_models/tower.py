"""A tower on ONNX Runtime, for servers without Triton's own backend for it: on CPUs as fast as this package itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...encoders.onnx_session import open_session
from ...encoders.workers import Workers
from ...similarity import Embeddings
from ...system import usable_cores
from .requests import answer, taken, text_parameters

_AT_ONCE = 4  # in a call; more fall out of the processor's cache


class TowerModel:
    """What the server runs as `TritonPythonModel`."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Open the graph."""
        graph = Path(args["model_repository"], args["model_version"], "model.onnx")
        self.session = open_session(graph)
        self.taken, self.given = self.session.get_inputs()[0].name, self.session.get_outputs()[0].name
        self.alone = text_parameters(args)["alone"] == "true"
        self.workers = Workers(usable_cores())

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer all requests of a batch, which the server made of such as have one shape."""
        inputs = [taken(request, (self.taken,))[self.taken] for request in requests]
        rows = np.concatenate(inputs)
        step = 1 if self.alone else min(_AT_ONCE, -(-len(rows) // self.workers.count))
        batches = [rows[start : start + step] for start in range(0, len(rows), step)]
        found = np.concatenate(self.workers.map(self._run, batches))
        ends = np.cumsum([len(given) for given in inputs])[:-1]
        return [answer({self.given: part}) for part in np.split(found, ends)]

    def _run(self, batch: NDArray[Any]) -> Embeddings:
        least = 1 if self.alone or batch.ndim > 2 else 2  # a single caption gives other bits; see `onnx_backend`
        filled = batch if len(batch) >= least else batch.repeat(least, axis=0)
        found: Embeddings = self.session.run([self.given], {self.taken: filled})[0]
        return found[: len(batch)]
