"""Deadlines for many operations, watched by a single thread."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from threading import Condition, Thread


class Deadlines:
    """Calls a function for each operation that exceeds its deadline; safe to share between threads.

    The thread that watches starts with the first operation. A `threading.Timer` for each image would take as long as
    passing the image to a worker.
    """

    def __init__(self) -> None:
        self._waits: dict[Hashable, tuple[float, Callable[[], None]]] = {}
        self._changed = Condition()
        self._wakes = float("inf")  # when the thread will check again
        self._thread: Thread | None = None
        self._closed = False

    def begin(self, who: Hashable, seconds: float, late: Callable[[], None]) -> None:
        """Start watching an operation.

        Args:
            who: Owner of the operation; an owner has one operation at a time.
            seconds: Seconds that the operation may take.
            late: Function that is called once if the operation takes longer; it must be quick.
        """
        due = time.monotonic() + seconds
        with self._changed:
            self._waits[who] = due, late
            if self._thread is None and not self._closed:
                self._thread = Thread(target=self._watch, name="deadlines", daemon=True)
                self._thread.start()
            if due < self._wakes:
                self._changed.notify()

    def end(self, who: Hashable) -> bool:
        """End an operation, and return whether it met its deadline."""
        with self._changed:
            return self._waits.pop(who, None) is not None

    def close(self) -> None:
        """Stop the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def _watch(self) -> None:
        with self._changed:
            while not self._closed:
                now = time.monotonic()
                for who, (due, late) in list(self._waits.items()):
                    if due <= now:
                        del self._waits[who]
                        late()
                self._wakes = min((due for due, _ in self._waits.values()), default=float("inf"))
                self._changed.wait(None if self._wakes == float("inf") else max(0.0, self._wakes - now))
