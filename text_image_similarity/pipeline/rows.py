"""The state of a run: the rows in its look-ahead and their images."""

from __future__ import annotations

from collections.abc import Generator, Hashable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from ..embeddings import Vector
from ..errors import RowError
from ..records import ScoreResult

Item = TypeVar("Item")
Tag = TypeVar("Tag")
Outcome = Vector | RowError


@dataclass(frozen=True, slots=True)
class Work(Generic[Item]):
    """A row to score.

    Args:
        key: Key of the image; rows with the same key share one image.
        item: Source of the image.
        text: The caption.
        references: Reference captions.
    """

    key: Hashable
    item: Item
    text: object
    references: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LoadedImage:
    """An image that has been loaded.

    Args:
        key: Key of its content and the model, or None for an image that came without a file.
        pixels: The encoder's input, or None if `vector` is known.
        vector: Its embedding, if it is remembered.
    """

    key: bytes | None
    pixels: Any = None
    vector: Vector | None = None


class PendingImage:
    """One distinct image: loading, then loaded, then encoded or failed."""

    __slots__ = ("_loading", "content", "key", "outcome")

    def __init__(self, loading: Future[LoadedImage | RowError]) -> None:
        self._loading: Future[LoadedImage | RowError] | None = loading
        self.content: LoadedImage | None = None
        self.key: bytes | None = None  # key of the content, once it is loaded
        self.outcome: Outcome | None = None

    def loaded(self) -> LoadedImage | None:
        """Wait for the image; None if it failed or is already encoded."""
        if self._loading is not None:
            found, self._loading = self._loading.result(), None
            if isinstance(found, RowError):
                self.outcome = found
            else:
                self.content, self.key = found, found.key
        return self.content

    def cancel(self) -> None:
        """Drop the image if its loading has not started."""
        if self._loading is not None:
            self._loading.cancel()

    def finish(self, outcome: Outcome) -> None:
        """Keep the vector or the error, and drop the pixels."""
        self.outcome, self.content = outcome, None


@dataclass(frozen=True, slots=True)
class PendingRow(Generic[Tag]):
    """One row of a run.

    Args:
        tag: Tag from the caller.
        image: Its image, or the error that fails the row whatever the image is, or a result that is already known.
        text: Its caption.
        size: Size of the row's own content in bytes.
        references: Reference captions.
    """

    tag: Tag
    image: PendingImage | RowError | ScoreResult
    text: str
    size: int
    references: tuple[str, ...] = ()

    @property
    def needs_caption(self) -> bool:
        """Whether the row's score depends on its caption, as far as is known so far."""
        return isinstance(self.image, PendingImage) and not isinstance(self.image.outcome, RowError)

    @property
    def content_key(self) -> bytes | None:
        """Key of the image's content; None if the image could not be read or came without a file."""
        return self.image.key if isinstance(self.image, PendingImage) else None

    @property
    def outcome(self) -> Outcome:
        """The image's vector or its error; only after its batch is encoded."""
        outcome = self.image.outcome if isinstance(self.image, PendingImage) else self.image
        if outcome is None or isinstance(outcome, ScoreResult):
            raise AssertionError("the outcome of a row is known only after its image is encoded")
        return outcome


class DeferredErrors(Generic[Item]):
    """An iterable whose exception is raised only after the earlier rows have their results."""

    def __init__(self, rows: Iterable[Item]) -> None:
        self._rows = iter(rows)
        self.problem: Exception | None = None

    def next(self) -> Item | None:
        """Return the next row, or None at the end or after an exception."""
        if self.problem is not None:
            return None
        try:
            return next(self._rows, None)
        except Exception as exc:  # raised again once the earlier rows are out
            self.problem = exc
            return None


def untagged(tagged: Iterator[tuple[object, Item]]) -> Generator[Item]:
    """Yield results without their tags."""
    with closing(tagged):  # type: ignore[type-var]
        for _, item in tagged:
            yield item
