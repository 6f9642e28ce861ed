"""How long a GPU computes: an event before each batch and one after it, on the stream that computes it.

Gaps between the kernels of one batch count as computing, so what is left is the time in which there was no batch at all.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


class DeviceClock:
    """Times what a device does: `with clock(): ...` around each batch, then `seconds()`.

    Args:
        device: A GPU; anything else computes at once, and is timed by the wall clock.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._spans: list[tuple[Any, Any]] = []
        self._seconds = 0.0

    @contextmanager
    def __call__(self) -> Iterator[None]:
        if self._device.type != "cuda":
            began = time.perf_counter()
            yield
            self._seconds += time.perf_counter() - began
            return
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        yield
        end.record()
        self._spans.append((begin, end))

    def seconds(self) -> float:
        """Wait for the device, and return how long it has computed since the last call."""
        synchronize(self._device)
        found: float = self._seconds + sum(begin.elapsed_time(end) for begin, end in self._spans) / 1000
        self._seconds, self._spans = 0.0, []
        return found


def synchronize(device: torch.device) -> None:
    """Wait until a device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
