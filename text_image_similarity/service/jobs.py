"""The values on their way through the service: what a request asks, the work that this makes, and the answer."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, Generic, TypeVar

from ..config import ScoreKind
from ..errors import ErrorCode, ModelError, RowError
from ..pipeline import LoadedImage, Outcome
from ..records import ScoreResult
from .audit import Note
from .clients import current

ImageInput = str | bytes  # an http(s) or `data:` URL, or an encoded file
Inputs = Sequence[tuple[ImageInput | None, str | None]]  # images and captions; None where a request has none
ResultT = TypeVar("ResultT")

CLIENT_LEFT = 499  # nginx's number, for logs and metrics alone


@dataclass(frozen=True, slots=True)
class Pair:
    """An image and a caption to score.

    Args:
        image: An http(s) or `data:` URL, or an encoded file.
        caption: The caption.
    """

    image: ImageInput
    caption: str


@dataclass(frozen=True, slots=True)
class Span:
    """When an item was in a stage.

    Args:
        stage: `fetch`, `decode`, `queue` or `encode`.
        began, ended: Seconds since the epoch.
    """

    stage: str
    began: float
    ended: float


@dataclass(frozen=True, slots=True)
class Answer(Generic[ResultT]):
    """What a model said to a request.

    Args:
        model: The served model's name.
        results: A result for each pair, image or caption, in order.
        spans: For each of them, when it was in which stage.
    """

    model: str
    results: list[ResultT]
    spans: list[list[Span]]


class ClientLeftError(Exception):
    """The client closed its connection before the answer."""


@dataclass(slots=True)
class Call:
    """One HTTP request, as logs, metrics and traces report it.

    Args:
        request_id: The client's `X-Request-Id`, or one of ours.
        began: Seconds since the epoch.
        answers: What the models said.
        pairs: How many pairs it asked about, and `failed`, how many of them got no score.
        asked: What a match request asked and was answered, for the match log; see `search.journal`.
        notes: What the audit log will say of it.
    """

    request_id: str
    began: float = field(default_factory=time.time)
    answers: list[Answer[Any]] = field(default_factory=list)
    pairs: int = 0
    failed: int = 0
    asked: Any = None
    notes: list[Note] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Item:
    """A pair, an image or a caption in progress, with everything found out about it so far."""

    job: Job
    number: int  # in the job
    image: ImageInput | None
    caption: str | None
    loaded: LoadedImage | None = None
    tokens: list[Any] | None = None
    image_outcome: Outcome | None = None
    text_outcome: Outcome | None = None
    score: ScoreResult | None = None  # of a pair
    ready: float = 0.0  # when it could be encoded; seconds since the epoch
    finished: bool = False
    spans: list[Span] = field(default_factory=list)

    @property
    def is_done(self) -> bool:
        """Whether it needs no encoder any more."""
        if isinstance(self.image_outcome, RowError):
            return True
        return (self.image is None or self.image_outcome is not None) and (
            self.caption is None or self.text_outcome is not None
        )

    @property
    def embedding(self) -> Outcome | None:
        """The outcome of the image or caption of an item that is not a pair."""
        return self.text_outcome if self.image is None else self.image_outcome


class Job:
    """The work of one request.

    Args:
        inputs: The image and the caption of each item.
        kind: The score that pairs get; None where embeddings are asked for.
        wake: Called once, on any thread: when all items are finished, or when the model is lost.
        release: Called for each item that needs no room any more.
    """

    def __init__(
        self, inputs: Inputs, kind: ScoreKind | None, wake: Callable[[], None], release: Callable[[], None]
    ) -> None:
        self.client = current.get()
        self.due = 0.0  # the turn of its first item at the model
        self.kind = kind
        self.items = [Item(self, number, image, caption) for number, (image, caption) in enumerate(inputs)]
        self.gone = False  # nobody waits for it any more
        self.timed_out = False  # its unfinished items have been answered and counted
        self.problem: ModelError | None = None
        self._wake, self._release = wake, release
        self._left = len(self.items)
        self._lock = Lock()

    def finish(self, item: Item, score: ScoreResult | None = None) -> None:
        """Take a pair's score; None for an item that is not a pair, or that was dropped. The first call counts."""
        with self._lock:
            if item.finished:
                return
            item.finished, item.score, item.loaded, item.tokens = True, score, None, None
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


def timeout_error(timeout_s: float) -> RowError:
    """Return the error of an item that was not done within so many seconds."""
    return RowError(ErrorCode.TIMEOUT, f"not done within the service's {timeout_s:g} s")
