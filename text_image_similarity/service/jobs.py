"""The values on their way through the service: what a request asks, and the work that this makes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from threading import Lock
from typing import Any

from ..config import ScoreKind
from ..errors import ErrorCode, ModelError, RowError
from ..pipeline import LoadedImage, Outcome
from ..records import ScoreResult

_numbers = count()


@dataclass(frozen=True, slots=True)
class Ask:
    """What a request wants to know of a picture, a caption, or both together.

    Args:
        image: The picture's reference, an http(s) or `data:` URL; None where only the caption is asked about.
        caption: The caption; None where only the picture is asked about.
    """

    image: str | None
    caption: str | None


@dataclass(frozen=True, slots=True)
class Mark:
    """When an item was in a stage.

    Args:
        stage: `fetch`, `decode`, `queue` or `encode`.
        began, ended: Seconds since the epoch.
    """

    stage: str
    began: float
    ended: float


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model said to a request.

    Args:
        model: The served model's name.
        results: For each `Ask`, in order: a score where both were given, else an embedding or what went wrong.
        marks: For each `Ask`, when it was in which stage.
    """

    model: str
    results: list[ScoreResult | Outcome]
    marks: list[list[Mark]]


class ClientLeftError(Exception):
    """The client closed its connection before the answer."""


@dataclass(slots=True)
class Call:
    """One request, for those who tell about it.

    Args:
        request_id: The client's `X-Request-Id`, or ours.
        began: Seconds since the epoch.
        answers: What the models said.
        pairs: How many pairs it asked about, and `failed`, how many of them got no score.
    """

    request_id: str
    began: float = field(default_factory=time.time)
    answers: list[Answer] = field(default_factory=list)
    pairs: int = 0
    failed: int = 0


@dataclass(slots=True, eq=False)
class Item:
    """One `Ask` in work: what has been made of it so far."""

    ask: Ask
    job: Job
    loaded: LoadedImage | None = None
    tokens: list[Any] | None = None
    image: Outcome | None = None
    text: Outcome | None = None
    ready: float = 0.0  # when it was, to be encoded; seconds since the epoch
    result: ScoreResult | Outcome | None = None
    finished: bool = False
    marks: list[Mark] = field(default_factory=list)

    @property
    def settled(self) -> bool:
        """Whether it needs no encoder any more."""
        if isinstance(self.image, RowError):
            return True
        return (self.ask.image is None or self.image is not None) and (
            self.ask.caption is None or self.text is not None
        )


class Job:
    """The work of one request.

    Args:
        asks: What it wants to know.
        kind: The score that pairs get.
        wake: Called once, on any thread: when all is answered, or when the model is lost.
        release: Called for each item that needs no room any more.
    """

    def __init__(
        self, asks: Sequence[Ask], kind: ScoreKind, wake: Callable[[], None], release: Callable[[], None]
    ) -> None:
        self.number = next(_numbers)  # the older, the smaller
        self.kind = kind
        self.items = [Item(ask, self) for ask in asks]
        self.gone = False  # nobody waits for it any more
        self.late = False  # its time was over: what was not done is answered and counted
        self.problem: ModelError | None = None
        self._wake, self._release = wake, release
        self._left = len(self.items)
        self._lock = Lock()

    def finish(self, item: Item, result: ScoreResult | Outcome | None) -> None:
        """Take an item's result, or None for one that was dropped; the first one counts."""
        with self._lock:
            if item.finished:
                return
            item.finished, item.result, item.loaded, item.tokens = True, result, None, None
            self._left -= 1
            last = self._left == 0
        self._release()
        if last and not self.gone:
            self._wake()

    def fail(self, problem: ModelError) -> None:
        """Give up: the model can do no more. The items are yet to be finished."""
        with self._lock:
            first, self.problem, self.gone = not self.gone, problem, True
        if first:
            self._wake()


def late(ask: Ask, timeout_s: float) -> ScoreResult | Outcome:
    """Return the result of an `Ask` that was not answered within so many seconds."""
    error = RowError(ErrorCode.TIMEOUT, f"not done within the service's {timeout_s:g} s")
    return error if ask.image is None or ask.caption is None else ScoreResult.failed(error)
