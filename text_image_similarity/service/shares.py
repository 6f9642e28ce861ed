"""Fair sharing: clients take turns according to the cost of their work so far.

Start-time fair queueing (Goyal, Vin and Cheng 1996): each client has its own clock, which its work advances, and the
client with the earliest clock is next. A client that was idle starts where the others are, so that turns cannot be
saved up.
"""

from __future__ import annotations

import asyncio
import time
import types
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Hashable
from contextlib import asynccontextmanager
from functools import partial
from heapq import heappop, heappush
from math import inf
from threading import Lock, Timer
from typing import Any, TypeVar

Client = Hashable
Task = Callable[[], None]
T = TypeVar("T")

_MOST_KNOWN = 1000  # clients
_LATELY_S = 1.0  # clients with a task within this time share the threads
_PAUSE_S = 5.0
_REFUSED_SHARE = 0.05  # share of the time that the refusals of one client may take
_BURST_S = 1.0  # seconds whose share is spent before refusals wait: about a hundred small ones


def _call_later(seconds: float, task: Task) -> None:
    timer = Timer(seconds, task)
    timer.daemon = True
    timer.start()


class Turns:
    """The clocks of clients. Not safe to share between threads."""

    def __init__(self) -> None:
        self._now = 0.0
        self._ends: dict[Client, float] = {}

    def begin(self, client: Client, cost: float = 0.0) -> float:
        """Return when a client's next piece of work is due, and advance the client's clock by the cost."""
        due = max(self._now, self._ends.get(client, 0.0))
        self._ends[client] = due + cost
        return due

    def debit(self, client: Client, more: float, waiting: list[tuple[float, int, Client, T]]) -> None:
        """Charge a client for work that cost more than was known when it began.

        Args:
            client: The client.
            more: The difference; if it is negative, nothing is charged.
            waiting: A heap of waiting work, as tuples of the time when it is due, a number, its client and the work.
                The client's own waiting work is delayed too.
        """
        if more > 0:
            self.begin(client, more)
            waiting[:] = sorted(
                (due + more * (owner == client), number, owner, work) for due, number, owner, work in waiting
            )

    def reach(self, due: float) -> None:
        """Record that work due at `due` has begun; if many clients are known, forget those without debts, or all."""
        self._now = max(self._now, due)
        if len(self._ends) > _MOST_KNOWN:
            self._ends = {client: end for client, end in self._ends.items() if end > self._now}
            if len(self._ends) > _MOST_KNOWN:
                self._ends.clear()


class Patience:
    """Delays cheap responses, such as refusals and pages, so that they take little time from the clients being served.

    While others are being served, such responses to a client may take only a twentieth of the time. A client on its own
    does not wait.

    Args:
        clock: Function that returns seconds, for tests.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._served: dict[Client, float] = {}  # time when each client was last served
        self._ends: dict[Client, float] = {}  # time when each client has made up for its refusals

    def note_served(self, client: Client) -> None:
        """Record that a client was served."""
        now = self._clock()
        if len(self._served) >= _MOST_KNOWN:
            self._served = {known: at for known, at in self._served.items() if at > now - _LATELY_S}
        self._served[client] = now

    def charge(self, client: Client, took_s: float) -> float:
        """Charge a client for a response of `took_s` seconds, and return when it has made up for the earlier ones."""
        now = self._clock()
        if len(self._ends) >= _MOST_KNOWN:
            self._ends.clear()
        due = max(now - _BURST_S, self._ends.get(client, 0.0))
        self._ends[client] = min(due, now + _PAUSE_S) + max(0.0, took_s) / _REFUSED_SHARE
        return due

    def pause_s(self, client: Client, took_s: float) -> float:
        """Return how many seconds a refusal that took `took_s` must wait; a client's first refusals do not wait."""
        now, due = self._clock(), self.charge(client, took_s)
        if not any(at > now - _LATELY_S for known, at in self._served.items() if known != client):
            return 0.0
        return min(max(0.0, due - now), _PAUSE_S)


@types.coroutine
def measured(work: Coroutine[Any, Any, T], tell: Callable[[float], object]) -> Generator[Any, Any, T]:
    """Run a coroutine, and call `tell` with the seconds of processor time that it took on the event loop's thread."""
    took, step, value = 0.0, work.send, None
    try:
        while True:
            began = time.thread_time()
            try:
                waits = step(value)
            except StopIteration as end:
                result: T = end.value
                return result
            finally:
                took += time.thread_time() - began
            try:
                step, value = work.send, (yield waits)
            except BaseException as exc:  # a cancellation
                step, value = work.throw, exc
    finally:
        tell(took)


class OneByOne:
    """Runs coroutines of an event loop one at a time, with clients in turn."""

    def __init__(self) -> None:
        self._turns, self._count, self._busy = Turns(), 0, False
        self._waiting: list[tuple[float, int, Client, asyncio.Future[None]]] = []  # a heap

    @asynccontextmanager
    async def turn(self, client: Client, cost: float) -> AsyncIterator[Callable[[float], None]]:
        """Wait for a client's turn, and hold it during a block.

        Args:
            client: Client of the turn.
            cost: Estimated cost of the block, relative to others.

        Yields:
            Function to call with the real cost of the block, which the client is then charged.
        """
        due = self._turns.begin(client, cost)
        if self._busy:
            self._count += 1
            entrance = asyncio.get_running_loop().create_future()
            heappush(self._waiting, (due, self._count, client, entrance))
            try:
                await entrance
            except asyncio.CancelledError:
                if not entrance.cancelled():
                    self._let_in()
                raise
        self._busy = True
        self._turns.reach(due)
        try:
            yield lambda real: self._turns.debit(client, real - cost, self._waiting)
        finally:
            self._let_in()

    def _let_in(self) -> None:
        """Start the next coroutine whose client is still waiting."""
        self._busy = False
        while self._waiting:
            entrance = heappop(self._waiting)[3]
            if not entrance.done():
                self._busy = True  # already now, although the coroutine continues later
                entrance.set_result(None)
                return


class FairQueue:
    """Distributes tasks to threads, so that no client delays the others. Safe to share between threads.

    A task costs its client the time that it takes, so that images are weighted by pixels and bytes, and downloads by
    waiting time. The client None may stand for many clients, so it is not limited.

    Args:
        submit: Function that runs a client's task on a thread.
        threads: Number of concurrent tasks.
        most_of_one: Maximum number of concurrent tasks of one client; by default, as many as `threads`.
        long_s: Seconds. A client whose tasks take longer on average may use at most half of the threads while there are
            other clients. If there are more clients than threads, this client also pauses after each task, so that its
            threads are idle for the others' share of the time. On its own, a client may use all threads.
        later: Function that calls a task after a number of seconds, for tests.
        clock: Function that returns seconds, for tests.
    """

    def __init__(
        self,
        submit: Callable[[Client, Task], Any],
        threads: int,
        *,
        most_of_one: int | None = None,
        long_s: float = inf,
        clock: Callable[[], float] = time.monotonic,
        later: Callable[[float, Task], Any] | None = None,
    ) -> None:
        self._later = later or _call_later
        self._pausing: set[Client] = set()
        self._seen: dict[Client, float] = {}  # time of each client's last task
        self._submit, self._threads, self._long, self._clock = submit, threads, long_s, clock
        self._most = threads if most_of_one is None else most_of_one
        self._turns = Turns()
        self._waiting: dict[Client, deque[Task]] = {}
        self._running: dict[Client, int] = {}
        self._took: dict[Client, float] = {}  # recent mean seconds of a task
        self._busy = 0
        self._lock = Lock()

    def put(self, client: Client, task: Task, *, first: bool = False) -> None:
        """Queue a task after the client's other tasks, or before them if `first`."""
        with self._lock:
            waiting = self._waiting.setdefault(client, deque())
            (waiting.appendleft if first else waiting.append)(task)
            self._see(client)
            self._start()

    def depth_of(self, client: Client) -> int:
        """Return how many tasks of a client are waiting."""
        with self._lock:
            return len(self._waiting.get(client, ()))

    def withdraw(self, client: Client, task: Task) -> None:
        """Drop a task, unless it has begun."""
        with self._lock:
            waiting = self._waiting.get(client, deque())
            if task in waiting:
                waiting.remove(task)
            if not waiting:
                self._waiting.pop(client, None)

    def _see(self, client: Client) -> None:
        now = self._clock()
        if len(self._seen) >= _MOST_KNOWN:
            self._seen = {known: at for known, at in self._seen.items() if at > now - _PAUSE_S}
        self._seen[client] = now

    def keeps_waiting(self, client: Client) -> bool:
        """Tell whether another client's task could begin if one of this client ended."""
        with self._lock:
            return any(
                other != client and self._running.get(other, 0) < self._room_of(other) for other in self._waiting
            )

    @property
    def is_idle(self) -> bool:
        """Whether no task is waiting or running."""
        with self._lock:
            return not self._busy and not self._waiting

    def _start(self) -> None:
        """Start tasks while there are free threads."""
        while self._busy < self._threads:
            able = [client for client in self._waiting if self._running.get(client, 0) < self._room_of(client)]
            if not able:
                return
            client = min(able, key=lambda client: (self._turns.begin(client), self._running.get(client, 0)))
            self._turns.reach(self._turns.begin(client))
            waiting = self._waiting[client]
            task = waiting.popleft()
            if not waiting:
                del self._waiting[client]
            self._busy += 1
            self._running[client] = self._running.get(client, 0) + 1
            self._submit(client, partial(self._run, client, task))

    def _room_of(self, client: Client) -> int:
        if client is None:
            return self._threads
        if client in self._pausing:
            return 0
        is_long = self._took.get(client, 0.0) > self._long
        if not is_long or not self._others(client, _LATELY_S):
            return self._most
        return max(1, min(self._most, self._threads // 2))

    def _others(self, client: Client, lately_s: float) -> int:
        """Return how many other clients have queued a task in the last `lately_s` seconds."""
        since = self._clock() - lately_s
        return sum(at > since for known, at in self._seen.items() if known != client)

    def _run(self, client: Client, task: Task) -> None:
        began = self._clock()
        try:
            task()
        finally:
            took = self._clock() - began
            with self._lock:
                self._busy -= 1
                self._running[client] -= 1
                if not self._running[client]:
                    del self._running[client]
                self._turns.begin(client, took)
                self._note(client, took)
                self._pause(client, took)
                self._start()

    def _pause(self, client: Client, took: float) -> None:
        """Delay the next task of a client with long tasks, in proportion to the others' share of the threads."""
        if client is None or self._took[client] <= self._long or client in self._pausing:
            return
        others = self._others(client, max(_LATELY_S, took))
        pause = min(took * (others + 1 - self._threads) / self._threads, _PAUSE_S)
        if pause > 0:
            self._pausing.add(client)
            self._later(pause, partial(self._go_on, client))

    def _go_on(self, client: Client) -> None:
        with self._lock:
            self._pausing.discard(client)
            self._start()

    def _note(self, client: Client, took: float) -> None:
        if len(self._took) > _MOST_KNOWN:
            self._took = {known: each for known, each in self._took.items() if known in self._waiting}
        self._took[client] = 0.5 * self._took.get(client, took) + 0.5 * took
