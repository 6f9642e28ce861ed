"""Group items into batches as soon as the model is free: clients take turns, and a client's oldest items are first.

While a batch is encoded, the next one is collected, so that batches grow with the load. A batch that is not full waits
for items that are being decoded, up to a time limit; if there are none, the batch starts at once.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from heapq import heappop, heappush
from threading import Condition, Thread

from ..jobs import Item, Job
from ..shares import Client, Turns

IDLE_S = 10.0


class Batcher:
    """A thread that passes batches to a model.

    Args:
        name: Name of the thread.
        work: Function that encodes a batch, and must not raise.
        max_batch: Maximum number of items in a batch.
        max_wait_s: Longest time that an item waits for others, in seconds, while the model is free.
        idle: Function that is called whenever there has been no item for `IDLE_S` seconds, and must not raise.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[list[Item]], None],
        max_batch: int,
        max_wait_s: float,
        idle: Callable[[], None] = lambda: None,
    ) -> None:
        self._work, self._max_batch, self._max_wait, self._idle = work, max_batch, max_wait_s, idle
        self._waiting: list[tuple[float, int, Item]] = []  # a heap
        self._coming = 0
        self._depths: Counter[Client] = Counter()
        self._turns = Turns()
        self._count = 0
        self._closed = False
        self._changed = Condition()
        self._thread = Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def depth(self) -> int:
        """Number of items that are waiting or announced."""
        return self._coming + len(self._waiting)

    def depths(self) -> dict[Client, int]:
        """Return the number of waiting or announced items by client."""
        with self._changed:
            return {client: depth for client, depth in self._depths.items() if depth}

    def has_room(self, client: Client, most: int) -> bool:
        """Tell whether a client may queue more items if `most` may wait in total; each client has an equal share."""
        depths = self.depths()  # read once: waiting items may be taken before the next look
        waits = depths.get(client, 0)
        return waits < max(1, most // (len(depths) + (not waits)))

    def depth_with(self, most: int) -> int:
        """Return how many items wait, counting at most `most` of each client other than None."""
        return sum(depth if client is None else min(depth, most) for client, depth in self.depths().items())

    def enter(self, job: Job) -> None:
        """Set when a job's items are due, according to the client's turn."""
        with self._changed:
            job.due = self._turns.begin(job.client, len(job.items))

    def announce(self, items: int, client: Client = None) -> None:
        """Announce that items of a client will come or, with a negative number, that some will not."""
        with self._changed:
            self._coming += items
            self._depths[client] += items
            self._forget_idle()
            self._changed.notify()

    def put(self, items: Sequence[Item]) -> None:
        """Queue announced items."""
        with self._changed:
            self._coming -= len(items)
            for item in items:
                self._count += 1
                heappush(self._waiting, (item.job.due + item.number, self._count, item))
            self._changed.notify()

    def close(self) -> None:
        """End the thread after the current batch. Waiting items stay in the queue."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()
        self._work, self._idle = (
            lambda items: None,
            lambda: None,
        )  # break a cycle with the owner of `work`

    def _run(self) -> None:
        while batch := self._take():
            self._work(batch)
            del batch  # do not keep images and captions until there is more to encode

    def _has_work(self, timeout_s: float) -> bool:
        """Wait until there is an item or the batcher is closed; return False if neither happens in time."""
        with self._changed:
            return self._changed.wait_for(lambda: bool(self._waiting) or self._closed, timeout_s)

    def _take(self) -> list[Item]:
        """Wait for the next batch, and return it; the batch is empty once the batcher is closed."""
        while not self._has_work(IDLE_S):
            self._idle()
        with self._changed:
            end = time.monotonic() + self._max_wait
            while self._coming > 0 and len(self._waiting) < self._max_batch and not self._closed:
                left = end - time.monotonic()
                if left <= 0 or not self._changed.wait(left):
                    break
            if self._closed:
                return []
            return [self._next() for _ in range(min(self._max_batch, len(self._waiting)))]

    def _next(self) -> Item:
        due, _, item = heappop(self._waiting)
        self._turns.reach(due)
        self._depths[item.job.client] -= 1
        self._forget_idle()
        return item

    def _forget_idle(self) -> None:
        if len(self._depths) > 1000:
            self._depths = +self._depths
