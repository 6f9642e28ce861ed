"""Threads that share out a batch."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import TypeVar

from ..similarity import Embeddings

T = TypeVar("T")


class Workers:
    """A number of threads, restarted after a fork, which does not copy threads."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._lock = Lock()
        self._process = 0

    def map(self, work: Callable[[T], Embeddings], items: Sequence[T]) -> list[Embeddings]:
        """Return what the threads make of each item, in order."""
        if self._process != os.getpid():
            with self._lock:
                if self._process != os.getpid():
                    self._pool = ThreadPoolExecutor(self.count, thread_name_prefix="score-onnx")
                    self._process = os.getpid()
        return list(self._pool.map(work, items))
