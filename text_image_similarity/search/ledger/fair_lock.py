"""A fair lock: waiting threads get it in turn, even if one of them requests it again and again."""

from __future__ import annotations

from collections import deque
from threading import Lock, get_ident
from types import TracebackType


class FairLock:
    """A reentrant lock that threads acquire in the order in which they request it."""

    def __init__(self) -> None:
        self._changing = Lock()
        self._waiting: deque[tuple[int, Lock]] = deque()  # threads, each with the lock that it waits for
        self._owner: int | None = None
        self._depth = 0

    def __enter__(self) -> None:
        thread, turn = get_ident(), Lock()
        turn.acquire()
        try:
            with self._changing:
                if self._owner in (None, thread):
                    self._owner = thread
                    self._depth += 1
                    return
                self._waiting.append((thread, turn))
            turn.acquire()
        except BaseException:  # such as Ctrl-C
            with self._changing:
                if (thread, turn) in self._waiting:
                    self._waiting.remove((thread, turn))
                elif self._owner == thread:  # the thread got its turn in the meantime
                    self._hand_on()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changing:
            self._depth -= 1
            if not self._depth:
                self._hand_on()

    def _hand_on(self) -> None:
        self._owner, self._depth = None, 0
        if self._waiting:
            self._owner, turn = self._waiting.popleft()
            self._depth = 1
            turn.release()
