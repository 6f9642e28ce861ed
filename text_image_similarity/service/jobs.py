"""Values that pass through the service: requests, the work on them, and its results."""

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
Inputs = Sequence[tuple[ImageInput | None, str | None]]  # images and captions; None if a request has none
ResultT = TypeVar("ResultT")

CLIENT_LEFT = 499  # nginx's code, for logs and metrics only


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
    """The time that an item spent in a stage.

    Args:
        stage: `fetch`, `decode`, `queue`, `encode` or `search`.
        began, ended: Seconds since the epoch.
    """

    stage: str
    began: float
    ended: float


@dataclass(frozen=True, slots=True)
class Answer(Generic[ResultT]):
    """A model's results for a request.

    Args:
        model: Name of the served model.
        results: A result for each pair, image or caption, in order.
        spans: For each result, the time that its item spent in each stage.
    """

    model: str
    results: list[ResultT]
    spans: list[list[Span]]


class ClientLeftError(Exception):
    """The client closed its connection before the response."""


@dataclass(slots=True)
class Call:
    """One HTTP request, as logs, metrics and traces report it.

    Args:
        request_id: The client's `X-Request-Id`, or a generated one.
        began: Seconds since the epoch.
        answers: The models' results.
        pairs: Number of pairs.
        failed: Number of pairs without a score.
        asked: Queries and results of a match request, for the match log; see `search.journal`.
        notes: Notes for the audit log.
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
    """A pair, an image or a caption in progress, with its results so far."""

    job: Job
    number: int  # index in the job
    image: ImageInput | None
    caption: str | None
    loaded: LoadedImage | None = None
    tokens: list[Any] | None = None
    image_outcome: Outcome | None = None
    text_outcome: Outcome | None = None
    score: ScoreResult | None = None  # score of a pair
    ready: float = 0.0  # when the item was ready to be encoded, in seconds since the epoch
    finished: bool = False
    spans: list[Span] = field(default_factory=list)

    @property
    def is_done(self) -> bool:
        """Whether the item no longer needs the encoder."""
        if isinstance(self.image_outcome, RowError):
            return True
        return (self.image is None or self.image_outcome is not None) and (
            self.caption is None or self.text_outcome is not None
        )

    @property
    def embedding(self) -> Outcome | None:
        """The outcome of an item that is not a pair: that of its image or of its caption."""
        return self.text_outcome if self.image is None else self.image_outcome


class Job:
    """The work of one request.

    Args:
        inputs: The image and the caption of each item.
        kind: Score kind of pairs; None if embeddings are requested.
        wake: Function that is called once, on any thread, when all items are finished or the model has stopped working.
        release: Function that is called once for each finished item, which then no longer counts as in progress.
    """

    def __init__(
        self, inputs: Inputs, kind: ScoreKind | None, wake: Callable[[], None], release: Callable[[], None]
    ) -> None:
        self.client = current.get()
        self.due = 0.0  # when the job's first item is due at the model, on the clock of `Turns`
        self.kind = kind
        self.items = [Item(self, number, image, caption) for number, (image, caption) in enumerate(inputs)]
        self.gone = False  # whether the request no longer waits for the job
        self.timed_out = False  # whether the response reports the unfinished items as late
        self.problem: ModelError | None = None
        self._wake, self._release = wake, release
        self._left = len(self.items)
        self._lock = Lock()

    def finish(self, item: Item, score: ScoreResult | None = None) -> None:
        """Finish an item, with a score if it is a pair that was not dropped. Only the first call counts."""
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
        """Fail the job because the model has stopped working. The caller must still finish the job's items."""
        with self._lock:
            first, self.problem, self.gone = not self.gone, problem, True
        if first:
            self._wake()


def timeout_error(timeout_s: float) -> RowError:
    """Return the error for an item that was not finished within `timeout_s` seconds."""
    return RowError(ErrorCode.TIMEOUT, f"the service did not finish within its limit of {timeout_s:g} s")
