"""Run a tower on a CUDA device with reused pinned memory, a stream for copies, and one CUDA graph for each shape.

This module was written from the documentation of torch 2.15 and has not yet run on a GPU; `double_buffer` decides when
each step is taken, and is tested. A graph is one launch instead of hundreds, so the kernels of a small model do not
wait for Python. Towers that cannot be captured are launched as usual.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..similarity import Embeddings
from .fitting import is_out_of_memory

logger = logging.getLogger("text_image_similarity")

_capturing = Lock()  # a process may capture only one graph at a time
_CLOSE = 1e-2  # share of the largest feature; summing float16 in another order changes features by a tenth of that
_WARM_UPS = 3  # runs before a capture, in which libraries choose kernels and allocate workspaces


@dataclass(frozen=True, slots=True)
class Filled:
    """Items of one shape, filled up to a fixed number with copies of the last item.

    Args:
        items: The items, n arrays.
        count: The number of items after filling up.
    """

    items: Sequence[NDArray[Any]]
    count: int


@dataclass(frozen=True, slots=True)
class Program:
    """A tower prepared for batches of one shape in one slot.

    Args:
        given: Pinned memory that a batch is written to.
        there: Memory for the batch on the device.
        run: Function that computes features from `there` on the current stream.
        found: Pinned memory that features (n, d) are copied back to.
        arrived: Event that occurs when the batch is on the device.
        done: Event that occurs when the features have been copied back.
    """

    given: Tensor
    there: Tensor
    run: Callable[[], Tensor]
    found: Tensor
    arrived: torch.cuda.Event
    done: torch.cuda.Event


class CudaLane:
    """A `Lane` for one tower; use it in inference mode.

    A slot's memory is free once `end` has waited for the event `done`, so no stream ever waits for a slot.

    Args:
        tower: Function from a batch (n, ...) on the device to features (n, embed_dim).
        device: The tower's device.
        clock: Function that returns a context manager, which is entered while the tower's kernels are launched.
    """

    def __init__(
        self, tower: nn.Module, device: torch.device, clock: Callable[[], AbstractContextManager[object]]
    ) -> None:
        self._tower, self._device, self._clock = tower, device, clock
        self._copying, self._computing = torch.cuda.Stream(device), torch.cuda.Stream(device)
        self._computing.wait_stream(torch.cuda.current_stream(device))  # which may still be writing the weights
        self._pool = torch.cuda.graph_pool_handle()  # shared, because graphs on one stream run one after the other
        self._programs: dict[tuple[int, tuple[int, ...], torch.dtype], Program] = {}
        self._begun: dict[int, tuple[Program, int]] = {}

    def begin(self, slot: int, batch: Filled) -> None:
        with torch.cuda.device(self._device):
            program = self._program(slot, batch)
            _fill(program.given, batch)
            with torch.cuda.stream(self._copying):
                program.there.copy_(program.given, non_blocking=True)
                program.arrived.record(self._copying)
            with torch.cuda.stream(self._computing):
                program.arrived.wait(self._computing)
                with self._clock():
                    features = program.run()
                program.found.copy_(features, non_blocking=True)
                program.done.record(self._computing)
            self._begun[slot] = program, len(batch.items)

    def end(self, slot: int) -> Embeddings:
        program, count = self._begun[slot]
        program.done.synchronize()
        features: Embeddings = program.found[:count].numpy().copy()
        return features

    def _program(self, slot: int, batch: Filled) -> Program:
        kind = torch.from_numpy(np.empty(0, batch.items[0].dtype)).dtype
        shape = (batch.count, *batch.items[0].shape)
        if (known := self._programs.get((slot, shape, kind))) is not None:
            return known
        given = _pinned(shape, kind)
        _fill(given, batch)
        there = given.to(self._device)
        self._computing.wait_stream(torch.cuda.current_stream(self._device))  # the current stream copies the batch
        self._copying.wait_stream(self._computing)
        with torch.cuda.stream(self._computing), _capturing:
            for _ in range(_WARM_UPS):
                features = self._tower(there)  # (n, embed_dim)
            self._computing.synchronize()
            run = capture(self._tower, there, self._computing, self._pool) or (lambda: self._tower(there).float())
        found = _pinned(tuple(features.shape), torch.float32)
        # Blocking, so that a thread that waits for it sleeps: feeders need the core.
        program = Program(given, there, run, found, torch.cuda.Event(), torch.cuda.Event(blocking=True))
        self._programs[slot, shape, kind] = program
        return program


def capture(tower: nn.Module, there: Tensor, stream: torch.cuda.Stream, pool: Any) -> Callable[[], Tensor] | None:
    """Capture the kernels of a tower that has run before, and check that they compute the same features as the tower.

    Args:
        tower: The tower.
        there: Input (n, m, ...) of the tower on the device, which is read again at every launch of the kernels. The
            input is reversed for the check, because a graph may contain values that depended on the input during its
            capture.
        stream: Any stream except the default one.
        pool: Memory that graphs may share as long as they never run at the same time.

    Returns:
        A function that launches the kernels on the current stream and returns features in float32, which the next
        launch overwrites; None if the kernels cannot be captured, or compute different features from the tower.
    """
    graph = torch.cuda.CUDAGraph()
    try:
        # Other threads may use the device in the meantime; with "global" they could invalidate the capture.
        with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
            features: Tensor = tower(there).float()
    except RuntimeError as exc:
        if is_out_of_memory(exc):
            raise
        logger.info("a tower runs without a CUDA graph: %s", str(exc).partition("\n")[0])
        return None

    def replay() -> Tensor:
        graph.replay()
        return features

    with torch.cuda.stream(stream):
        there.copy_(there.flip(0, 1))
        expected: Tensor = tower(there).float()
        finite = expected[expected.isfinite()]
        close = _CLOSE * float(finite.abs().max()) if finite.numel() else 0.0
        if not torch.allclose(replay(), expected, rtol=_CLOSE, atol=close, equal_nan=True):
            logger.warning("a tower runs without a CUDA graph, because its graph computed different features")
            return None
    return replay


def _fill(given: Tensor, batch: Filled) -> None:
    """Write a batch to pinned memory, and fill it up with copies of the last item."""
    values, count = given.numpy(), len(batch.items)
    np.stack(batch.items, out=values[:count])
    values[count:] = values[count - 1]


def _pinned(shape: tuple[int, ...], kind: torch.dtype) -> Tensor:
    """Allocate pinned memory, which the device can read and write directly."""
    return torch.zeros(shape, dtype=kind, pin_memory=True)
