"""Keep a device busy: while it computes one batch, the next one is copied to it; results are read one batch late.

This module does not depend on the device. A `Lane` does the work in one of a few slots, each of which has its own
memory for one batch. This module decides which slot a batch gets, and reuses a slot only after its result has been
read.
"""

from __future__ import annotations

from collections import deque
from threading import Lock
from typing import Generic, Protocol, TypeVar

from ..errors import UsageError

Batch = TypeVar("Batch")
BatchIn = TypeVar("BatchIn", contravariant=True)
Result = TypeVar("Result")
ResultOut = TypeVar("ResultOut", covariant=True)

SLOTS = 2


class Lane(Protocol[BatchIn, ResultOut]):
    """An interface to a device that computes batches in the order in which they are begun."""

    def begin(self, slot: int, batch: BatchIn) -> None:
        """Start computing a batch, without waiting for it."""

    def end(self, slot: int) -> ResultOut:
        """Wait for the last batch in a slot, and return its result, which shares no memory with the slot."""


class Ticket(Generic[Result]):
    """A batch that was submitted."""

    __slots__ = ("error", "ready", "slot", "value")

    def __init__(self, slot: int) -> None:
        self.slot = slot
        self.ready = False
        self.value: Result | None = None
        self.error: Exception | None = None


class DoubleBuffer(Generic[Batch, Result]):
    """A queue in front of a device, with as many places as there are slots. Safe to share between threads.

    Args:
        lane: The lane that computes the batches.
        slots: Number of batches that may be in progress.
    """

    def __init__(self, lane: Lane[Batch, Result], slots: int = SLOTS) -> None:
        self._lane = lane
        self._free = deque(range(slots))
        self._in_progress: deque[Ticket[Result]] = deque()
        self._lock = Lock()
        self._closed = False

    def submit(self, batch: Batch) -> Ticket[Result]:
        """Start computing a batch once a slot is free; an error in the batch is raised by `result`.

        Raises:
            UsageError: The queue was closed.
        """
        with self._lock:
            if self._closed:
                raise UsageError("this device accepts no more batches, because its queue was closed")
            if not self._free:
                self._end_first()
            ticket: Ticket[Result] = Ticket(self._free.popleft())
            try:
                self._lane.begin(ticket.slot, batch)
            except Exception as exc:  # raised by `result`, as for a batch that fails later
                ticket.error, ticket.ready = (
                    exc.with_traceback(None),
                    True,
                )  # the frames of a traceback keep the batch in memory
                self._free.append(ticket.slot)
            except BaseException:
                self._free.append(ticket.slot)
                raise
            else:
                self._in_progress.append(ticket)
        return ticket

    def result(self, ticket: Ticket[Result]) -> Result:
        """Wait for a batch and the ones before it, and return its result.

        Raises:
            Exception: The error that the lane raised for this batch.
        """
        with self._lock:
            while not ticket.ready:
                self._end_first()
        if ticket.error is not None:
            raise ticket.error
        return ticket.value  # type: ignore[return-value]

    def close(self) -> None:
        """Accept no more batches, and wait for those in progress, whose results can still be read."""
        with self._lock:
            self._closed = True
            while self._in_progress:
                self._end_first()

    def _end_first(self) -> None:
        ticket = self._in_progress[0]
        try:
            ticket.value = self._lane.end(ticket.slot)
        except Exception as exc:  # raised by `result` for that batch
            ticket.error = exc.with_traceback(None)
        ticket.ready = True
        self._in_progress.popleft()
        self._free.append(ticket.slot)
