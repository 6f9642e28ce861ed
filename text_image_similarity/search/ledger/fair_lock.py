"""A fair lock: waiting threads get it in turn, even if one of them requests it again and again."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock, get_ident
from types import TracebackType


class FairLock:
    """A reentrant lock that threads acquire in the order of their requests; readers may share it."""

    def __init__(self) -> None:
        self._changing = Lock()
        self._waiting: deque[tuple[int, Lock, bool]] = deque()  # threads, each with its own lock and whether it shares
        self._owner: int | None = None
        self._depth = 0
        self._readers = 0

    def __enter__(self) -> None:
        self._acquire(shares=False)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._release(shares=False)

    @contextmanager
    def shared(self) -> Iterator[bool]:
        """Hold the lock together with other readers during a block, which must not request it again.

        Yields:
            Whether this thread already held the lock alone; if so, the lock is not shared.
        """
        alone = self._owner == get_ident()
        self._acquire(shares=not alone)
        try:
            yield alone
        finally:
            self._release(shares=not alone)

    def _acquire(self, *, shares: bool) -> None:
        thread, turn = get_ident(), Lock()
        turn.acquire()
        waiter = (thread, turn, shares)
        try:
            with self._changing:
                if self._owner == thread:
                    self._depth += 1
                    return
                self._waiting.append(waiter)
                self._hand_on()
            turn.acquire()
        except BaseException:  # such as Ctrl-C
            with self._changing:
                if waiter in self._waiting:
                    self._waiting.remove(waiter)
                elif not turn.locked():  # the thread got its turn in the meantime
                    self._leave(shares=shares)
                self._hand_on()
            raise

    def _release(self, *, shares: bool) -> None:
        with self._changing:
            self._leave(shares=shares)
            self._hand_on()

    def _leave(self, *, shares: bool) -> None:
        if shares:
            self._readers -= 1
            return
        self._depth -= 1
        if not self._depth:
            self._owner = None

    def _hand_on(self) -> None:
        """Give the lock to the next waiting thread, or to the next ones that share it."""
        while self._waiting and self._owner is None:
            thread, turn, shares = self._waiting[0]
            if self._readers and not shares:
                return
            self._waiting.popleft()
            if shares:
                self._readers += 1
            else:
                self._owner, self._depth = thread, 1
            turn.release()
