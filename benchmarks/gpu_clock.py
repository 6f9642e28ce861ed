"""Measure how long a GPU computes, with an event before and after each batch, on the stream that computes the batch.

Gaps between the kernels of a batch count as computing, so the rest is the time without any batch.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch


class DeviceClock:
    """Times the work of a device: put `with clock(): ...` around each batch, then call `seconds()`.

    Args:
        device: A GPU; any other device computes synchronously, and is timed by the wall clock.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._base: Any = None  # the event from which spans are measured
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
        if self._base is None:
            self._base = torch.cuda.Event(enable_timing=True)
            self._base.record()
        begin.record()
        yield
        end.record()
        self._spans.append((begin, end))

    def seconds(self) -> float:
        """Wait for the device, and return how long it has computed since the last call."""
        synchronize(self._device)
        spans = [(self._base.elapsed_time(begin), self._base.elapsed_time(end)) for begin, end in self._spans]
        found = self._seconds + covered(spans) / 1000
        self._seconds, self._spans = 0.0, []
        return found


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """Return the total time that spans cover; those of different streams may overlap.

    Example:
        >>> covered([(4, 5), (0, 2), (1, 3)])
        4.0
    """
    total, until = 0.0, float("-inf")
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, until))
        until = max(until, end)
    return total


def synchronize(device: torch.device) -> None:
    """Wait until a device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
