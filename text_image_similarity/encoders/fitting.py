"""Split batches to fit a device's memory: a batch that runs out of memory is halved, and finished parts are kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_PATIENCE = 16  # batches that must fit before the size is doubled
_NO_MEMORY = (torch.OutOfMemoryError, MemoryError)
# torch's CPU and MPS allocators, and NVIDIA's libraries, raise a plain RuntimeError.
_NO_MEMORY_WORDS = ("out of memory", "can't allocate memory", "not enough memory", "STATUS_ALLOC_FAILED")


class Fit:
    """The number of items that fit in memory: halved when memory runs out, and doubled again after a while."""

    def __init__(self) -> None:
        self._most: int | None = None
        self._good = 0
        self._patience = _PATIENCE

    def size(self, wanted: int) -> int:
        """Return how many of `wanted` items to try."""
        return wanted if self._most is None else min(self._most, wanted)

    def failed(self, count: int) -> None:
        """Record that `count` items did not fit."""
        if self._most is not None and count > self._most // 2:
            self._patience *= 2  # the size was increased too early
        self._most, self._good = max(1, count // 2), 0

    def fitted(self, count: int) -> None:
        """Record that `count` items fitted."""
        if self._most is None or count < self._most:
            return
        self._good += 1
        if self._good >= self._patience:
            self._most, self._good = 2 * self._most, 0


def in_fitting_parts(encode: Callable[[Any], Tensor], items: Any, fit: Fit) -> list[Tensor]:
    """Encode a sequence in as many parts as the device's memory requires, and return the parts, each (n, d).

    Raises:
        torch.OutOfMemoryError, MemoryError, RuntimeError: A single item does not fit.
    """
    parts: list[Tensor] = []
    done = 0
    while done < len(items):
        part = items[done : done + fit.size(len(items))]
        try:
            parts.append(encode(part))
        except (RuntimeError, MemoryError) as exc:
            if len(part) == 1 or not is_out_of_memory(exc):
                raise
            fit.failed(len(part))
        else:
            fit.fitted(len(part))
            done += len(part)
            continue
        # This is outside the handler, in which the traceback would still hold the failed batch's tensors.
        torch.cuda.empty_cache()
    return parts


def is_out_of_memory(exc: Exception) -> bool:
    """Return whether an exception means that the device or the machine ran out of memory."""
    return isinstance(exc, _NO_MEMORY) or any(words in str(exc) for words in _NO_MEMORY_WORDS)


def is_device_lost(exc: RuntimeError) -> bool:
    """Return whether an exception means that the device itself has failed; CUDA's errors persist in the process."""
    failed = isinstance(exc, torch.AcceleratorError) or "CUDA error:" in str(exc)
    return failed and not is_out_of_memory(exc)
